package engine

import (
	"fmt"
	"math"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// arithmetic computes an operator on two numbers; for comparisons, whether it holds.
// Division by zero is NaN, unlike PromQL's infinities.
func arithmetic(op string) (calc func(a, b float64) float64, compare func(a, b float64) bool, err error) {
	switch op {
	case "+":
		calc = func(a, b float64) float64 { return a + b }
	case "-":
		calc = func(a, b float64) float64 { return a - b }
	case "*":
		calc = func(a, b float64) float64 { return a * b }
	case "/":
		calc = func(a, b float64) float64 {
			if b == 0 {
				return math.NaN()
			}
			return a / b
		}
	case "%":
		calc = func(a, b float64) float64 {
			if b == 0 {
				return math.NaN()
			}
			return math.Mod(a, b)
		}
	case "^":
		calc = math.Pow
	case "==":
		compare = func(a, b float64) bool { return a == b }
	case "!=":
		compare = func(a, b float64) bool { return a != b }
	case ">":
		compare = func(a, b float64) bool { return a > b }
	case ">=":
		compare = func(a, b float64) bool { return a >= b }
	case "<":
		compare = func(a, b float64) bool { return a < b }
	case "<=":
		compare = func(a, b float64) bool { return a <= b }
	default:
		err = fmt.Errorf("unknown binary operator %q", op)
	}
	return calc, compare, err
}

// binary evaluates an operator on the values of its two sides.
func binary(e *syntax.BinOp, lhs, rhs vector, points int) (vector, error) {
	switch e.Op {
	case "and", "or", "unless":
		for _, side := range []struct {
			name string
			v    vector
		}{{"left", lhs}, {"right", rhs}} {
			if side.v.scalar {
				return vector{}, fault.New(fault.Invalid, "parse error : unexpected literal for %s leg of logical/set binary operation (%s): %f", side.name, e.Op, side.v.value)
			}
		}
		return vector{series: combineSets(e, lhs.series, rhs.series, points)}, nil
	}
	calc, compare, err := arithmetic(e.Op)
	if err != nil {
		return vector{}, err
	}
	op := operator{calc, compare, e.ReturnBool}
	switch {
	case lhs.scalar && rhs.scalar:
		op.bool = true
		v, _ := op.apply(lhs.value, rhs.value)
		return vector{scalar: true, value: v}, nil
	case lhs.scalar:
		return vector{series: op.withScalar(rhs.series, lhs.value, true)}, nil
	case rhs.scalar:
		return vector{series: op.withScalar(lhs.series, rhs.value, false)}, nil
	}
	series, err := match(e.Matching, op, lhs.series, rhs.series, points)
	return vector{series: series}, err
}

// operator is an arithmetic operator or a comparison; bool asks comparisons for 0 or 1
// instead of filtering.
type operator struct {
	calc    func(a, b float64) float64
	compare func(a, b float64) bool
	bool    bool
}

// apply returns the result and whether there is one. A comparison that filters returns
// the left value.
func (o operator) apply(a, b float64) (float64, bool) {
	switch {
	case o.calc != nil:
		return o.calc(a, b), true
	case o.bool && o.compare(a, b):
		return 1, true
	case o.bool:
		return 0, true
	}
	return a, o.compare(a, b)
}

// withScalar applies the operator to every sample and a number. A comparison that
// filters keeps the sample's value, on whichever side it stands.
func (o operator) withScalar(in []scan.Series, scalar float64, scalarLeft bool) []scan.Series {
	out := make([]scan.Series, 0, len(in))
	for _, s := range in {
		r := newSeries(s.Labels, len(s.Values))
		for i, v := range s.Values {
			if !s.Present.Has(i) {
				continue
			}
			a, b := v, scalar
			if scalarLeft {
				a, b = scalar, v
			}
			result, ok := o.apply(a, b)
			if !ok {
				continue
			}
			if o.calc == nil && !o.bool {
				result = v
			}
			r.Values[i] = result
			r.Present.Set(i)
		}
		out = append(out, r)
	}
	return compacted(out)
}

// combineSets evaluates and, or and unless.
func combineSets(e *syntax.BinOp, lhs, rhs []scan.Series, points int) []scan.Series {
	sig := newSignatures(e.Matching)
	out := newMerger(points)
	switch e.Op {
	case "and", "unless":
		partners := sig.presence(rhs, points)
		for _, s := range lhs {
			r := scan.Series{Labels: s.Labels, Values: s.Values, Present: make(model.Bitmap, len(s.Present))}
			partner := partners[sig.of(s.Labels)]
			for w := range s.Present {
				var p uint64
				if partner != nil {
					p = partner[w]
				}
				if e.Op == "unless" {
					p = ^p
				}
				r.Present[w] = s.Present[w] & p
			}
			out.add(r)
		}
	case "or":
		left := sig.presence(lhs, points)
		for _, s := range lhs {
			out.add(s)
		}
		for _, s := range rhs {
			r := scan.Series{Labels: s.Labels, Values: s.Values, Present: make(model.Bitmap, len(s.Present))}
			taken := left[sig.of(s.Labels)]
			for w := range s.Present {
				r.Present[w] = s.Present[w]
				if taken != nil {
					r.Present[w] &^= taken[w]
				}
			}
			out.add(r)
		}
	}
	return compacted(out.series)
}
