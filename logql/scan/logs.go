package scan

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

// LogsQuery says which lines of a log query are wanted.
type LogsQuery struct {
	Range model.TimeRange
	// Limit is the number of entries over all streams; none are returned for 0 and less.
	Limit int
	// Forward takes the oldest entries of the range rather than the newest.
	Forward bool
	// Interval keeps an entry only when it is at least so far from the entry kept before.
	Interval time.Duration
}

// Stream is the entries of a log query's answer that share their labels.
type Stream struct {
	// Labels are all labels of the entries, of whatever category.
	Labels labels.Labels
	// StreamLabels are those that are neither structured metadata nor parsed.
	StreamLabels labels.Labels
	// Entries are in the query's direction.
	Entries []Entry
}

// Entry is a line of an answer. Line is its own memory.
type Entry struct {
	Timestamp        int64
	Line             []byte
	Metadata, Parsed labels.Labels
}

// Logs returns the first entries, in the query's direction, that pass the pipeline.
// Streams are sorted by the text of their labels.
//
// Entries of equal time are ordered by stored stream, then by the text of their labels,
// then by arrival (backward: latest arrival first), and Limit cuts in that order.
func Logs(ctx context.Context, src Selector, expr *syntax.LogExpr, q LogsQuery, opts Options) ([]Stream, error) {
	pipe, err := pipeline.New(expr.Stages, pipeline.Options{})
	if err != nil || q.Limit <= 0 {
		return nil, err
	}
	needs := logNeeds()
	l := &logScan{src: src, q: q, stats: opts.stats(), budget: NewBudget(ctx, opts.MaxMemory)}
	l.req = &model.Request{
		Matchers: expr.Matchers, Range: q.Range,
		Columns: needs.columns(), Stats: l.stats,
	}
	blocks, err := selected(ctx, src, l.req, expr, &opts)
	if err != nil {
		return nil, err
	}
	arrived := order(blocks, q.Forward)
	l.top = newTop(q, l.budget)
	if q.Interval > 0 {
		err = l.sparse(ctx, arrived, pipe)
	} else {
		err = l.dense(ctx, arrived, pipe, opts.workers(len(blocks)))
	}
	if err != nil {
		return nil, err
	}
	return l.top.streams(), nil
}

// logScan is what the workers of a log query share.
type logScan struct {
	src    Selector
	q      LogsQuery
	req    *model.Request
	stats  *model.Stats
	budget *Budget
	top    *top
}

// arrived is a block and the sequence number of its row 0, by which rows of equal time
// are ordered.
type arrived struct {
	model.Block
	seq uint64
}

// order sorts blocks so that those with the first wanted rows come first.
func order(blocks []model.Block, forward bool) []arrived {
	out := make([]arrived, len(blocks))
	for i, b := range blocks {
		out[i] = arrived{b, uint64(i) << 32}
	}
	slices.SortStableFunc(out, func(a, b arrived) int {
		firstA, lastA := a.Bounds()
		firstB, lastB := b.Bounds()
		if forward {
			return cmp.Compare(firstA, firstB)
		}
		return cmp.Compare(lastB, lastA)
	})
	return out
}

// dense finds the entries of a query without interval. Workers go through the blocks in
// order of time; as soon as there are Limit entries, blocks and rows beyond the last of
// them are skipped by their time, before any line is decoded.
func (l *logScan) dense(ctx context.Context, blocks []arrived, pipe *pipeline.Pipeline, n int) error {
	workers := make([]*logWorker, n)
	for i := range workers {
		if i > 0 {
			pipe = pipe.Clone()
		}
		workers[i] = &logWorker{logScan: l, pipe: pipe}
	}
	return parallel(ctx, l.src, &ahead[arrived]{blocks: blocks, slow: true}, n, func(ctx context.Context, worker, _ int, b arrived) error {
		return workers[worker].block(ctx, b)
	})
}

// logWorker is one goroutine's share of a log query.
type logWorker struct {
	*logScan
	pipe   *pipeline.Pipeline
	reader blockReader
	marks  map[*pipeline.Set]*marked
	// cursors are the runs of the block, a heap in order of time.
	cursors cursors
}

// block offers a block's rows in order of time until the rest comes too late.
func (w *logWorker) block(ctx context.Context, b arrived) error {
	in := w.top.open(w.q.Range)
	if first, last := b.Bounds(); !in.Overlaps(first, last) {
		return nil
	}
	if err := w.load(ctx, b, in); err != nil || w.reader.rows == 0 {
		return err
	}
	w.cursors.fill(&w.reader, b.seq, w.q.Forward)
	var matched int64
	defer func() { w.stats.RowsMatched.Add(matched) }()
	for n := 1; len(w.cursors.heap) > 0; n++ {
		c := w.cursors.heap[0]
		row := c.row()
		if !w.top.admits(w.reader.times[row]) {
			return nil
		}
		passed, err := w.offer(c, row)
		if err != nil {
			return err
		}
		if passed {
			matched++
		}
		if n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		w.cursors.advance()
	}
	return nil
}

// load reads a block's rows of a range and applies the leading line filters.
func (w *logWorker) load(ctx context.Context, b model.Block, in model.TimeRange) error {
	r := &w.reader
	if err := r.open(ctx, b, in); err != nil {
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
	return nil
}

// offer runs the pipeline over a row and puts what passes into the answer.
func (w *logWorker) offer(c *cursor, row int) (bool, error) {
	r := c.reader
	ts := r.times[row]
	if c.stream == nil {
		c.stream = w.pipe.ForStream(c.run.Labels, c.run.Hash)
	}
	line, lbs, ok := c.stream.ProcessRest(ts, r.line(row), r.metadata(row))
	if !ok {
		return false, nil
	}
	return true, w.top.add(hit{ts: ts, stream: c.run.Hash, seq: c.seq + uint64(row), line: line, mark: w.mark(lbs)})
}

// marked is a label set of the answer, with its categories.
type marked struct {
	labels, stream, metadata, parsed labels.Labels
	text                             string
}

// maxMarks bounds the label sets that a worker remembers; past it, it starts afresh.
const maxMarks = 1 << 14

func (w *logWorker) mark(lbs *pipeline.Labels) *marked {
	set := lbs.Set()
	m, ok := w.marks[set]
	if !ok {
		if w.marks == nil || len(w.marks) >= maxMarks {
			w.marks = map[*pipeline.Set]*marked{}
		}
		m = &marked{
			labels: set.Labels, stream: lbs.Stream(), metadata: lbs.Metadata(), parsed: lbs.Parsed(),
			text: set.Labels.String(),
		}
		w.marks[set] = m
	}
	return m
}

// hit is an entry that passed.
type hit struct {
	ts     int64
	stream uint64
	seq    uint64
	line   []byte
	mark   *marked
}

// compareHits orders hits as they appear in the answer.
func compareHits(a, b *hit, forward bool) int {
	byTime, bySeq := cmp.Compare(a.ts, b.ts), cmp.Compare(a.seq, b.seq)
	if !forward {
		byTime, bySeq = -byTime, -bySeq
	}
	if byTime != 0 {
		return byTime
	}
	return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.mark.text, b.mark.text), bySeq)
}

// group turns hits in order into streams sorted by the text of their labels.
func group(hits []hit) []Stream {
	type key struct{ all, stream string }
	var out []Stream
	texts := []string{}
	index := map[key]int{}
	for _, h := range hits {
		k := key{h.mark.text, h.mark.stream.String()}
		i, ok := index[k]
		if !ok {
			i = len(out)
			index[k] = i
			out = append(out, Stream{Labels: h.mark.labels, StreamLabels: h.mark.stream})
			texts = append(texts, h.mark.text)
		}
		out[i].Entries = append(out[i].Entries, Entry{
			Timestamp: h.ts, Line: bytes.Clone(h.line), Metadata: h.mark.metadata, Parsed: h.mark.parsed,
		})
	}
	order := make([]int, len(out))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(texts[a], texts[b]) })
	sorted := make([]Stream, len(out))
	for i, o := range order {
		sorted[i] = out[o]
	}
	return sorted
}
