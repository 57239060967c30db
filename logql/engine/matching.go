package engine

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// signatures computes what two series must have in common to match.
type signatures struct {
	on      bool
	names   []string
	builder *labels.Builder
}

func newSignatures(m *syntax.VectorMatching) *signatures {
	s := &signatures{builder: labels.NewBuilder(labels.EmptyLabels())}
	if m != nil {
		s.on, s.names = m.On, m.Labels
	}
	return s
}

// of is the hash of the labels that take part in matching.
func (s *signatures) of(l labels.Labels) uint64 {
	if !s.on && len(s.names) == 0 {
		return l.Hash()
	}
	return s.kept(l).Hash()
}

// kept are the labels that take part in matching.
func (s *signatures) kept(l labels.Labels) labels.Labels {
	s.builder.Reset(l)
	if s.on {
		s.builder.Keep(s.names...)
	} else {
		s.builder.Del(s.names...)
	}
	return s.builder.Labels()
}

// presence tells, by signature, at which steps there is a sample.
func (s *signatures) presence(series []scan.Series, points int) map[uint64]model.Bitmap {
	out := map[uint64]model.Bitmap{}
	for _, x := range series {
		h := s.of(x.Labels)
		b := out[h]
		if b == nil {
			b = model.NewBitmap(points)
			out[h] = b
		}
		for w := range x.Present {
			b[w] |= x.Present[w]
		}
	}
	return out
}

// The refusals of vector matching. They are decided per step, from the samples that are
// there, as Loki decides them; so a query may fail at one time and work at another.
const (
	duplicateSide = "found duplicate series on the %s hand-side;many-to-many matching not allowed: matching labels must be unique on one side"
	manyToOne     = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
	notUnique     = "multiple matches for labels: grouping labels must ensure unique matches"
)

// matcher holds what is the same for all pairs of one operation.
type matcher struct {
	*signatures
	op      operator
	group   string
	include []string
	points  int
	out     *merger
}

// match evaluates an operator between the series of two sides.
func match(m *syntax.VectorMatching, op operator, lhs, rhs []scan.Series, points int) ([]scan.Series, error) {
	x := matcher{signatures: newSignatures(m), op: op, points: points, out: newMerger(points)}
	if m != nil {
		x.group, x.include = m.Group, m.Include
	}
	many, one := lhs, rhs
	side := "right"
	if x.group == "right" {
		many, one, side = rhs, lhs, "left"
	}
	ones := map[uint64][]scan.Series{}
	for _, s := range one {
		h := x.of(s.Labels)
		ones[h] = append(ones[h], s)
	}
	for _, same := range ones {
		if overlap(same, points) {
			return nil, fault.New(fault.Internal, duplicateSide, side)
		}
	}
	// taken remembers, for each signature (and result labels, in many-to-one matching),
	// the steps that already have a match.
	taken := map[[2]uint64]model.Bitmap{}
	for _, s := range many {
		h := x.of(s.Labels)
		for _, partner := range ones[h] {
			result := x.labels(s.Labels, partner.Labels)
			key := [2]uint64{h, 0}
			if x.group != "" {
				key[1] = result.Hash()
			}
			if taken[key] == nil {
				taken[key] = model.NewBitmap(points)
			}
			if err := x.pair(s, partner, result, taken[key]); err != nil {
				return nil, err
			}
		}
	}
	return compacted(x.out.series), nil
}

// pair evaluates the steps at which both series have a sample.
func (x *matcher) pair(many, one scan.Series, result labels.Labels, taken model.Bitmap) error {
	var out *scan.Series
	for i := range x.points {
		if !many.Present.Has(i) || !one.Present.Has(i) {
			continue
		}
		if taken.Has(i) {
			if x.group == "" {
				return fault.New(fault.Internal, manyToOne)
			}
			return fault.New(fault.Internal, notUnique)
		}
		taken.Set(i)
		a, b := many.Values[i], one.Values[i]
		if x.group == "right" {
			a, b = b, a
		}
		v, ok := x.op.apply(a, b)
		if !ok {
			continue
		}
		if out == nil {
			out = x.out.get(result)
		}
		if !out.Present.Has(i) {
			out.Values[i] = v
			out.Present.Set(i)
		}
	}
	return nil
}

// labels are those of a result: of the many side with the included labels of the one
// side or, when one matches one, those that take part in matching.
func (x *matcher) labels(many, one labels.Labels) labels.Labels {
	if x.group == "" {
		return x.kept(many)
	}
	x.builder.Reset(many)
	for _, name := range x.include {
		if v := one.Get(name); v != "" {
			x.builder.Set(name, v)
		} else {
			x.builder.Del(name)
		}
	}
	return x.builder.Labels()
}

// overlap reports whether two of the series have a sample at the same step.
func overlap(series []scan.Series, points int) bool {
	if len(series) < 2 {
		return false
	}
	seen := model.NewBitmap(points)
	for _, s := range series {
		for w := range seen {
			if seen[w]&s.Present[w] != 0 {
				return true
			}
			seen[w] |= s.Present[w]
		}
	}
	return false
}
