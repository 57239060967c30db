package scan

import (
	"unsafe"

	"github.com/skaldlog/skald/internal/model"
)

// cells holds one T for each series and bucket that was touched. A series keeps a
// strip from its first to its last bucket, so a series with a handful of rows costs a
// handful of cells however many buckets the query has.
type cells[T any] struct {
	strips  []strip[T]
	buckets int
	size    int64 // bytes allocated for cells
}

type strip[T any] struct {
	first int // bucket of cells[0]
	cells []T
}

// at returns the cell of a series and a bucket; the zero T the first time.
func (c *cells[T]) at(series, bucket int) *T {
	if series < len(c.strips) {
		s := &c.strips[series]
		if i := bucket - s.first; uint(i) < uint(len(s.cells)) {
			return &s.cells[i]
		}
	}
	return c.grow(series, bucket)
}

func (c *cells[T]) grow(series, bucket int) *T {
	for series >= len(c.strips) {
		c.strips = append(c.strips, strip[T]{})
		c.size += int64(unsafe.Sizeof(strip[T]{}))
	}
	s := &c.strips[series]
	if len(s.cells) == 0 {
		s.first = bucket
		s.cells = make([]T, 1)
		c.size += int64(unsafe.Sizeof(s.cells[0]))
		return &s.cells[0]
	}
	// Doubling keeps growing in either direction at a constant price per row.
	lo, hi := s.first, s.first+len(s.cells)
	if bucket < lo {
		lo = max(0, min(bucket, hi-2*len(s.cells)))
	} else {
		hi = min(c.buckets, max(bucket+1, lo+2*len(s.cells)))
	}
	wider := make([]T, hi-lo)
	copy(wider[s.first-lo:], s.cells)
	c.size += int64(len(wider)-len(s.cells)) * int64(unsafe.Sizeof(wider[0]))
	s.first, s.cells = lo, wider
	return &s.cells[bucket-lo]
}

// slide calls emit for every window that holds a bucket of the strip, with the
// combination of its buckets in order of time.
//
// combine must be associative; it need not have an inverse, which is what keeps sums of
// floats exact to rounding and makes NaN and infinities leave a window with their
// bucket. A window is the join of a suffix, precomputed up to a pivot, and a running
// prefix behind it; when the window has passed the pivot, the pivot moves to its end.
// So each bucket is combined at most three times, whatever the window's width.
func slide[T any](s strip[T], w *windows, combine func(a, b T) T, emit func(point int, v T)) {
	if len(s.cells) == 0 {
		return
	}
	var zero T
	from, to := w.touching(s.first, s.first+len(s.cells))
	suffix := make([]T, 0, w.width) // suffix[i] combines buckets base+i … pivot−1
	base, pivot := 0, 0
	prefix, end := zero, 0 // combines buckets pivot … end−1
	for i := from; i < to; i++ {
		lo, hi := w.span(i)
		lo, hi = max(lo-s.first, 0), min(hi-s.first, len(s.cells))
		if i == from || lo >= pivot {
			base, pivot = lo, hi
			suffix = suffix[:hi-lo]
			acc := zero
			for b := hi - 1; b >= lo; b-- {
				acc = combine(s.cells[b], acc)
				suffix[b-lo] = acc
			}
			prefix, end = zero, hi
		}
		for ; end < hi; end++ {
			prefix = combine(prefix, s.cells[end])
		}
		emit(i, combine(suffix[lo-base], prefix))
	}
}

// column is the values of one series over the points of a grid.
type column struct {
	values  []float64
	present model.Bitmap
}

func newColumn(points int) column {
	return column{values: make([]float64, points), present: model.NewBitmap(points)}
}

func (c *column) set(point int, v float64) {
	c.values[point] = v
	c.present.Set(point)
}
