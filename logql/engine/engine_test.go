package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
	"github.com/skaldlog/skald/internal/testkit/logqltest"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

func TestScripts(t *testing.T) {
	for _, shape := range []blocks.Options{{}, {RowsPerBlock: 3, Parts: 2}} {
		t.Run(fmt.Sprintf("%d rows per block", shape.RowsPerBlock), func(t *testing.T) {
			logqltest.Run(t, func(t *testing.T, streams []model.Stream) scan.Selector {
				src := blocks.New(streams, shape)
				t.Cleanup(func() {
					if n := src.Open.Load(); n != 0 {
						t.Errorf("%d blocks were not released", n)
					}
				})
				return src
			})
		})
	}
}

// source has one line per second in each of a few streams.
func source(streams int) *blocks.Source {
	list := make([]model.Stream, streams)
	for i := range list {
		list[i].Labels = labels.FromStrings("app", "a", "pod", fmt.Sprint(i))
		for n := range 100 {
			list[i].Entries = append(list[i].Entries, model.Entry{Timestamp: int64(n) * 1e9, Line: []byte("x")})
		}
	}
	return blocks.New(list, blocks.Options{RowsPerBlock: 100 * streams})
}

func TestLimits(t *testing.T) {
	const count = `sum by (pod) (count_over_time({app="a"}[1m]))`
	free := engine.Limits{MaxSeries: -1}
	f := func(lim engine.Limits, p engine.Params, kind fault.Kind, want string) {
		t.Helper()
		_, err := engine.New(engine.Options{}).Query(t.Context(), source(5), lim, p)
		if err == nil || !strings.Contains(err.Error(), want) || fault.Of(err) != kind {
			t.Errorf("%s: got %v (kind %d), want %s (kind %d)", p.Query, err, fault.Of(err), want, kind)
		}
	}
	instant := engine.Params{Instant: true, End: 50e9}
	with := func(p engine.Params, query string) engine.Params { p.Query = query; return p }
	few := free
	few.MaxSeries = 4
	f(few, with(instant, count), fault.Invalid, "maximum number of series (4) reached for a single query; consider reducing")
	f(few, with(instant, count+" * 2"), fault.Invalid, "maximum number of series (4) reached")
	f(few, engine.Params{Query: count, End: 50e9, Step: time.Second}, fault.Invalid, "maximum number of series (4) reached")
	few.MaxSeries = 0
	f(few, with(instant, `sum(count_over_time({app="a"}[1m]))`), fault.Invalid, "maximum number of series (0) reached")
	short := free
	short.MaxRange = time.Minute
	f(short, with(instant, `sum(rate({app="a"}[1m])) + sum(rate({app="a"}[90s]))`), fault.Invalid, "[interval] value exceeds limit: [1m30s] > [1m]")
	f(free, with(instant, `{app="a"}`), fault.Invalid, "log queries are not supported as an instant query type")
	f(free, with(instant, `approx_topk(1, `+count+`)`), fault.Internal, "approx_topk is not enabled")
	f(free, with(instant, `variants(rate({app="a"}[1m])) of ({app="a"}[1m])`), fault.Invalid, "multi variant queries are disabled")
	f(free, with(instant, `1 + avg(2)`), fault.Invalid, "queries require at least one regexp or equality matcher")
	f(free, with(instant, `topk(1, 2)`), fault.Internal, "unexpected expr type (*syntax.LiteralExpr)")
	f(free, with(instant, `label_replace(1, "a", "b", "c", "d")`), fault.Internal, "unexpected expr type (*syntax.LiteralExpr)")
	long := free
	long.MaxLength = 30 * 24 * time.Hour
	f(long, engine.Params{Query: `{app="a"}`, End: int64(40 * 24 * time.Hour), Limit: 1}, fault.Invalid, "the query time range exceeds the limit (query length: 960h0m0s, limit: 30d)")
	for window, length := range map[string]string{"719h": "720h0m0.000000001s", "720h": "721h0m0s", "720h30m": "721h30m0s"} {
		f(long, engine.Params{Query: `count_over_time({app="a"}[` + window + `])`, End: int64(time.Hour), Step: time.Minute}, fault.Invalid,
			"the query time range exceeds the limit (query length: "+length+", limit: 30d)")
	}
	f(long, engine.Params{Query: `count_over_time({app="a"}[1h])`, Start: 1, End: 2, Step: 40 * 24 * time.Hour}, fault.Invalid, "(query length: 961h0m0s, limit: 30d)")
	fine := free
	fine.MaxResolution = 11000
	f(fine, engine.Params{Query: count, End: 12000e9, Step: time.Second}, fault.Invalid, "exceeded maximum resolution of 11,000 points")
	f(free, engine.Params{Query: count, End: 12000e9}, fault.Invalid, "zero or negative query resolution step widths")
}

func TestPartialSeries(t *testing.T) {
	res, err := engine.New(engine.Options{}).Query(t.Context(), source(5), engine.Limits{MaxSeries: 3}, engine.Params{
		Query: `sum by (pod) (count_over_time({app="a"}[1m]))`, Instant: true, End: 50e9, PartialSeries: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "maximum number of series (3) reached for a single query; returning partial results"
	if len(res.Series) != 3 || len(res.Warnings) != 1 || res.Warnings[0] != want {
		t.Errorf("%d series, warnings %q", len(res.Series), res.Warnings)
	}
}

// stuck is a store that answers when the query is over.
type stuck struct{}

func (stuck) Select(ctx context.Context, _ *model.Request) (*model.Selection, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("read segment: %w", ctx.Err())
}

func TestQueriesEnd(t *testing.T) {
	const query = `sum(rate({app="a"}[1m])) / sum(rate({app="b"}[1m])) + sum(rate({app="c"}[1m]))`
	p := engine.Params{Query: query, Instant: true, End: 1}
	_, err := engine.New(engine.Options{}).Query(t.Context(), stuck{}, engine.Limits{Timeout: time.Millisecond}, p)
	if fault.Of(err) != fault.Timeout || !strings.HasPrefix(err.Error(), "request timed out, decrease the duration") {
		t.Errorf("timeout: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = engine.New(engine.Options{}).Query(ctx, stuck{}, engine.Limits{}, p)
	if fault.Of(err) != fault.Canceled || err.Error() != "the request was cancelled by the client" {
		t.Errorf("cancel: %v", err)
	}
}

// counting counts the selections.
type counting struct {
	scan.Selector
	n chan struct{}
}

func (c counting) Select(ctx context.Context, req *model.Request) (*model.Selection, error) {
	c.n <- struct{}{}
	return c.Selector.Select(ctx, req)
}

func TestEqualAggregationsAreGatheredOnce(t *testing.T) {
	c := counting{source(3), make(chan struct{}, 10)}
	res, err := engine.New(engine.Options{}).Query(t.Context(), c, engine.Limits{MaxSeries: 10}, engine.Params{
		Query:   `sum(rate({app="a"}[1m])) / (sum(rate({app="a"}[1m])) + sum(rate({app="a"}[1m])) * 3)`,
		Instant: true, End: 50e9,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.n) != 1 || len(res.Series) != 1 || res.Series[0].Points[0].V != 0.25 {
		t.Errorf("%d selections, result %v", len(c.n), res.Series)
	}
}

func TestErrorsOfTheStoreArePassedOn(t *testing.T) {
	broken := errors.New("block 7 of segment x: checksum mismatch")
	_, err := engine.New(engine.Options{}).Query(t.Context(), failing{broken}, engine.Limits{MaxSeries: 10}, engine.Params{
		Query: `sum(rate({app="a"}[1m])) or sum(rate({app="b"}[1m]))`, Instant: true, End: 50e9,
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Select(context.Context, *model.Request) (*model.Selection, error) {
	return nil, f.err
}

// TestAlignment: start goes down and end goes up to a multiple of the step since 1970.
func TestAlignment(t *testing.T) {
	f := func(start, end int64, step time.Duration, first, last int64, n int) {
		t.Helper()
		res, err := engine.New(engine.Options{}).Query(t.Context(), source(1), engine.Limits{}, engine.Params{
			Query: `vector(1)`, Start: start, End: end, Step: step,
		})
		if err != nil {
			t.Fatal(err)
		}
		p := res.Series[0].Points
		if len(p) != n || p[0].T != first || p[len(p)-1].T != last {
			t.Errorf("[%d, %d] step %s: %d points from %d to %d, want %d from %d to %d", start, end, step, len(p), p[0].T, p[len(p)-1].T, n, first, last)
		}
	}
	f(61e9, 121e9, time.Minute, 60e3, 180e3, 3)
	f(60e9, 60e9, time.Minute, 60e3, 60e3, 1)
	f(61e9, 61e9, time.Minute, 60e3, 120e3, 2)
	f(-61e9, -1e9, time.Minute, -120e3, 0, 3)
	f(0, 3e6, 1500*time.Microsecond, 0, 3, 4) // cut to 1ms
}

func TestDivisionByZeroIsNaN(t *testing.T) {
	for _, op := range []string{"/", "%"} {
		res, err := engine.New(engine.Options{}).Query(t.Context(), source(1), engine.Limits{MaxSeries: 9}, engine.Params{
			Query: `vector(1) ` + op + ` vector(0)`, Instant: true,
		})
		if err != nil || !math.IsNaN(res.Series[0].Points[0].V) {
			t.Errorf("%s: %v %v", op, res, err)
		}
	}
}

// oneTurn hands out one turn at a time.
type oneTurn struct {
	scan.Selector
	place chan struct{}
	n     *int // turns so far; guarded by place
}

func (s oneTurn) InTurn(ctx context.Context, work func() error) error {
	select {
	case s.place <- struct{}{}:
		*s.n++
		defer func() { <-s.place }()
		return work()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestLargeVectorsTakeTurns counts the turns of queries over many series: one more for each
// operation. Who has a turn waits for no other.
func TestLargeVectorsTakeTurns(t *testing.T) {
	turns := func(series int, query string) (n int) {
		t.Helper()
		src := oneTurn{source(series), make(chan struct{}, 1), &n}
		_, err := engine.New(engine.Options{}).Query(t.Context(), src, engine.Limits{MaxSeries: -1, Timeout: time.Minute},
			engine.Params{Query: query, Start: 0, End: 99e9, Step: time.Second})
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		return n
	}
	const rate, many, few = `rate({app="a"}[1m])`, 200, 2
	for query, more := range map[string]int{
		"max by (pod) (" + rate + ")": 1, rate + " / " + rate: 1,
		`label_replace(` + rate + `, "a", "$1", "pod", "(.*)")`: 1, "max by (pod) (" + rate + ") * 2": 2,
	} {
		if got := turns(many, query) - turns(many, rate); got != more {
			t.Errorf("%s: %d turns more than %s, want %d", query, got, rate, more)
		}
		if got := turns(few, query) - turns(few, rate); got != 0 {
			t.Errorf("%s: %d turns for few series", query, got)
		}
	}
	if got := turns(many, rate) - turns(few, rate); got < 1 {
		t.Error("many series become a result without a turn")
	}
}
