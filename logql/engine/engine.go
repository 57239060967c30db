package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	skald "github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// Options configure an Engine. The zero value works.
type Options struct {
	// Workers is the number of goroutines that one query uses to read blocks; 0 means
	// one per core.
	Workers int
	// MaxMemory bounds what one query holds in partial aggregates and results, in bytes;
	// 0 means scan.DefaultMaxMemory.
	MaxMemory int64
	// Concurrency is the number of range aggregations of one query that are gathered at
	// a time; 0 means 2.
	Concurrency int
}

// Limits are those of a tenant that an evaluation obeys. Zero means no limit, except
// for MaxSeries.
type Limits struct {
	// MaxSeries is the most series a metric query may yield: at zero none at all, below
	// zero any number.
	MaxSeries int
	// MaxEntries is the largest limit a log query may ask for.
	MaxEntries int
	// MaxRange is the longest range of a range aggregation, as in [5m].
	MaxRange time.Duration
	// MaxLength is the longest time range of a range query.
	MaxLength time.Duration
	// MaxResolution is the largest number of steps of a range query.
	MaxResolution int
	// Timeout ends the evaluation.
	Timeout time.Duration
	// Variants and ApproxTopK switch those parts of the language on.
	Variants, ApproxTopK bool
}

// Params is a query with its times, in nanoseconds since 1970.
type Params struct {
	Query string
	// Instant asks for one evaluation at End; Start and Step are then ignored.
	Instant bool
	// Start and End bound a range query. A log query sees the entries of [Start, End). A
	// metric query is evaluated at the multiples of Step since 1970: Start is rounded
	// down and End up to one. Step is cut to whole milliseconds.
	Start, End int64
	Step       time.Duration
	// Interval thins a log query: an entry is at least so far from the one before.
	Interval time.Duration
	// Limit is the most entries of a log query.
	Limit int
	// Forward asks for the oldest entries first.
	Forward bool
	// PartialSeries asks for the first series and a warning where there would be too many.
	PartialSeries bool
}

// Result is the answer to a query.
type Result struct {
	// Type is "streams", "matrix", "vector" or "scalar", and decides which of the next
	// three holds the answer.
	Type    string
	Streams []scan.Stream
	// Series have one point each in a vector. They are sorted by labels unless the query
	// sorts by value.
	Series   []Series
	Scalar   Point
	Stats    *skald.Stats
	Warnings []string
}

// Series is one series of a vector or matrix.
type Series struct {
	Labels labels.Labels
	Points []Point
}

// Point is a sample; T is milliseconds since 1970.
type Point struct {
	T int64
	V float64
}

// Engine evaluates queries. It is safe for concurrent use and keeps nothing between them.
type Engine struct{ opts Options }

// New returns an engine.
func New(opts Options) *Engine {
	if opts.Concurrency <= 0 {
		opts.Concurrency = 2
	}
	return &Engine{opts}
}

const (
	instantLogQuery  = "log queries are not supported as an instant query type, please change your query to a range query type"
	variantsDisabled = "multi variant queries are disabled for this instance"
	approxDisabled   = "approx_topk is not enabled. See -limits.shard_aggregations"
	tooManySteps     = "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter"
	clientGone       = "the request was cancelled by the client"
)

// TimedOut is the text of the error of a query that took too long.
const TimedOut = "request timed out, decrease the duration of the request or add more label matchers (prefer exact match over regex match) to reduce the amount of data processed"

// Query evaluates a query over what src holds. Errors are faults: Invalid for what the
// query or its limits forbid, Internal for matches that are not unique (a status of 500
// is what Loki gives), Timeout and Canceled for evaluations that ended early.
func (e *Engine) Query(ctx context.Context, src scan.Selector, lim Limits, p Params) (*Result, error) {
	expr, err := syntax.Parse(p.Query)
	if err != nil {
		return nil, err
	}
	return e.Evaluate(ctx, src, lim, p, expr)
}

// Evaluate is Query for a text that has been parsed already; p.Query is not looked at.
func (e *Engine) Evaluate(ctx context.Context, src scan.Selector, lim Limits, p Params, expr syntax.Expr) (*Result, error) {
	if err := Check(expr, lim, p); err != nil {
		return nil, err
	}
	return Within(ctx, lim, func(ctx context.Context) (*Result, error) {
		switch x := expr.(type) {
		case *syntax.LogExpr:
			return e.logs(ctx, src, x, p)
		case syntax.MetricExpr:
			return e.metric(ctx, src, lim, p, x)
		}
		return nil, fmt.Errorf("evaluate: unexpected expression %T", expr)
	})
}

// Within runs an evaluation, or parts of one, within the limits' timeout, and words its
// end as Query does.
func Within(ctx context.Context, lim Limits, evaluate func(context.Context) (*Result, error)) (*Result, error) {
	if lim.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lim.Timeout)
		defer cancel()
	}
	out, err := evaluate(ctx)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fault.New(fault.Timeout, TimedOut)
	case errors.Is(err, context.Canceled):
		return nil, fault.New(fault.Canceled, clientGone)
	}
	return nil, err
}

// CheckLength refuses a range of more than most, in milliseconds as clients know them; 0
// is no limit.
func CheckLength(start, end int64, most time.Duration) error {
	if length := time.Duration(milliseconds(end)-milliseconds(start)) * time.Millisecond; most > 0 && length > most {
		return tooLong(length, most)
	}
	return nil
}

func tooLong(length, most time.Duration) error {
	return fault.New(fault.Invalid, "the query time range exceeds the limit (query length: %s, limit: %s)", length, model.Duration(most))
}

// Check refuses what can be refused without looking at data.
func Check(expr syntax.Expr, lim Limits, p Params) error {
	_, isLog := expr.(*syntax.LogExpr)
	if isLog && p.Instant {
		return fault.New(fault.Invalid, instantLogQuery)
	}
	if isLog && lim.MaxEntries > 0 && p.Limit > lim.MaxEntries {
		return fault.New(fault.Invalid, "max entries limit per query exceeded, limit > max_entries_limit_per_query (%d > %d)", p.Limit, lim.MaxEntries)
	}
	if !p.Instant {
		if err := CheckLength(p.Start, p.End, lim.MaxLength); err != nil {
			return err
		}
		if lim.MaxResolution > 0 && p.Step > 0 && (p.End-p.Start)/int64(p.Step) > int64(lim.MaxResolution) {
			return fault.New(fault.Invalid, tooManySteps)
		}
	}
	if isLog {
		return nil
	}
	if !p.Instant && p.Step < time.Millisecond {
		return fault.New(fault.Invalid, "zero or negative query resolution step widths are not accepted. Try a positive integer")
	}
	var err error
	syntax.Walk(expr, func(x syntax.Expr) bool {
		if err == nil {
			err = validateNode(x, lim)
		}
		return err == nil
	})
	if err == nil && !p.Instant {
		err = checkReach(expr, lim, gridOf(p))
	}
	return err
}

// checkReach refuses a range query whose windows reach over more than MaxLength in all: it
// is the data read that costs. A query counts in parts of the longest window, at least an
// hour and a step, since it can be evaluated in such parts.
func checkReach(expr syntax.Expr, lim Limits, grid scan.Grid) error {
	var window time.Duration
	for _, agg := range syntax.RangeAggs(expr) {
		window = max(window, agg.Range.Range)
	}
	if lim.MaxLength <= 0 || window == 0 {
		return nil
	}
	part := max((window + time.Hour - 1).Truncate(time.Hour), time.Duration(grid.Step))
	reach := window + min(time.Duration(grid.End-grid.Start), part)
	if reach < lim.MaxLength {
		return nil
	}
	return tooLong(max(reach, lim.MaxLength+1), lim.MaxLength) // a window's first nanosecond counts, too
}

func validateNode(x syntax.Expr, lim Limits) error {
	switch x := x.(type) {
	case *syntax.RangeAgg:
		if lim.MaxRange > 0 && x.Range.Range > lim.MaxRange {
			return fault.New(fault.Invalid, "[interval] value exceeds limit: [%s] > [%s]", model.Duration(x.Range.Range), model.Duration(lim.MaxRange))
		}
	case *syntax.VectorAgg:
		if x.Op == "approx_topk" && !lim.ApproxTopK {
			return fault.New(fault.Internal, approxDisabled)
		}
	case *syntax.Variants:
		if !lim.Variants {
			return fault.New(fault.Invalid, variantsDisabled)
		}
	}
	return nil
}

// logs answers a log query.
func (e *Engine) logs(ctx context.Context, src scan.Selector, x *syntax.LogExpr, p Params) (*Result, error) {
	out := &Result{Type: "streams", Stats: &skald.Stats{}}
	var err error
	out.Streams, err = scan.Logs(ctx, src, x, scan.LogsQuery{
		Range: skald.TimeRange{From: p.Start, Through: p.End},
		Limit: p.Limit, Forward: p.Forward, Interval: p.Interval,
	}, scan.Options{
		Workers: e.opts.Workers, MaxMemory: e.opts.MaxMemory, Stats: out.Stats,
		Warn: func(text string) { out.Warnings = append(out.Warnings, text) },
	})
	return out, err
}

// metric answers a metric query.
func (e *Engine) metric(ctx context.Context, src scan.Selector, lim Limits, p Params, x syntax.MetricExpr) (*Result, error) {
	ev := newEvaluation(e, src, lim, p, gridOf(p), x)
	v, err := ev.eval(ctx, x)
	if err != nil {
		return nil, err
	}
	out := &Result{Stats: ev.stats}
	if v.scalar {
		if p.Instant {
			out.Type, out.Scalar = "scalar", Point{milliseconds(p.End), v.value}
			return out, nil
		}
		v.series = []scan.Series{ev.constant(v.value)}
	}
	out.Type = "matrix"
	if p.Instant {
		out.Type = "vector"
	}
	err = ev.inTurn(ctx, func() (err error) {
		out.Series, err = ev.result(v.series, x)
		return err
	}, v)
	out.Warnings = ev.warnings()
	return out, err
}

// gridOf is the grid on which a metric query is evaluated.
func gridOf(p Params) scan.Grid {
	if p.Instant {
		return scan.Grid{Start: p.End, End: p.End}
	}
	step := int64(p.Step.Truncate(time.Millisecond))
	return scan.Grid{Start: floor(p.Start, step), End: -floor(-p.End, step), Step: step}
}

// floor is the largest multiple of step that is not above t.
func floor(t, step int64) int64 {
	r := t % step
	if r < 0 {
		r += step
	}
	return t - r
}

// milliseconds converts a time, rounding down.
func milliseconds(ns int64) int64 { return floor(ns, 1e6) / 1e6 }
