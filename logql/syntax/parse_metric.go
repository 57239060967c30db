package syntax

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

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
