package querier

import (
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/syntax"
)

func TestCompileDelete(t *testing.T) {
	app := func(v string) labels.Labels { return labels.FromStrings("app", v) }
	selects := func(query string, stream labels.Labels, line string, want bool) {
		t.Helper()
		filters, err := CompileDelete(query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		all, row := filters.New()(stream)
		if got := all || row != nil && row(1, []byte(line), labels.FromStrings("k", "v")); got != want {
			t.Errorf("%s on %s %q: got %v, want %v", query, stream, line, got, want)
		}
	}
	selects(`{app="x"}`, app("x"), "any", true)
	selects(`{app="x"}`, app("y"), "any", false)
	selects(`{app="x"} |= "secret"`, app("x"), "a secret", true)
	selects(`{app="x"} |= "secret"`, app("x"), "nothing", false)
	selects(`{app="x"} | k="v"`, app("x"), "any", true)
	selects(`{app="x"} | k="w"`, app("x"), "any", false)
	for _, bad := range []string{"", "{", `count_over_time({app="x"}[1m])`, `{app="x"} |~ "["`} {
		if _, err := CompileDelete(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// A query that does not meet a request's streams must not pay for its stages.
func TestDeleteFilterWaitsForAStream(t *testing.T) {
	expr, err := syntax.ParseLogOfAny(`{app="x"} |~ "a+b"`)
	if err != nil {
		t.Fatal(err)
	}
	f := &deleteFilter{expr: expr}
	if _, row := f.stream(labels.FromStrings("app", "y")); row != nil || f.pipeline != nil {
		t.Error("stages were compiled for a stream that does not match")
	}
	if _, row := f.stream(labels.FromStrings("app", "x")); row == nil || f.pipeline == nil {
		t.Error("stages were not compiled for a stream that matches")
	}
}

func TestDeleteTime(t *testing.T) {
	expect := func(text string, want int64, ok bool) {
		t.Helper()
		got, err := deleteTime("start", text)
		if (err == nil) != ok || ok && got.Unix() != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
	expect("1700000000", 1_700_000_000, true)
	expect("2023-11-14T22:13:20Z", 1_700_000_000, true)
	expect("1700000000000000000", 0, false)
	expect("1700000.e3", 1_700_000_000, true)
	expect("170000000.", 170_000_000, true)
	expect("9999999999", 0, false)
	expect("NaN0000000", 0, false)
	expect("yesterday", 0, false)
	if err := checkInterval("2h", time.Hour); err == nil {
		t.Error("an interval longer than the request was accepted")
	}
}
