package syntax

import "github.com/prometheus/prometheus/model/labels"

// validate checks what the grammar does not, in the order in which users get to see it:
// an expression before its operands, left before right.
func validate(e Expr, deferred map[MetricExpr]error) error {
	v := validator{deferred}
	switch e := e.(type) {
	case *LogExpr:
		return checkMatchers(e.Matchers)
	case *Variants:
		if err := checkMatchers(e.Of.Log.Matchers); err != nil {
			return err
		}
		for _, x := range e.Exprs {
			if err := v.metric(x); err != nil {
				return err
			}
		}
	case MetricExpr:
		return v.metric(e)
	}
	return nil
}

type validator struct{ deferred map[MetricExpr]error }

func (v validator) metric(e MetricExpr) error {
	if err := v.deferred[e]; err != nil {
		return err
	}
	switch e := e.(type) {
	case *RangeAgg:
		return checkMatchers(e.Range.Log.Matchers)
	case *VectorAgg:
		if (e.Op == "sort" || e.Op == "sort_desc") && e.Grouping != nil && len(e.Grouping.Labels) > 0 {
			return Errorf("sort and sort_desc doesn't allow grouping by ")
		}
		return v.metric(e.Expr)
	case *LabelReplace:
		return v.metric(e.Expr)
	case *BinOp:
		if err := v.metric(e.LHS); err != nil {
			return err
		}
		return v.metric(e.RHS)
	}
	return nil
}

// checkPlan refuses sums, averages and counts of numbers: Loki misses the selector when it plans these.
func checkPlan(e Expr) (err error) {
	Walk(e, func(e Expr) bool {
		if agg, ok := e.(*VectorAgg); ok && (agg.Op == "sum" || agg.Op == "avg" || agg.Op == "count") {
			if _, number := agg.Expr.(*Literal); number {
				err = Errorf("%s", errEmptySelector)
			}
		}
		return err == nil
	})
	return err
}

// checkMatchers refuses selectors that could select every stream.
func checkMatchers(matchers []*labels.Matcher) error {
	for _, m := range matchers {
		if !m.Matches("") {
			return nil
		}
	}
	return Errorf("%s", errEmptySelector)
}
