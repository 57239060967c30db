package syntax

import (
	"regexp/syntax"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// String returns the canonical form, with the pipe.
func (s *LineFilter) String() string   { return text(s) }
func (s *JSONStage) String() string    { return text(s) }
func (s *LogfmtStage) String() string  { return text(s) }
func (s *RegexpStage) String() string  { return text(s) }
func (s *PatternStage) String() string { return text(s) }
func (s *UnpackStage) String() string  { return text(s) }
func (s *LineFormat) String() string   { return text(s) }
func (s *LabelFormat) String() string  { return text(s) }
func (s *Decolorize) String() string   { return text(s) }
func (s *DropStage) String() string    { return text(s) }
func (s *KeepStage) String() string    { return text(s) }
func (s *LabelFilter) String() string  { return text(s) }

func (s *LineFilter) print(p *printer) {
	joint := " or "
	if s.Op.Negative() {
		joint = " " + string(s.Op) + " "
	}
	p.write(string(s.Op), " ")
	for i, o := range s.Operands {
		if i > 0 {
			p.write(joint)
		}
		if o.IP {
			p.write("ip(")
			p.quote(o.Text)
			p.write(")")
		} else {
			p.quote(o.Text)
		}
	}
}

func (s *JSONStage) print(p *printer) {
	p.write("| json")
	p.extractions(s.Extract)
}

func (s *LogfmtStage) print(p *printer) {
	p.write("| logfmt")
	if s.Strict {
		p.write(" ", flagStrict)
	}
	if s.KeepEmpty {
		p.write(" ", flagKeepEmpty)
	}
	p.extractions(s.Extract)
}

func (p *printer) extractions(list []Extraction) {
	for i, x := range list {
		if i == 0 {
			p.write(" ")
		} else {
			p.write(",")
		}
		p.name(x.Name)
		p.write("=")
		p.quote(x.Expr)
	}
}

func (s *RegexpStage) print(p *printer) {
	p.write("| regexp ")
	p.quote(s.Regex)
}

func (s *PatternStage) print(p *printer) {
	p.write("| pattern ")
	p.quote(s.Pattern)
}

func (s *UnpackStage) print(p *printer) { p.write("| unpack") }

func (s *LineFormat) print(p *printer) {
	p.write("| line_format ")
	p.quote(s.Template)
}

func (s *LabelFormat) print(p *printer) {
	p.write("| label_format ")
	for i, a := range s.Formats {
		if i > 0 {
			p.write(",")
		}
		p.name(a.Dst)
		p.write("=")
		if a.Rename {
			p.write(a.Value)
		} else {
			p.quote(a.Value)
		}
	}
}

func (s *Decolorize) print(p *printer) { p.write("| decolorize") }

func (s *DropStage) print(p *printer) {
	p.write("| drop ")
	p.namesOrMatchers(s.Labels)
}

func (s *KeepStage) print(p *printer) {
	p.write("| keep ")
	p.namesOrMatchers(s.Labels)
}

func (p *printer) namesOrMatchers(list []NameOrMatcher) {
	for i, l := range list {
		if i > 0 {
			p.write(",")
		}
		if l.Matcher != nil {
			p.matcher(l.Matcher)
		} else {
			p.write(l.Name)
		}
	}
}

func (s *LabelFilter) print(p *printer) {
	p.write("| ")
	p.filter(s)
}

func (p *printer) filter(f *LabelFilter) {
	switch {
	case p.over:
	case f.Binary != nil:
		p.write("( ")
		p.filter(f.Binary.Left)
		if f.Binary.Or {
			p.write(" or ")
		} else {
			p.write(" , ")
		}
		p.filter(f.Binary.Right)
		p.write(" )")
	case f.Number != nil:
		op := f.Number.Op
		if op == "=" {
			op = "=="
		}
		p.name(f.Number.Name)
		p.write(op, f.Number.Text)
	case f.IP != nil:
		p.name(f.IP.Name)
		p.write(f.IP.Op, "ip(")
		p.quote(f.IP.Pattern)
		p.write(")")
	default:
		p.filterMatcher(f.Matcher)
	}
}

// filterMatcher writes regular expressions that are really run as such raw, and those
// that come down to comparing texts quoted, like other values.
func (p *printer) filterMatcher(m *labels.Matcher) {
	if m.Type != labels.MatchRegexp || strings.ContainsAny(m.Value, "`\r") || isTextRegexp(m.Value) {
		p.matcher(m)
		return
	}
	p.name(m.Name)
	p.write("=~`", m.Value, "`")
}

// isTextRegexp reports whether a label filter's regular expression can be evaluated by
// comparing texts: a literal, alternatives of literals, and literals beside .* are.
func isTextRegexp(expr string) bool {
	re, err := syntax.Parse(expr, syntax.Perl)
	return err != nil || isText(re.Simplify())
}

func isText(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpLiteral, syntax.OpEmptyMatch:
		return true
	case syntax.OpStar, syntax.OpPlus:
		return re.Sub[0].Op == syntax.OpAnyCharNotNL
	case syntax.OpCapture:
		return isText(re.Sub[0])
	case syntax.OpConcat:
		return isTextConcat(re.Sub, false, false)
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			if !isText(uncapture(sub)) {
				return false
			}
		}
		return true
	}
	return false
}

// isTextConcat looks at a concatenation of at most three parts, of which one is a
// literal, others are .*, and alternatives come behind the literal. The literal may have
// been seen before.
func isTextConcat(subs []*syntax.Regexp, literal, fold bool) bool {
	parts, here, alternatives := 0, false, false
	for _, sub := range subs {
		sub = uncapture(sub)
		if sub.Op == syntax.OpEmptyMatch {
			continue
		}
		if parts++; parts > 3 {
			return false
		}
		switch {
		case sub.Op == syntax.OpLiteral:
			if here {
				return false
			}
			here, literal, fold = true, true, sub.Flags&syntax.FoldCase != 0
		case sub.Op == syntax.OpAlternate && literal:
			if !isTextTails(sub.Sub, fold) {
				return false
			}
			alternatives = true
		case sub.Op == syntax.OpStar && sub.Sub[0].Op == syntax.OpAnyCharNotNL:
		default:
			return false
		}
	}
	return literal || alternatives
}

// isTextTails looks at alternatives that follow a literal.
func isTextTails(subs []*syntax.Regexp, fold bool) bool {
	for _, sub := range subs {
		if sub.Flags&syntax.FoldCase != 0 && !fold {
			return false
		}
		switch sub.Op {
		case syntax.OpEmptyMatch, syntax.OpLiteral:
		case syntax.OpStar:
			if sub.Sub[0].Op != syntax.OpAnyCharNotNL {
				return false
			}
		case syntax.OpConcat:
			if !isTextConcat(sub.Sub, true, fold) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func uncapture(re *syntax.Regexp) *syntax.Regexp {
	if re.Op == syntax.OpCapture {
		return re.Sub[0]
	}
	return re
}
