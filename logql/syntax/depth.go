package syntax

const tooDeep = "expression is nested too deeply (more than %d levels)"

// depth returns how deep the parser goes below an operand with e's canonical form.
func depth(e Expr) int {
	switch e := e.(type) {
	case *LogExpr:
		return logDepth(e, nil)
	case *RangeAgg:
		return logDepth(&e.Range.Log, e.Range.Unwrap)
	case *VectorAgg:
		return 1 + depth(e.Expr)
	case *LabelReplace:
		return 1 + depth(e.Expr)
	case *BinOp:
		d := 0
		if e.LHS != nil {
			d = 1 + depth(e.LHS)
		}
		if e.RHS != nil {
			d = max(d, 2+depth(e.RHS))
		}
		return d
	case *Variants:
		d := logDepth(&e.Of.Log, e.Of.Unwrap)
		for _, x := range e.Exprs {
			d = max(d, 1+depth(x))
		}
		return d
	case *Literal:
		return 2 // what is not a number is written as an operation
	}
	return 0
}

func logDepth(e *LogExpr, u *Unwrap) int {
	d := 0
	for _, s := range e.Stages {
		if f, ok := s.(*LabelFilter); ok {
			d = max(d, f.depth())
		}
	}
	if u != nil {
		for _, f := range u.Filters {
			d = max(d, f.depth())
		}
	}
	return d
}

func (s *LabelFilter) depth() int {
	if s.Binary == nil {
		return 0
	}
	return 1 + max(s.Binary.Left.depth(), s.Binary.Right.depth())
}
