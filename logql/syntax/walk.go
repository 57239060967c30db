package syntax

// Walk calls visit for e and, as long as visit returns true, for the expressions below
// it: parents first, left to right. The LogExpr of a range aggregation is visited too.
func Walk(e Expr, visit func(Expr) bool) {
	if !visit(e) {
		return
	}
	switch e := e.(type) {
	case *RangeAgg:
		Walk(&e.Range.Log, visit)
	case *VectorAgg:
		Walk(e.Expr, visit)
	case *BinOp:
		Walk(e.LHS, visit)
		Walk(e.RHS, visit)
	case *LabelReplace:
		Walk(e.Expr, visit)
	case *Variants:
		for _, x := range e.Exprs {
			Walk(x, visit)
		}
		Walk(&e.Of.Log, visit)
	}
}

// LogExprs returns every selector with its pipeline in e, in the order written.
func LogExprs(e Expr) []*LogExpr {
	var list []*LogExpr
	Walk(e, func(e Expr) bool {
		if log, ok := e.(*LogExpr); ok {
			list = append(list, log)
		}
		return true
	})
	return list
}

// RangeAggs returns every range aggregation in e, in the order written.
func RangeAggs(e Expr) []*RangeAgg {
	var list []*RangeAgg
	Walk(e, func(e Expr) bool {
		if agg, ok := e.(*RangeAgg); ok {
			list = append(list, agg)
		}
		return true
	})
	return list
}

// Walk calls visit for f and for the filters that it joins.
func (s *LabelFilter) Walk(visit func(*LabelFilter)) {
	visit(s)
	if s.Binary != nil {
		s.Binary.Left.Walk(visit)
		s.Binary.Right.Walk(visit)
	}
}
