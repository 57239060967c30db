// Package scan runs a compiled pipeline over blocks, on all cores, and gathers what
// comes out: range aggregations over a grid of evaluation times (Range) or log lines in
// order of time up to a limit (Logs).
//
// It reads as little as the question allows. The request to the Selector announces the
// columns that the query can look at: counting without a filter needs streams and
// timestamps and never a line, byte counts need the lengths of lines too, a grouping by
// structured metadata its column. Blocks are given back as soon as they have been read,
// so memory holds a few blocks, the partial aggregates of the workers and the result.
//
// Results do not depend on the number of workers nor on how rows are cut into blocks,
// except for the rounding of floating-point sums.
//
// logql/engine calls it; the Selector is the querier's view of ingesters and store with
// duplicates of rows already marked dead.
package scan

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/syntax"
)

// Selector finds the blocks of one tenant. Rows that stand in several parts must be
// alive in exactly one of them; see model.Block.Dead.
type Selector interface {
	Select(ctx context.Context, req *model.Request) (*model.Selection, error)
}

// LabelKnower is what a Selector may know besides: the names of stream labels, from
// indexes alone. With it, a filter such as | trace_id="x" prunes blocks by their
// structured metadata; without, a stream could have a label of that name.
type LabelKnower interface {
	// StreamLabel reports whether any stream that the matchers select, with rows in the
	// range, may have a label of that name.
	StreamLabel(ctx context.Context, matchers []*labels.Matcher, r model.TimeRange, name string) (bool, error)
}

// TurnTaker is what a Selector may be besides, when queries take turns to keep a core busy:
// what is computed with a block, or with series, is done in a turn.
type TurnTaker interface {
	// InTurn waits for a turn, runs work in it, which must not wait, and returns its error.
	InTurn(ctx context.Context, work func() error) error
}

// InTurn runs work in a turn where there are any.
func InTurn(ctx context.Context, src Selector, work func() error) error {
	if t, ok := src.(TurnTaker); ok {
		return t.InTurn(ctx, work)
	}
	return work()
}

// Series is the values of one series over a grid: Values has an element for each point,
// and Present says at which points there is a sample.
type Series struct {
	Labels  labels.Labels
	Values  []float64
	Present model.Bitmap
}

// Options bound and direct a scan. The zero value works.
type Options struct {
	// Workers is the number of goroutines that read blocks; 0 means one per core.
	Workers int
	// MaxMemory bounds the bytes of partial aggregates and results that a scan may hold;
	// 0 means DefaultMaxMemory. A query that needs more fails with an explanation.
	MaxMemory int64
	// SeriesLimited makes Range fail as soon as there are more than MaxSeries series.
	// Set it when every series of the range aggregation is one of the result.
	SeriesLimited bool
	MaxSeries     int
	// Grouping is pushed down from an aggregation around the range aggregation: series
	// are grouped by it while rows are read. It is ignored when the range aggregation has
	// a grouping of its own.
	Grouping *syntax.Grouping
	// Stats, when not nil, receives what the scan cost.
	Stats *model.Stats
	// Warn, when not nil, receives warnings of the selection. Calls do not overlap.
	Warn func(text string)
}

// SeriesLimitError is the refusal of a query that yields more than limit series.
func SeriesLimitError(limit int) error {
	return fault.New(fault.Invalid, "maximum number of series (%d) reached for a single query; consider reducing query cardinality by adding more specific stream selectors, reducing the time range, or aggregating results with functions like sum(), count() or topk()", limit)
}

func (o *Options) workers(blocks int) int {
	n := o.Workers
	if n <= 0 {
		n = cores.Count()
	}
	return max(1, min(n, blocks))
}

func (o *Options) stats() *model.Stats {
	if o.Stats == nil {
		o.Stats = &model.Stats{}
	}
	return o.Stats
}

// selected asks for the blocks that log may find something in, and takes them over:
// whoever calls must release each block.
func selected(ctx context.Context, src Selector, req *model.Request, log *syntax.LogExpr, opts *Options) ([]model.Block, error) {
	var err error
	if req.Needles, err = needles(ctx, src, req, log); err != nil {
		return nil, err
	}
	sel, err := src.Select(ctx, req)
	if err != nil {
		return nil, err
	}
	if opts.Warn != nil {
		for _, w := range sel.Warnings {
			opts.Warn(w)
		}
	}
	var blocks []model.Block
	for _, p := range sel.Parts {
		blocks = append(blocks, p.Blocks...)
	}
	sel.Parts = nil
	return blocks, nil
}

// needles are the conditions on rows that let blocks be skipped.
func needles(ctx context.Context, src Selector, req *model.Request, log *syntax.LogExpr) ([]model.Needles, error) {
	knower, ok := src.(LabelKnower)
	if !ok {
		return syntax.Needles(log), nil
	}
	known := map[string]bool{}
	var failed error
	out := syntax.NeedlesKnowing(log, func(name string) bool {
		has, asked := known[name]
		if !asked {
			var err error
			if has, err = knower.StreamLabel(ctx, req.Matchers, req.Range, name); err != nil {
				failed, has = err, true
			}
			known[name] = has
		}
		return has
	})
	return out, failed
}

// checkEvery is the number of rows between looks at the context: well below 100 ms of
// work even for a pipeline that takes 10 µs per row.
const checkEvery = 2048

// turnLength is how long a turn goes on to the next block, if that is at hand: blocks of which
// little is read take less than it costs to wait for a turn.
const turnLength = time.Millisecond

// Each runs work on every block of a selection, in turns, on all cores, and releases each when
// its work is done. The first error stops all. When it returns, every block has been released.
func Each(ctx context.Context, src Selector, blocks []model.Block, work func(ctx context.Context, b model.Block) error) error {
	return parallel(ctx, src, &ahead[model.Block]{blocks: blocks}, min(cores.Count(), len(blocks)), func(ctx context.Context, _, _ int, b model.Block) error {
		return work(ctx, b)
	})
}

// parallel runs work on every block with so many goroutines, each with its worker
// number, and releases each block when its work is done. The first error stops all.
// When it returns, no goroutine is left and every block has been released.
func parallel[B model.Block](ctx context.Context, src Selector, queue *ahead[B], workers int, work func(ctx context.Context, worker, index int, b B) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	blocks := queue.blocks
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			claim := func() int { return int(next.Add(1)) - 1 }
			i := claim()
			turn := func() error {
				for began := time.Now(); ; {
					err := work(ctx, w, i, blocks[i])
					blocks[i].Release()
					i = claim()
					if err != nil || ctx.Err() != nil || i >= len(blocks) || time.Since(began) > turnLength || !queue.atHand(i) {
						return err
					}
					queue.take(ctx, i)
				}
			}
			for i < len(blocks) {
				queue.take(ctx, i)
				taken := i
				if ctx.Err() == nil {
					if err := InTurn(ctx, src, turn); err != nil {
						cancel(err)
					}
				}
				if i == taken { // after a failure the rest of the queue is only released
					blocks[i].Release()
					i = claim()
				}
			}
		})
	}
	wg.Wait()
	queue.running.Wait()
	return context.Cause(ctx)
}
