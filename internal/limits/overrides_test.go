package limits

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOverridesReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "o.yaml")
		write(t, path, "overrides:\n  a: {max_query_series: 7}\n  b: {max_line_size: 1KB}\n  none:\n")
		base := Defaults()
		base.MaxQuerySeries = 99
		o, err := NewOverrides(Config{File: path, Period: 10 * time.Second}, base, nil, quiet)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- o.Run(ctx) }()

		a, b := o.For("a"), o.For("b")
		if a.MaxQuerySeries != 7 || b.MaxQuerySeries != 99 || b.MaxLineSize != 1024 || o.For("c").MaxQuerySeries != 99 || o.For("none") != o.For("c") {
			t.Errorf("first reading: a %d, b %d %s, c %d", a.MaxQuerySeries, b.MaxQuerySeries, b.MaxLineSize, o.For("c").MaxQuerySeries)
		}

		write(t, path, "overrides:\n  a: {max_query_serie: 8}\n")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if o.For("a") != a {
			t.Error("a bad file changed the limits")
		}

		write(t, path, "overrides:\n  a: {max_query_series: 8}\n  b: {max_line_size: 1KB}\n")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if o.For("a").MaxQuerySeries != 8 || a.MaxQuerySeries != 7 {
			t.Error("the good file did not take effect, or a value in use was modified")
		}
		if o.For("b") != b {
			t.Error("a tenant without a change got a new value")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOverridesMergeFiles(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	write(t, first, "overrides:\n  a: {max_query_series: 7, max_line_size: 1KB}\nconfigs:\n  a: {log_push_request: true}\n")
	write(t, second, "overrides:\n  a: {max_query_series: 8}\n")
	o, err := NewOverrides(Config{File: first + ", " + second}, Defaults(), nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if l := o.For("a"); l.MaxQuerySeries != 8 || l.MaxLineSize != 1024 {
		t.Errorf("got %d, %s", l.MaxQuerySeries, l.MaxLineSize)
	}
}

// TestOverridesReplaceLists checks that a tenant's lists, maps and rules stand in place of
// the server's, which stay as they are.
func TestOverridesReplaceLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "o.yaml")
	write(t, path, "overrides:\n  a:\n    policy_enforced_labels: {gold: [x]}\n    enforced_labels: [y]\n"+
		"    otlp_config: {resource_attributes: {ignore_defaults: true, attributes_config: [{action: drop, attributes: [z]}]}}\n"+
		"    shard_streams: {enabled: false}\n")
	base := Defaults()
	base.PolicyEnforcedLabels, base.EnforcedLabels = map[string][]string{"silver": {"s"}}, []string{"t", "u"}
	o, err := NewOverrides(Config{File: path}, base, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	a, b := o.For("a"), o.For("b")
	if len(a.PolicyEnforcedLabels) != 1 || len(b.PolicyEnforcedLabels) != 1 || a.PolicyEnforcedLabels["gold"] == nil || len(a.EnforcedLabels) != 1 || len(b.EnforcedLabels) != 2 {
		t.Errorf("a has %v %v, b has %v %v", a.PolicyEnforcedLabels, a.EnforcedLabels, b.PolicyEnforcedLabels, b.EnforcedLabels)
	}
	if n, m := len(a.OTLPConfig.ResourceAttributes.Rules), len(b.OTLPConfig.ResourceAttributes.Rules); n != 1 || m != 1 {
		t.Errorf("%d and %d OTLP rules, want 1 and 1", n, m)
	}
	if a.ShardStreams.Enabled || a.ShardStreams.DesiredRate != b.ShardStreams.DesiredRate {
		t.Errorf("shard_streams is %+v", a.ShardStreams)
	}
}

func TestOverridesFatalAtStart(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "o.yaml")
		write(t, path, text)
		_, err := NewOverrides(Config{File: path}, Defaults(), nil, quiet)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), "tenant") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	f("override: {}", `line 1: unknown key "override"`)
	f("overrides:\n  a:\n    max_lines: 3", "line 3: unknown limit \"max_lines\"")
	f("overrides:\n  ../x: {}", "unsupported character '/'")
	f("overrides:\n  a: {deletion_mode: x}", "invalid override for tenant a: deletion_mode")
	f("overrides: [", "yaml:")
	f("overrides:\n  a: 5", "want a map of limits")
	if _, err := NewOverrides(Config{File: "/does/not/exist"}, Defaults(), nil, quiet); err == nil {
		t.Error("a missing file is accepted")
	}
}
