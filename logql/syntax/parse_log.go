package syntax

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/prometheus/model/labels"
)

// log parses a selector and its pipeline.
func (p *parser) log() *LogExpr {
	e := &LogExpr{Matchers: p.selector()}
	e.Stages, _ = p.pipeline(false)
	return e
}

func (p *parser) selector() []*labels.Matcher {
	p.expect(tokOpenBrace, "{")
	if p.accept(tokCloseBrace) {
		return nil
	}
	name := p.expect(tokIdent, "IDENTIFIER", "}").text
	matchers := []*labels.Matcher{p.matcher(name)}
	for !p.accept(tokCloseBrace) {
		p.expect(tokComma, "}", ",")
		name := p.expect(tokIdent, "IDENTIFIER").text
		matchers = append(matchers, p.matcher(name))
	}
	return matchers
}

// matcherTypes are the operators of matchers.
var matcherTypes = map[kind]labels.MatchType{
	tokEq: labels.MatchEqual, tokNeq: labels.MatchNotEqual,
	tokRegex: labels.MatchRegexp, tokNotRegex: labels.MatchNotRegexp,
}

// matcher parses what follows the name.
func (p *parser) matcher(name string) *labels.Matcher {
	t, ok := matcherTypes[p.peek().kind]
	if !ok {
		p.unexpected("=", "=~", "!~", "!=")
	}
	p.next()
	return p.newMatcher(t, name, p.expect(tokString, "STRING").text)
}

func (p *parser) newMatcher(t labels.MatchType, name, value string) *labels.Matcher {
	m, err := labels.NewMatcher(t, name, value)
	if err != nil {
		p.fail("%s", err)
	}
	return m
}

// pipeline parses stages until something else comes. With unwrapAllowed it stops after
// | unwrap as well, and says so; the word is consumed then.
func (p *parser) pipeline(unwrapAllowed bool) (stages []Stage, unwrap bool) {
	for {
		t := p.peek()
		if op, ok := t.kind.lineOp(); ok {
			p.next()
			stages = append(stages, p.lineFilters(op)...)
			continue
		}
		if t.kind != tokPipe {
			return stages, false
		}
		p.next()
		if unwrapAllowed && p.accept(tokUnwrap) {
			return stages, true
		}
		stages = append(stages, p.pipeStage())
	}
}

// lineFilters parses the operands of a line filter. A negative filter with several is
// as many filters, because a line must match none of them.
func (p *parser) lineFilters(op LineOp) []Stage {
	operands := []LineOperand{p.lineOperand()}
	for p.accept(tokOr) {
		operands = append(operands, p.lineOperand())
	}
	if !op.Negative() {
		return []Stage{&LineFilter{Op: op, Operands: operands}}
	}
	stages := make([]Stage, len(operands))
	for i := range operands {
		stages[i] = &LineFilter{Op: op, Operands: operands[i : i+1 : i+1]}
	}
	return stages
}

func (p *parser) lineOperand() LineOperand {
	if p.accept(tokIP) {
		p.expect(tokOpenParen, "(")
		text := p.expect(tokString, "STRING").text
		p.expect(tokCloseParen, ")")
		return LineOperand{Text: text, IP: true}
	}
	return LineOperand{Text: p.expect(tokString, "STRING", "ip").text}
}

// pipeStage parses what follows a pipe.
func (p *parser) pipeStage() Stage {
	t := p.peek()
	switch t.kind {
	case tokIdent, tokOpenParen:
		return p.labelFilter()
	case tokJSON:
		p.next()
		return &JSONStage{Extract: p.extractions()}
	case tokLogfmt:
		p.next()
		return p.logfmt()
	case tokRegexp:
		p.next()
		s := &RegexpStage{Regex: p.expect(tokString, "STRING").text}
		if err := CheckExtractRegexp(s.Regex); err != nil {
			p.fail("invalid regexp parser: %s", err)
		}
		return s
	case tokPattern:
		p.next()
		s := &PatternStage{Pattern: p.expect(tokString, "STRING").text}
		if _, err := ParseExtractPattern(s.Pattern); err != nil {
			p.fail("invalid pattern parser: %s", err)
		}
		return s
	case tokUnpack:
		p.next()
		return &UnpackStage{}
	case tokLineFormat:
		p.next()
		return &LineFormat{Template: p.expect(tokString, "STRING").text}
	case tokLabelFormat:
		p.next()
		return p.labelFormat()
	case tokDecolorize:
		p.next()
		return &Decolorize{}
	case tokDrop:
		p.next()
		return &DropStage{Labels: p.namesOrMatchers()}
	case tokKeep:
		p.next()
		return &KeepStage{Labels: p.namesOrMatchers()}
	}
	p.unexpected()
	return nil
}

// extractions parses an optional list of name="expression" and bare names, which stand
// for an expression of the same text.
func (p *parser) extractions() []Extraction {
	if p.peek().kind != tokIdent {
		return nil
	}
	var list []Extraction
	for {
		name := p.expect(tokIdent, "IDENTIFIER").text
		x := Extraction{Name: name, Expr: name}
		if p.accept(tokEq) {
			x.Expr = p.expect(tokString, "STRING").text
		}
		list = append(list, x)
		if !p.accept(tokComma) {
			return list
		}
	}
}

func (p *parser) logfmt() Stage {
	s := &LogfmtStage{}
	for p.peek().kind == tokFlag {
		switch p.next().text {
		case flagStrict:
			s.Strict = true
		case flagKeepEmpty:
			s.KeepEmpty = true
		}
	}
	s.Extract = p.extractions()
	return s
}

func (p *parser) labelFormat() Stage {
	s := &LabelFormat{}
	for {
		a := LabelAssign{Dst: p.expect(tokIdent, "IDENTIFIER").text}
		p.expect(tokEq, "=")
		switch p.peek().kind {
		case tokIdent:
			a.Rename = true
		case tokString:
		default:
			p.unexpected("IDENTIFIER", "STRING")
		}
		a.Value = p.next().text
		s.Formats = append(s.Formats, a)
		if !p.accept(tokComma) {
			return s
		}
	}
}

func (p *parser) namesOrMatchers() []NameOrMatcher {
	var list []NameOrMatcher
	for {
		name := p.expect(tokIdent, "IDENTIFIER").text
		if _, ok := matcherTypes[p.peek().kind]; ok {
			list = append(list, NameOrMatcher{Name: name, Matcher: p.matcher(name)})
		} else {
			list = append(list, NameOrMatcher{Name: name})
		}
		if !p.accept(tokComma) {
			return list
		}
	}
}

// labelFilter parses a filter on labels with all its connectives. "and" binds tighter
// than "or"; a comma, or nothing, between two filters means "and" but takes all that
// follows as its right side. Long chains need no recursion.
func (p *parser) labelFilter() *LabelFilter {
	const loose, or, and = 0, 1, 2 // how tightly the connectives bind their left side
	filters := []*LabelFilter{p.labelFilterLeaf()}
	var pending []int
	reduce := func(atLeast int) {
		for n := len(pending); n > 0 && pending[n-1] >= atLeast; n-- {
			right, left := filters[n], filters[n-1]
			b := &BinaryFilter{Or: pending[n-1] == or, Left: left, Right: right}
			filters = append(filters[:n-1], &LabelFilter{Binary: b})
			pending = pending[:n-1]
		}
	}
	for {
		switch p.peek().kind {
		case tokAnd:
			p.next()
			reduce(and)
			pending = append(pending, and)
		case tokOr:
			p.next()
			reduce(or)
			pending = append(pending, or)
		case tokComma:
			p.next()
			pending = append(pending, loose)
		case tokIdent, tokOpenParen:
			pending = append(pending, loose)
		default:
			reduce(loose)
			return filters[0]
		}
		filters = append(filters, p.labelFilterLeaf())
	}
}

func (p *parser) labelFilterLeaf() *LabelFilter {
	if p.accept(tokOpenParen) {
		p.enter()
		defer p.leave()
		if k := p.peek().kind; k != tokIdent && k != tokOpenParen {
			p.unexpected("IDENTIFIER", "(")
		}
		f := p.labelFilter()
		p.expect(tokCloseParen)
		return f
	}
	name := p.expect(tokIdent, "IDENTIFIER", "(").text
	op := p.peek()
	switch op.kind {
	case tokRegex, tokNotRegex:
		return &LabelFilter{Matcher: p.matcher(name)}
	case tokEq, tokNeq, tokCmpEq, tokGT, tokGTE, tokLT, tokLTE:
		p.next()
		return p.comparison(name, op)
	}
	p.unexpected()
	return nil
}

// comparison parses the value that a label is compared with.
func (p *parser) comparison(name string, op token) *LabelFilter {
	equality := op.kind == tokEq || op.kind == tokNeq
	n := &NumberFilter{Name: name, Op: op.text}
	if op.kind == tokCmpEq {
		n.Op = "="
	}
	switch t := p.peek(); {
	case t.kind == tokString && equality:
		p.next()
		return &LabelFilter{Matcher: p.newMatcher(matcherTypes[op.kind], name, t.text)}
	case t.kind == tokIP && equality:
		operand := p.lineOperand()
		return &LabelFilter{IP: &IPFilter{Name: name, Op: op.text, Pattern: operand.Text}}
	case t.kind == tokDuration:
		p.next()
		n.Kind, n.Number, n.Text = KindDuration, float64(t.dur), t.dur.String()
		n.Duration = t.dur
	case t.kind == tokBytes:
		p.next()
		n.Kind, n.Number, n.Text = KindBytes, float64(t.bytes), bytesText(t.bytes)
		n.Bytes = t.bytes
	case t.kind == tokNumber || t.kind == tokAdd || t.kind == tokSub:
		// A number that does not fit counts as its nearest value here, unlike elsewhere.
		l := p.literal()
		delete(p.deferred, l)
		n.Number, n.Text = l.Value, numberText(l.Value)
	default:
		p.unexpected()
	}
	return &LabelFilter{Number: n}
}

// bytesText writes a size in its largest unit, or exactly if that would round it. Zero
// has a unit that does not make it the start of a binary number, and units that the
// lexer would take for an exponent are not used.
func bytesText(b uint64) string {
	if b == 0 {
		return "0kB"
	}
	text := stripSpace(humanize.Bytes(b))
	if back, err := humanize.ParseBytes(text); err == nil && back == b && !strings.ContainsAny(text, "PE") {
		return text
	}
	return strconv.FormatUint(b, 10) + "B"
}

// numberText writes a number without exponent. Infinity is written as a number too
// large for a float, and zero without sign, since -0 is read as a duration.
func numberText(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.IsInf(v, 1):
		return "1e999"
	case math.IsInf(v, -1):
		return "-1e999"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// unwrap parses what follows the word.
func (p *parser) unwrap() *Unwrap {
	u := &Unwrap{}
	switch t := p.peek(); t.kind {
	case tokIdent:
		p.next()
		u.Label = t.text
	case tokConversion:
		p.next()
		u.Conversion = t.text
		p.expect(tokOpenParen, "(")
		u.Label = p.expect(tokIdent, "IDENTIFIER").text
		p.expect(tokCloseParen, ")")
	default:
		p.unexpected("IDENTIFIER", "BYTES_CONV", "DURATION_CONV", "DURATION_SECONDS_CONV")
	}
	for p.accept(tokPipe) {
		if k := p.peek().kind; k != tokIdent && k != tokOpenParen {
			p.unexpected("IDENTIFIER", "(")
		}
		u.Filters = append(u.Filters, p.labelFilter())
	}
	return u
}

// logRange parses the argument of a range aggregation. The range stands behind the
// selector or behind the pipeline, and parentheses may surround the whole, or all but
// the range.
func (p *parser) logRange() LogRange {
	if p.accept(tokOpenParen) {
		p.enter()
		defer p.leave()
		switch p.peek().kind {
		case tokOpenParen:
			r := p.logRange()
			p.expect(tokCloseParen, ")")
			return r
		case tokOpenBrace:
			return p.parenthesisedRange()
		}
	}
	if p.peek().kind != tokOpenBrace {
		p.unexpected("{", "(")
	}
	r := p.rangeLog()
	if p.peek().kind != tokRange {
		p.unexpectedInRange(r, "RANGE", "|")
	}
	p.rangeAndRest(&r)
	return r
}

// parenthesisedRange parses after "(" either a whole range, or a selector and pipeline
// with the range behind the closing parenthesis.
func (p *parser) parenthesisedRange() LogRange {
	r := p.rangeLog()
	switch p.peek().kind {
	case tokRange:
		p.rangeAndRest(&r)
		p.expect(tokCloseParen, ")")
		return r
	case tokCloseParen:
	default:
		p.unexpectedInRange(r, "RANGE", ")", "|")
	}
	p.next()
	r.Range = p.expect(tokRange, "RANGE").dur
	r.Offset = p.offset()
	if r.Unwrap == nil && len(r.Log.Stages) == 0 && p.accept(tokPipe) {
		p.expect(tokUnwrap, "unwrap")
		r.Unwrap = p.unwrap()
	}
	return r
}

// unexpectedInRange fails where a range could have stood. Behind an unwrap few other
// tokens could have.
func (p *parser) unexpectedInRange(r LogRange, afterUnwrap ...string) {
	if r.Unwrap == nil {
		p.unexpected()
	}
	p.unexpected(afterUnwrap...)
}

// rangeLog parses a selector, a pipeline and an unwrap.
func (p *parser) rangeLog() LogRange {
	r := LogRange{Log: LogExpr{Matchers: p.selector()}}
	p.rangePipeline(&r)
	return r
}

func (p *parser) rangePipeline(r *LogRange) {
	stages, unwrap := p.pipeline(true)
	r.Log.Stages = stages
	if unwrap {
		r.Unwrap = p.unwrap()
	}
}

// rangeAndRest parses the range, an offset and, if the range came right behind the
// selector, the pipeline.
func (p *parser) rangeAndRest(r *LogRange) {
	first := r.Unwrap == nil && len(r.Log.Stages) == 0
	r.Range = p.next().dur
	r.Offset = p.offset()
	if first {
		p.rangePipeline(r)
	}
}

func (p *parser) offset() time.Duration {
	if !p.accept(tokOffset) {
		return 0
	}
	return p.expect(tokDuration, "DURATION").dur
}
