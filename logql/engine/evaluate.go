package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	skald "github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// evaluation is the work on one metric query.
type evaluation struct {
	engine *Engine
	src    scan.Selector
	lim    Limits
	p      Params
	grid   scan.Grid
	points int
	stats  *skald.Stats
	// root is set when every series of a range aggregation is a series of the result,
	// so that a scan may fail as soon as there are too many.
	root *syntax.RangeAgg
	// sorted says that the query orders an instant vector by value somewhere.
	sorted bool
	// slots bounds the scans that run at a time.
	slots chan struct{}
	mu    struct {
		sync.Mutex
		// scans are shared by equal range aggregations, as in a/(a+b).
		scans map[string]*scanned
		warns []string
	}
}

// scanned is a range aggregation being gathered, or gathered.
type scanned struct {
	done   chan struct{}
	series []scan.Series
	err    error
}

func newEvaluation(e *Engine, src scan.Selector, lim Limits, p Params, g scan.Grid, x syntax.MetricExpr) *evaluation {
	ev := &evaluation{
		engine: e, src: src, lim: lim, p: p, grid: g, points: g.Points(),
		stats: &skald.Stats{}, slots: make(chan struct{}, e.opts.Concurrency),
	}
	ev.mu.scans = map[string]*scanned{}
	syntax.Walk(x, func(n syntax.Expr) bool {
		if a, ok := n.(*syntax.VectorAgg); ok && (a.Op == "sort" || a.Op == "sort_desc") {
			ev.sorted = p.Instant
		}
		return true
	})
	switch x := x.(type) {
	case *syntax.RangeAgg:
		ev.root = x
	case *syntax.VectorAgg:
		// Series with errors that the query groups by are still apart after the scan.
		if !strings.Contains(x.String(), "__error__") {
			ev.root, _ = pushed(x)
		}
	}
	return ev
}

// pushed returns the range aggregation that a sum around it groups while rows are read.
func pushed(x *syntax.VectorAgg) (*syntax.RangeAgg, bool) {
	r, ok := x.Expr.(*syntax.RangeAgg)
	if !ok || x.Op != "sum" || r.Grouping != nil {
		return nil, false
	}
	switch r.Op {
	case "count_over_time", "rate", "bytes_over_time", "bytes_rate", "sum_over_time":
		return r, true
	}
	return nil, false
}

// eval evaluates any metric expression. Both sides of an operator run at once.
func (ev *evaluation) eval(ctx context.Context, x syntax.MetricExpr) (vector, error) {
	switch x := x.(type) {
	case *syntax.Literal:
		return vector{scalar: true, value: x.Value}, nil
	case *syntax.VectorLiteral:
		return vector{series: []scan.Series{ev.constant(x.Value)}}, nil
	case *syntax.RangeAgg:
		series, err := ev.scan(ctx, x, nil)
		return vector{series: series}, err
	case *syntax.VectorAgg:
		return ev.aggregate(ctx, x)
	case *syntax.LabelReplace:
		v, err := ev.eval(ctx, x.Expr)
		if err != nil {
			return vector{}, err
		}
		if v.scalar {
			return vector{}, errNumber
		}
		err = ev.inTurn(ctx, func() (err error) {
			v.series, err = labelReplace(x, v.series)
			return err
		}, v)
		return v, err
	case *syntax.BinOp:
		var lhs, rhs vector
		g, gctx := errgroup.WithContext(ctx)
		g.Go(func() (err error) { lhs, err = ev.eval(gctx, x.LHS); return err })
		g.Go(func() (err error) { rhs, err = ev.eval(gctx, x.RHS); return err })
		if err := g.Wait(); err != nil {
			return vector{}, err
		}
		var v vector
		err := ev.inTurn(ctx, func() (err error) {
			v, err = binary(x, lhs, rhs, ev.points)
			return err
		}, lhs, rhs)
		return v, err
	case *syntax.Variants:
		return ev.variants(ctx, x)
	}
	return vector{}, fmt.Errorf("evaluate: unexpected expression %T", x)
}

// errNumber is for a number where series are needed, in the words that clients know.
var errNumber = errors.New("unexpected expr type (*syntax.LiteralExpr) for Evaluator type (*logql.DefaultEvaluator)")

// shortWork are so few values that computing with them needs no turn: a fraction of a millisecond.
const shortWork = 16 << 10

// inTurn computes with vectors in a turn.
func (ev *evaluation) inTurn(ctx context.Context, work func() error, vectors ...vector) error {
	series := 0
	for _, v := range vectors {
		series += len(v.series)
	}
	if series*ev.points < shortWork {
		return work()
	}
	return scan.InTurn(ctx, ev.src, work)
}

// constant is a series without labels that has the value at every step.
func (ev *evaluation) constant(v float64) scan.Series {
	s := newSeries(labels.EmptyLabels(), ev.points)
	for i := range s.Values {
		s.Values[i] = v
		s.Present.Set(i)
	}
	return s
}

func (ev *evaluation) aggregate(ctx context.Context, x *syntax.VectorAgg) (vector, error) {
	if r, ok := pushed(x); ok {
		g := x.Grouping
		if g == nil {
			g = &syntax.Grouping{}
		}
		series, err := ev.scan(ctx, r, g)
		if err != nil {
			return vector{}, err
		}
		v := vector{series: series}
		err = ev.inTurn(ctx, func() (err error) {
			// Rows whose errors the query wants to see kept all their labels.
			v.series, err = aggregate(x.Op, x.Grouping, series, ev.points)
			return err
		}, v)
		return v, err
	}
	v, err := ev.eval(ctx, x.Expr)
	if err != nil {
		return vector{}, err
	}
	if v.scalar {
		return vector{}, errNumber
	}
	err = ev.inTurn(ctx, func() (err error) {
		v.series, err = ev.combine(x, v.series)
		return err
	}, v)
	return v, err
}

// combine is what a vector aggregation makes of series.
func (ev *evaluation) combine(x *syntax.VectorAgg, series []scan.Series) ([]scan.Series, error) {
	switch x.Op {
	case "sort", "sort_desc":
		if ev.p.Instant {
			series = slices.Clone(series)
			sortByValue(series, x.Op == "sort_desc")
		}
		return series, nil
	case "topk", "bottomk", "approx_topk":
		if x.Param == nil {
			return nil, fmt.Errorf("evaluate: %s without parameter", x.Op)
		}
		k := int(min(*x.Param, math.MaxInt32)) // there are never more series
		return selectK(x.Op != "bottomk", k, x.Grouping, series, ev.points, ev.p.Instant), nil
	}
	return aggregate(x.Op, x.Grouping, series, ev.points)
}

// scan gathers a range aggregation, once for all its occurrences in the query.
func (ev *evaluation) scan(ctx context.Context, x *syntax.RangeAgg, g *syntax.Grouping) ([]scan.Series, error) {
	key := x.String()
	if g != nil {
		key = fmt.Sprintf("%t %q %s", g.Without, g.Labels, key)
	}
	ev.mu.Lock()
	s, found := ev.mu.scans[key]
	if !found {
		s = &scanned{done: make(chan struct{})}
		ev.mu.scans[key] = s
	}
	ev.mu.Unlock()
	if found {
		select {
		case <-s.done:
			return s.series, s.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer close(s.done)
	select {
	case ev.slots <- struct{}{}:
	case <-ctx.Done():
		s.err = ctx.Err()
		return nil, s.err
	}
	defer func() { <-ev.slots }()
	s.series, s.err = scan.Range(ctx, ev.src, x, ev.grid, scan.Options{
		Workers: ev.engine.opts.Workers, MaxMemory: ev.engine.opts.MaxMemory,
		SeriesLimited: x == ev.root && ev.lim.MaxSeries >= 0 && !ev.p.PartialSeries,
		MaxSeries:     ev.lim.MaxSeries, Grouping: g, Stats: ev.stats, Warn: ev.warn,
	})
	sortByLabels(s.series)
	return s.series, s.err
}

func (ev *evaluation) warn(text string) {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if !slices.Contains(ev.mu.warns, text) {
		ev.mu.warns = append(ev.mu.warns, text)
	}
}

func (ev *evaluation) warnings() []string {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	return ev.mu.warns
}

// variants evaluates every variant and numbers its series. A variant with too many
// series is left out with a warning.
func (ev *evaluation) variants(ctx context.Context, x *syntax.Variants) (vector, error) {
	var out vector
	for i, variant := range x.Exprs {
		v, err := ev.eval(ctx, variant)
		if err != nil {
			return vector{}, err
		}
		if v.scalar {
			v.series = []scan.Series{ev.constant(v.value)}
		}
		if ev.lim.MaxSeries >= 0 && len(v.series) > ev.lim.MaxSeries {
			ev.warn(fmt.Sprintf("maximum of series (%d) reached for variant (%d)", ev.lim.MaxSeries, i))
			continue
		}
		for _, s := range v.series {
			s.Labels = labels.NewBuilder(s.Labels).Set("__variant__", strconv.Itoa(i)).Labels()
			out.series = append(out.series, s)
		}
	}
	return out, nil
}

// result turns the value of the whole expression into points, within the limit of series.
func (ev *evaluation) result(series []scan.Series, x syntax.MetricExpr) ([]Series, error) {
	series = compacted(slices.Clone(series))
	if !ev.p.Instant {
		all := newMerger(ev.points)
		for _, s := range series {
			all.add(s)
		}
		series = all.series
	}
	if !ev.sorted {
		sortByLabels(series)
	}
	_, several := x.(*syntax.Variants)
	if limit := ev.lim.MaxSeries; limit >= 0 && len(series) > limit && !several && !constant(x) {
		if !ev.p.PartialSeries {
			return nil, scan.SeriesLimitError(limit)
		}
		series = series[:limit]
		ev.warn(PartialSeriesWarning(limit))
	}
	out := make([]Series, len(series))
	for i, s := range series {
		out[i] = Series{Labels: s.Labels, Points: make([]Point, 0, s.Present.Count())}
		for p, v := range s.Values {
			if s.Present.Has(p) {
				out[i].Points = append(out[i].Points, Point{milliseconds(ev.grid.Time(p)), v})
			}
		}
	}
	return out, nil
}

// PartialSeriesWarning stands beside the first series of too many.
func PartialSeriesWarning(limit int) string {
	return fmt.Sprintf("maximum number of series (%d) reached for a single query; returning partial results", limit)
}

// constant reports whether the expression is a bare number or vector(n).
func constant(x syntax.MetricExpr) bool {
	switch x.(type) {
	case *syntax.Literal, *syntax.VectorLiteral:
		return true
	}
	return false
}
