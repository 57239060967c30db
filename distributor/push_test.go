package distributor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/wire"
)

// now is the time at which all tests happen.
var now = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

// store is a Pusher that remembers, as text, and can fail.
type store struct {
	lines []string
	err   error
}

func (s *store) Push(_ context.Context, tenant model.Tenant, streams []model.Stream) error {
	if s.err != nil {
		return s.err
	}
	for _, st := range streams {
		for _, e := range st.Entries {
			s.lines = append(s.lines, fmt.Sprintf("%s %s %d %s %s", tenant, st.Labels, e.Timestamp-now.UnixNano(), e.Line, e.Metadata))
		}
	}
	return nil
}

type kit struct {
	*Distributor
	store  *store
	source *source
	reg    *prometheus.Registry
}

type source struct{ *limits.Limits }

func (s *source) For(model.Tenant) *limits.Limits { return s.Limits }

// newKit makes a distributor whose limits are the defaults changed by a YAML text.
func newKit(t testing.TB, changes string) *kit {
	t.Helper()
	k := &kit{store: &store{}, source: &source{}, reg: prometheus.NewRegistry()}
	k.limit(t, changes)
	k.Distributor = New(Config{
		MaxReceivedBytes: 8 << 20, MaxDecompressedBytes: 64 << 20, MaxInflightBytes: 128 << 20, LabelCacheBytes: 1 << 20,
		Now: func() time.Time { return now },
	}, k.store, k.source, k.reg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	return k
}

func (k *kit) limit(t testing.TB, changes string) {
	t.Helper()
	l := limits.Defaults()
	if err := yaml.Unmarshal([]byte(changes), &l); err != nil {
		t.Fatal(err)
	}
	k.source.Limits = &l
}

// post sends a JSON push and returns status and text.
func (k *kit) post(body string, headers ...string) (int, string) {
	r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/push", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	k.ServePush(w, r)
	return w.Code, w.Body.String()
}

// at makes a push of one stream, whose values may say NOW and NOW+3, in nanoseconds, or
// NOW-1h.
func at(stream, values string) string {
	for strings.Contains(values, "NOW") {
		before, after, _ := strings.Cut(values, "NOW")
		offset, rest, _ := strings.Cut(after, `"`)
		d, err := time.ParseDuration(offset)
		if err != nil && offset != "" {
			d, _ = time.ParseDuration(offset + "ns")
		}
		values = fmt.Sprintf(`%s%d"%s`, before, now.Add(d).UnixNano(), rest)
	}
	return `{"streams":[{"stream":` + stream + `,"values":[` + values + `]}]}`
}

// TestConformance replays pushes that the reference server refuses.
func TestConformance(t *testing.T) {
	f, err := os.Open("testdata/errors_push.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	k := newKit(t, "reject_old_samples: false")
	lines, n := bufio.NewScanner(f), 0
	for ; lines.Scan(); n++ {
		var c struct {
			ID, Description, Body, Text string
			ContentType                 string `json:"content_type"`
			Status                      int
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		body := strings.ReplaceAll(c.Body, "LONG_LINE", strings.Repeat("x", 262145))
		status, text := k.post(body, "Content-Type", c.ContentType)
		if status != c.Status {
			t.Errorf("%s %s: status %d, want %d (%s)", c.ID, c.Description, status, c.Status, text)
		}
		// Texts of the reference's JSON decoder are its own; all others are equal.
		if !strings.Contains(c.Text, "error found in") && text != c.Text {
			t.Errorf("%s %s: got %q, want %q", c.ID, c.Description, text, c.Text)
		}
	}
	if n != 14 || len(k.store.lines) != 0 {
		t.Errorf("%d cases, %d lines stored", n, len(k.store.lines))
	}
}

func TestPush(t *testing.T) {
	f := func(name, limits, body string, status int, text string, stored ...string) {
		t.Helper()
		k := newKit(t, limits)
		gotStatus, gotText := k.post(body)
		if text != "" {
			text += "\n"
		}
		if gotStatus != status || gotText != text {
			t.Errorf("%s: got %d %q\nwant %d %q", name, gotStatus, gotText, status, text)
		}
		if diff := cmp.Diff(stored, k.store.lines); diff != "" {
			t.Errorf("%s: stored %s", name, diff)
		}
	}
	const app = `{"app":"x"}`
	const stream = `{app="x", service_name="x"}`
	info := func(offset int, line string) string {
		return fmt.Sprintf(`fake %s %d %s {detected_level="info"}`, stream, offset, line)
	}

	f("plain", "", at(app, `["NOW","info one"],["NOW-5","info two"]`), 204, "", info(0, "info one"), info(-5, "info two"))
	f("no streams", "", `{"streams":[]}`, 422, "error at least one valid stream is required for ingestion")
	f("empty streams", "", at(app, ``), 204, "")
	f("service names", "", at(`{}`, `["NOW","info"]`), 204, "", `fake {service_name="unknown_service"} 0 info {detected_level="info"}`)
	f("own service name", "", at(`{"service_name":"mine","app":"x"}`, `["NOW","info"]`), 204, "", `fake {app="x", service_name="mine"} 0 info {detected_level="info"}`)
	f("preferred name", "", at(`{"job":"j","container":"c"}`, `["NOW","info"]`), 204, "", `fake {container="c", job="j", service_name="c"} 0 info {detected_level="info"}`)
	f("no discovery", "discover_service_name: []\ndiscover_log_levels: false", at(app, `["NOW","info"]`), 204, "", `fake {app="x"} 0 info {}`)
	f("no labels", "discover_service_name: []", at(`{}`, `["NOW","info"]`), 400, "error at least one label pair is required per stream")
	f("internal stream", "", at(`{"__pattern__":"p"}`, `["NOW","info"]`), 204, "", `fake {__pattern__="p"} 0 info {detected_level="info"}`)

	f("too old, the rest stored", "", at(app, `["NOW-169h","a"],["NOW","info b"],["NOW-167h","info c"]`), 400,
		"entry for stream '"+stream+"' has timestamp too old: 2026-01-08T11:00:00Z, oldest acceptable timestamp is: 2026-01-08T12:00:00Z",
		info(0, "info b"), info(-167*int(time.Hour), "info c"))
	f("too new", "creation_grace_period: 1m", at(app, `["NOW+60000000001","a"],["NOW+60s","info"]`), 400,
		"entry for stream '"+stream+"' has timestamp too new: 2026-01-15T12:01:00Z", info(int(time.Minute), "info"))
	f("old allowed", "reject_old_samples: false", at(app, `["NOW-100000h","info"]`), 204, "", info(-100000*int(time.Hour), "info"))
	f("grouped", "max_line_size: 5", at(app, `["NOW","123456"],["NOW","1234567"],["NOW","info"],["NOW+1","abcdef"]`), 400,
		"2 errors like: max entry size '5' bytes exceeded for stream '"+stream+"' while adding an entry with length '6' bytes; "+
			"1 errors like: max entry size '5' bytes exceeded for stream '"+stream+"' while adding an entry with length '7' bytes", info(0, "info"))
	f("truncated", "max_line_size: 8\nmax_line_size_truncate: true\nmax_line_size_truncate_identifier: '..'", at(app, `["NOW","info 56789"],["NOW","info 678"]`), 204, "",
		info(0, "info 5.."), info(0, "info 678"))
	f("no room for the identifier", "max_line_size: 2\nmax_line_size_truncate: true\nmax_line_size_truncate_identifier: '..'", at(app, `["NOW","abc"]`), 400,
		"max entry size '2' bytes exceeded for stream '"+stream+"' while adding an entry with length '3' bytes")

	f("label name", "max_label_name_length: 12", at(`{"abcdefghijklm":"1"}`, `["NOW","a"]`), 400,
		`stream '{abcdefghijklm="1", service_name="unknown_service"}' has label name too long: 'abcdefghijklm'`)
	f("label value", "max_label_value_length: 3", at(`{"app":"x","z":"1234","service_name":"x"}`, `["NOW","a"]`), 400,
		`stream '{app="x", service_name="x", z="1234"}' has label value too long: '1234'`)
	f("label count", "max_label_names_per_series: 1", at(`{"app":"x","y":"1"}`, `["NOW","a"]`), 400,
		`entry for stream '{app="x", service_name="x", y="1"}' has 2 label names; limit 1`)
	f("enforced", "enforced_labels: [app, team, env]", at(app, `["NOW","a"]`), 400,
		"missing required labels 'team,env' for user 'fake' for stream '"+stream+"' (policy: '')")
	f("enforced by policy", "policy_enforced_labels: {gold: [team], '*': [env]}\npolicy_stream_mapping: {gold: [{selector: '{app=\"x\"}', priority: 1}]}", at(app, `["NOW","a"]`), 400,
		"missing required labels 'team,env' for user 'fake' for stream '"+stream+"' (policy: 'gold')")

	f("blocked", "block_ingestion_until: 2026-01-15T13:00:00Z", at(app, `["NOW","a"]`), 260,
		"ingestion blocked for user 'fake' until '2026-01-15T13:00:00Z' with status code '260'")
	f("blocked in the past", "block_ingestion_until: 2026-01-15T11:00:00Z", at(app, `["NOW","info"]`), 204, "", info(0, "info"))
	f("blocked silently", "block_ingestion_until: 2026-01-15T13:00:00Z\nblock_ingestion_status_code: 200", at(app, `["NOW","a"]`), 204, "")
	f("blocked policy", "block_ingestion_policy_until: {gold: 2026-01-15T13:00:00Z}\npolicy_stream_mapping: {gold: [{selector: '{app=\"x\"}', priority: 1}]}", at(app, `["NOW","a"]`), 260,
		"ingestion blocked for user 'fake' (policy: 'gold') until '2026-01-15T13:00:00Z' with status code '260'")

	f("metadata", "", at(app, `["NOW","info",{"z.1":"a\ufffdb","b":"","a":"1","z--1":"last"}]`), 204, "",
		`fake `+stream+` 0 info {a="1", detected_level="info", z_1="last"}`)
	f("metadata that is no text", "", at(app, `["NOW","info",{"k":"a`+"\xff\xc3"+`\ufffdb"}]`), 204, "", `fake `+stream+` 0 info {detected_level="info", k="a   b"}`)
	f("metadata not allowed", "allow_structured_metadata: false", at(app, `["NOW","a",{"a":"1"}],["NOW","info"]`), 400,
		"stream '"+stream+"' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it",
		"fake "+stream+" 0 info {}")
	f("metadata size", "max_structured_metadata_size: 5", at(app, `["NOW","a",{"abc":"123","detected_level":"info"}],["NOW","b",{"ab":"123","detected_level":"INFO"}]`), 400,
		"stream '"+stream+"' has structured metadata too large: '6' bytes, limit: '5' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it",
		"fake "+stream+` 0 b {ab="123", detected_level="info"}`)
	f("metadata count", "max_structured_metadata_entries_count: 1", at(app, `["NOW","a",{"a":"1","b":"2"}]`), 400,
		"stream '"+stream+"' has too many structured metadata labels: '2', limit: '1'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it")
	f("metadata name", "", at(app, `["NOW","a",{"__":"1"}]`), 500, `normalization for label name "__" resulted in invalid name "_"`)

	f("increment", "increment_duplicate_timestamp: true\ndiscover_log_levels: false", at(app, `["NOW","a"],["NOW","b"],["NOW","c"],["NOW","c"],["NOW+9","d"]`), 204, "",
		"fake "+stream+" 0 a {}", "fake "+stream+" 1 b {}", "fake "+stream+" 2 c {}", "fake "+stream+" 0 c {}", "fake "+stream+" 9 d {}")
}

func TestDuplicateLabelName(t *testing.T) {
	k := newKit(t, "")
	r := httptest.NewRequest(http.MethodPost, "/api/prom/push", strings.NewReader(
		`{"streams":[{"labels":"{a=\"1\",a=\"2\"}","entries":[{"ts":"2026-01-15T12:00:00Z","line":"x"}]}]}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	k.ServePush(w, r)
	if want := "stream '{a=\"1\", a=\"2\", service_name=\"unknown_service\"}' has duplicate label name: 'a'\n"; w.Code != 400 || w.Body.String() != want {
		t.Errorf("got %d %q, want %q", w.Code, w.Body, want)
	}
}

func TestIngestionRate(t *testing.T) {
	// 1 MiB a second, bucket of 2 MiB.
	k := newKit(t, "ingestion_rate_mb: 1\ningestion_burst_size_mb: 2\nmax_line_size: 4MB\ndiscover_log_levels: false")
	clock := now
	k.cfg.Now = func() time.Time { return clock }
	push := func(size int) (int, string) {
		return k.post(at(`{"app":"x"}`, `["NOW","`+strings.Repeat("x", size-4)+`",{"ab":"cd"}]`))
	}
	step := func(name string, size, want int) {
		t.Helper()
		if got, text := push(size); got != want {
			t.Errorf("%s: got %d %s, want %d", name, got, text, want)
		}
	}
	step("fills the bucket", 2<<20, 204)
	step("empty", 1024, 429)
	clock = clock.Add(500 * time.Millisecond)
	step("half a second is half a MiB", 1<<19, 204)
	_, text := push(1024)
	if want := "ingestion rate limit exceeded for user fake (limit: 1048576 bytes/sec) while attempting to ingest '1' lines totaling '1024' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased\n"; text != want {
		t.Errorf("got %q, want %q", text, want)
	}
	clock = clock.Add(time.Hour)
	step("larger than the bucket", 2<<20+1, 429)
	k.limit(t, "ingestion_rate_mb: 8\ningestion_burst_size_mb: 4\nmax_line_size: 4MB")
	step("after the limits changed", 1024, 204)
	clock = clock.Add(time.Hour)
	step("the new bucket, full", 4<<20, 204)
	k.cfg.Instances = func() int { return 4 }
	step("with three others, at once", 1024, 429)
	clock = clock.Add(time.Second)
	step("a quarter of 8 MiB", 2<<20, 204)
	step("and not more", 1024, 429)
	k.limit(t, "ingestion_rate_mb: 0\nmax_line_size: 4MB")
	step("no limit", 3<<20, 204)
	if n := testutil.ToFloat64(k.metrics.discardedLines.WithLabelValues("fake", reasonRateLimited)); n != 5 {
		t.Errorf("%v lines counted as rate limited, want 5", n)
	}
}

func TestErrorsOfTheNextHop(t *testing.T) {
	k := newKit(t, "max_line_size: 5")
	body := at(`{"app":"x"}`, `["NOW","info"],["NOW","too long"]`)
	for err, want := range map[error]int{
		fault.New(fault.Unavailable, "two of three ingesters are away"): 503,
		fault.New(fault.RateLimited, "too many streams"):                429,
		fmt.Errorf("disk: %w", io.ErrUnexpectedEOF):                     500,
		context.Canceled: 499,
	} {
		k.store.err = err
		if status, text := k.post(body); status != want || text != err.Error()+"\n" {
			t.Errorf("got %d %q, want %d %v", status, text, want, err)
		}
	}
}

func TestInflightBound(t *testing.T) {
	k := newKit(t, "")
	body := at(`{"app":"x"}`, `["NOW","info"]`)
	k.inflight.max = 16 << 20
	k.inflight.used.Store(16 << 20)
	r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/push", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	k.ServePush(w, r)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d %s, want 503 with Retry-After", w.Code, w.Body)
	}
	k.inflight.used.Store(0)
	if status, text := k.post(body); status != 204 {
		t.Errorf("got %d %s", status, text)
	}
	if used := k.inflight.used.Load(); used != 0 {
		t.Errorf("%d bytes are still reserved", used)
	}
	k.inflight.max = 1000
	if status, text := k.post(at(`{"app":"x"}`, `["NOW","`+strings.Repeat("x", 2000)+`"]`)); status != 413 {
		t.Errorf("larger than all memory: got %d %s", status, text)
	}
}

// TestConcurrentPushes checks that buffers which are used again never mix pushes.
func TestConcurrentPushes(t *testing.T) {
	k := newKit(t, "ingestion_rate_mb: 0")
	k.next = pusherFunc(func(lbs labels.Labels, e model.Entry) {
		time.Sleep(time.Microsecond)
		if who := lbs.Get("app"); string(e.Line) != "info "+who || e.Metadata.Get("id") != who {
			t.Errorf("%s was given %q %s", who, e.Line, e.Metadata)
		}
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				who := strings.Repeat(fmt.Sprint(i), 1+j)
				if status, text := k.post(at(`{"app":"`+who+`"}`, `["NOW","info `+who+`",{"id":"`+who+`"}]`)); status != 204 {
					t.Errorf("%d %s", status, text)
				}
			}
		})
	}
	wg.Wait()
}

// TestPushFromInside checks that the caller's streams are left as they were.
func TestPushFromInside(t *testing.T) {
	k := newKit(t, "max_line_size: 10")
	streams := []model.Stream{{Labels: labels.FromStrings("app", "x"), Entries: []model.Entry{
		{Timestamp: now.UnixNano(), Line: []byte("far too long a line")},
		{Timestamp: now.UnixNano(), Line: []byte("hello"), Metadata: labels.FromStrings("level", "Custom")},
	}}}
	before := fmt.Sprint(streams)
	err := k.Push(t.Context(), "acme", streams)
	if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "max entry size '10'") {
		t.Errorf("got %v", err)
	}
	want := []string{`acme {app="x", service_name="x"} 0 hello {detected_level="Custom", level="Custom"}`}
	if diff := cmp.Diff(want, k.store.lines); diff != "" {
		t.Error(diff)
	}
	if after := fmt.Sprint(streams); after != before {
		t.Errorf("the caller's streams changed to %s", after)
	}
}

func TestPolicyHeader(t *testing.T) {
	k := newKit(t, "policy_enforced_labels: {gold: [team]}")
	body := at(`{"app":"x"}`, `["NOW","info"]`)
	if status, text := k.post(body, policyHeader, "gold"); status != 400 || !strings.Contains(text, "(policy: 'gold')") {
		t.Errorf("got %d %s", status, text)
	}
	if status, text := k.post(body); status != 204 {
		t.Errorf("without the header: %d %s", status, text)
	}
}

// What is remembered of labels holds under the limits and the policy it was worked out for.
func TestSameLabelsUnderOtherLimits(t *testing.T) {
	k := newKit(t, "policy_enforced_labels: {gold: [team]}")
	wide, narrow := k.source.Limits, *k.source.Limits
	narrow.MaxLabelNamesPerSeries = 1
	body := at(`{"app":"x", "pod":"y"}`, `["NOW","info"]`)
	for round := range 3 {
		for _, c := range []struct {
			limits *limits.Limits
			policy string
			status int
			text   string
		}{
			{wide, "", 204, ""},
			{wide, "gold", 400, "(policy: 'gold')"},
			{&narrow, "", 400, "has 2 label names; limit 1"},
		} {
			k.source.Limits = c.limits
			if status, text := k.post(body, policyHeader, c.policy); status != c.status || !strings.Contains(text, c.text) {
				t.Errorf("round %d, policy %q: got %d %s, want %d %s", round, c.policy, status, text, c.status, c.text)
			}
		}
	}
	if len(k.store.lines) != 3 {
		t.Errorf("%d entries stored, want 3", len(k.store.lines))
	}
}

func TestOTLP(t *testing.T) {
	k := newKit(t, "")
	post := func(body string) (int, string) {
		r := httptest.NewRequest(http.MethodPost, "/otlp/v1/logs", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		k.ServeOTLP(w, r)
		return w.Code, w.Body.String()
	}
	good := `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeLogs":[{"logRecords":[{"timeUnixNano":"` +
		fmt.Sprint(now.UnixNano()) + `","severityNumber":17,"body":{"stringValue":"info: all well"}}]}]}]}`
	if status, text := post(good); status != 204 || text != "" {
		t.Errorf("got %d %q", status, text)
	}
	want := []string{`fake {service_name="shop"} 0 info: all well {detected_level="error", severity_number="17"}`}
	if diff := cmp.Diff(want, k.store.lines); diff != "" {
		t.Error(diff)
	}
	message := func(text string) string {
		return string(protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), text))
	}
	if status, text := post(`{}`); status != 422 || text != message("error at least one valid stream is required for ingestion") {
		t.Errorf("nothing: got %d %q", status, text)
	}
	k.store.err = fault.New(fault.Unauthenticated, "no org id")
	if status, text := post(good); status != 401 || text != "no org id\n" {
		t.Errorf("no tenant: got %d %q", status, text)
	}
	k.store.err = fmt.Errorf("broken")
	if status, text := post(good); status != 503 || text != message("broken") {
		t.Errorf("internal error: got %d %q", status, text)
	}
}

func TestManyRefusalsStaySmall(t *testing.T) {
	var r refusals
	for i := range 3 * maxRefusals {
		r.add("text %d", i)
	}
	if text := r.String(); !strings.HasSuffix(text, "; 29900 other errors") || len(text) > 5000 {
		t.Errorf("%d bytes ending in %q", len(text), text[len(text)-40:])
	}
}

// benchmarkBody is a push of about 1 MB of log lines in ten streams.
func benchmarkBody(b testing.TB, metadata, asJSON bool) (body []byte, raw int) {
	text, err := os.ReadFile("testdata/lines.log")
	if err != nil {
		b.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	streams := make([]model.Stream, 10)
	for i := range streams {
		streams[i].Labels = labels.FromStrings("app", fmt.Sprint("app-", i), "env", "prod", "pod", fmt.Sprint("pod-abcdef-", i))
	}
	for i := 0; raw < 1<<20; i++ {
		line := lines[i*7919%len(lines)] // scattered, so that no stream is of one kind
		e := model.Entry{Timestamp: now.UnixNano() + int64(i)*1001, Line: line}
		if metadata {
			e.Metadata = labels.FromStrings("trace_id", fmt.Sprintf("%032x", i*7919), "user", "u-17")
		}
		s := &streams[i%len(streams)]
		s.Entries = append(s.Entries, e)
		raw += len(line)
	}
	if asJSON {
		return jsonBody(b, streams), raw
	}
	var enc wire.Encoder
	return bytes.Clone(enc.Push(streams)), raw
}

func jsonBody(b testing.TB, streams []model.Stream) []byte {
	var list []any
	for _, s := range streams {
		var values [][]any
		for _, e := range s.Entries {
			values = append(values, []any{fmt.Sprint(e.Timestamp), string(e.Line)})
		}
		list = append(list, map[string]any{"stream": s.Labels.Map(), "values": values})
	}
	body, err := json.Marshal(map[string]any{"streams": list})
	if err != nil {
		b.Fatal(err)
	}
	return body
}

type discard struct{}

func (discard) Push(context.Context, model.Tenant, []model.Stream) error { return nil }

// BenchmarkPush measures all that a distributor does with a push of 1 MB of raw lines.
func BenchmarkPush(b *testing.B) {
	for _, kind := range []string{"proto", "metadata", "json"} {
		b.Run(kind, func(b *testing.B) {
			body, raw := benchmarkBody(b, kind == "metadata", kind == "json")
			contentType := wire.ContentTypeProto
			if kind == "json" {
				contentType = "application/json"
			}
			k := newKit(b, "ingestion_rate_mb: 0")
			k.next = discard{}
			b.SetBytes(int64(raw))
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/push", bytes.NewReader(body))
				r.Header.Set("Content-Type", contentType)
				w := httptest.NewRecorder()
				k.ServePush(w, r)
				if w.Code != 204 {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}

// TestAllocationsPerPush holds the hot path to what does not grow with the lines.
func TestAllocationsPerPush(t *testing.T) {
	body, _ := benchmarkBody(t, false, false)
	k := newKit(t, "ingestion_rate_mb: 0")
	k.next = discard{}
	n := testing.AllocsPerRun(20, func() {
		r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/push", bytes.NewReader(body))
		r.Header.Set("Content-Type", wire.ContentTypeProto)
		k.ServePush(httptest.NewRecorder(), r)
	})
	if n > 200 {
		t.Errorf("%v allocations for a push of some 8000 lines", n)
	}
}
