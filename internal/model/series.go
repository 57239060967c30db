package model

import "github.com/prometheus/prometheus/model/labels"

// MergeSeries merges lists that are sorted by labels. Descriptions of one stream are added
// up. The lists are not to be used afterwards.
func MergeSeries(lists [][]Series) []Series {
	return FoldSeries(lists, func(m, s *Series) {
		m.Entries += s.Entries
		m.Bytes += s.Bytes
		m.Blocks += s.Blocks
	})
}

// FoldSeries is MergeSeries with another way to join the counts of equal streams: fold adds
// those of s to m. It merges halves first, so that each series is compared about as often as
// the number of lists has binary digits.
func FoldSeries(lists [][]Series, fold func(m, s *Series)) []Series {
	switch len(lists) {
	case 0:
		return nil
	case 1:
		return lists[0]
	}
	half := len(lists) / 2
	a, b := FoldSeries(lists[:half], fold), FoldSeries(lists[half:], fold)
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]Series, 0, max(len(a), len(b)))
	for len(a) > 0 && len(b) > 0 {
		c := labels.Compare(a[0].Labels, b[0].Labels)
		if c > 0 {
			out, b = append(out, b[0]), b[1:]
			continue
		}
		out, a = append(out, a[0]), a[1:]
		if c == 0 {
			m := &out[len(out)-1]
			fold(m, &b[0])
			m.First, m.Last = min(m.First, b[0].First), max(m.Last, b[0].Last)
			b = b[1:]
		}
	}
	return append(append(out, a...), b...)
}
