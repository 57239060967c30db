package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/logql/syntax"
)

func logs(t *testing.T, query string, r io.Reader) (lines []string) {
	t.Helper()
	expr, err := Parse(query)
	if err != nil {
		t.Fatal(err)
	}
	err = Logs(t.Context(), r, expr.(*syntax.LogExpr).Stages, 1e18, func(e Entry) error {
		lines = append(lines, string(e.Line)+" "+e.Set.Labels.String())
		return nil
	}, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestLogs(t *testing.T) {
	const input = `{"status":200,"path":"/a"}` + "\n" + `{"status":500,"path":"/b"}` + "\n\nnot json\n" + `{"status":503}`
	for _, test := range []struct {
		query string
		want  []string
	}{
		{`| json | status>=500`, []string{
			`{"status":500,"path":"/b"} {path="/b", source="stdin", status="500"}`,
			`{"status":503} {source="stdin", status="503"}`,
		}},
		{`|= "not"`, []string{`not json {source="stdin"}`}},
		{` != "status"`, []string{` {source="stdin"}`, `not json {source="stdin"}`}},
		{`{app="whatever"} |= "503" | json | line_format "{{.status}}!"`, []string{`503! {source="stdin", status="503"}`}},
	} {
		for name, r := range map[string]io.Reader{
			"at once": strings.NewReader(input), "byte by byte": iotest.OneByteReader(strings.NewReader(input)),
			"last bytes with EOF": iotest.DataErrReader(strings.NewReader(input)),
		} {
			if diff := cmp.Diff(test.want, logs(t, test.query, r)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", test.query, name, diff)
			}
		}
	}
}

// Lines longer than the buffer come whole, and lines end where they end, however the
// input is cut.
func TestLogsLongInput(t *testing.T) {
	var text strings.Builder
	var want []string
	for i := range 3000 {
		line := fmt.Sprintf("%d:%s", i, strings.Repeat("x", i*i%1999))
		if i == 1500 {
			line += strings.Repeat("y", 3*batchBytes)
		}
		fmt.Fprintln(&text, line)
		want = append(want, line+` {source="stdin"}`)
	}
	if diff := cmp.Diff(want, logs(t, `|= ":"`, iotest.HalfReader(strings.NewReader(text.String())))); diff != "" {
		t.Error("lines differ")
	}
}

func TestLogsEnds(t *testing.T) {
	expr, err := Parse(`|= "a"`)
	if err != nil {
		t.Fatal(err)
	}
	stages := expr.(*syntax.LogExpr).Stages
	never := func() error { return nil }
	broken := errors.New("broken")
	err = Logs(t.Context(), iotest.ErrReader(broken), stages, 0, func(Entry) error { return nil }, never)
	if !errors.Is(err, broken) {
		t.Errorf("broken input: got %v", err)
	}

	// The input pauses after one line: it comes at once, and cancelling ends the wait.
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	go func() { _, _ = io.WriteString(w, "a\n") }()
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	err = Logs(ctx, r, stages, 0, func(Entry) error { seen++; return nil }, func() error {
		if seen == 1 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || seen != 1 {
		t.Errorf("cancelled: got %v after %d lines", err, seen)
	}
}

func TestMetric(t *testing.T) {
	var text strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&text, "status=%d bytes=%d some more text to fill several blocks\n", 200+100*(i%3), i%7)
	}
	for query, want := range map[string]string{
		`sum by (status) (count_over_time({source="stdin"} | logfmt [1m]))`:                                      `{status="200"}=16667 {status="300"}=16667 {status="400"}=16666 `,
		`sum(count_over_time({a="b"}[1h])) + sum(count_over_time({a="b"} |= "status=400" [1h]))`:                 `{}=66666 `,
		`max by (status) (max_over_time({a="b"} | logfmt | status="400" | unwrap bytes [5m])) or on() vector(0)`: `{status="400"}=6 `,
	} {
		expr, err := Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		res, err := Metric(t.Context(), strings.NewReader(text.String()), expr, 1795555300e9)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, s := range res.Series {
			got += fmt.Sprintf("%s=%v ", s.Labels, s.Points[0].V)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
}

func BenchmarkLogs(b *testing.B) {
	text := strings.Repeat(`{"status":200,"msg":"a request was served","path":"/api/v1/things","dur":"12ms"}`+"\n", 10_000)
	for _, query := range []string{`|= "not there"`, `| json | status>=500`} {
		b.Run(query, func(b *testing.B) {
			expr, err := Parse(query)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				err := Logs(b.Context(), strings.NewReader(text), expr.(*syntax.LogExpr).Stages, 0,
					func(Entry) error { return nil }, func() error { return nil })
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
