package scan

import (
	"cmp"
	"context"
	"math"
	"math/bits"
	"slices"
	"unsafe"
)

// quantiles is quantile_over_time. It keeps every distinct value of a bucket with the
// number of times it occurred: exact, and small for the values that logs hold most,
// such as durations in whole milliseconds and sizes that repeat.
type quantiles struct {
	cells[[]weighted]
	q     float64
	bytes int64
}

// weighted is a value and how often it occurred.
type weighted struct {
	value float64
	n     int64
}

// compactAt is the number of values of a bucket from which doubling its room is
// preceded by joining equal values.
const compactAt = 64

func (c *quantiles) size() int64 { return c.cells.size + c.bytes }

func (c *quantiles) add(series, bucket int, s sample) {
	cell := c.at(series, bucket)
	c.push(cell, weighted{s.value, 1})
}

func (c *quantiles) push(cell *[]weighted, w weighted) {
	if len(*cell) == cap(*cell) {
		if len(*cell) >= compactAt {
			*cell = compact(*cell)
		}
		if n := len(*cell); n > cap(*cell)/2 || n == cap(*cell) {
			grown := make([]weighted, n, max(4, 2*cap(*cell)))
			copy(grown, *cell)
			c.bytes += int64(cap(grown)-cap(*cell)) * int64(unsafe.Sizeof(w))
			*cell = grown
		}
	}
	*cell = append(*cell, w)
}

// compact sorts values, NaN first, and joins equal ones in place.
func compact(ws []weighted) []weighted {
	slices.SortFunc(ws, func(a, b weighted) int {
		switch { // the usual cases first: cmp.Compare asks for NaN before all
		case a.value < b.value:
			return -1
		case a.value > b.value:
			return 1
		case a.value == b.value:
			return 0
		}
		return cmp.Compare(a.value, b.value)
	})
	out := ws[:0]
	for _, w := range ws {
		if n := len(out); n > 0 && (out[n-1].value == w.value || out[n-1].value != out[n-1].value && w.value != w.value) {
			out[n-1].n += w.n
			continue
		}
		out = append(out, w)
	}
	return out
}

func (c *quantiles) addMany(int, int, int64, float64) { panic("quantiles look at every row") }

func (c *quantiles) merge(from accumulator, to []int) {
	f := from.(*quantiles)
	for series := range f.strips {
		s := &f.strips[series]
		for i, ws := range s.cells {
			if len(ws) == 0 {
				continue
			}
			cell := c.at(to[series], s.first+i)
			for _, w := range ws {
				c.push(cell, w)
			}
			s.cells[i] = nil
		}
	}
}

func (c *quantiles) result(ctx context.Context, series int, w *windows) column {
	out := newColumn(int(w.points))
	s := strips(&c.cells, series)
	if len(s.cells) == 0 {
		return out
	}
	for i := range s.cells {
		s.cells[i] = compact(s.cells[i])
	}
	from, to := w.touching(s.first, s.first+len(s.cells))
	if w.width == 1 { // windows do not overlap, nothing slides
		for i := from; i < to; i++ {
			lo, _ := w.span(i)
			if values := s.cells[lo-s.first]; len(values) > 0 {
				out.set(i, quantile(c.q, sorted(values)))
			}
		}
		return out
	}
	window := newRanked(compact(slices.Concat(s.cells...)))
	for i, b, e := from, 0, 0; i < to && ctx.Err() == nil; i++ {
		lo, hi := w.span(i)
		lo, hi = max(lo-s.first, 0), min(hi-s.first, len(s.cells))
		for ; b < min(lo, e); b++ {
			window.add(s.cells[b], -1)
		}
		if b < lo { // nothing is left, and buckets between the windows are skipped
			b, e = lo, lo
		}
		for ; e < hi; e++ {
			window.add(s.cells[e], +1)
		}
		if window.n > 0 {
			out.set(i, quantile(c.q, window))
		}
	}
	return out
}

// ranked is a multiset of values that finds the value of a rank: a Fenwick tree of
// counts over all values of the series in order. As a window moves on, every value
// enters once and leaves once, at a price that is logarithmic in their number.
type ranked struct {
	values []weighted // sorted and distinct; their n is not used
	tree   []int64    // tree[i] counts the values (i−lowbit(i), i], one-based
	n      int64
}

func newRanked(values []weighted) *ranked {
	return &ranked{values: values, tree: make([]int64, len(values)+1)}
}

// add puts sorted values in, or takes them out when sign is −1.
func (r *ranked) add(ws []weighted, sign int64) {
	at := 0
	for _, w := range ws {
		i, _ := slices.BinarySearchFunc(r.values[at:], w.value, func(a weighted, v float64) int { return cmp.Compare(a.value, v) })
		at += i
		r.n += sign * w.n
		for i := at + 1; i < len(r.tree); i += i & -i {
			r.tree[i] += sign * w.n
		}
	}
}

// at is the value with so many values before it.
func (r *ranked) at(rank int64) float64 {
	i := 0
	for half := 1 << (bits.Len(uint(len(r.values))) - 1); half > 0; half /= 2 {
		if next := i + half; next < len(r.tree) && r.tree[next] <= rank {
			i = next
			rank -= r.tree[next]
		}
	}
	return r.values[min(i, len(r.values)-1)].value
}

func (r *ranked) size() int64 { return r.n }

// sorted are distinct values in order.
type sorted []weighted

func (s sorted) size() (n int64) {
	for _, w := range s {
		n += w.n
	}
	return n
}

func (s sorted) at(rank int64) float64 {
	for _, w := range s {
		if rank < w.n {
			return w.value
		}
		rank -= w.n
	}
	return s[len(s)-1].value
}

// quantile interpolates linearly between the two values around rank q·(n−1).
func quantile(q float64, values interface {
	size() int64
	at(rank int64) float64
}) float64 {
	switch {
	case math.IsNaN(q):
		return math.NaN()
	case q < 0:
		return math.Inf(-1)
	case q > 1:
		return math.Inf(+1)
	}
	n := values.size()
	rank := q * float64(n-1)
	lower := int64(math.Floor(rank))
	upper := min(n-1, lower+1)
	weight := rank - math.Floor(rank)
	return values.at(lower)*(1-weight) + values.at(upper)*weight
}

// counters is rate_counter, which needs all samples of a window in order of time.
type counters struct {
	cells[[]sample]
	seconds float64
	bytes   int64
}

func (c *counters) size() int64 { return c.cells.size + c.bytes }

func (c *counters) add(series, bucket int, s sample) {
	cell := c.at(series, bucket)
	before := cap(*cell)
	*cell = append(*cell, s)
	c.bytes += int64(cap(*cell)-before) * int64(unsafe.Sizeof(s))
}

func (c *counters) addMany(int, int, int64, float64) { panic("counters look at every row") }

func (c *counters) merge(from accumulator, to []int) {
	f := from.(*counters)
	for series := range f.strips {
		s := &f.strips[series]
		for i, samples := range s.cells {
			for _, v := range samples {
				c.add(to[series], s.first+i, v)
			}
			s.cells[i] = nil
		}
	}
}

// rise describes the samples of a stretch of time: what rate_counter needs of them, in
// a form that neighbouring stretches can be joined.
type rise struct {
	n           int64
	first, last sample
	// drops is the sum of the values just before each fall of the counter.
	drops float64
}

func (r rise) join(o rise) rise {
	switch {
	case r.n == 0:
		return o
	case o.n == 0:
		return r
	}
	drops := r.drops + o.drops
	if o.first.value < r.last.value {
		drops += r.last.value
	}
	return rise{r.n + o.n, r.first, o.last, drops}
}

func (c *counters) result(_ context.Context, series int, w *windows) column {
	out := newColumn(int(w.points))
	s := strips(&c.cells, series)
	rises := strip[rise]{first: s.first, cells: make([]rise, len(s.cells))}
	for i, samples := range s.cells {
		slices.SortFunc(samples, func(a, b sample) int {
			return cmp.Or(cmp.Compare(a.ts, b.ts), cmp.Compare(a.seq, b.seq))
		})
		for _, v := range samples {
			rises.cells[i] = rises.cells[i].join(rise{n: 1, first: v, last: v})
		}
	}
	slide(rises, w, rise.join, func(i int, r rise) {
		if r.n > 0 {
			out.set(i, r.perSecond(c.seconds))
		}
	})
	return out
}

// perSecond is the extrapolated rate over a range of so many seconds. The units do not
// fit together: the distance between samples is in microseconds, the distance to the
// start of the range in seconds. Loki computes it so, and dashboards were built on it.
func (r rise) perSecond(seconds float64) float64 {
	if r.n < 2 {
		return 0
	}
	increase := r.last.value - r.first.value + r.drops
	sampled := float64(r.last.ts-r.first.ts) / 1000
	average := sampled / float64(r.n-1)
	toStart := seconds
	if increase > 0 && r.first.value >= 0 {
		toStart = min(toStart, sampled*(r.first.value/increase))
	}
	extrapolated := sampled
	if toStart < average*1.1 {
		extrapolated += toStart
	} else {
		extrapolated += average / 2
	}
	return increase * (extrapolated / sampled) / seconds
}
