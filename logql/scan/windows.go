package scan

import (
	"sort"

	"github.com/skaldlog/skald/internal/model"
)

// Grid is the set of times at which a query is evaluated: Start, Start+Step, … up to
// and including End, in nanoseconds. Step is positive unless Start equals End.
type Grid struct{ Start, End, Step int64 }

// Points is the number of evaluation times.
func (g Grid) Points() int {
	if g.End < g.Start {
		return 0
	}
	if g.Step <= 0 {
		return 1
	}
	return int((g.End-g.Start)/g.Step) + 1
}

// Time is the evaluation time of point i.
func (g Grid) Time(i int) int64 { return g.Start + int64(i)*g.Step }

// windows cuts time into buckets in such a way that the window (t−r, t] of every
// evaluation time t is a run of whole buckets. A row is put into exactly one bucket,
// whatever range and step are, and the windows are put together once, at the end.
//
// The borders of windows are the n starts S−r+iD and the n ends S+iD. Three layouts
// keep the number of buckets below 4n:
//
//	merged  r ≥ nD: all starts lie before all ends. n−1 buckets of D, one long
//	        bucket, n−1 buckets of D.
//	even    D divides r: starts and ends coincide, every bucket has length D.
//	split   otherwise: every period of D has an end in it, at rem = r mod D, and makes
//	        two buckets. When r < D the second one lies in no window.
//
// Times are shifted by the offset, and counted as x = ts − (S−r−offset) − 1, so that
// the first nanosecond of the first window is x = 0.
type windows struct {
	origin  int64 // ts of x = −1
	limit   int64 // x of the first row too late for any window
	step    int64
	rng     int64
	rem     int64
	points  int64
	layout  layout
	width   int64 // buckets per window
	stride  int64 // buckets between the first buckets of neighbouring windows
	buckets int
}

type layout uint8

const (
	merged layout = iota
	even
	split
)

// newWindows lays out the windows of a range and an offset, both in nanoseconds, over a grid.
func newWindows(g Grid, rng, offset int64) windows {
	n := int64(g.Points())
	step := g.Step
	if n <= 1 || step <= 0 {
		step = max(rng, 1)
	}
	w := windows{
		origin: g.Start - rng - offset, limit: (n-1)*step + rng,
		step: step, rng: rng, points: n, stride: 1,
	}
	if n == 0 || rng <= 0 {
		w.limit = 0
		return w
	}
	k := rng / step
	w.rem = rng - k*step
	switch {
	case k >= n:
		w.layout, w.width, w.buckets = merged, n, int(2*n-1)
	case w.rem == 0:
		w.layout, w.width, w.buckets = even, k, int(n-1+k)
	default:
		w.layout, w.width, w.stride, w.buckets = split, 2*k+1, 2, int(2*(n-1+k)+1)
	}
	return w
}

// times is the range of timestamps that lie in some window.
func (w *windows) times() model.TimeRange {
	return model.TimeRange{From: w.origin + 1, Through: w.origin + 1 + w.limit}
}

// bucket returns the bucket of a timestamp, or −1 when no window holds it.
func (w *windows) bucket(ts int64) int {
	x := ts - w.origin - 1
	if x < 0 || x >= w.limit {
		return -1
	}
	switch w.layout {
	case merged:
		switch n := w.points - 1; {
		case x < n*w.step && x < w.rng:
			return int(x / w.step)
		case x < w.rng:
			return int(n)
		default:
			return int(n + 1 + (x-w.rng)/w.step)
		}
	case even:
		return int(x / w.step)
	}
	q := x / w.step
	if x-q*w.step < w.rem {
		return int(2 * q)
	}
	if w.rng < w.step {
		return -1
	}
	return int(2*q + 1)
}

// after returns the first timestamp behind the bucket or the gap that ts is in. The
// rows of a run from ts up to there share a bucket.
func (w *windows) after(ts int64) int64 {
	x := ts - w.origin - 1
	var end int64
	switch q := x / w.step; {
	case x < 0:
		end = 0
	case w.layout == merged && x < w.rng && x >= (w.points-1)*w.step:
		end = w.rng
	case w.layout == merged && x >= w.rng:
		end = w.rng + ((x-w.rng)/w.step+1)*w.step
	case w.layout == split && x-q*w.step < w.rem:
		end = q*w.step + w.rem
	default:
		end = (q + 1) * w.step
	}
	return end + w.origin + 1
}

// span returns the buckets [lo, hi) that make up the window of point i.
func (w *windows) span(i int) (lo, hi int) {
	first := int64(i) * w.stride
	return int(first), int(first + w.width)
}

// touching returns the points [from, to) whose windows hold a bucket of [lo, hi).
func (w *windows) touching(lo, hi int) (from, to int) {
	n := int(w.points)
	from = sort.Search(n, func(i int) bool { _, h := w.span(i); return h > lo })
	to = sort.Search(n, func(i int) bool { l, _ := w.span(i); return l >= hi })
	return from, to
}
