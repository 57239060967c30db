package model

import "github.com/prometheus/prometheus/model/labels"

// MergeSeries merges lists that are sorted by labels, halves first, so that each series is
// compared about as often as the number of lists has binary digits. Descriptions of one
// stream are added up. The lists are not to be used afterwards.
// as often as the number of lists has binary digits.
func MergeSeries(lists [][]Series) []Series {
	switch len(lists) {
	case 0:
		return nil
	case 1:
		return lists[0]
	}
	half := len(lists) / 2
	a, b := MergeSeries(lists[:half]), MergeSeries(lists[half:])
	out := make([]Series, 0, max(len(a), len(b)))
	for len(a) > 0 && len(b) > 0 {
		switch c := labels.Compare(a[0].Labels, b[0].Labels); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out = append(out, Series{
				Labels:  a[0].Labels,
				Entries: a[0].Entries + b[0].Entries,
				Bytes:   a[0].Bytes + b[0].Bytes,
				Blocks:  a[0].Blocks + b[0].Blocks,
				First:   min(a[0].First, b[0].First),
				Last:    max(a[0].Last, b[0].Last),
			})
			a, b = a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}
