package syntax

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// printer collects a canonical form. With a limit it stops when the text gets longer,
// so that asking whether a tree fits on a line does not cost its whole text.
type printer struct {
	buf   []byte
	limit int  // 0: none
	over  bool // the text is longer than limit, buf is useless
}

// printable is what has a canonical form.
type printable interface{ print(p *printer) }

func text(n printable) string {
	var p printer
	n.print(&p)
	return string(p.buf)
}

// fits reports whether the canonical form has at most limit bytes.
func fits(n printable, limit int) bool {
	p := printer{limit: limit}
	n.print(&p)
	return !p.over
}

func (p *printer) write(parts ...string) {
	for _, s := range parts {
		if p.over {
			return
		}
		p.buf = append(p.buf, s...)
		p.over = p.limit > 0 && len(p.buf) > p.limit
	}
}

func (p *printer) quote(s string) {
	if !p.over {
		p.write(strconv.Quote(s))
	}
}

// String returns the canonical form.
func (e *LogExpr) String() string       { return text(e) }
func (e *RangeAgg) String() string      { return text(e) }
func (e *VectorAgg) String() string     { return text(e) }
func (e *BinOp) String() string         { return text(e) }
func (e *Literal) String() string       { return text(e) }
func (e *VectorLiteral) String() string { return text(e) }
func (e *LabelReplace) String() string  { return text(e) }
func (e *Variants) String() string      { return text(e) }
func (r *LogRange) String() string      { return text(r) }
func (u *Unwrap) String() string        { return text(u) }

func (e *LogExpr) print(p *printer) {
	p.write(MatchersString(e.Matchers))
	for _, s := range e.Stages {
		if p.over {
			return
		}
		p.write(" ")
		s.(printable).print(p)
	}
}

// MatchersString returns the canonical form of a selector.
func MatchersString(matchers []*labels.Matcher) string {
	var p printer
	p.write("{")
	for i, m := range matchers {
		if i > 0 {
			p.write(", ")
		}
		p.matcher(m)
	}
	p.write("}")
	return string(p.buf)
}

// matcher writes the name as it is: LogQL knows no quoted names.
func (p *printer) matcher(m *labels.Matcher) {
	p.name(m.Name)
	p.write(m.Type.String())
	p.quote(m.Value)
}

// name writes a label's name in front of an operator. Any character that means nothing
// else is a name, and this one must not become part of the operator.
func (p *printer) name(name string) {
	p.write(name)
	if name == "!" {
		p.write(" ")
	}
}

func (r *LogRange) print(p *printer) {
	r.Log.print(p)
	if r.Unwrap != nil {
		p.write(" ")
		r.Unwrap.print(p)
	}
	p.write("[", model.Duration(r.Range).String(), "]")
	if r.Offset != 0 {
		p.write(" offset ", r.Offset.String())
	}
}

func (u *Unwrap) print(p *printer) {
	u.printConversion(p)
	for _, f := range u.Filters {
		p.write(" ")
		f.print(p)
	}
}

func (u *Unwrap) printConversion(p *printer) {
	if u.Conversion == "" {
		p.write("| unwrap ", u.Label)
		return
	}
	p.write("| unwrap ", u.Conversion, "(", u.Label, ")")
}

func (g *Grouping) print(p *printer, sep string) {
	word := " by ("
	if g.Without {
		word = " without ("
	}
	p.write(word, strings.Join(g.Labels, sep), ")")
}

func (e *RangeAgg) print(p *printer) {
	p.write(e.Op, "(")
	if e.Param != nil {
		p.write(strconv.FormatFloat(*e.Param, 'f', -1, 64), ",")
	}
	e.Range.print(p)
	p.write(")")
	if e.Grouping != nil {
		e.Grouping.print(p, ",")
	}
}

func (e *VectorAgg) print(p *printer) {
	p.write(e.Op)
	if e.Grouping != nil {
		e.Grouping.print(p, ",")
	}
	p.write("(")
	if e.Param != nil {
		p.write(e.param(), ",")
	}
	p.child(e.Expr)
	p.write(")")
}

// param writes the parameter, which is a whole number.
func (e *VectorAgg) param() string { return strconv.FormatFloat(*e.Param, 'f', -1, 64) }

// child prints a subtree unless the text is too long already.
func (p *printer) child(e Expr) {
	if !p.over {
		e.(printable).print(p)
	}
}

func (e *BinOp) print(p *printer) {
	p.write("(")
	p.child(e.LHS)
	p.write(" ")
	e.printOperator(p, ",")
	p.write(" ")
	p.child(e.RHS)
	p.write(")")
}

// printOperator writes the operator and its modifiers. A clause without group modifier
// ends with a space.
func (e *BinOp) printOperator(p *printer, sep string) {
	p.write(e.Op)
	if e.ReturnBool {
		p.write(" bool")
	}
	m := e.Matching
	if m == nil {
		return
	}
	clause := " ignoring ("
	if m.On {
		clause = " on ("
	}
	p.write(clause, strings.Join(m.Labels, sep), ") ")
	if m.Group != "" {
		p.write("group_", m.Group)
	}
	if m.Include != nil {
		p.write(" (", strings.Join(m.Include, sep), ")")
	}
}

// print writes the numbers that have no literal as operations that fold to them. Zero
// has no sign, since -0 is read as a duration.
func (e *Literal) print(p *printer) {
	switch {
	case e.Value == 0:
		p.write("0")
	case math.IsNaN(e.Value):
		p.write("(0 / 0)")
	case math.IsInf(e.Value, 1):
		p.write("(1e+308 * 10)")
	case math.IsInf(e.Value, -1):
		p.write("(-1e+308 * 10)")
	default:
		p.write(strconv.FormatFloat(e.Value, 'g', -1, 64))
	}
}

// print writes six decimals, as many users have seen it, unless that loses some.
func (e *VectorLiteral) print(p *printer) {
	s := strconv.FormatFloat(e.Value, 'f', 6, 64)
	if back, err := strconv.ParseFloat(s, 64); err != nil || back != e.Value {
		s = strconv.FormatFloat(e.Value, 'g', -1, 64)
	}
	p.write("vector(", s, ")")
}

func (e *LabelReplace) print(p *printer) {
	p.write("label_replace(")
	p.child(e.Expr)
	for _, s := range []string{e.Dst, e.Replacement, e.Src, e.Regex} {
		p.write(",")
		p.quote(s)
	}
	p.write(")")
}

func (e *Variants) print(p *printer) {
	p.write("variants(")
	for i, x := range e.Exprs {
		if i > 0 {
			p.write(", ")
		}
		p.child(x)
	}
	p.write(") of (")
	e.Of.print(p)
	p.write(")")
}

func stripSpace(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

// durationText writes a duration without zero units where that notation, which knows
// nothing below a millisecond, can say it. Behind a sign only units of Go are read again.
func durationText(d time.Duration) string {
	if d%time.Millisecond != 0 {
		return d.String()
	}
	if d >= 0 {
		return model.Duration(d).String()
	}
	if text := "-" + model.Duration(-d).String(); !strings.ContainsAny(text, "dwy") {
		return text
	}
	return d.String()
}
