package syntax

import "math"

// binaryModifier parses bool, on, ignoring, group_left and group_right.
func (p *parser) binaryModifier(b *BinOp) {
	b.ReturnBool = p.accept(tokBool)
	k := p.peek().kind
	if k != tokOn && k != tokIgnoring {
		return
	}
	p.next()
	p.expect(tokOpenParen, "(")
	m := &VectorMatching{On: k == tokOn, Labels: p.labelList()}
	switch p.peek().kind {
	case tokGroupLeft:
		m.Group = "left"
	case tokGroupRight:
		m.Group = "right"
	}
	if m.Group != "" {
		p.next()
		if p.accept(tokOpenParen) {
			m.Include = p.labelList()
		}
	}
	if !m.On && len(m.Labels) == 0 && m.Group == "" {
		return // ignoring () is what happens anyway
	}
	b.Matching = m
}

// typeInMessages is the name by which messages call an expression that yields no samples.
func typeInMessages(e Expr) string {
	switch e := e.(type) {
	case *LogExpr:
		if len(e.Stages) == 0 {
			return "*syntax.MatchersExpr"
		}
		return "*syntax.PipelineExpr"
	default:
		return "*syntax.MultiVariantExpr"
	}
}

// binary finishes b with its operands. Two literals become one.
func (p *parser) binary(b *BinOp, left, right Expr) MetricExpr {
	var ok bool
	if b.LHS, ok = sampleExpr(left); !ok {
		return p.later(b, "unexpected type for left leg of binary operation (%s): %s", b.Op, typeInMessages(left))
	}
	if b.RHS, ok = sampleExpr(right); !ok {
		return p.later(b, "unexpected type for right leg of binary operation (%s): %s", b.Op, typeInMessages(right))
	}
	l, lok := left.(*Literal)
	r, rok := right.(*Literal)
	for _, lit := range []*Literal{l, r} {
		if err := p.deferred[lit]; lit != nil && err != nil {
			p.deferred[b] = err
			return b
		}
	}
	if b.Set() {
		if lok {
			return p.later(b, "unexpected literal for left leg of logical/set binary operation (%s): %f", b.Op, l.Value)
		}
		if rok {
			return p.later(b, "unexpected literal for right leg of logical/set binary operation (%s): %f", b.Op, r.Value)
		}
	}
	if lok && rok {
		return &Literal{Value: Arithmetic(b.Op, l.Value, r.Value)}
	}
	return b
}

// Set reports whether the operator works on sets of series: and, or, unless.
func (b *BinOp) Set() bool { return b.Op == "and" || b.Op == "or" || b.Op == "unless" }

// Comparison reports whether the operator compares.
func (b *BinOp) Comparison() bool {
	switch b.Op {
	case "==", "!=", ">", ">=", "<", "<=":
		return true
	}
	return false
}

// Arithmetic applies an arithmetic operator, or a comparison as 1 and 0, to two numbers.
// A division by zero is not a number.
func Arithmetic(op string, l, r float64) float64 {
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	switch op {
	case "+":
		return l + r
	case "-":
		return l - r
	case "*":
		return l * r
	case "/":
		if r == 0 {
			return math.NaN()
		}
		return l / r
	case "%":
		return math.Mod(l, r)
	case "^":
		return math.Pow(l, r)
	case "==":
		return truth(l == r)
	case "!=":
		return truth(l != r)
	case ">":
		return truth(l > r)
	case ">=":
		return truth(l >= r)
	case "<":
		return truth(l < r)
	case "<=":
		return truth(l <= r)
	}
	panic("syntax: no arithmetic operator: " + op)
}
