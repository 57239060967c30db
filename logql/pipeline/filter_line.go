package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/skaldlog/skald/internal/packed"
	"github.com/skaldlog/skald/logql/syntax"
)

// lineFilter is a run of line filters, all of which must hold.
type lineFilter struct {
	tests  []lineTest
	packed []packedTest
}

// lineTest looks at a line only.
type lineTest interface{ match(line []byte) bool }

func (f *lineFilter) match(line []byte) bool {
	for _, t := range f.tests {
		if !t.match(line) {
			return false
		}
	}
	return true
}

func (f *lineFilter) process(_ *row, line []byte) ([]byte, bool) { return line, f.match(line) }

// newLineFilter compiles line filters that stand together; nil when they let all lines
// pass. With several mistakes the last one is reported.
func newLineFilter(stages []syntax.Stage) (*lineFilter, error) {
	f := &lineFilter{}
	for _, s := range slices.Backward(stages) {
		tests, err := lineTests(s.(*syntax.LineFilter))
		if err != nil {
			return nil, err
		}
		f.tests = append(f.tests, tests...)
	}
	slices.Reverse(f.tests)
	f.tests = slices.DeleteFunc(f.tests, func(t lineTest) bool { return t == matchAll{} })
	if len(f.tests) == 0 {
		return nil, nil
	}
	// Cheap tests first: the order cannot be seen from outside.
	slices.SortStableFunc(f.tests, func(a, b lineTest) int { return testCost(a) - testCost(b) })
	f.packed = packedTests(f.tests)
	return f, nil
}

func testCost(t lineTest) int {
	switch t := t.(type) {
	case *contains, matchSome:
		return 0
	case not:
		return testCost(t.lineTest) + 1
	case *regexpTest, *ipTest:
		return 4
	}
	return 2
}

// lineTests compiles one filter to tests that must all hold, in reverse order.
func lineTests(f *syntax.LineFilter) ([]lineTest, error) {
	switch f.Op {
	case syntax.LineNotContains, syntax.LineNotMatches, syntax.LineNotPattern:
		var out []lineTest
		for _, o := range slices.Backward(f.Operands) {
			t, err := operandTest(f.Op, o.Text, o.IP)
			if err != nil {
				return nil, err
			}
			out = append(out, not{t})
		}
		return out, nil
	}
	if len(f.Operands) == 1 {
		t, err := operandTest(f.Op, f.Operands[0].Text, f.Operands[0].IP)
		return []lineTest{t}, err
	}
	// In a chain ip(…) is taken for plain text, and an operand that matches everything
	// is left out.
	var legs anyOf
	for _, o := range f.Operands {
		t, err := operandTest(f.Op, o.Text, false)
		if err != nil {
			return nil, err
		}
		legs = append(legs, t)
	}
	return []lineTest{legs.reduce()}, nil
}

func operandTest(op syntax.LineOp, text string, ip bool) (lineTest, error) {
	if ip {
		if op != syntax.LineContains && op != syntax.LineNotContains {
			return nil, errors.New("ip: invalid operation")
		}
		m, err := newIPMatcher(text)
		if err != nil {
			return nil, err
		}
		return &ipTest{m}, nil
	}
	switch op {
	case syntax.LineContains, syntax.LineNotContains:
		return newContains(text, false), nil
	case syntax.LineMatches, syntax.LineNotMatches:
		return newRegexpTest(text)
	case syntax.LinePattern, syntax.LineNotPattern:
		return newPatternTest(text)
	}
	return nil, fmt.Errorf("unknown matcher: %v", text)
}

// matchAll is a test that holds for every line.
type matchAll struct{}

func (matchAll) match([]byte) bool { return true }

// matchSome is a test that holds for every line but the empty one.
type matchSome struct{}

func (matchSome) match(line []byte) bool { return len(line) > 0 }

// not is the negation of a test.
type not struct{ lineTest }

func (n not) match(line []byte) bool { return !n.lineTest.match(line) }

// anyOf is a test that holds when one of several does.
type anyOf []lineTest

func (a anyOf) match(line []byte) bool {
	for _, t := range a {
		if t.match(line) {
			return true
		}
	}
	return false
}

// reduce leaves out the tests that hold for every line, as long as there are others.
func (a anyOf) reduce() lineTest {
	var out anyOf
	for _, t := range a {
		if (t != matchAll{}) {
			out = append(out, t)
		}
	}
	switch len(out) {
	case 0:
		return matchAll{}
	case 1:
		return out[0]
	}
	return out
}

// contains is a test for a substring.
type contains struct{ finder }

// newContains returns the test for a substring; upper and lower case are the same when
// fold is set.
func newContains(text string, fold bool) lineTest {
	switch {
	case text == "":
		return matchAll{}
	case fold:
		return &contains{newFinder(bytes.ToLower([]byte(text)), true)}
	}
	return &contains{newFinder([]byte(text), false)}
}

func (c *contains) match(line []byte) bool {
	at := c.index(line)
	for c.verbatim && at >= 0 && !packed.Verbatim(line, at) {
		state := cursor{lower: -1, upper: -1}
		at = c.next(line, at+1, &state)
	}
	return at >= 0
}

// indexFold returns the first position at which s, in lower case, starts with needle,
// which is in lower case; -1 when there is none. Bytes that are not UTF-8 stand for
// themselves.
func indexFold(s, needle []byte) int {
	if len(needle) == 0 {
		return 0
	}
	first := needle[0]
	if first >= utf8.RuneSelf {
		for i := range s {
			if hasPrefixFold(s[i:], needle) {
				return i
			}
		}
		return -1
	}
	upper := first
	if 'a' <= first && first <= 'z' {
		upper -= 'a' - 'A'
	}
	// The Kelvin sign is the only letter whose lower case is ASCII while it is not.
	kelvin := first == 'k'
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == first || c == upper) && hasPrefixFold(s[i:], needle) {
			return i
		}
		if kelvin && c == "\u212a"[0] && hasPrefixFold(s[i:], needle) {
			return i
		}
	}
	return -1
}

// hasPrefixFold reports whether s, in lower case, starts with needle.
func hasPrefixFold(s, needle []byte) bool {
	for len(needle) > 0 {
		if len(s) == 0 {
			return false
		}
		if s[0] < utf8.RuneSelf {
			c := s[0]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			if c != needle[0] {
				return false
			}
			s, needle = s[1:], needle[1:]
			continue
		}
		c, size := utf8.DecodeRune(s)
		if c == utf8.RuneError && size == 1 {
			if s[0] != needle[0] {
				return false
			}
			s, needle = s[1:], needle[1:]
			continue
		}
		n, nsize := utf8.DecodeRune(needle)
		if unicode.ToLower(c) != n {
			return false
		}
		s, needle = s[size:], needle[nsize:]
	}
	return true
}
