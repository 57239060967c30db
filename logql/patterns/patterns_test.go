package patterns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// mine finds the patterns of lines that are a second apart.
func mine(t testing.TB, lines []string, opts blocks.Options, step time.Duration) []Pattern {
	t.Helper()
	stream := model.Stream{Labels: labels.FromStrings("app", "a")}
	for i, line := range lines {
		e := model.Entry{Timestamp: int64(i) * int64(time.Second), Line: []byte(line)}
		if strings.Contains(line, "error") {
			e.Metadata = labels.FromStrings(levelLabel, "error")
		}
		stream.Entries = append(stream.Entries, e)
	}
	expr, err := syntax.ParseLog(`{app="a"}`)
	if err != nil {
		t.Fatal(err)
	}
	found, err := Mine(context.Background(), blocks.New([]model.Stream{stream}, opts), expr,
		Query{Range: model.TimeRange{Through: int64(len(lines)) * int64(time.Second)}, Step: step}, scan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestTemplates(t *testing.T) {
	repeat := func(n int, format string, words ...string) (lines []string) {
		for i := range n {
			line := strings.ReplaceAll(format, "#", fmt.Sprint(1000+i*37))
			if len(words) > 0 {
				line = strings.ReplaceAll(line, "@", words[i%len(words)])
			}
			lines = append(lines, line)
		}
		return lines
	}
	for name, c := range map[string]struct{ lines, want []string }{
		"numbers":                {repeat(9, "took # ms"), []string{"took <_> ms"}},
		"a constant number":      {repeat(9, "GET /index HTTP/1.1 # bytes"), []string{"GET /index HTTP/1.1 <_> bytes"}},
		"times and addresses":    {repeat(9, "2024-01-02T10:00:# INFO from 10.0.0.#:80 ok"), []string{"<_> INFO from <_> ok"}},
		"many names":             {repeat(20, "user @ logged in", "ann", "ben", "cat", "dan", "eve"), []string{"user <_> logged in"}},
		"a name at the start":    {repeat(20, "@ logged in today", "ann", "ben", "cat", "dan", "eve"), []string{"<_> logged in today"}},
		"two events":             {repeat(20, "connection to db @", "opened", "closed"), []string{"connection to db closed", "connection to db opened"}},
		"different messages":     {append(repeat(9, "order # placed"), repeat(7, "cannot reach shop #")...), []string{"order <_> placed", "cannot reach shop <_>"}},
		"logfmt":                 {repeat(9, `ts=# method=@ msg="request done" took=#ms`, "GET", "PUT", "POST"), []string{`ts=<_> method=<_> msg="request done" took=<_>`}},
		"logfmt, single words":   {repeat(20, `id=# msg=@`, "started", "stopped"), []string{`id=<_> msg=started`, `id=<_> msg=stopped`}},
		"json":                   {repeat(9, `{"ts":#,"user":"@","msg":"order placed"}`, "ann", "ben", "cat"), []string{`{"ts":<_>,"user":"<_>","msg":"order placed"}`}},
		"json messages":          {append(repeat(9, `{"n":#,"msg":"order placed"}`), repeat(8, `{"n":#,"msg":"card refused"}`)...), []string{`{"n":<_>,"msg":"order placed"}`, `{"n":<_>,"msg":"card refused"}`}},
		"lists of values":        {append(repeat(3, "ids [#, #, #, #]"), repeat(3, "ids [#, #, #, #, #, #]")...), []string{"ids [<_>]"}},
		"what looks like a name": {repeat(9, "to <root> and <_> #"), []string{"to <<_>> and <<_>> <_>"}},
		"an empty line":          {[]string{"", ""}, []string{""}},
		"a single line":          {[]string{"only 1"}, []string{"only 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range mine(t, c.lines, blocks.Options{}, time.Minute) {
				got = append(got, p.Text)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSamplesAndLevels(t *testing.T) {
	lines := []string{"job 1 done", "job 2 done", "error in job 3", "job 4 done", "error in job 5"}
	want := []Pattern{
		{Text: "job <_> done", Level: "unknown", Total: 3, Samples: []Sample{{0, 2}, {2e9, 1}}},
		{Text: "error in job <_>", Level: "error", Total: 2, Samples: []Sample{{2e9, 1}, {4e9, 1}}},
	}
	if diff := cmp.Diff(want, mine(t, lines, blocks.Options{RowsPerBlock: 2}, 2*time.Second)); diff != "" {
		t.Error(diff)
	}
}

// messy are lines of several programs, with values of all sorts.
func messy(n int, seed uint64) []string {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	lines := make([]string, n)
	for i := range lines {
		switch r.IntN(5) {
		case 0:
			lines[i] = fmt.Sprintf(`level=info ts=%d caller=main.go:%d msg="request done" path=/api/%s/%d`, r.Int64(), r.IntN(9), pick("users", "orders", "carts", "items"), r.IntN(99))
		case 1:
			lines[i] = fmt.Sprintf(`{"level":"error","user":{"id":%d,"name":%q},"msg":"payment %s"}`, r.IntN(99), pick("ann", "ben", "cat", "dan", "é"), pick("failed", "refused"))
		case 2:
			lines[i] = fmt.Sprintf("Jan %d 10:%02d:00 host%d sshd[%d]: Failed password for %s from %d.0.0.1 port %d ssh2", r.IntN(31), r.IntN(60), r.IntN(3), r.IntN(9999), pick("root", "admin", "bob"), r.IntN(255), r.IntN(65535))
		case 3:
			lines[i] = fmt.Sprintf("%s <%s> %s", pick("a", "b", "c"), pick("x", "y", "zz"), strings.Repeat(pick("\t", " ", "::", "=", "\x00"), r.IntN(5)))
		default:
			lines[i] = fmt.Sprintf("worker %s finished batch of %d in %dms", pick("alpha", "beta", "gamma", "delta", "epsilon"), r.IntN(999), r.IntN(99))
		}
	}
	return lines
}

func TestCutsAndWorkersDoNotMatter(t *testing.T) {
	lines := messy(3000, 7)
	want := mine(t, lines, blocks.Options{}, time.Minute)
	for _, rows := range []int{1, 17, 400} {
		got := mine(t, lines, blocks.Options{RowsPerBlock: rows, Parts: 3}, time.Minute)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("with %d rows per block:\n%s", rows, diff)
		}
	}
}

// TestPatternsFindTheirLines pastes each pattern behind |>.
func TestPatternsFindTheirLines(t *testing.T) {
	lines := messy(2000, 3)
	var total int64
	for _, p := range mine(t, lines, blocks.Options{}, time.Second) {
		total += p.Total
		expr, err := syntax.ParseLog(fmt.Sprintf("{a=\"b\"} |> %q", p.Text))
		if err != nil {
			t.Fatalf("%q: %v", p.Text, err)
		}
		pipe, err := pipeline.New(expr.Stages, pipeline.Options{})
		if err != nil {
			t.Fatalf("%q: %v", p.Text, err)
		}
		for _, s := range p.Samples {
			line := lines[s.T/int64(time.Second)]
			if _, _, ok := pipe.ForStream(labels.EmptyLabels(), 0).Process(0, []byte(line), nil); !ok {
				t.Errorf("%q does not match %q", p.Text, line)
			}
		}
	}
	if total != int64(len(lines)) {
		t.Errorf("patterns count %d lines of %d", total, len(lines))
	}
}

// TestTooManyShapes has more shapes than a worker keeps, and no two lines alike.
func TestTooManyShapes(t *testing.T) {
	letters := func(i int) string {
		var b []byte
		for ; i > 0; i /= 26 {
			b = append(b, byte('a'+i%26))
		}
		return string(b)
	}
	lines := make([]string, 3*maxShapes)
	for i := range lines {
		lines[i] = fmt.Sprintf("%s=%s", letters(i*7919+26), letters(i))
		if i%3 == 0 {
			lines[i] = "user " + letters(i+26) + " logged in"
		}
	}
	found := mine(t, lines, blocks.Options{}, time.Hour)
	if len(found) > MaxPatterns+1 {
		t.Errorf("%d patterns", len(found))
	}
	var total int64
	for _, p := range found {
		total += p.Total
	}
	if total != int64(len(lines)) {
		t.Errorf("patterns count %d lines of %d", total, len(lines))
	}
	if found[0].Text != "user <_> logged in" || found[0].Total != maxShapes {
		t.Errorf("most frequent: %q %d", found[0].Text, found[0].Total)
	}
}

func FuzzMask(f *testing.F) {
	for _, line := range messy(50, 1) {
		f.Add([]byte(line))
	}
	f.Add(bytes.Repeat([]byte("x1 "), maxLineValues+2))
	f.Add(bytes.Repeat([]byte("x"), maxLineBytes+2))
	f.Fuzz(func(t *testing.T, line []byte) {
		var m masker
		m.mask(line)
		if n := bytes.Count(m.masked, []byte{placeholder}); n != len(m.values) {
			t.Fatalf("%d placeholders for %d values", n, len(m.values))
		}
		tok := split(m.masked, m.values)
		if _, err := syntax.ParseLinePattern(tok.pattern()); err != nil {
			t.Fatalf("%q: %v", tok.pattern(), err)
		}
		tok.collapse()
		masked, values := tok.masked()
		again := split(masked, values)
		if again.pattern() != tok.pattern() {
			t.Fatalf("%q, taken apart again: %q", tok.pattern(), again.pattern())
		}
	})
}

func BenchmarkMine(b *testing.B) {
	lines := messy(50_000, 1)
	bytes := 0
	stream := model.Stream{Labels: labels.FromStrings("app", "a")}
	for i, line := range lines {
		bytes += len(line)
		stream.Entries = append(stream.Entries, model.Entry{Timestamp: int64(i) * int64(time.Second), Line: []byte(line)})
	}
	src := blocks.New([]model.Stream{stream}, blocks.Options{RowsPerBlock: 10_000, Lenient: true})
	expr, err := syntax.ParseLog(`{app="a"}`)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Mine(context.Background(), src, expr, Query{Range: model.TimeRange{Through: 1e15}, Step: time.Minute}, scan.Options{Workers: 1}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	stream := model.Stream{Labels: labels.FromStrings("app", "a"), Entries: []model.Entry{{Line: []byte("x 1")}}}
	src := blocks.New([]model.Stream{stream}, blocks.Options{})
	expr, err := syntax.ParseLog(`{app="a"}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Mine(ctx, src, expr, Query{Range: model.TimeRange{Through: 1}, Step: time.Second}, scan.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := src.Open.Load(); n != 0 {
		t.Errorf("%d blocks were not released", n)
	}
}

func TestStepsHaveABudget(t *testing.T) {
	stream := model.Stream{Labels: labels.FromStrings("app", "a")}
	for i := range 5000 {
		stream.Entries = append(stream.Entries, model.Entry{Timestamp: int64(i) * int64(time.Hour), Line: []byte("x")})
	}
	expr, err := syntax.ParseLog(`{app="a"}`)
	if err != nil {
		t.Fatal(err)
	}
	mine := func(ctx context.Context, opts scan.Options) error {
		_, err := Mine(ctx, blocks.New([]model.Stream{stream}, blocks.Options{}), expr,
			Query{Range: model.TimeRange{Through: 5000 * int64(time.Hour)}, Step: time.Minute}, opts)
		return err
	}
	if err := mine(t.Context(), scan.Options{MaxMemory: 1 << 20}); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "larger step") {
		t.Errorf("got %v", err)
	}
	// They count among what all queries hold.
	err = scan.NewPool(1<<20).Within(t.Context(), func(ctx context.Context) error { return mine(ctx, scan.Options{}) })
	if fault.Of(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
}
