package syntax

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
)

const (
	// maxQueryBytes is the first length of a query that is refused.
	maxQueryBytes = 128 << 10
	// maxDepth bounds the nesting of parentheses and calls, in the query and in its
	// canonical form, which has parentheses around every operation. So neither parsing nor
	// anything that walks the tree can exhaust the stack.
	maxDepth = 2000
)

// Parse parses and validates a query that is to be run. Errors are fault.Invalid.
func Parse(query string) (Expr, error) {
	e, err := ParseText(query)
	if err != nil {
		return nil, err
	}
	if err := checkPlan(e); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseText is Parse for a query that is only to be looked at: one that cannot be planned is well formed.
func ParseText(query string) (Expr, error) {
	e, deferred, err := parse(query)
	if err != nil {
		return nil, err
	}
	if err := validate(e, deferred); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseLog parses a query that must yield log lines. A metric query is refused for its
// own mistakes first.
func ParseLog(query string) (*LogExpr, error) {
	e, err := ParseText(query)
	if err != nil {
		return nil, err
	}
	log, ok := e.(*LogExpr)
	if !ok {
		return nil, errOnlyLog
	}
	return log, nil
}

// ParseLogOfAny is ParseLog with any selector, {} included, which selects every stream.
func ParseLogOfAny(query string) (*LogExpr, error) {
	e, _, err := parse(query)
	if err != nil {
		return nil, err
	}
	log, ok := e.(*LogExpr)
	if !ok {
		return nil, errOnlyLog
	}
	return log, nil
}

// ParseMatchers parses a bare selector. Any other query is refused for its own mistakes
// first.
func ParseMatchers(query string) ([]*labels.Matcher, error) {
	if _, err := ParseText(query); err != nil {
		return nil, err
	}
	return ParseSeries(query)
}

// ParseMatchersOrAll is ParseMatchers with {} allowed, written like this, which matches every stream.
func ParseMatchersOrAll(query string) ([]*labels.Matcher, error) {
	if query == "{}" {
		return nil, nil
	}
	return ParseMatchers(query)
}

// ParseSeries is ParseMatchers for selectors of series: any other query is refused as
// such, whatever else is wrong with it.
func ParseSeries(query string) ([]*labels.Matcher, error) {
	log, err := parseBare(query)
	if err != nil {
		return nil, err
	}
	if len(log.Matchers) == 0 {
		return nil, fault.New(fault.Invalid, "0 matchers in group: %s", query)
	}
	if err := checkMatchers(log.Matchers); err != nil {
		return nil, err
	}
	return log.Matchers, nil
}

// parseBare parses a selector without stages, without a look at its matchers.
func parseBare(query string) (*LogExpr, error) {
	e, _, err := parse(query)
	if err != nil {
		return nil, err
	}
	log, ok := e.(*LogExpr)
	if !ok || len(log.Stages) > 0 {
		return nil, errOnlyMatchers
	}
	return log, nil
}

// parser is a recursive descent parser. Errors leave it as panics of *ParseError, which
// parse recovers.
type parser struct {
	lex    *lexer
	tok    token // valid when peeked
	peeked bool
	depth  int
	// deferred are errors of expressions that are well formed but make no sense. They
	// are reported by validate, so that errors of form go first.
	deferred map[MetricExpr]error
}

func parse(query string) (e Expr, deferred map[MetricExpr]error, err error) {
	if len(query) >= maxQueryBytes {
		return nil, nil, Errorf("input size too long (%d > %d)", len(query), maxQueryBytes)
	}
	p := &parser{lex: newLexer(query)}
	defer func() {
		if r := recover(); r != nil {
			failure, ok := r.(*ParseError)
			if !ok {
				panic(r)
			}
			e, deferred, err = nil, nil, fault.Wrap(fault.Invalid, failure)
		}
	}()
	e = p.expr(1)
	if p.peek().kind != tokEOF {
		p.unexpected()
	}
	if depth(e) >= maxDepth {
		p.fail(tooDeep, maxDepth)
	}
	return e, p.deferred, nil
}

// peek returns the next token without consuming it.
func (p *parser) peek() token {
	if !p.peeked {
		t, err := p.lex.next()
		if err != nil {
			panic(err)
		}
		p.tok, p.peeked = t, true
	}
	return p.tok
}

// next consumes a token.
func (p *parser) next() token {
	t := p.peek()
	p.peeked = false
	return t
}

// accept consumes the next token if it is of the kind.
func (p *parser) accept(k kind) bool {
	if p.peek().kind != k {
		return false
	}
	p.peeked = false
	return true
}

// expect consumes a token of the kind or fails, naming what could have stood there.
func (p *parser) expect(k kind, expecting ...string) token {
	if p.peek().kind != k {
		p.unexpected(expecting...)
	}
	return p.next()
}

// unexpected fails at the next token. When more than four tokens could have stood
// there the message names none.
func (p *parser) unexpected(expecting ...string) {
	t := p.peek()
	msg := "syntax error: unexpected " + t.name()
	if len(expecting) > 0 {
		msg += ", expecting " + strings.Join(expecting, " or ")
	}
	panic(&ParseError{Msg: msg, Line: t.line, Col: t.col})
}

// fail stops parsing with a message that has no position.
func (p *parser) fail(format string, args ...any) {
	panic(&ParseError{Msg: fmt.Sprintf(format, args...)})
}

// later records that e is in error and returns it.
func (p *parser) later(e MetricExpr, format string, args ...any) MetricExpr {
	if p.deferred == nil {
		p.deferred = make(map[MetricExpr]error)
	}
	p.deferred[e] = Errorf(format, args...)
	return e
}

// enter goes one level deeper; the caller defers leave.
func (p *parser) enter() {
	p.depth++
	if p.depth > maxDepth {
		t := p.peek()
		panic(&ParseError{
			Msg:  fmt.Sprintf(tooDeep, maxDepth),
			Line: t.line, Col: t.col,
		})
	}
}

func (p *parser) leave() { p.depth-- }

// name is the token as messages call it.
func (t token) name() string {
	if n, ok := classNames[t.kind]; ok {
		return n
	}
	if _, ok := functions[t.text]; ok {
		if n, ok := functionNames[t.text]; ok {
			return n
		}
		return strings.ToUpper(t.text)
	}
	return t.text
}

// expr parses operators of at least the precedence given.
func (p *parser) expr(least int) Expr {
	p.enter()
	defer p.leave()
	return p.exprFrom(p.operand(), least)
}

// exprFrom goes on after the first operand.
func (p *parser) exprFrom(left Expr, least int) Expr {
	for {
		prec := p.peek().kind.binaryPrecedence()
		if prec < least || prec == 0 {
			return left
		}
		op := p.next()
		b := &BinOp{Op: op.text}
		p.binaryModifier(b)
		below := prec + 1
		if op.kind == tokPow {
			below = prec // associates to the right
		}
		left = p.binary(b, left, p.expr(below))
	}
}

func (p *parser) operand() Expr {
	t := p.peek()
	switch t.kind {
	case tokOpenBrace:
		return p.log()
	case tokOpenParen:
		p.next()
		e := p.expr(1)
		if _, ok := e.(*Variants); ok {
			p.unexpected()
		}
		p.expect(tokCloseParen)
		return e
	case tokNumber, tokAdd, tokSub:
		return p.literal()
	case tokRangeOp:
		p.next()
		return p.rangeAgg(t.text)
	case tokVectorOp:
		p.next()
		return p.vectorAgg(t.text)
	case tokLabelReplace:
		p.next()
		return p.labelReplace()
	case tokVector:
		p.next()
		return p.vector()
	case tokVariants:
		p.next()
		return p.variants()
	}
	p.unexpected()
	return nil
}

// metric parses an argument that must yield samples.
func (p *parser) metric() MetricExpr { return p.sample(p.expr(1)) }

// sample fails if e, which has just been parsed, does not yield samples.
func (p *parser) sample(e Expr) MetricExpr {
	m, ok := sampleExpr(e)
	if !ok {
		p.unexpected()
	}
	return m
}

// sampleExpr tells expressions that yield samples from logs and variants.
func sampleExpr(e Expr) (MetricExpr, bool) {
	if _, ok := e.(*Variants); ok {
		return nil, false
	}
	m, ok := e.(MetricExpr)
	return m, ok
}

// literal parses a number with an optional sign.
func (p *parser) literal() *Literal {
	sign := p.peek().kind
	if sign == tokAdd || sign == tokSub {
		p.next()
	}
	return p.literalOf(p.expect(tokNumber, "NUMBER").text, sign == tokSub)
}

func (p *parser) literalOf(text string, negative bool) *Literal {
	n, err := strconv.ParseFloat(text, 64)
	if negative {
		n = -n
	}
	l := &Literal{Value: n}
	if err != nil {
		p.later(l, "unable to parse literal as a float: %s", err)
	}
	return l
}
