package scan_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

func parseLog(t testing.TB, query string) *syntax.LogExpr {
	t.Helper()
	x, err := syntax.ParseLog(query)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// uniqueTimes spreads entries so that no two have the same time: then the answer of a
// log query is one list, without ties.
func uniqueTimes(streams []model.Stream) []model.Stream {
	n := int64(0)
	for i := range streams {
		for j := range streams[i].Entries {
			n++
			streams[i].Entries[j].Timestamp += n
		}
	}
	return streams
}

// naiveLogs sorts everything and takes what is wanted.
func naiveLogs(streams []model.Stream, q scan.LogsQuery, keep func(line string) bool) []string {
	var all []model.Entry
	for _, s := range streams {
		for _, e := range s.Entries {
			if q.Range.Contains(e.Timestamp) && keep(string(e.Line)) {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b model.Entry) int {
		if q.Forward {
			return cmp.Compare(a.Timestamp, b.Timestamp)
		}
		return cmp.Compare(b.Timestamp, a.Timestamp)
	})
	var out []string
	var last int64
	for _, e := range all {
		if len(out) == q.Limit {
			break
		}
		if d := time.Duration(e.Timestamp - last); len(out) > 0 && q.Interval > 0 && d.Abs() < q.Interval {
			continue
		}
		last = e.Timestamp
		out = append(out, fmt.Sprintf("%d %s", e.Timestamp, e.Line))
	}
	slices.Sort(out)
	return out
}

// oneTurn hands out one turn at a time, to which no other is necessary.
type oneTurn struct {
	*blocks.Source
	place chan struct{}
}

func (s oneTurn) InTurn(_ context.Context, work func() error) error {
	select {
	case s.place <- struct{}{}:
		defer func() { <-s.place }()
		return work()
	case <-time.After(10 * time.Second):
		return errors.New("somebody waits in a turn, or never ends it")
	}
}

func TestLogsAgreeWithDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for range 60 {
		streams := uniqueTimes(someStreams(rnd, 1+rnd.IntN(6), rnd.IntN(200)))
		src := blocks.New(streams, blocks.Options{RowsPerBlock: 1 + rnd.IntN(150), Parts: 1 + rnd.IntN(3)})
		q := scan.LogsQuery{
			Range:   model.TimeRange{From: rnd.Int64N(60) * second, Through: (60 + rnd.Int64N(80)) * second},
			Limit:   1 + rnd.IntN(400),
			Forward: rnd.IntN(2) == 0,
		}
		if rnd.IntN(2) == 0 {
			q.Interval = time.Duration(rnd.Int64N(20 * second))
		}
		for query, keep := range map[string]func(string) bool{
			`{app=~".+"}`:                         func(string) bool { return true },
			`{app=~".+"} |= "v=1"`:                func(l string) bool { return strings.Contains(l, "v=1") },
			`{app=~".+"} != "v=1" | logfmt`:       func(l string) bool { return !strings.Contains(l, "v=1") },
			`{app=~".+"} | logfmt | path="/2"`:    func(l string) bool { return strings.HasSuffix(l, "/2") },
			`{app=~".+"} |= "nothing is like it"`: func(string) bool { return false },
		} {
			got, err := scan.Logs(t.Context(), oneTurn{src, make(chan struct{}, 1)}, parseLog(t, query), q, scan.Options{Workers: 1 + rnd.IntN(3)})
			if err != nil {
				t.Fatal(err)
			}
			var list []string
			for i, s := range got {
				if i > 0 && got[i-1].Labels.String() >= s.Labels.String() {
					t.Fatalf("%s: streams out of order: %s before %s", query, got[i-1].Labels, s.Labels)
				}
				for j, e := range s.Entries {
					if j > 0 && (s.Entries[j-1].Timestamp < e.Timestamp) != q.Forward {
						t.Fatalf("%s: entries out of order in %s", query, s.Labels)
					}
					list = append(list, fmt.Sprintf("%d %s", e.Timestamp, e.Line))
				}
			}
			slices.Sort(list)
			if want := naiveLogs(streams, q, keep); !slices.Equal(list, want) {
				t.Fatalf("%s %+v:\n got %q\nwant %q", query, q, list, want)
			}
			if n := src.Open.Load(); n != 0 {
				t.Fatalf("%d blocks not released", n)
			}
		}
	}
}

// TestLogsOrderEqualTimes: arrival decides inside a stream, reversed when backward, and
// the answer is the same however many workers looked for it.
func TestLogsOrderEqualTimes(t *testing.T) {
	var s model.Stream
	s.Labels = labels.FromStrings("app", "a")
	for i := range 9 {
		s.Entries = append(s.Entries, model.Entry{Timestamp: int64(i / 3), Line: fmt.Append(nil, i)})
	}
	src := blocks.New([]model.Stream{s}, blocks.Options{RowsPerBlock: 2})
	f := func(q scan.LogsQuery, want string) {
		t.Helper()
		q.Range.Through = 100
		for workers := 1; workers < 5; workers++ {
			got, err := scan.Logs(t.Context(), src, parseLog(t, `{app="a"}`), q, scan.Options{Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			lines := ""
			for _, e := range got[0].Entries {
				lines += string(e.Line)
			}
			if lines != want {
				t.Errorf("%+v with %d workers: got %s, want %s", q, workers, lines, want)
			}
		}
	}
	f(scan.LogsQuery{Limit: 9, Forward: true}, "012345678")
	f(scan.LogsQuery{Limit: 9}, "876543210")
	f(scan.LogsQuery{Limit: 4, Forward: true}, "0123")
	f(scan.LogsQuery{Limit: 4}, "8765")
	f(scan.LogsQuery{Limit: 9, Interval: 1, Forward: true}, "036")
}

// TestLogsShowEqualEntriesOnce: what the pipeline makes equal is one entry.
func TestLogsShowEqualEntriesOnce(t *testing.T) {
	var s model.Stream
	s.Labels = labels.FromStrings("app", "a")
	for i := range 12 {
		s.Entries = append(s.Entries, model.Entry{
			Timestamp: int64(i / 4), Line: []byte("x"), Metadata: labels.FromStrings("copy", fmt.Sprint(i), "half", fmt.Sprint(i%2)),
		})
	}
	other := model.Stream{Labels: labels.FromStrings("app", "b"), Entries: s.Entries}
	src := blocks.New([]model.Stream{s, other}, blocks.Options{RowsPerBlock: 5})
	f := func(query string, limit, want int) {
		t.Helper()
		got, err := scan.Logs(t.Context(), src, parseLog(t, query), scan.LogsQuery{Range: model.TimeRange{Through: 9}, Limit: limit}, scan.Options{Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, s := range got {
			n += len(s.Entries)
		}
		if n != want {
			t.Errorf("%s limit %d: %d entries, want %d: %v", query, limit, n, want, got)
		}
	}
	f(`{app=~"a|b"}`, 100, 24)
	f(`{app=~"a|b"} | drop copy`, 100, 12)
	f(`{app=~"a|b"} | drop copy`, 5, 5)
	f(`{app=~"a|b"} | keep nothing`, 100, 6)
	f(`{app=~"a|b"} | line_format "{{.copy}}" | keep nothing`, 100, 24)
}

// TestLimitedLogsStopEarly: the newest lines are found without decoding old blocks.
func TestLimitedLogsStopEarly(t *testing.T) {
	var s model.Stream
	s.Labels = labels.FromStrings("app", "a")
	for i := range 100_000 {
		s.Entries = append(s.Entries, model.Entry{Timestamp: int64(i), Line: []byte("line")})
	}
	src := blocks.New([]model.Stream{s}, blocks.Options{RowsPerBlock: 1000})
	for _, forward := range []bool{false, true} {
		src.LineReads.Store(0)
		got, err := scan.Logs(t.Context(), src, parseLog(t, `{app="a"} |= "line"`), scan.LogsQuery{
			Range: model.TimeRange{Through: 1 << 40}, Limit: 100, Forward: forward,
		}, scan.Options{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got[0].Entries); n != 100 {
			t.Errorf("%d entries, want 100", n)
		}
		if n := src.LineReads.Load(); n != 1 {
			t.Errorf("forward=%t: lines of %d blocks of 100 were read, want 1", forward, n)
		}
	}
}

func TestLogsCategories(t *testing.T) {
	src := blocks.New([]model.Stream{{
		Labels:  labels.FromStrings("app", "a"),
		Entries: []model.Entry{{Timestamp: 1, Line: []byte("k=v"), Metadata: labels.FromStrings("trace", "t")}},
	}}, blocks.Options{})
	got, err := scan.Logs(t.Context(), src, parseLog(t, `{app="a"} | logfmt`), scan.LogsQuery{Range: model.TimeRange{Through: 9}, Limit: 1}, scan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := got[0]
	text := fmt.Sprint(s.Labels, s.StreamLabels, s.Entries[0].Metadata, s.Entries[0].Parsed)
	if want := `{app="a", k="v", trace="t"} {app="a"} {trace="t"} {k="v"}`; text != want {
		t.Errorf("got %s, want %s", text, want)
	}
}
