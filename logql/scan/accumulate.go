package scan

import (
	"context"
	"fmt"
	"math"
)

// sample is a row's contribution to its series.
type sample struct {
	value float64
	ts    int64
	// seq orders rows of equal time: position of the block, then of the row.
	seq uint64
}

// accumulator gathers the samples of all series of one range aggregation. Each worker
// fills its own; they are merged when the blocks are done. Series are small integers
// given out by the seriesTable.
type accumulator interface {
	// add takes one sample.
	add(series, bucket int, s sample)
	// addMany takes n rows at once whose values add up to total. Only the accumulators
	// of additive operations have it; see additive.
	addMany(series, bucket int, n int64, total float64)
	// merge takes all of from, an accumulator of the same operation, whose series i is
	// to[i] here.
	merge(from accumulator, to []int)
	// result computes the values of a series over the grid. It may be called for different
	// series at once, and may return early with anything when the context is over.
	result(ctx context.Context, series int, w *windows) column
	// size is the memory held, in bytes.
	size() int64
}

// operation is how a range aggregation uses its rows.
type operation struct {
	name  string
	param float64
	// seconds is the range, by which rates are divided; 1 for everything else.
	seconds float64
}

// additive reports whether runs of rows can be counted without looking at each.
func (o operation) additive() bool {
	switch o.name {
	case "count_over_time", "rate", "bytes_over_time", "bytes_rate", "absent_over_time":
		return true
	}
	return false
}

// bytes reports whether the value of a row is the length of its line.
func (o operation) bytes() bool { return o.name == "bytes_over_time" || o.name == "bytes_rate" }

func newAccumulator(o operation, unwrapped bool, buckets int) (accumulator, error) {
	switch o.name {
	case "count_over_time", "absent_over_time":
		return &counts{cells: cells[int64]{buckets: buckets}, per: o.seconds}, nil
	case "rate":
		if !unwrapped {
			return &counts{cells: cells[int64]{buckets: buckets}, per: o.seconds}, nil
		}
		return &sums{cells: cells[sumCell]{buckets: buckets}, per: o.seconds}, nil
	case "bytes_over_time", "bytes_rate", "sum_over_time":
		return &sums{cells: cells[sumCell]{buckets: buckets}, per: o.seconds}, nil
	case "avg_over_time":
		return &moments{cells: cells[moment]{buckets: buckets}, value: func(m moment) float64 { return m.mean }}, nil
	case "stdvar_over_time":
		return &moments{cells: cells[moment]{buckets: buckets}, value: variance}, nil
	case "stddev_over_time":
		return &moments{cells: cells[moment]{buckets: buckets}, value: func(m moment) float64 { return math.Sqrt(variance(m)) }}, nil
	case "min_over_time":
		return &extremes{cells: cells[extreme]{buckets: buckets}, less: func(a, b float64) bool { return a < b }}, nil
	case "max_over_time":
		return &extremes{cells: cells[extreme]{buckets: buckets}, less: func(a, b float64) bool { return a > b }}, nil
	case "first_over_time":
		return &ends{cells: cells[end]{buckets: buckets}}, nil
	case "last_over_time":
		return &ends{cells: cells[end]{buckets: buckets}, last: true}, nil
	case "quantile_over_time":
		return &quantiles{cells: cells[[]weighted]{buckets: buckets}, q: o.param}, nil
	case "rate_counter":
		return &counters{cells: cells[[]sample]{buckets: buckets}, seconds: o.seconds}, nil
	}
	return nil, fmt.Errorf("unknown range aggregation %q", o.name)
}

// mergeCells adds every used cell of from to the matching one of into.
func mergeCells[T any](into, from *cells[T], to []int, combine func(a, b T) T) {
	for series := range from.strips {
		s := &from.strips[series]
		for i := range s.cells {
			c := into.at(to[series], s.first+i)
			*c = combine(*c, s.cells[i])
		}
	}
}

func strips[T any](c *cells[T], series int) strip[T] {
	if series >= len(c.strips) {
		return strip[T]{}
	}
	return c.strips[series]
}

// counts is count_over_time and rate: whole numbers, so a running sum that adds at one
// end and subtracts at the other is exact.
type counts struct {
	cells[int64]
	per float64
}

func (c *counts) size() int64 { return c.cells.size }

func (c *counts) add(series, bucket int, _ sample) { *c.at(series, bucket)++ }

func (c *counts) addMany(series, bucket int, n int64, _ float64) { *c.at(series, bucket) += n }

func (c *counts) merge(from accumulator, to []int) {
	mergeCells(&c.cells, &from.(*counts).cells, to, func(a, b int64) int64 { return a + b })
}

func (c *counts) result(_ context.Context, series int, w *windows) column {
	out := newColumn(int(w.points))
	s := strips(&c.cells, series)
	from, to := w.touching(s.first, s.first+len(s.cells))
	n, lo, hi := int64(0), 0, 0
	for i := from; i < to; i++ {
		first, last := w.span(i)
		for first, last = first-s.first, min(last-s.first, len(s.cells)); hi < last; hi++ {
			n += s.cells[hi]
		}
		for ; lo < first; lo++ {
			n -= s.cells[lo]
		}
		if n != 0 {
			out.set(i, float64(n)/c.per)
		}
	}
	return out
}

// sums is sum_over_time, the rate of unwrapped values, and the byte operations.
type sums struct {
	cells[sumCell]
	per float64
}

type sumCell struct {
	n   int64
	sum float64
}

func addSums(a, b sumCell) sumCell { return sumCell{a.n + b.n, a.sum + b.sum} }

func (c *sums) size() int64 { return c.cells.size }

func (c *sums) add(series, bucket int, s sample) { c.addMany(series, bucket, 1, s.value) }

func (c *sums) addMany(series, bucket int, n int64, total float64) {
	cell := c.at(series, bucket)
	cell.n += n
	cell.sum += total
}

func (c *sums) merge(from accumulator, to []int) {
	mergeCells(&c.cells, &from.(*sums).cells, to, addSums)
}

func (c *sums) result(_ context.Context, series int, w *windows) column {
	out := newColumn(int(w.points))
	slide(strips(&c.cells, series), w, addSums, func(i int, v sumCell) {
		if v.n > 0 {
			out.set(i, v.sum/c.per)
		}
	})
	return out
}

// extremes is min_over_time and max_over_time. NaN yields to any other value.
type extremes struct {
	cells[extreme]
	less func(a, b float64) bool
}

type extreme struct {
	value float64
	some  bool
}

func (c *extremes) better(a, b extreme) extreme {
	if !a.some || b.some && (c.less(b.value, a.value) || math.IsNaN(a.value)) {
		return b
	}
	return a
}

func (c *extremes) size() int64 { return c.cells.size }

func (c *extremes) add(series, bucket int, s sample) {
	cell := c.at(series, bucket)
	*cell = c.better(*cell, extreme{s.value, true})
}

func (c *extremes) addMany(int, int, int64, float64) { panic("min and max look at every row") }

func (c *extremes) merge(from accumulator, to []int) {
	mergeCells(&c.cells, &from.(*extremes).cells, to, c.better)
}

func (c *extremes) result(_ context.Context, series int, w *windows) column {
	out := newColumn(int(w.points))
	slide(strips(&c.cells, series), w, c.better, func(i int, v extreme) {
		if v.some {
			out.set(i, v.value)
		}
	})
	return out
}

// ends is first_over_time and last_over_time.
type ends struct {
	cells[end]
	last bool
}

type end struct {
	sample
	some bool
}

func (c *ends) pick(a, b end) end {
	if !a.some || !b.some {
		if a.some {
			return a
		}
		return b
	}
	if before(b.sample, a.sample) != c.last {
		return b
	}
	return a
}

// before orders samples by time and, at equal times, by position.
func before(a, b sample) bool { return a.ts < b.ts || a.ts == b.ts && a.seq < b.seq }

func (c *ends) size() int64 { return c.cells.size }

func (c *ends) add(series, bucket int, s sample) {
	cell := c.at(series, bucket)
	*cell = c.pick(*cell, end{s, true})
}

func (c *ends) addMany(int, int, int64, float64) { panic("first and last look at every row") }

func (c *ends) merge(from accumulator, to []int) {
	mergeCells(&c.cells, &from.(*ends).cells, to, c.pick)
}

func (c *ends) result(_ context.Context, series int, w *windows) column {
	out := newColumn(int(w.points))
	slide(strips(&c.cells, series), w, c.pick, func(i int, v end) {
		if v.some {
			out.set(i, v.value)
		}
	})
	return out
}
