package scan

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

// rangeScan is what the workers of one range aggregation share.
type rangeScan struct {
	src      Selector
	agg      *syntax.RangeAgg
	op       operation
	grouping *syntax.Grouping
	windows  windows
	needs    needs
	req      *model.Request
	opts     *Options
	stats    *model.Stats
	budget   *Budget
	// plain says that the only stages are line filters, so that a row's labels are its
	// stream's and its metadata, and its line stays as it is.
	plain bool
	// dropEmpty says that series lose labels with empty values.
	dropEmpty bool
}

// Range evaluates a range aggregation at every point of the grid. The result has one
// element for each series with at least one sample, in no particular order; a point
// whose window is empty has no sample.
//
// The work goes in four steps:
//
//  1. Plan: find out what a row must bring along, and ask the selector for blocks that
//     may hold rows of any window.
//  2. Gather: each worker takes blocks, runs the pipeline over their rows, and adds each
//     row that is left to the bucket of its series in which its time lies.
//  3. Merge: the workers' buckets are added up.
//  4. Slide: every series' windows are put together from its buckets.
//
// A row whose pipeline left an error fails the query with Loki's text.
func Range(ctx context.Context, src Selector, agg *syntax.RangeAgg, grid Grid, opts Options) ([]Series, error) {
	s, pipe, err := newRangeScan(ctx, src, agg, grid, &opts)
	if err != nil {
		return nil, err
	}
	total, err := s.gather(ctx, pipe)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.budget.Charge(-total.charged) }() // of the buckets only results are left
	if agg.Op == "absent_over_time" {
		return s.absent(ctx, total), nil
	}
	return s.results(ctx, total)
}

func newRangeScan(ctx context.Context, src Selector, agg *syntax.RangeAgg, grid Grid, opts *Options) (*rangeScan, *pipeline.Pipeline, error) {
	s := &rangeScan{src: src, agg: agg, opts: opts, stats: opts.stats(), budget: NewBudget(ctx, opts.MaxMemory), grouping: agg.Grouping}
	if s.grouping == nil {
		s.grouping = opts.Grouping
	}
	s.op = operation{name: agg.Op, seconds: 1}
	switch agg.Op {
	case "rate", "bytes_rate", "rate_counter":
		s.op.seconds = agg.Range.Range.Seconds()
	}
	if agg.Param != nil {
		s.op.param = *agg.Param
	}
	pipe, err := pipeline.New(agg.Range.Log.Stages, pipeline.Options{Sample: pipeline.SampleFor(agg, s.grouping)})
	if err != nil {
		return nil, nil, err
	}
	s.windows = newWindows(grid, int64(agg.Range.Range), int64(agg.Range.Offset))
	s.dropEmpty = dropsEmpty(agg, s.grouping, grid.Step <= 0)
	s.needs = rangeNeeds(agg, s.grouping)
	s.plain = agg.Range.Unwrap == nil && s.op.additive() && onlyLineFilters(agg.Range.Log.Stages)
	s.req = &model.Request{
		Matchers: agg.Range.Log.Matchers, Range: s.windows.times(),
		Columns: s.needs.columns(), Stats: s.stats,
	}
	return s, pipe, nil
}

func onlyLineFilters(stages []syntax.Stage) bool {
	return !slices.ContainsFunc(stages, func(s syntax.Stage) bool { _, ok := s.(*syntax.LineFilter); return !ok })
}

// gather fills the buckets of all series.
func (s *rangeScan) gather(ctx context.Context, pipe *pipeline.Pipeline) (*rangeWorker, error) {
	total, err := s.worker(pipe)
	if err != nil || s.windows.limit <= 0 {
		return total, err
	}
	blocks, err := selected(ctx, s.src, s.req, &s.agg.Range.Log, s.opts)
	if err != nil {
		return nil, err
	}
	workers := []*rangeWorker{total}
	for range s.opts.workers(len(blocks)) - 1 {
		w, _ := s.worker(pipe.Clone())
		workers = append(workers, w)
	}
	err = parallel(ctx, s.src, &ahead[model.Block]{blocks: blocks}, len(workers), func(ctx context.Context, worker, index int, b model.Block) error {
		return workers[worker].block(ctx, index, b)
	})
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	for _, w := range workers[1:] {
		if err := InTurn(ctx, s.src, func() error {
			total.acc.merge(w.acc, total.table.adopt(w.table))
			return nil
		}); err != nil {
			return nil, err
		}
		if err := total.charge(); err != nil {
			return nil, err
		}
		_ = s.budget.Charge(-w.charged)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return total, nil
}

// results slides the windows of every series, on all cores.
func (s *rangeScan) results(ctx context.Context, total *rangeWorker) ([]Series, error) {
	all := total.table.labels
	if s.opts.SeriesLimited && len(all) > s.opts.MaxSeries {
		return nil, SeriesLimitError(s.opts.MaxSeries)
	}
	perSeries := 8*s.windows.points + s.windows.points/8 + seriesOverhead
	if err := s.budget.Charge(int64(len(all)) * perSeries); err != nil {
		return nil, err
	}
	out := make([]Series, len(all))
	// A turn is for some series, so that those who wait for one need not wait long.
	perTurn := max(1, pointsPerTurn/int(max(1, s.windows.points)))
	var next atomic.Int64
	var g errgroup.Group
	for range s.opts.workers((len(all) + perTurn - 1) / perTurn) {
		g.Go(func() error {
			for {
				end := int(next.Add(int64(perTurn)))
				if end-perTurn >= len(all) {
					return nil
				}
				if err := InTurn(ctx, s.src, func() error {
					for id := end - perTurn; id < min(end, len(all)) && ctx.Err() == nil; id++ {
						c := total.acc.result(ctx, id, &s.windows)
						out[id] = Series{Labels: all[id], Values: c.values, Present: c.present}
					}
					return nil
				}); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

// pointsPerTurn is about a millisecond of work for additive functions.
const pointsPerTurn = 64 << 10

// absent turns counts into their opposite: one series with the labels that the selector
// pins down, present where no series has a row.
func (s *rangeScan) absent(ctx context.Context, total *rangeWorker) []Series {
	c := newColumn(int(s.windows.points))
	seen := model.NewBitmap(int(s.windows.points))
	for id := range total.table.labels {
		for w, bits := range total.acc.result(ctx, id, &s.windows).present {
			seen[w] |= bits
		}
	}
	some := false
	for i := range c.values {
		if !seen.Has(i) {
			c.set(i, 1)
			some = true
		}
	}
	if !some {
		return nil
	}
	return []Series{{Labels: absentLabels(s.agg.Range.Log.Matchers), Values: c.values, Present: c.present}}
}

// absentLabels are the labels that stand once in the selector, with =. A metric's name is
// none, since the result is another metric.
func absentLabels(ms []*labels.Matcher) labels.Labels {
	b := labels.NewBuilder(labels.EmptyLabels())
	for i, m := range ms {
		again := m.Name == labels.MetricName || slices.ContainsFunc(ms[:i], func(o *labels.Matcher) bool { return o.Name == m.Name })
		if m.Type == labels.MatchEqual && !again {
			b.Set(m.Name, m.Value)
		} else {
			b.Del(m.Name)
		}
	}
	return b.Labels()
}

// rowError is a row whose pipeline left an error.
type rowError struct {
	ts   int64
	text string // the refusal, with the labels that the scan had asked for
}

func (e *rowError) Error() string { return e.text }

// rangeWorker is one goroutine's share of a range aggregation.
type rangeWorker struct {
	*rangeScan
	pipe    *pipeline.Pipeline
	table   *seriesTable
	acc     accumulator
	charged int64
	reader  blockReader
	tally   tally
}

func (s *rangeScan) worker(pipe *pipeline.Pipeline) (*rangeWorker, error) {
	acc, err := newAccumulator(s.op, s.agg.Range.Unwrap != nil, s.windows.buckets)
	return &rangeWorker{rangeScan: s, pipe: pipe, table: newSeriesTable(), acc: acc}, err
}

// charge brings the budget up to date and checks the number of series.
func (w *rangeWorker) charge() error {
	size := w.acc.size() + w.table.size
	if err := w.budget.Charge(size - w.charged); err != nil {
		return err
	}
	w.charged = size
	if w.opts.SeriesLimited && len(w.table.labels) > w.opts.MaxSeries {
		return SeriesLimitError(w.opts.MaxSeries)
	}
	return nil
}

// block adds a block's rows. Index is the block's position in the selection.
func (w *rangeWorker) block(ctx context.Context, index int, b model.Block) error {
	r := &w.reader
	if err := r.open(ctx, b, w.req.Range); err != nil {
		return fmt.Errorf("read %s: %w", b.Name(), err)
	}
	if r.rows == 0 {
		return nil
	}
	if err := r.load(ctx, w.req, w.pipe); err != nil {
		return fmt.Errorf("read %s: %w", b.Name(), err)
	}
	w.stats.RowsScanned.Add(int64(r.rows))
	w.stats.BytesScanned.Add(r.bytes())
	var err error
	if w.plain && !r.hasErrors() {
		err = w.count(ctx)
	} else {
		err = w.process(ctx, uint64(index)<<32)
	}
	if err != nil {
		return err
	}
	return w.charge()
}
