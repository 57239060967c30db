package engine

import (
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/scan"
)

// vector is the value of a metric expression over the grid: a number that is the same
// at every step, or series. The order of series matters after sort, and where ties are
// broken by the earlier one.
type vector struct {
	scalar bool
	value  float64
	series []scan.Series
}

// merger collects result series, so that those with equal labels become one. At a step
// where several have a sample, the first wins.
type merger struct {
	points int
	series []scan.Series
	byHash map[uint64][]int
}

func newMerger(points int) *merger { return &merger{points: points, byHash: map[uint64][]int{}} }

// get returns the series with the labels, adding an empty one when it is new.
func (m *merger) get(l labels.Labels) *scan.Series { return &m.series[m.index(l)] }

// index is the position of the series that get returns.
func (m *merger) index(l labels.Labels) int {
	h := l.Hash()
	for _, i := range m.byHash[h] {
		if labels.Equal(m.series[i].Labels, l) {
			return i
		}
	}
	m.byHash[h] = append(m.byHash[h], len(m.series))
	m.series = append(m.series, newSeries(l, m.points))
	return len(m.series) - 1
}

// add puts a whole series in.
func (m *merger) add(s scan.Series) {
	into := m.get(s.Labels)
	for i := range m.points {
		if s.Present.Has(i) && !into.Present.Has(i) {
			into.Values[i] = s.Values[i]
			into.Present.Set(i)
		}
	}
}

func newSeries(l labels.Labels, points int) scan.Series {
	return scan.Series{Labels: l, Values: make([]float64, points), Present: model.NewBitmap(points)}
}

// compacted drops series without samples.
func compacted(series []scan.Series) []scan.Series {
	return slices.DeleteFunc(series, func(s scan.Series) bool { return !some(s.Present) })
}

func some(b model.Bitmap) bool {
	for _, w := range b {
		if w != 0 {
			return true
		}
	}
	return false
}

func sortByLabels(series []scan.Series) {
	slices.SortStableFunc(series, func(a, b scan.Series) int { return labels.Compare(a.Labels, b.Labels) })
}
