package scan

import (
	"container/heap"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/skaldlog/skald/internal/model"
)

// top holds the best hits so far, at most the query's limit. All workers offer to it.
type top struct {
	q      LogsQuery
	budget *Budget
	// edge is the time of the worst hit once there are enough; rows beyond it are of no use.
	// It only moves towards the better, so a stale value costs work but loses nothing.
	edge atomic.Int64
	mu   struct {
		sync.Mutex
		hits worst
		// seen are the hits by content.
		seen map[content]struct{}
	}
}

func newTop(q LogsQuery, b *Budget) *top {
	t := &top{q: q, budget: b}
	t.mu.hits.forward = q.Forward
	t.mu.seen = map[content]struct{}{}
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

// content identifies what is shown of a hit, and the stored stream it comes from.
type content struct {
	ts             int64
	stream, digest uint64
}

func (h *hit) content() content {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(h.mark.text)
	_, _ = d.Write(h.line)
	return content{h.ts, h.stream, d.Sum64()}
}

// add takes a hit when it is good enough. Entries of one stored stream that the pipeline
// has made equal are shown once. The line is copied; whoever called may reuse it.
func (t *top) add(h hit) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	hits := &t.mu.hits
	full := len(hits.hits) == t.q.Limit
	if full && compareHits(&h, &hits.hits[0], t.q.Forward) >= 0 {
		return nil
	}
	id := h.content()
	if _, twice := t.mu.seen[id]; twice {
		hits.prefer(h, id)
		return nil
	}
	t.mu.seen[id] = struct{}{}
	var room []byte
	if full {
		// The memory of the hit that leaves serves the one that comes.
		room = hits.hits[0].line
		delete(t.mu.seen, hits.hits[0].content())
	}
	h.line = append(room[:0], h.line...)
	grown := int64(cap(h.line) - cap(room))
	if full {
		hits.hits[0] = h
		heap.Fix(hits, 0)
	} else {
		heap.Push(hits, h)
		grown += hitOverhead
	}
	if len(hits.hits) == t.q.Limit {
		t.edge.Store(hits.hits[0].ts)
	}
	return t.budget.Charge(grown)
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

// prefer gives a hit that is there already the place of its better twin.
func (w *worst) prefer(h hit, id content) {
	for i := range w.hits {
		old := &w.hits[i]
		if old.ts == h.ts && old.stream == h.stream && compareHits(&h, old, w.forward) < 0 && old.content() == id {
			old.seq = h.seq
			heap.Fix(w, i)
			return
		}
	}
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
