package scan

import (
	"context"
	"fmt"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

// Visitor takes rows that passed a pipeline. It is called from one goroutine.
type Visitor interface {
	// Visit sees one row. line and labels are valid until it returns.
	Visit(ts int64, line []byte, labels *pipeline.Labels) error
}

// Visit passes every row of a range that is left by a log query's pipeline to a visitor,
// in no particular order. It makes one visitor per worker by calling newVisitor before any
// row is read. names lists the labels that visitors look at besides the line.
func Visit(ctx context.Context, src Selector, expr *syntax.LogExpr, in model.TimeRange, names []string, opts Options, newVisitor func() Visitor) error {
	pipe, err := pipeline.New(expr.Stages, pipeline.Options{})
	if err != nil {
		return err
	}
	want := needs{lines: true, lengths: true, names: map[string]bool{}}
	want.stages(expr.Stages, true)
	for _, name := range names {
		want.names[name] = true
	}
	req := &model.Request{Matchers: expr.Matchers, Range: in, Columns: want.columns(), Stats: opts.stats()}
	blocks, err := selected(ctx, src, req, expr, &opts)
	if err != nil {
		return err
	}
	workers := make([]*visitWorker, opts.workers(len(blocks)))
	for i := range workers {
		if i > 0 {
			pipe = pipe.Clone()
		}
		workers[i] = &visitWorker{pipe: pipe, visitor: newVisitor(), in: in, req: req}
	}
	return parallel(ctx, src, &ahead[model.Block]{blocks: blocks}, len(workers), func(ctx context.Context, worker, _ int, b model.Block) error {
		return workers[worker].block(ctx, b)
	})
}

type visitWorker struct {
	pipe    *pipeline.Pipeline
	visitor Visitor
	in      model.TimeRange
	req     *model.Request
	reader  blockReader
}

func (w *visitWorker) block(ctx context.Context, b model.Block) error {
	r := &w.reader
	if err := r.open(ctx, b, w.in); err != nil {
		return fmt.Errorf("read %s: %w", b.Name(), err)
	}
	if r.rows == 0 {
		return nil
	}
	if err := r.load(ctx, w.req, w.pipe); err != nil {
		return fmt.Errorf("read %s: %w", b.Name(), err)
	}
	w.req.Stats.RowsScanned.Add(int64(r.rows))
	w.req.Stats.BytesScanned.Add(r.bytes())
	var (
		run     *model.Run
		stream  *pipeline.StreamPipeline
		matched int64
	)
	defer func() { w.req.Stats.RowsMatched.Add(matched) }()
	return r.eachRow(ctx, func(span *model.Run, row int) error {
		if span != run {
			run, stream = span, w.pipe.ForStream(span.Labels, span.Hash)
		}
		line, lbs, ok := stream.ProcessRest(r.times[row], r.line(row), r.metadata(row))
		if !ok {
			return nil
		}
		matched++
		return w.visitor.Visit(r.times[row], line, lbs)
	})
}
