package engine

import (
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// grouper maps a series' labels to the labels of its group.
type grouper struct {
	without bool
	names   []string
	builder *labels.Builder       // for without
	kept    labels.ScratchBuilder // for by
}

func newGrouper(g *syntax.Grouping) *grouper {
	out := &grouper{builder: labels.NewBuilder(labels.EmptyLabels())}
	if g == nil {
		return out
	}
	out.without, out.names = g.Without, slices.Clone(g.Labels)
	if out.without {
		out.names = append(out.names, labels.MetricName)
	}
	return out
}

// labels returns what is left of l.
func (g *grouper) labels(l labels.Labels) labels.Labels {
	if !g.without && len(g.names) == 0 {
		return labels.EmptyLabels()
	}
	if !g.without {
		g.kept.Reset()
		l.Range(func(l labels.Label) {
			if slices.Contains(g.names, l.Name) {
				g.kept.Add(l.Name, l.Value) // with an empty value too, as Loki does
			}
		})
		return g.kept.Labels()
	}
	g.builder.Reset(l)
	g.builder.Del(g.names...)
	return g.builder.Labels()
}

// aggregate evaluates sum, avg, min, max, count, stddev and stdvar.
func aggregate(op string, g *syntax.Grouping, in []scan.Series, points int) ([]scan.Series, error) {
	step, finish, err := aggregation(op)
	if err != nil {
		return nil, err
	}
	by, groups := newGrouper(g), newMerger(points)
	var states [][]state
	for _, s := range in {
		group := groups.index(by.labels(s.Labels))
		if group == len(states) {
			states = append(states, make([]state, points))
		}
		st := states[group]
		for i, v := range s.Values {
			if s.Present.Has(i) {
				st[i].n++
				step(&st[i], v)
			}
		}
	}
	for gi := range groups.series {
		out := &groups.series[gi]
		for i, st := range states[gi] {
			if st.n > 0 {
				out.Values[i] = finish(st)
				out.Present.Set(i)
			}
		}
	}
	return groups.series, nil
}

// state is an aggregation at one step.
type state struct {
	n       int64
	value   float64 // the sum, the extreme, or the mean
	squares float64 // the sum of squared deviations
}

// aggregation returns how a sample enters the state, of which n already counts it, and
// what the state amounts to.
func aggregation(op string) (step func(*state, float64), finish func(state) float64, err error) {
	value := func(s state) float64 { return s.value }
	switch op {
	case "sum":
		return func(s *state, v float64) { s.value += v }, value, nil
	case "count":
		return func(*state, float64) {}, func(s state) float64 { return float64(s.n) }, nil
	case "min":
		return func(s *state, v float64) {
			if s.n == 1 || v < s.value || math.IsNaN(s.value) {
				s.value = v
			}
		}, value, nil
	case "max":
		return func(s *state, v float64) {
			if s.n == 1 || v > s.value || math.IsNaN(s.value) {
				s.value = v
			}
		}, value, nil
	case "avg":
		return mean, value, nil
	case "stdvar":
		return deviate, func(s state) float64 { return s.squares / float64(s.n) }, nil
	case "stddev":
		return deviate, func(s state) float64 { return math.Sqrt(s.squares / float64(s.n)) }, nil
	}
	return nil, nil, fmt.Errorf("unknown vector aggregation %q", op)
}

// mean keeps a running mean. An infinite mean stays as it is unless the opposite
// infinity or NaN comes.
func mean(s *state, v float64) {
	if s.n == 1 {
		s.value = v
		return
	}
	if math.IsInf(s.value, 0) {
		if math.IsInf(v, 0) && (v > 0) == (s.value > 0) || !math.IsInf(v, 0) && !math.IsNaN(v) {
			return
		}
	}
	s.value += (v - s.value) / float64(s.n)
}

func deviate(s *state, v float64) {
	if s.n == 1 {
		s.value = v
		return
	}
	delta := v - s.value
	s.value += delta / float64(s.n)
	s.squares += delta * (v - s.value)
}

// selectK evaluates topk and bottomk: at each step, the k largest or smallest samples of
// each group, with their own labels. NaN ranks last, and of equal values the earlier
// series wins. When ordered, for an instant query, the series of a group come out in
// order of value.
func selectK(largest bool, k int, g *syntax.Grouping, in []scan.Series, points int, ordered bool) []scan.Series {
	if k < 1 {
		return nil
	}
	by := newGrouper(g)
	var order []uint64
	groups := map[uint64][]int{}
	for i, s := range in {
		h := by.labels(s.Labels).Hash()
		if _, ok := groups[h]; !ok {
			order = append(order, h)
		}
		groups[h] = append(groups[h], i)
	}
	out := make([]scan.Series, 0, len(in))
	for _, h := range order {
		members := groups[h]
		chosen := make([]scan.Series, len(members))
		for m, i := range members {
			chosen[m] = newSeries(in[i].Labels, points)
		}
		ranked := make([]int, 0, len(members))
		for p := range points {
			ranked = ranked[:0]
			for m, i := range members {
				if in[i].Present.Has(p) {
					ranked = append(ranked, m)
				}
			}
			slices.SortStableFunc(ranked, func(a, b int) int {
				return compareValues(in[members[a]].Values[p], in[members[b]].Values[p], largest)
			})
			for _, m := range ranked[:min(k, len(ranked))] {
				chosen[m].Values[p] = in[members[m]].Values[p]
				chosen[m].Present.Set(p)
			}
		}
		chosen = compacted(chosen)
		if ordered {
			sortByValue(chosen, largest)
		}
		out = append(out, chosen...)
	}
	return out
}

// compareValues orders numbers, descending or ascending, with NaN last either way.
func compareValues(a, b float64, descending bool) int {
	switch {
	case math.IsNaN(a) || math.IsNaN(b):
		if math.IsNaN(a) && math.IsNaN(b) {
			return 0
		}
		if math.IsNaN(a) {
			return 1
		}
		return -1
	case a == b:
		return 0
	case (a < b) != descending:
		return -1
	}
	return 1
}

// sortByValue orders the series of an instant vector, which have one point each.
func sortByValue(series []scan.Series, descending bool) {
	slices.SortStableFunc(series, func(a, b scan.Series) int {
		return compareValues(a.Values[0], b.Values[0], descending)
	})
}
