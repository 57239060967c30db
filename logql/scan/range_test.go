package scan_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

const second = int64(time.Second)

// someStreams makes entries that repeat times, labels and values.
func someStreams(rnd *rand.Rand, streams, entries int) []model.Stream {
	levels := []string{"", "info", "warn", "error"}
	out := make([]model.Stream, streams)
	for i := range out {
		out[i].Labels = labels.FromStrings("app", fmt.Sprint("app", i%3), "pod", fmt.Sprint(i))
		for n := range entries {
			md := labels.NewBuilder(labels.EmptyLabels())
			md.Set("level", levels[rnd.IntN(len(levels))])
			if rnd.IntN(4) == 0 {
				md.Set("trace", fmt.Sprint(rnd.IntN(20)))
			}
			out[i].Entries = append(out[i].Entries, model.Entry{
				Timestamp: rnd.Int64N(120)*second + rnd.Int64N(3)*second/2,
				Line:      fmt.Appendf(nil, "n=%d v=%d path=/%d", n, rnd.IntN(50), rnd.IntN(5)),
				Metadata:  md.Labels(),
			})
		}
	}
	return out
}

func parseRange(t testing.TB, query string) *syntax.RangeAgg {
	t.Helper()
	x, err := syntax.Parse(query)
	if err != nil {
		t.Fatal(err)
	}
	agg, ok := x.(*syntax.RangeAgg)
	if !ok {
		t.Fatalf("%s is a %T", query, x)
	}
	return agg
}

// naiveRange evaluates by the definition: every row through the pipeline, every window
// from all of its rows.
func naiveRange(t *testing.T, streams []model.Stream, agg *syntax.RangeAgg, g scan.Grid, grouping *syntax.Grouping) []string {
	t.Helper()
	p, err := pipeline.New(agg.Range.Log.Stages, pipeline.Options{Sample: pipeline.SampleFor(agg, grouping)})
	if err != nil {
		t.Fatal(err)
	}
	type point struct {
		series string
		at     int64
	}
	values := map[point][]float64{}
	for _, s := range streams {
		if slices.ContainsFunc(agg.Range.Log.Matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Labels.Get(m.Name)) }) {
			continue
		}
		stream := p.ForStream(s.Labels, s.Labels.Hash())
		for _, e := range s.Entries {
			var md []labels.Label
			e.Metadata.Range(func(l labels.Label) { md = append(md, l) })
			line, lbs, ok := stream.Process(e.Timestamp, e.Line, md)
			if !ok {
				continue
			}
			v := 1.0
			switch {
			case strings.HasPrefix(agg.Op, "bytes"):
				v = float64(len(line))
			case agg.Range.Unwrap != nil:
				v = lbs.Value()
			}
			series := lbs.Group().Labels.String()
			for i := range g.Points() {
				at := g.Time(i) - int64(agg.Range.Offset)
				if at-int64(agg.Range.Range) < e.Timestamp && e.Timestamp <= at {
					k := point{series, g.Time(i)}
					values[k] = append(values[k], v)
				}
			}
		}
	}
	var out []string
	for k, vs := range values {
		out = append(out, fmt.Sprintf("%s @%d %.9g", k.series, k.at, fold(t, agg, vs)))
	}
	slices.Sort(out)
	return out
}

func fold(t *testing.T, agg *syntax.RangeAgg, vs []float64) float64 {
	t.Helper()
	sum := 0.0
	for _, v := range vs {
		sum += v
	}
	switch agg.Op {
	case "rate", "bytes_rate":
		return sum / agg.Range.Range.Seconds()
	case "avg_over_time":
		return sum / float64(len(vs))
	case "max_over_time":
		return slices.Max(vs)
	case "quantile_over_time":
		slices.Sort(vs)
		rank := *agg.Param * float64(len(vs)-1)
		lo := math.Floor(rank)
		hi := math.Ceil(rank)
		return vs[int(lo)] + (vs[int(hi)]-vs[int(lo)])*(rank-lo)
	}
	return sum
}

func shown(g scan.Grid, series []scan.Series) []string {
	var out []string
	for _, s := range series {
		for i, v := range s.Values {
			if s.Present.Has(i) {
				out = append(out, fmt.Sprintf("%s @%d %.9g", s.Labels, g.Time(i), v))
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestRangeAgreesWithDefinition: whatever the cut into blocks and parts and the number
// of workers, with rows marked dead, the answer is that of the naive evaluation.
func TestRangeAgreesWithDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	by := func(names ...string) *syntax.Grouping { return &syntax.Grouping{Labels: names} }
	cases := []struct {
		query    string
		grouping *syntax.Grouping
	}{
		{`count_over_time({app=~".+"}[7s])`, nil},
		{`count_over_time({app=~".+"}[7s])`, by()},
		{`count_over_time({app=~".+"}[30s])`, by("app")},
		{`count_over_time({app=~".+"}[30s])`, by("level")},
		{`count_over_time({app=~".+"}[5m])`, by("level", "trace", "app")},
		{`count_over_time({app=~".+"}[2s])`, &syntax.Grouping{Without: true, Labels: []string{"trace", "pod"}}},
		{`rate({app="app1"} |= "v=1" [10s] offset 7s)`, by("pod")},
		{`rate({app="app1"} |= "v=1" |~ "/[12]" [10s])`, by("level")},
		{`count_over_time({app="app1"} != "v=1" [10s])`, nil},
		{`bytes_over_time({app=~".+"}[15s])`, by("level")},
		{`bytes_rate({app=~".+"} | level!="" [15s] offset -3s)`, by("app")},
		{`bytes_over_time({app=~".+"} | line_format "{{.pod}}" [15s])`, by()},
		{`bytes_over_time({app=~".+"} |= "path=/3" [4s])`, by("trace")},
		{`count_over_time({app=~".+"} | logfmt | v > 25 [20s])`, by("path")},
		{`count_over_time({app=~".+"} | logfmt | drop n, trace [20s])`, nil},
		{`sum_over_time({app=~".+"} | logfmt | unwrap v [11s])`, by("path")},
		{`avg_over_time({app=~".+"} | logfmt | unwrap v [11s]) by (app)`, nil},
		{`max_over_time({app=~".+"} | logfmt | unwrap v | path="/1" [11s]) by (level)`, nil},
		{`quantile_over_time(0.9, {app=~".+"} | logfmt | unwrap v [30s]) by (app, path)`, nil},
		{`sum_over_time({app=~".+"} | unwrap pod [10s])`, by("app")},
	}
	for range 6 {
		all := someStreams(rnd, 1+rnd.IntN(7), rnd.IntN(150))
		dead := func(_ labels.Labels, ts int64, line []byte) bool { return (ts/second+int64(len(line)))%7 == 0 }
		var alive []model.Stream
		seen := map[string]bool{}
		for _, s := range all {
			kept := model.Stream{Labels: s.Labels}
			for _, e := range s.Entries {
				key := fmt.Sprint(s.Labels, e.Timestamp, string(e.Line), e.Metadata)
				if !dead(s.Labels, e.Timestamp, e.Line) && !seen[key] {
					seen[key] = true
					kept.Entries = append(kept.Entries, e)
				}
			}
			alive = append(alive, kept)
		}
		step := 1 + rnd.Int64N(20)
		g := scan.Grid{Start: 10 * second, End: (10 + step*rnd.Int64N(12)) * second, Step: step * second}
		for _, c := range cases {
			agg := parseRange(t, c.query)
			want := naiveRange(t, alive, agg, g, c.grouping)
			for _, shape := range []blocks.Options{{RowsPerBlock: 1 << 20}, {RowsPerBlock: 17, Parts: 3}, {RowsPerBlock: 300, Parts: 2}} {
				src := blocks.New(all, shape)
				src.Kill(dead)
				for _, workers := range []int{1, 4} {
					got, err := scan.Range(t.Context(), src, agg, g, scan.Options{Workers: workers, Grouping: c.grouping})
					if err != nil {
						t.Fatalf("%s: %v", c.query, err)
					}
					if s := shown(g, got); !slices.Equal(s, want) {
						t.Fatalf("%s grouped by %+v, %+v, %d workers, grid %+v:\n got %q\nwant %q", c.query, c.grouping, shape, workers, g, s, want)
					}
				}
				if n := src.Open.Load(); n != 0 {
					t.Fatalf("%s: %d blocks not released", c.query, n)
				}
			}
		}
	}
}

func TestCountingReadsNoLines(t *testing.T) {
	src := blocks.New(someStreams(rand.New(rand.NewPCG(1, 1)), 5, 200), blocks.Options{})
	for _, q := range []string{`count_over_time({app=~".+"}[1m])`, `bytes_rate({app=~".+"} | level="info" [1m])`, `sum_over_time({app=~".+"} | unwrap trace [1m])`} {
		if _, err := scan.Range(t.Context(), src, parseRange(t, q), scan.Grid{Start: 60 * second, End: 60 * second}, scan.Options{}); err != nil {
			t.Errorf("%s: %v", q, err)
		}
		if n := src.LineReads.Load(); n != 0 {
			t.Errorf("%s: lines of %d blocks were read", q, n)
		}
	}
}

func TestAbsentOverTime(t *testing.T) {
	src := blocks.New([]model.Stream{{
		Labels:  labels.FromStrings("app", "a", "env", "x"),
		Entries: []model.Entry{{Timestamp: 10 * second, Line: []byte("hit")}},
	}}, blocks.Options{})
	f := func(query, want string) {
		t.Helper()
		g := scan.Grid{Start: 5 * second, End: 25 * second, Step: 5 * second}
		got, err := scan.Range(t.Context(), src, parseRange(t, query), g, scan.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.Join(shown(g, got), "; "); s != want {
			t.Errorf("%s:\n got %s\nwant %s", query, s, want)
		}
	}
	f(`absent_over_time({app="a"}[10s])`, `{app="a"} @20000000000 1; {app="a"} @25000000000 1; {app="a"} @5000000000 1`)
	f(`absent_over_time({app="a", env=~"x"} |= "hit" [1m])`, `{app="a"} @5000000000 1`)
	f(`absent_over_time({app="a", app=~"a", env="x"} |= "no" [1h])`, `{env="x"} @10000000000 1; {env="x"} @15000000000 1; {env="x"} @20000000000 1; {env="x"} @25000000000 1; {env="x"} @5000000000 1`)
}

func TestRangeLimits(t *testing.T) {
	src := blocks.New(someStreams(rand.New(rand.NewPCG(2, 2)), 9, 300), blocks.Options{RowsPerBlock: 50})
	agg := parseRange(t, `count_over_time({app=~".+"} | logfmt [1m])`)
	g := scan.Grid{Start: 0, End: 120 * second, Step: second}
	for _, c := range []struct {
		name string
		opts scan.Options
		want string
	}{
		{"series", scan.Options{SeriesLimited: true, MaxSeries: 10}, "maximum number of series (10) reached"},
		{"memory", scan.Options{MaxMemory: 100 << 10}, "more memory than its budget"},
	} {
		_, err := scan.Range(t.Context(), src, agg, g, c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != fault.Invalid {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
		if n := src.Open.Load(); n != 0 {
			t.Errorf("%s: %d blocks not released", c.name, n)
		}
	}
}

// TestErrorNamesAllLabels: the refusal shows labels that the query had no need to read.
func TestErrorNamesAllLabels(t *testing.T) {
	src := blocks.New([]model.Stream{{
		Labels:  labels.FromStrings("app", "a"),
		Entries: []model.Entry{{Timestamp: second, Line: []byte("v=x"), Metadata: labels.FromStrings("trace", "t1")}},
	}}, blocks.Options{})
	agg := parseRange(t, `sum_over_time({app="a"} | logfmt | unwrap v [1m])`)
	_, err := scan.Range(t.Context(), src, agg, scan.Grid{Start: second, End: second}, scan.Options{Grouping: &syntax.Grouping{Labels: []string{"app"}}})
	want := `pipeline error: 'SampleExtractionErr' for series: '{__error__="SampleExtractionErr", __error_details__="strconv.ParseFloat: parsing \"x\": invalid syntax", app="a", trace="t1", v="x"}'.`
	if err == nil || !strings.HasPrefix(err.Error(), want) || fault.Of(err) != fault.Invalid {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// cancelling cancels the context when the n-th block is read.
type cancelling struct {
	scan.Selector
	cancel context.CancelFunc
}

type cancellingBlock struct {
	model.Block
	cancel context.CancelFunc
}

func (c cancelling) Select(ctx context.Context, req *model.Request) (*model.Selection, error) {
	sel, err := c.Selector.Select(ctx, req)
	if err != nil {
		return nil, err
	}
	for p := range sel.Parts {
		for i, b := range sel.Parts[p].Blocks {
			if i == 2 {
				sel.Parts[p].Blocks[i] = cancellingBlock{b, c.cancel}
			}
		}
	}
	return sel, nil
}

func (b cancellingBlock) Times(ctx context.Context) ([]int64, error) {
	b.cancel()
	return b.Block.Times(ctx)
}

func TestCancelledScanReleasesItsBlocks(t *testing.T) {
	src := blocks.New(someStreams(rand.New(rand.NewPCG(3, 3)), 3, 500), blocks.Options{RowsPerBlock: 40})
	agg := parseRange(t, `count_over_time({app=~".+"} | logfmt | v > 3 [1m])`)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := scan.Range(ctx, cancelling{src, cancel}, agg, scan.Grid{Start: 60 * second, End: 60 * second}, scan.Options{Workers: 2})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Range: %v", err)
	}
	for _, interval := range []time.Duration{0, time.Second} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err = scan.Logs(ctx, cancelling{src, cancel}, parseLog(t, `{app=~".+"} | logfmt`), scan.LogsQuery{
			Range: model.TimeRange{Through: 200 * second}, Limit: 5000, Interval: interval,
		}, scan.Options{Workers: 2})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Logs with interval %s: %v", interval, err)
		}
	}
	if n := src.Open.Load(); n != 0 {
		t.Errorf("%d blocks not released", n)
	}
}

// cancelledTurns has the client leave in a turn.
type cancelledTurns struct {
	scan.Selector
	turns  int
	cancel func()
}

func (s *cancelledTurns) InTurn(_ context.Context, work func() error) error {
	if s.turns++; s.turns == 3 {
		s.cancel()
	}
	return work()
}

// TestCancelledIntervalScan has one large block, whose rows take many turns.
func TestCancelledIntervalScan(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	src := &cancelledTurns{Selector: blocks.New(uniqueTimes(someStreams(rand.New(rand.NewPCG(3, 3)), 3, 20_000)), blocks.Options{RowsPerBlock: 100_000}), cancel: cancel}
	_, err := scan.Logs(ctx, src, parseLog(t, `{app=~".+"} |= ""`), scan.LogsQuery{
		Range: model.TimeRange{Through: math.MaxInt64}, Limit: 100_000, Interval: 1,
	}, scan.Options{})
	if !errors.Is(err, context.Canceled) || src.turns != 3 {
		t.Errorf("%v after %d turns, want an end after the third", err, src.turns)
	}
}
