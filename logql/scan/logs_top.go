package scan

import (
	"bytes"
	"container/heap"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/skaldlog/skald/internal/model"
)

// top holds the best hits so far, at most the query's limit. All workers offer to it.
type top struct {
	q      LogsQuery
	budget *budget
	// edge is the time of the worst hit once there are enough; rows beyond it are of no use.
	// It only moves towards the better, so a stale value costs work but loses nothing.
	edge atomic.Int64
	mu   struct {
		sync.Mutex
		hits worst
	}
}

func newTop(q LogsQuery, b *budget) *top {
	t := &top{q: q, budget: b}
	t.mu.hits.forward = q.Forward
	t.edge.Store(math.MinInt64)
	if q.Forward {
		t.edge.Store(math.MaxInt64)
	}
	return t
}

// admits reports whether a row of that time can still be among the best. Rows at the
// edge compete by their other properties.
func (t *top) admits(ts int64) bool {
	if t.q.Forward {
		return ts <= t.edge.Load()
	}
	return ts >= t.edge.Load()
}

// open is the part of a range whose rows can still be among the best.
func (t *top) open(r model.TimeRange) model.TimeRange {
	switch edge := t.edge.Load(); {
	case !t.q.Forward:
		r.From = max(r.From, edge)
	case edge < math.MaxInt64:
		r.Through = min(r.Through, edge+1)
	}
	return r
}

// hitOverhead is what a hit costs besides its line.
const hitOverhead = 128

// add takes a hit when it is good enough. The line is copied; whoever called may reuse it.
func (t *top) add(h hit) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	hits := &t.mu.hits
	switch {
	case len(hits.hits) < t.q.Limit:
		h.line = bytes.Clone(h.line)
		heap.Push(hits, h)
		if err := t.budget.charge(int64(cap(h.line)) + hitOverhead); err != nil {
			return err
		}
	case compareHits(&h, &hits.hits[0], t.q.Forward) < 0:
		// The memory of the hit that leaves serves the one that comes.
		room := hits.hits[0].line
		h.line = append(room[:0], h.line...)
		hits.hits[0] = h
		heap.Fix(hits, 0)
		if err := t.budget.charge(int64(cap(h.line) - cap(room))); err != nil {
			return err
		}
	}
	if len(hits.hits) == t.q.Limit {
		t.edge.Store(hits.hits[0].ts)
	}
	return nil
}

// streams is the answer.
func (t *top) streams() []Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	hits := t.mu.hits.hits
	slices.SortFunc(hits, func(a, b hit) int { return compareHits(&a, &b, t.q.Forward) })
	return group(hits)
}

// worst is a heap with the worst hit on top.
type worst struct {
	hits    []hit
	forward bool
}

func (w *worst) Len() int           { return len(w.hits) }
func (w *worst) Less(i, j int) bool { return compareHits(&w.hits[i], &w.hits[j], w.forward) > 0 }
func (w *worst) Swap(i, j int)      { w.hits[i], w.hits[j] = w.hits[j], w.hits[i] }
func (w *worst) Push(x any)         { w.hits = append(w.hits, x.(hit)) }
func (w *worst) Pop() any {
	last := w.hits[len(w.hits)-1]
	w.hits = w.hits[:len(w.hits)-1]
	return last
}
