package scan

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestWindowsHoldExactlyTheirRows compares buckets with the definition: a row is in the
// window of t when t−r < ts+offset ≤ t.
func TestWindowsHoldExactlyTheirRows(t *testing.T) {
	check := func(g Grid, rng, offset int64) {
		w := newWindows(g, rng, offset)
		if limit := 4 * g.Points(); w.buckets > limit {
			t.Errorf("%+v [%d]: %d buckets, more than %d", g, rng, w.buckets, limit)
		}
		for ts := g.Start - rng - offset - 5; ts <= g.End-offset+5; ts++ {
			b := w.bucket(ts)
			for i := range g.Points() {
				at := g.Time(i) - offset
				lo, hi := w.span(i)
				want := at-rng < ts && ts <= at
				if got := b >= lo && b < hi; got != want {
					t.Fatalf("%+v [%d] offset %d: row at %d is in bucket %d, window of point %d is [%d,%d): held %t, want %t",
						g, rng, offset, ts, b, i, lo, hi, got, want)
				}
			}
			if b >= w.buckets {
				t.Fatalf("%+v [%d]: bucket %d of %d", g, rng, b, w.buckets)
			}
			// after: the same bucket up to it, another from it on, unless both are in none.
			end := w.after(ts)
			if end <= ts || w.bucket(end-1) != b {
				t.Fatalf("%+v [%d] offset %d: after(%d) = %d, where the bucket is %d instead of %d", g, rng, offset, ts, end, w.bucket(end-1), b)
			}
			if b >= 0 && end < w.times().Through && w.bucket(end) == b {
				t.Fatalf("%+v [%d] offset %d: after(%d) = %d is still in bucket %d", g, rng, offset, ts, end, b)
			}
			if in := w.times().Contains(ts); in != (ts > g.Start-rng-offset && ts <= g.Start+int64(g.Points()-1)*g.Step-offset) {
				t.Fatalf("%+v [%d] offset %d: times() holds %d: %t", g, rng, offset, ts, in)
			}
		}
	}
	for _, c := range []struct {
		g           Grid
		rng, offset int64
	}{
		{Grid{100, 100, 0}, 7, 0},
		{Grid{100, 100, 10}, 7, 3},
		{Grid{0, 50, 10}, 10, 0},  // windows touch
		{Grid{0, 50, 10}, 30, -4}, // even
		{Grid{0, 50, 10}, 25, 0},  // split
		{Grid{0, 50, 10}, 3, 0},   // gaps
		{Grid{0, 50, 10}, 60, 0},  // merged, just
		{Grid{0, 50, 10}, 500, 1}, // merged
		{Grid{0, 47, 10}, 505, 0}, // End off the grid
	} {
		check(c.g, c.rng, c.offset)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		start := rnd.Int64N(100) - 50
		step := 1 + rnd.Int64N(12)
		check(Grid{start, start + step*rnd.Int64N(9), step}, 1+rnd.Int64N(60), rnd.Int64N(21)-10)
	}
}

func TestWindowsOfAnEmptyRangeHoldNothing(t *testing.T) {
	w := newWindows(Grid{0, 100, 10}, 0, 0)
	for ts := int64(-5); ts < 105; ts++ {
		if b := w.bucket(ts); b >= 0 {
			t.Fatalf("bucket(%d) = %d", ts, b)
		}
	}
	if r := w.times(); r.From < r.Through {
		t.Errorf("times() = %v", r)
	}
}

// TestSlideCombinesInOrder uses string concatenation, which shows order and repetition.
func TestSlideCombinesInOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		step := 1 + rnd.Int64N(5)
		g := Grid{0, step * rnd.Int64N(12), step}
		w := newWindows(g, 1+rnd.Int64N(30), 0)
		c := cells[string]{buckets: w.buckets}
		for range rnd.IntN(20) {
			b := rnd.IntN(w.buckets)
			*c.at(0, b) = fmt.Sprintf("%d.", b)
		}
		got := make([]string, g.Points())
		slide(strips(&c, 0), &w, func(a, b string) string { return a + b }, func(i int, v string) { got[i] += v })
		for i := range got {
			want := ""
			lo, hi := w.span(i)
			for b := lo; b < hi; b++ {
				want += *c.at(0, b)
			}
			if got[i] != want {
				t.Fatalf("%+v: point %d: got %q, want %q", w, i, got[i], want)
			}
		}
	}
}
