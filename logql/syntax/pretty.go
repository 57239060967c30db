package syntax

import (
	"fmt"
	"strings"
)

const (
	// prettyWidth is the longest canonical form, in bytes, that stays on one line.
	prettyWidth = 100
	// maxIndent bounds the indentation, which otherwise makes the text of a long chain of
	// operators grow with its square.
	maxIndent = 100
)

func indent(level int) string { return strings.Repeat("  ", min(level, maxIndent)) }

// Pretty returns the form of format_query. What is longer than a line is split: a stage
// on each line, an operator between its operands, arguments between parentheses.
func (e *LogExpr) Pretty(level int) string {
	if len(e.Stages) == 0 || fits(e, prettyWidth) {
		return indent(level) + e.String()
	}
	lines := []string{indent(level) + MatchersString(e.Matchers)}
	for stages := e.Stages; len(stages) > 0; {
		filters := leadingLineFilters(stages)
		if len(filters) > 0 {
			lines = append(lines, prettyLineFilters(filters, level+1)...)
			stages = stages[len(filters):]
			continue
		}
		if _, ok := stages[0].(*Decolorize); ok {
			lines = append(lines, stages[0].String()) // never indented
		} else {
			lines = append(lines, indent(level+1)+stages[0].String())
		}
		stages = stages[1:]
	}
	return strings.Join(lines, "\n")
}

func leadingLineFilters(stages []Stage) []Stage {
	for i, s := range stages {
		if _, ok := s.(*LineFilter); !ok {
			return stages[:i]
		}
	}
	return stages
}

// prettyLineFilters puts as many filters as fit on the first line, and each other on
// its own.
func prettyLineFilters(filters []Stage, level int) []string {
	lines := []string{filters[0].String()}
	for _, f := range filters[1:] {
		s := f.String()
		if len(lines) == 1 && len(lines[0])+1+len(s) <= prettyWidth {
			lines[0] += " " + s
		} else {
			lines = append(lines, s)
		}
	}
	for i := range lines {
		lines[i] = indent(level) + lines[i]
	}
	return lines
}

// Pretty returns the form of a range aggregation's argument.
func (r *LogRange) Pretty(level int) string {
	s := r.Log.Pretty(level)
	if u := r.Unwrap; u != nil {
		in := "\n" + indent(level+1)
		var p printer
		u.printConversion(&p)
		s += in + string(p.buf)
		for _, f := range u.Filters {
			s += in + f.String()
		}
	}
	s += " [" + durationText(r.Range) + "]"
	if r.Offset != 0 {
		s += " offset " + durationText(r.Offset)
	}
	return s
}

// Pretty returns the form of format_query.
func (e *RangeAgg) Pretty(level int) string {
	in := indent(level)
	if fits(e, prettyWidth) {
		return in + e.String()
	}
	s := in + e.Op + "(\n"
	if e.Param != nil {
		s += indent(level+1) + fmt.Sprint(*e.Param) + ",\n"
	}
	return s + e.Range.Pretty(level+1) + "\n" + in + ")" + e.Grouping.pretty()
}

func (g *Grouping) pretty() string {
	if g == nil {
		return ""
	}
	var p printer
	g.print(&p, ", ")
	return string(p.buf)
}

// Pretty returns the form of format_query.
func (e *VectorAgg) Pretty(level int) string {
	in := indent(level)
	if fits(e, prettyWidth) {
		return in + e.String()
	}
	s := in + e.Op + e.Grouping.pretty() + "(\n"
	if e.Param != nil {
		s += indent(level+1) + e.param() + ",\n"
	}
	return s + e.Expr.Pretty(level+1) + "\n" + in + ")"
}

// Pretty returns the form of format_query.
func (e *BinOp) Pretty(level int) string {
	if fits(e, prettyWidth) {
		return indent(level) + e.String()
	}
	var op printer
	e.printOperator(&op, ", ")
	return e.prettyOperand(e.LHS, false, level+1) + "\n" + indent(level) + string(op.buf) + "\n" +
		e.prettyOperand(e.RHS, true, level+1)
}

// prettyOperand puts parentheses around an operation that would otherwise be torn apart,
// because a split operation has none.
func (e *BinOp) prettyOperand(operand MetricExpr, right bool, level int) string {
	child, ok := operand.(*BinOp)
	if !ok || fits(child, prettyWidth) {
		return operand.Pretty(level)
	}
	outer, inner := keywords[e.Op].binaryPrecedence(), keywords[child.Op].binaryPrecedence()
	toRight := e.Op == "^"
	if inner > outer || inner == outer && right == toRight {
		return operand.Pretty(level)
	}
	return indent(level) + "(\n" + operand.Pretty(level+1) + "\n" + indent(level) + ")"
}

// Pretty returns the form of format_query.
func (e *Literal) Pretty(level int) string { return indent(level) + e.String() }

// Pretty returns the form of format_query.
func (e *VectorLiteral) Pretty(level int) string { return indent(level) + e.String() }

// Pretty returns the form of format_query.
func (e *LabelReplace) Pretty(level int) string {
	in := indent(level)
	if fits(e, prettyWidth) {
		return in + e.String()
	}
	args := []string{e.Expr.Pretty(level + 1)}
	for _, s := range []string{e.Dst, e.Replacement, e.Src, e.Regex} {
		args = append(args, fmt.Sprintf("%s%q", indent(level+1), s))
	}
	return in + "label_replace(\n" + strings.Join(args, ",\n") + "\n" + in + ")"
}

// Pretty returns the form of format_query.
func (e *Variants) Pretty(level int) string {
	in := indent(level)
	args := make([]string, len(e.Exprs))
	for i, x := range e.Exprs {
		args[i] = x.Pretty(level + 1)
	}
	return in + "variants(\n" + strings.Join(args, ",\n") + "\n" + in + ") of (\n" +
		e.Of.Pretty(level+1) + in + "\n)"
}
