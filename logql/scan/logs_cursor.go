package scan

import (
	"container/heap"
	"context"
	"sort"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
)

// cursor walks the rows of one run that passed the leading filters, in the query's direction.
type cursor struct {
	reader  *blockReader
	run     *model.Run
	stream  *pipeline.StreamPipeline // bound when the first row is looked at
	rows    []uint32                 // what is left, ascending
	seq     uint64                   // of row 0 of the block
	forward bool
}

// row is the next row.
func (c *cursor) row() int {
	if c.forward {
		return int(c.rows[0])
	}
	return int(c.rows[len(c.rows)-1])
}

func (c *cursor) ts() int64 { return c.reader.times[c.row()] }

// next drops the next row.
func (c *cursor) next() {
	if c.forward {
		c.rows = c.rows[1:]
	} else {
		c.rows = c.rows[:len(c.rows)-1]
	}
}

// skip drops the rows before ts, in the query's direction.
func (c *cursor) skip(ts int64) {
	times := c.reader.times
	if c.forward {
		c.rows = c.rows[sort.Search(len(c.rows), func(i int) bool { return times[c.rows[i]] >= ts }):]
	} else {
		c.rows = c.rows[:sort.Search(len(c.rows), func(i int) bool { return times[c.rows[i]] > ts })]
	}
}

// cursors is a heap of cursors with the first row of all on top.
type cursors struct{ heap []*cursor }

func (h *cursors) Len() int { return len(h.heap) }
func (h *cursors) Less(i, j int) bool {
	a, b := h.heap[i], h.heap[j]
	ta, tb := a.ts(), b.ts()
	switch {
	case ta != tb:
		return (ta < tb) == a.forward
	case a.run.Hash != b.run.Hash:
		return a.run.Hash < b.run.Hash
	}
	return (a.seq+uint64(a.row()) < b.seq+uint64(b.row())) == a.forward
}
func (h *cursors) Swap(i, j int) { h.heap[i], h.heap[j] = h.heap[j], h.heap[i] }
func (h *cursors) Push(x any)    { h.heap = append(h.heap, x.(*cursor)) }
func (h *cursors) Pop() any {
	last := h.heap[len(h.heap)-1]
	h.heap = h.heap[:len(h.heap)-1]
	return last
}

// fill puts the runs of a block into an empty heap.
func (h *cursors) fill(r *blockReader, seq uint64, forward bool) {
	h.heap = append(h.heap[:0], cursorsOf(r, seq, forward)...)
	heap.Init(h)
}

// advance moves the top cursor to its next row.
func (h *cursors) advance() {
	c := h.heap[0]
	c.next()
	h.settle()
}

// settle restores the order after the top cursor has moved.
func (h *cursors) settle() {
	if len(h.heap[0].rows) == 0 {
		heap.Pop(h)
		return
	}
	heap.Fix(h, 0)
}

// cursorsOf divides the rows that passed among the runs of a block.
func cursorsOf(r *blockReader, seq uint64, forward bool) []*cursor {
	var out []*cursor
	rest := r.passed
	for i := range r.spans {
		span := &r.spans[i]
		n := sort.Search(len(rest), func(i int) bool { return int(rest[i]) >= span.End })
		if n > 0 {
			out = append(out, &cursor{reader: r, run: span, rows: rest[:n], seq: seq, forward: forward})
		}
		rest = rest[n:]
	}
	return out
}

// sparse finds the entries of a query with an interval. Which entries are kept depends
// on all entries kept before, so rows are looked at strictly in order of time; but after
// one was kept, everything closer than the interval is skipped without being looked at,
// and blocks that lie in between are not opened.
func (l *logScan) sparse(ctx context.Context, blocks []arrived, pipe *pipeline.Pipeline) error {
	s := &sparseScan{logWorker: logWorker{logScan: l, pipe: pipe}, blocks: blocks, opened: map[*blockReader]*openBlock{}}
	defer s.close()
	s.from = l.q.Range.From
	if !l.q.Forward {
		s.from = l.q.Range.Through - 1
	}
	for {
		if err := s.openBlocks(ctx); err != nil {
			return err
		}
		if len(s.cursors.heap) == 0 || s.kept == l.q.Limit {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := InTurn(ctx, l.src, s.rows); err != nil {
			return err
		}
	}
}

// rows looks at rows until another block may have the next one, or the turn has been long.
func (s *sparseScan) rows() error {
	for n := 0; n < checkEvery && len(s.cursors.heap) > 0 && s.kept < s.q.Limit && !s.due(); n++ {
		c := s.cursors.heap[0]
		if s.tooClose(c.ts()) {
			c.skip(s.from)
			s.settle(c)
			continue
		}
		ts := c.ts()
		passed, err := s.offer(c, c.row())
		if err != nil {
			return err
		}
		if passed {
			s.stats.RowsMatched.Add(1)
			s.kept++
			s.from = ts + int64(s.q.Interval)
			if !s.q.Forward {
				s.from = ts - int64(s.q.Interval)
			}
		}
		c.next()
		s.settle(c)
	}
	return nil
}

// sparseScan is the state of a scan with an interval. blocks are those still to be opened.
type sparseScan struct {
	logWorker
	blocks []arrived
	opened map[*blockReader]*openBlock
	from   int64 // the first time that may be kept next
	kept   int
}

// openBlock counts the cursors that still need a block.
type openBlock struct {
	block   model.Block
	cursors int
}

// tooClose reports whether a time is nearer than the interval to what was kept last.
func (s *sparseScan) tooClose(ts int64) bool {
	if s.q.Forward {
		return ts < s.from
	}
	return ts > s.from
}

// openBlocks opens the blocks that may hold rows before, or at the time of, the next one.
func (s *sparseScan) openBlocks(ctx context.Context) error {
	for s.due() {
		b := s.blocks[0]
		first, last := b.Bounds()
		s.blocks = s.blocks[1:]
		in := s.q.Range
		if s.q.Forward {
			in.From = max(in.From, s.from)
		} else {
			in.Through = min(in.Through, s.from+1)
		}
		if err := s.openBlock(ctx, b, in, in.Overlaps(first, last)); err != nil {
			return err
		}
	}
	return nil
}

// read loads a block in a turn, which begins when its bytes are there.
func (s *sparseScan) read(ctx context.Context, b arrived, in model.TimeRange) error {
	if fetch := b.Fetch(); fetch != nil {
		_ = fetch(ctx) // reading it will tell
	}
	return InTurn(ctx, s.src, func() error { return s.load(ctx, b, in) })
}

// due reports whether the next block must be opened before the next row is looked at.
func (s *sparseScan) due() bool {
	if len(s.blocks) == 0 {
		return false
	}
	if len(s.cursors.heap) == 0 {
		return true
	}
	first, last := s.blocks[0].Bounds()
	if next := s.cursors.heap[0].ts(); s.q.Forward {
		return first <= next
	} else {
		return last >= next
	}
}

func (s *sparseScan) openBlock(ctx context.Context, b arrived, in model.TimeRange, overlaps bool) error {
	s.reader = blockReader{}
	if overlaps {
		if err := s.read(ctx, b, in); err != nil {
			b.Release()
			return err
		}
	}
	r := s.reader
	list := cursorsOf(&r, b.seq, s.q.Forward)
	if r.rows == 0 || len(list) == 0 {
		b.Release()
		return ctx.Err()
	}
	s.opened[&r] = &openBlock{b.Block, len(list)}
	for _, c := range list {
		heap.Push(&s.cursors, c)
	}
	return ctx.Err()
}

// settle puts the top cursor where it belongs and gives its block back when it was the last.
func (s *sparseScan) settle(c *cursor) {
	done := len(c.rows) == 0
	s.cursors.settle()
	if !done {
		return
	}
	o := s.opened[c.reader]
	if o.cursors--; o.cursors == 0 {
		delete(s.opened, c.reader)
		o.block.Release()
	}
}

// close gives back what is still open or was never opened.
func (s *sparseScan) close() {
	for _, o := range s.opened {
		o.block.Release()
	}
	for _, b := range s.blocks {
		b.Release()
	}
}
