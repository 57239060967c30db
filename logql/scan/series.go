package scan

import (
	"github.com/prometheus/prometheus/model/labels"
)

// seriesTable numbers the series that a worker meets. A series is known by the hash of
// its labels, as streams are everywhere; 64 bits leave no room for accidents.
type seriesTable struct {
	ids    map[uint64]int
	labels []labels.Labels
	hashes []uint64
	size   int64
}

func newSeriesTable() *seriesTable { return &seriesTable{ids: map[uint64]int{}} }

// seriesOverhead is what a series costs besides the text of its labels: the entry of the
// map and of the slices.
const seriesOverhead = 64

// id returns the number of the series with the hash; labels is asked when it is new.
func (t *seriesTable) id(hash uint64, labels func() labels.Labels) int {
	if id, ok := t.ids[hash]; ok {
		return id
	}
	return t.insert(hash, labels())
}

func (t *seriesTable) insert(hash uint64, l labels.Labels) int {
	id := len(t.labels)
	t.ids[hash] = id
	t.labels = append(t.labels, l)
	t.hashes = append(t.hashes, hash)
	t.size += seriesOverhead
	l.Range(func(l labels.Label) { t.size += int64(len(l.Name) + len(l.Value) + 2) })
	return id
}

// adopt gives every series of from a number here.
func (t *seriesTable) adopt(from *seriesTable) []int {
	to := make([]int, len(from.labels))
	for i, h := range from.hashes {
		to[i] = t.id(h, func() labels.Labels { return from.labels[i] })
	}
	return to
}
