package pipeline

import (
	"fmt"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/syntax"
)

// labelFilter keeps or drops a row by its labels. It may set the row's error.
type labelFilter interface{ match(r *row) bool }

// filterStage is a label filter as a stage.
type filterStage struct{ f labelFilter }

func (s filterStage) process(r *row, line []byte) ([]byte, bool) { return line, s.f.match(r) }

// labelFilter compiles a filter; nil when it lets everything pass.
func (c *compiler) labelFilter(s *syntax.LabelFilter) (labelFilter, error) {
	switch {
	case s.Matcher != nil:
		t, err := newValueTest(s.Matcher)
		if err != nil || t == nil {
			return nil, err
		}
		return &stringFilter{slot: c.slot(s.Matcher.Name), isErr: s.Matcher.Name == errorLabel, test: t}, nil
	case s.Number != nil:
		return c.numberFilter(s.Number)
	case s.IP != nil:
		m, err := newIPMatcher(s.IP.Pattern)
		if err != nil {
			return nil, err
		}
		return &ipFilter{slot: c.slot(s.IP.Name), test: ipTest{m}, negate: s.IP.Op == "!="}, nil
	case s.Binary != nil:
		left, err := c.labelFilter(s.Binary.Left)
		if err != nil {
			return nil, err
		}
		right, err := c.labelFilter(s.Binary.Right)
		if err != nil {
			return nil, err
		}
		return &binaryFilter{left: orPass(left), right: orPass(right), or: s.Binary.Or}, nil
	}
	return nil, fmt.Errorf("empty label filter")
}

// filterNames appends the labels that a filter looks at. A filter that lets everything
// pass looks at none.
func filterNames(s *syntax.LabelFilter, names []string) []string {
	switch {
	case s.Matcher != nil:
		if t, err := newValueTest(s.Matcher); err != nil || t != nil {
			names = append(names, s.Matcher.Name)
		}
	case s.Number != nil:
		names = append(names, s.Number.Name)
	case s.IP != nil:
		names = append(names, s.IP.Name)
	case s.Binary != nil:
		names = filterNames(s.Binary.Right, filterNames(s.Binary.Left, names))
	}
	return names
}

// passFilter lets everything pass.
type passFilter struct{}

func (passFilter) match(*row) bool { return true }

func orPass(f labelFilter) labelFilter {
	if f == nil {
		return passFilter{}
	}
	return f
}

// binaryFilter joins two filters. The right one of an or is only looked at, and only
// sets an error, when the left one fails; of an and, both are.
type binaryFilter struct {
	left, right labelFilter
	or          bool
}

func (f *binaryFilter) match(r *row) bool {
	left := f.left.match(r)
	if f.or {
		return left || f.right.match(r)
	}
	right := f.right.match(r)
	return left && right
}

// stringFilter compares a label, or the error, with a text or an expression. A missing
// label is the empty text.
type stringFilter struct {
	slot  int
	isErr bool
	test  lineTest
}

func (f *stringFilter) match(r *row) bool {
	if f.isErr {
		return f.test.match(bytesOf(r.err))
	}
	v, _ := r.getSlot(f.slot)
	return f.test.match(bytesOf(v))
}

// newValueTest compiles a string matcher; nil when it lets every value pass.
func newValueTest(m *labels.Matcher) (lineTest, error) {
	var t lineTest
	var err error
	switch m.Type {
	case labels.MatchEqual, labels.MatchNotEqual:
		t = &equals{text: m.Value}
	default:
		if t, err = newValueRegexp(m.Value); err != nil {
			return nil, err
		}
	}
	if m.Type == labels.MatchNotEqual || m.Type == labels.MatchNotRegexp {
		return not{t}, nil
	}
	if (t == matchAll{}) {
		return nil, nil
	}
	return t, nil
}

// equals is a test for a whole value.
type equals struct {
	text string
	fold bool // text is in lower case
}

func (e *equals) match(v []byte) bool {
	if len(v) != len(e.text) {
		return false
	}
	if e.fold {
		return hasPrefixFold(v, bytesOf(e.text))
	}
	return string(v) == e.text
}

// ipFilter looks for an address in a label. Rows with an error pass.
type ipFilter struct {
	slot   int
	test   ipTest
	negate bool
}

func (f *ipFilter) match(r *row) bool {
	if r.err != "" {
		return true
	}
	v, ok := r.getSlot(f.slot)
	return ok && f.test.match(bytesOf(v)) != f.negate
}

// compareOp is the operator of a number filter.
type compareOp uint8

const (
	opEqual compareOp = iota
	opNotEqual
	opGreater
	opGreaterEqual
	opLess
	opLessEqual
)

var compareOps = map[string]compareOp{
	"=": opEqual, "==": opEqual, "!=": opNotEqual,
	">": opGreater, ">=": opGreaterEqual, "<": opLess, "<=": opLessEqual,
}

func compare[T int64 | uint64 | float64](op compareOp, a, b T) bool {
	switch op {
	case opEqual:
		return a == b
	case opNotEqual:
		return a != b
	case opGreater:
		return a > b
	case opGreaterEqual:
		return a >= b
	case opLess:
		return a < b
	}
	return a <= b
}

func (c *compiler) numberFilter(n *syntax.NumberFilter) (labelFilter, error) {
	op, ok := compareOps[n.Op]
	if !ok {
		return nil, fmt.Errorf("unknown comparison %q", n.Op)
	}
	f := valueFilter{slot: c.slot(n.Name), op: op}
	switch n.Kind {
	case syntax.KindDuration:
		return &durationFilter{f, int64(n.Duration)}, nil
	case syntax.KindBytes:
		return &bytesFilter{f, n.Bytes}, nil
	}
	return &numberFilter{f, n.Number}, nil
}

// valueFilter is what filters that convert a label have in common. A missing label
// drops the row; a value that does not convert sets an error and keeps it.
type valueFilter struct {
	slot int
	op   compareOp
}

// fail records a value that did not convert, unless there is an error already.
func (f *valueFilter) fail(r *row, err error) bool {
	if r.err == "" {
		r.err, r.errDetails = errLabelFilter, err.Error()
	}
	return true
}

type numberFilter struct {
	valueFilter
	want float64
}

func (f *numberFilter) match(r *row) bool {
	v, ok := r.getSlot(f.slot)
	if !ok {
		return false
	}
	x, err := parseFloat(v)
	if err != nil {
		return f.fail(r, err)
	}
	return compare(f.op, x, f.want)
}

type durationFilter struct {
	valueFilter
	want int64
}

func (f *durationFilter) match(r *row) bool {
	v, ok := r.getSlot(f.slot)
	if !ok {
		return false
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return f.fail(r, err)
	}
	return compare(f.op, int64(d), f.want)
}

type bytesFilter struct {
	valueFilter
	want uint64
}

func (f *bytesFilter) match(r *row) bool {
	v, ok := r.getSlot(f.slot)
	if !ok {
		return false
	}
	n, err := humanize.ParseBytes(v)
	if err != nil {
		return f.fail(r, err)
	}
	return compare(f.op, n, f.want)
}

// parseFloat is strconv.ParseFloat with a short way for small whole numbers. The error
// does not hold on to v.
func parseFloat(v string) (float64, error) {
	if len(v) > 0 && len(v) <= 15 {
		n := int64(0)
		for i := 0; ; i++ {
			if i == len(v) {
				return float64(n), nil
			}
			d := v[i] - '0'
			if d > 9 {
				break
			}
			n = n*10 + int64(d)
		}
	}
	return strconv.ParseFloat(v, 64)
}
