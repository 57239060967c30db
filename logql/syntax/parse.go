package syntax

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
)

const (
	// maxQueryBytes is the first length of a query that is refused.
	maxQueryBytes = 128 << 10
	// maxDepth bounds the nesting of parentheses and calls, so that neither parsing nor
	// anything that walks the tree can exhaust the stack.
	maxDepth = 1000
)

// Parse parses and validates a query. Errors are fault.Invalid.
func Parse(query string) (Expr, error) {
	e, deferred, err := parse(query)
	if err != nil {
		return nil, err
	}
	if err := validate(e, deferred); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseLog parses a query that must yield log lines.
func ParseLog(query string) (*LogExpr, error) {
	e, deferred, err := parse(query)
	if err != nil {
		return nil, err
	}
	log, ok := e.(*LogExpr)
	if !ok {
		return nil, errOnlyLog
	}
	if err := validate(log, deferred); err != nil {
		return nil, err
	}
	return log, nil
}

// ParseMatchers parses a bare selector. With allowEmpty the selector may match every
// stream, {} included.
func ParseMatchers(query string, allowEmpty bool) ([]*labels.Matcher, error) {
	e, deferred, err := parse(query)
	if err != nil {
		return nil, err
	}
	if !allowEmpty {
		if err := validate(e, deferred); err != nil {
			return nil, err
		}
	}
	log, ok := e.(*LogExpr)
	if !ok || len(log.Stages) > 0 {
		return nil, errOnlyMatchers
	}
	return log.Matchers, nil
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
			Msg:  fmt.Sprintf("expression is nested too deeply (more than %d levels)", maxDepth),
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

func (p *parser) vector() MetricExpr {
	p.expect(tokOpenParen, "(")
	t := p.expect(tokNumber, "NUMBER")
	p.expect(tokCloseParen, ")")
	n, err := strconv.ParseFloat(t.text, 64)
	v := &VectorLiteral{Value: n}
	if err != nil {
		return p.later(v, "unable to parse vectorExpr as a float: %s", err)
	}
	return v
}

func (p *parser) labelReplace() MetricExpr {
	p.expect(tokOpenParen, "(")
	e := &LabelReplace{Expr: p.metric()}
	for i, s := range []*string{&e.Dst, &e.Replacement, &e.Src, &e.Regex} {
		if i == 0 {
			p.expect(tokComma)
		} else {
			p.expect(tokComma, ",")
		}
		*s = p.expect(tokString, "STRING").text
	}
	p.expect(tokCloseParen, ")")
	if _, err := regexp.Compile("^(?:" + e.Regex + ")$"); err != nil {
		return p.later(e, "invalid regex in label_replace: %s", err)
	}
	return e
}

func (p *parser) variants() MetricExpr {
	p.expect(tokOpenParen, "(")
	v := &Variants{Exprs: []MetricExpr{p.metric()}}
	for p.accept(tokComma) {
		v.Exprs = append(v.Exprs, p.metric())
	}
	p.expect(tokCloseParen)
	p.expect(tokOf, "of")
	p.expect(tokOpenParen, "(")
	v.Of = p.logRange()
	p.expect(tokCloseParen, ")")
	return v
}

// labelList parses what follows the parenthesis of by, without, on, ignoring and
// group modifiers.
func (p *parser) labelList() []string {
	if p.accept(tokCloseParen) {
		return nil
	}
	names := []string{p.expect(tokIdent, "IDENTIFIER", ")").text}
	for !p.accept(tokCloseParen) {
		p.expect(tokComma, ",", ")")
		names = append(names, p.expect(tokIdent, "IDENTIFIER").text)
	}
	return names
}

// grouping parses an optional by or without clause.
func (p *parser) grouping() *Grouping {
	k := p.peek().kind
	if k != tokBy && k != tokWithout {
		return nil
	}
	p.next()
	p.expect(tokOpenParen, "(")
	return &Grouping{Without: k == tokWithout, Labels: p.labelList()}
}

func (p *parser) rangeAgg(op string) MetricExpr {
	p.expect(tokOpenParen, "(")
	a := &RangeAgg{Op: op}
	var param *string
	switch p.peek().kind {
	case tokNumber:
		text := p.next().text
		param = &text
		p.expect(tokComma, ",")
	case tokOpenBrace, tokOpenParen:
	default:
		p.unexpected("NUMBER", "{", "(")
	}
	a.Range = p.logRange()
	p.expect(tokCloseParen, ")")
	a.Grouping = p.grouping()
	if err := a.check(param); err != nil {
		return p.later(a, "%s", err)
	}
	return a
}

// check sets the parameter and returns what makes the aggregation invalid.
func (a *RangeAgg) check(param *string) error {
	switch {
	case param != nil && a.Op != "quantile_over_time":
		return fmt.Errorf("parameter %s not supported for operation %s", *param, a.Op)
	case param != nil:
		q, err := strconv.ParseFloat(*param, 64)
		if err != nil {
			return fmt.Errorf("invalid parameter for operation %s: %s", a.Op, err)
		}
		a.Param = &q
	case a.Op == "quantile_over_time":
		return errors.New("parameter required for operation quantile_over_time")
	}
	use := rangeOps[a.Op]
	switch {
	case a.Grouping != nil && !use.grouping:
		return fmt.Errorf("grouping not allowed for %s aggregation", a.Op)
	case a.Range.Unwrap != nil && !use.unwrap:
		return fmt.Errorf("invalid aggregation %s with unwrap", a.Op)
	case a.Range.Unwrap == nil && !use.lines:
		return fmt.Errorf("invalid aggregation %s without unwrap", a.Op)
	}
	return nil
}

// rangeOps says what each range aggregation accepts: bare lines, an unwrapped label,
// a grouping of its own.
var rangeOps = map[string]struct{ lines, unwrap, grouping bool }{
	"count_over_time":    {lines: true},
	"bytes_rate":         {lines: true},
	"bytes_over_time":    {lines: true},
	"rate":               {lines: true, unwrap: true},
	"absent_over_time":   {lines: true, unwrap: true},
	"rate_counter":       {unwrap: true},
	"sum_over_time":      {unwrap: true},
	"avg_over_time":      {unwrap: true, grouping: true},
	"min_over_time":      {unwrap: true, grouping: true},
	"max_over_time":      {unwrap: true, grouping: true},
	"stdvar_over_time":   {unwrap: true, grouping: true},
	"stddev_over_time":   {unwrap: true, grouping: true},
	"quantile_over_time": {unwrap: true, grouping: true},
	"first_over_time":    {unwrap: true, grouping: true},
	"last_over_time":     {unwrap: true, grouping: true},
}

func (p *parser) vectorAgg(op string) MetricExpr {
	a := &VectorAgg{Op: op, Grouping: p.grouping()}
	p.expect(tokOpenParen, "(")
	var param *string
	if p.peek().kind == tokNumber {
		number := p.next()
		if p.accept(tokComma) {
			param = &number.text
			a.Expr = p.metric()
		} else {
			a.Expr = p.sample(p.exprFrom(p.literalOf(number.text, false), 1))
		}
	} else {
		a.Expr = p.metric()
	}
	p.expect(tokCloseParen)
	if a.Grouping == nil {
		a.Grouping = p.grouping()
	}
	if err := a.check(param); err != nil {
		return p.later(a, "%s", err)
	}
	return a
}

// check sets the parameter and returns what makes the aggregation invalid. A by ()
// clause says nothing that its absence does not, and is dropped.
func (a *VectorAgg) check(param *string) error {
	switch a.Op {
	case "topk", "bottomk", "approx_topk":
		if param == nil {
			return fmt.Errorf("parameter required for operation %s", a.Op)
		}
		k, err := strconv.Atoi(*param)
		if err != nil {
			return fmt.Errorf("invalid parameter %s(%s,", a.Op, *param)
		}
		if k <= 0 {
			return fmt.Errorf("invalid parameter (must be greater than 0) %s(%s", a.Op, *param)
		}
		if a.Op == "approx_topk" && a.Grouping != nil {
			return fmt.Errorf("grouping not allowed for %s aggregation", a.Op)
		}
		n := float64(k)
		a.Param = &n
	default:
		if param != nil {
			return fmt.Errorf("unsupported parameter for operation %s(%s,", a.Op, *param)
		}
	}
	if a.Grouping != nil && !a.Grouping.Without && len(a.Grouping.Labels) == 0 {
		a.Grouping = nil
	}
	return nil
}
