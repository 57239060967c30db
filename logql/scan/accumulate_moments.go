package scan

import (
	"context"
	"math"
)

// moments is avg, stdvar and stddev_over_time: Welford's running mean and sum of
// squared deviations, which can be joined (Chan, Golub, LeVeque 1979).
type moments struct {
	cells[moment]
	value func(moment) float64
}

type moment struct {
	n        int64
	mean, m2 float64
}

// variance is the population variance.
func variance(m moment) float64 { return m.m2 / float64(m.n) }

func (m moment) with(v float64) moment {
	m.n++
	if m.n == 1 {
		// A single infinity has variance NaN, as inf − inf is.
		return moment{1, v, 0 * (v - v)}
	}
	if !finite(m.mean) || !finite(v) {
		return moment{m.n, m.mean + v, math.NaN()}
	}
	k := float64(m.n)
	delta := v - m.mean
	m.mean += v/k - m.mean/k
	m.m2 += delta * (v - m.mean)
	return m
}

// join combines two sets of samples. The mean of infinities of one sign is that
// infinity, of both signs NaN, and NaN stays.
func (m moment) join(o moment) moment {
	switch {
	case m.n == 0:
		return o
	case o.n == 0:
		return m
	}
	n := float64(m.n + o.n)
	if !finite(m.mean) || !finite(o.mean) {
		return moment{m.n + o.n, m.mean + o.mean, math.NaN()}
	}
	delta := o.mean - m.mean
	share := float64(o.n) / n
	return moment{m.n + o.n, m.mean + delta*share, m.m2 + o.m2 + delta*delta*float64(m.n)*share}
}

func finite(v float64) bool { return v-v == 0 }

func (c *moments) size() int64 { return c.cells.size }

func (c *moments) add(series, bucket int, s sample) {
	cell := c.at(series, bucket)
	*cell = cell.with(s.value)
}

func (c *moments) addMany(int, int, int64, float64) { panic("moments look at every row") }

func (c *moments) merge(from accumulator, to []int) {
	mergeCells(&c.cells, &from.(*moments).cells, to, moment.join)
}

func (c *moments) result(_ context.Context, series int, w *windows) column {
	out := newColumn(int(w.points))
	slide(strips(&c.cells, series), w, moment.join, func(i int, v moment) {
		if v.n > 0 {
			out.set(i, c.value(v))
		}
	})
	return out
}
