package limits

import (
	"encoding/json"
	"flag"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

// sameLimits ignores what Validate compiles.
var sameLimits = cmp.Options{
	cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(OTLPRule{}),
	cmpopts.IgnoreFields(StreamRetention{}, "Matchers"), cmpopts.IgnoreFields(PolicyRule{}, "Matchers"),
}

func TestBytes(t *testing.T) {
	f := func(text string, want Bytes, print string) {
		t.Helper()
		got, err := ParseBytes(text)
		if err != nil || got != want || got.String() != print {
			t.Errorf("ParseBytes(%q) = %d %s, %v; want %d %s", text, got, got, err, want, print)
		}
	}
	f("256KB", 256<<10, "256KB")
	f("256kb", 256<<10, "256KB")
	f("1.5MB", 3<<19, "1536KB")
	f("3MB", 3<<20, "3MB")
	f("12", 12, "12B")
	f("12B", 12, "12B")
	f("0", 0, "0B")
	f("150GB", 150<<30, "150GB")
	f("1025", 1025, "1025B")
	f("4 MiB", 4<<20, "4MB")
	f("2g", 2<<30, "2GB")
	f("9007199254740993", 9007199254740993, "9007199254740993B")
	for _, bad := range []string{"", "KB", "-1", "1XB", "1e400", "99999999EB", "NaN", "1 2"} {
		if got, err := ParseBytes(bad); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", bad, got)
		}
	}
}

func TestDurationCanonical(t *testing.T) {
	for text, want := range map[string]string{"721h": "30d1h", "7d": "1w", "0s": "0s", "10m": "10m", "90s": "1m30s", "0": "0s"} {
		if d, err := ParseDuration(text); err != nil || d.String() != want {
			t.Errorf("%q prints as %q (%v), want %q", text, d, err, want)
		}
	}
}

const everyKind = `
ingestion_rate_mb: 10.5
max_line_size: 1.5MB
reject_old_samples_max_age: 14d
simulated_push_latency: 1.5s
enforced_labels: [team, env]
policy_enforced_labels: {'*': [team]}
block_ingestion_until: 2026-01-15T10:00:00Z
retention_stream:
  - selector: '{namespace="dev"}'
    priority: 1
    period: 24h
blocked_queries:
  - pattern: '.*secret.*'
    regex: true
    types: metric,filter,limited
shard_streams: {desired_rate: 3MB}
policy_stream_mapping:
  gold: [{selector: '{app="x"}', priority: 2}]
otlp_config:
  resource_attributes:
    attributes_config:
      - action: index_label
        regex: 'host\..*'
split_queries_by_interval: 2h
bloom_whatever: {a: 1}
`

func TestReadPrintRead(t *testing.T) {
	first := Defaults()
	if err := yaml.Unmarshal([]byte(everyKind), &first); err != nil {
		t.Fatal(err)
	}
	if first.MaxLineSize != 3<<19 || !first.ShardStreams.Enabled || first.ShardStreams.DesiredRate != 3<<20 ||
		len(first.OTLPConfig.ResourceAttributes.Rules) != 2 || first.BlockIngestionUntil.Unix() != 1768471200 {
		t.Errorf("read as %+v", first)
	}
	text, err := first.YAML()
	if err != nil {
		t.Fatal(err)
	}
	second := Limits{}
	if err := yaml.Unmarshal(text, &second); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if diff := cmp.Diff(first, second, sameLimits); diff != "" {
		t.Error(diff)
	}
	if !first.OTLPConfig.ResourceAttributes.Rules[1].Matches("host.name") || first.OTLPConfig.ResourceAttributes.Rules[1].Matches("myhost.name") {
		t.Error("regex of an OTLP rule is not anchored or not compiled")
	}
}

func TestDefaultsPrintAsDocumented(t *testing.T) {
	l := Defaults()
	text, err := l.YAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"max_query_length: 30d1h\n", "reject_old_samples_max_age: 1w\n", "per_stream_rate_limit: 3MB\n",
		"max_query_bytes_read: 0B\n", "retention_period: 0s\n", "desired_rate: 1536KB\n", "max_line_size: 256KB\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	drilldown, err := json.Marshal(l.Drilldown())
	if err != nil || !strings.Contains(string(drilldown), `"max_query_bytes_read":"0B","max_query_length":"30d1h"`) {
		t.Errorf("drilldown: %s %v", drilldown, err)
	}
}

func TestErrorsNameKeyAndLine(t *testing.T) {
	f := func(text string, wants ...string) {
		t.Helper()
		l := Defaults()
		err := yaml.Unmarshal([]byte(text), &l)
		if err == nil {
			t.Errorf("%q is accepted", text)
			return
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %q lacks %q", text, err, want)
			}
		}
		if d := Defaults(); cmp.Diff(d, l, sameLimits) != "" {
			t.Errorf("%q: limits were changed in spite of the error", text)
		}
	}
	f("volume_enabled: true\nmax_line_sise: 3", "line 2", "max_line_sise", `did you mean "max_line_size"`)
	f("max_query_series: many", "line 1", "max_query_series")
	f("max_query_series: 1\nmax_line_size: 3 parsecs", "line 2", "max_line_size", "3 parsecs", "256KB")
	f("query_timeout: [1]", "line 1", "query_timeout")
	f("retention_stream:\n- selektor: x", "line 2", "selektor", "want one of period, priority, selector")
	f("retention_stream:\n- {selector: '{a=\"b\"}', period: 1h}", "retention period must be >= 24h was 1h")
	f("retention_stream:\n- {selector: '{a=\"\"}', period: 1d}", "invalid labels matchers: ")
	f("deletion_mode: maybe", "unknown deletion mode: must be one of")
	f("ingestion_rate_strategy: x", "want local or global")
	f("shard_streams: {enabled: true, rate: 3}", "unknown key \"rate\"")
	f("otlp_config: {scope_attributes: [{action: index_label, attributes: [a]}]}", "scope_attributes, rule 1", "not possible here")
	f("blocked_queries: [{pattern: '(', regex: true}]", "blocked_queries, entry 1")
	f("[1]", "want a map of limits")
}

func TestFlagsCoverEveryLimit(t *testing.T) {
	l := Defaults()
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	l.RegisterFlags(fs)
	err := fs.Parse([]string{
		"-limits.max_line_size=1MB", "-limits.enforced_labels=[team, env]", "-limits.max_line_size_truncate",
		"-limits.reject_old_samples=false", "-limits.max_line_size_truncate_identifier=yes",
		`-limits.shard_streams={enabled: false}`, "-limits.query_timeout=5m", "-limits.block_ingestion_until=2026-01-15",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.MaxLineSize, want.EnforcedLabels, want.MaxLineSizeTruncate = 1<<20, []string{"team", "env"}, true
	want.RejectOldSamples, want.MaxLineSizeTruncateIdentifier, want.ShardStreams.Enabled = false, "yes", false
	want.QueryTimeout, want.BlockIngestionUntil = 5*minute, Time{time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)}
	if diff := cmp.Diff(want, l, sameLimits); diff != "" {
		t.Error(diff)
	}
	// What a flag prints as its value, it reads back.
	fs.VisitAll(func(f *flag.Flag) {
		before := l
		if err := fs.Set(f.Name, f.Value.String()); err != nil {
			t.Errorf("%s does not read its own value %q: %v", f.Name, f.Value, err)
		}
		if diff := cmp.Diff(before, l, sameLimits); diff != "" {
			t.Errorf("%s: %s", f.Name, diff)
		}
	})
	if err := fs.Parse([]string{"-limits.max_line_size=big"}); err == nil || !strings.Contains(err.Error(), "big") {
		t.Errorf("bad value: %v", err)
	}
	for i, typ := 0, reflect.TypeFor[Limits](); i < typ.NumField(); i++ {
		if keyOf(typ.Field(i)) == "" || typ.Field(i).Tag.Get("help") == "" {
			t.Errorf("%s has no key or no help", typ.Field(i).Name)
		}
	}
}

func TestTightest(t *testing.T) {
	a, b := Defaults(), Defaults()
	a.MaxQueryLookback, b.MaxQueryLookback = 0, hour
	a.MaxQuerySeries, b.MaxQuerySeries = 10, 20
	b.RequiredLabels = []string{"app"}
	got := Tightest(&a, &b)
	if got.MaxQueryLookback != hour || got.MaxQuerySeries != 10 || len(got.RequiredLabels) != 1 || len(a.RequiredLabels) != 0 {
		t.Errorf("got %+v", got)
	}
}

func FuzzLimits(f *testing.F) {
	f.Add([]byte(everyKind))
	f.Add([]byte("<<: {volume_enabled: false}\nretention_stream: [{}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := Defaults()
		if yaml.Unmarshal(text, &l) != nil {
			return
		}
		printed, err := l.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again := Limits{}
		if err := yaml.Unmarshal(printed, &again); err != nil {
			t.Fatalf("%v in\n%s", err, printed)
		}
	})
}
