package pipeline

import (
	"regexp"
	"regexp/syntax"
)

// regexpTest searches a line with a regular expression.
type regexpTest struct {
	re  *regexp.Regexp
	dfa *dfa // nil when the expression is too large
	// need is a test that every matching line passes; it spares most lines the
	// expression. Nil when there is none.
	need lineTest
	// also are the other texts that every matching line has. They are asked of whole blocks
	// only: need may be in every line, and then one of these may not.
	also []*contains
}

func (t *regexpTest) match(line []byte) bool {
	if t.need != nil && !t.need.match(line) {
		return false
	}
	if t.dfa != nil {
		return t.dfa.match(line)
	}
	return t.re.Match(line)
}

// exact returns the expression alone, for lines that have passed need.
func (t *regexpTest) exact() lineTest {
	if t.dfa != nil {
		return t.dfa
	}
	return &regexpTest{re: t.re}
}

// newRegexpTest compiles an expression for lines: unanchored, and a dot does not match
// a line break. Expressions that only look for texts become substring tests.
func newRegexpTest(expr string) (lineTest, error) {
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	tree = tree.Simplify()
	if t := literalTest(tree); t != nil {
		return t, nil
	}
	if t := newSequence(tree); t != nil {
		return t, nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	t := &regexpTest{re: re, dfa: newDFA(tree, re), need: necessary(tree)}
	t.also = otherTexts(tree, t.need)
	return t, nil
}

// literalTest returns a test without regular expressions that does the same as an
// unanchored search for tree, or nil. In an alternation, legs that match everything are
// left out when there are others.
func literalTest(tree *syntax.Regexp) lineTest {
	switch tree.Op {
	case syntax.OpCapture:
		return literalTest(tree.Sub[0])
	case syntax.OpEmptyMatch:
		return matchAll{}
	case syntax.OpStar:
		if tree.Sub[0].Op == syntax.OpAnyCharNotNL {
			return matchAll{}
		}
	case syntax.OpPlus:
		if tree.Sub[0].Op == syntax.OpAnyCharNotNL {
			return matchSome{}
		}
	case syntax.OpLiteral, syntax.OpConcat:
		return concatTest(tree)
	case syntax.OpAlternate:
		var legs anyOf
		for _, sub := range tree.Sub {
			t := literalTest(sub)
			if t == nil {
				return nil
			}
			legs = append(legs, t)
		}
		return legs.reduce()
	}
	return nil
}

// concatTest handles literals, also spelled as alternatives, between any characters.
func concatTest(tree *syntax.Regexp) lineTest {
	subs := []*syntax.Regexp{tree}
	if tree.Op == syntax.OpConcat {
		subs = tree.Sub
	}
	anything := func(s *syntax.Regexp) bool {
		return s.Op == syntax.OpEmptyMatch || s.Op == syntax.OpStar && s.Sub[0].Op == syntax.OpAnyCharNotNL
	}
	for len(subs) > 0 && anything(subs[0]) {
		subs = subs[1:]
	}
	for len(subs) > 0 && anything(subs[len(subs)-1]) {
		subs = subs[:len(subs)-1]
	}
	texts := []literal{{}}
	for _, s := range subs {
		if texts = cross(texts, spellings(s)); texts == nil {
			return nil
		}
	}
	for _, t := range texts {
		if t.text == "" {
			return matchAll{}
		}
	}
	return newAnyText(texts)
}

// literal is a text, in either case when fold is set.
type literal struct {
	text string
	fold bool
}

// maxSpellings bounds the texts that an expression is spelled out to.
const maxSpellings = 16

// spellings returns all texts that tree matches, or nil when there are too many.
func spellings(tree *syntax.Regexp) []literal {
	switch tree.Op {
	case syntax.OpEmptyMatch:
		return []literal{{}}
	case syntax.OpCapture:
		return spellings(tree.Sub[0])
	case syntax.OpLiteral:
		return []literal{{string(tree.Rune), tree.Flags&syntax.FoldCase != 0 && hasCase(tree.Rune)}}
	case syntax.OpCharClass:
		return classSpellings(tree)
	case syntax.OpQuest:
		if s := spellings(tree.Sub[0]); s != nil && len(s) < maxSpellings {
			return append(s, literal{})
		}
	case syntax.OpAlternate:
		var out []literal
		for _, sub := range tree.Sub {
			s := spellings(sub)
			if s == nil || len(out)+len(s) > maxSpellings {
				return nil
			}
			out = append(out, s...)
		}
		return out
	case syntax.OpConcat:
		out := []literal{{}}
		for _, sub := range tree.Sub {
			if out = cross(out, spellings(sub)); out == nil {
				return nil
			}
		}
		return out
	}
	return nil
}

func classSpellings(tree *syntax.Regexp) []literal {
	var out []literal
	for i := 0; i < len(tree.Rune); i += 2 {
		for c := tree.Rune[i]; c <= tree.Rune[i+1]; c++ {
			if len(out) == maxSpellings || c == 0xfffd {
				return nil
			}
			out = append(out, literal{text: string(c)})
		}
	}
	return out
}

// hasCase reports whether a text has letters of two cases.
func hasCase(text []rune) bool {
	for _, c := range text {
		if syntax.IsWordChar(c) && (c|0x20) >= 'a' || c >= 0x80 {
			return true
		}
	}
	return false
}

// cross joins each text of a with each of b; nil when there are too many, or when the
// parts disagree about case.
func cross(a, b []literal) []literal {
	if len(a) == 0 || len(b) == 0 || len(a)*len(b) > maxSpellings {
		return nil
	}
	var out []literal
	for _, x := range a {
		for _, y := range b {
			switch {
			case x.text == "":
				out = append(out, y)
			case y.text == "":
				out = append(out, x)
			case x.fold != y.fold:
				return nil
			default:
				out = append(out, literal{x.text + y.text, x.fold})
			}
		}
	}
	return out
}

// necessary returns a test that every line passes in which tree is found, or nil. It is
// the longest literal that must occur, or an alternative of such.
func necessary(tree *syntax.Regexp) lineTest {
	lits := required(tree)
	if len(lits) == 0 {
		return nil
	}
	var legs anyOf
	for _, l := range lits {
		if l.text == "" {
			return nil
		}
		legs = append(legs, newContains(l.text, l.fold))
	}
	return legs.reduce()
}

// required returns texts one of which occurs in whatever tree matches; nil when
// nothing is known. Folded literals are only used when they are ASCII without letters
// that fold to others outside of it.
func required(tree *syntax.Regexp) []literal {
	switch tree.Op {
	case syntax.OpCapture, syntax.OpPlus:
		return required(tree.Sub[0])
	case syntax.OpRepeat:
		if tree.Min > 0 {
			return required(tree.Sub[0])
		}
		return nil
	case syntax.OpAlternate:
		var out []literal
		for _, sub := range tree.Sub {
			r := required(sub)
			if r == nil || len(out)+len(r) > maxSpellings {
				return nil
			}
			out = append(out, r...)
		}
		return out
	case syntax.OpConcat:
		return requiredConcat(tree.Sub)
	}
	return usable(spellings(tree))
}

// otherTexts returns the texts besides need that stand side by side with it in tree.
func otherTexts(tree *syntax.Regexp, need lineTest) []*contains {
	for tree.Op == syntax.OpCapture {
		tree = tree.Sub[0]
	}
	if tree.Op != syntax.OpConcat {
		return nil
	}
	var out []*contains
	first, _ := need.(*contains)
	eachRequired(tree.Sub, func(r []literal) {
		if len(r) != 1 || len(r[0].text) < 2 || len(out) == maxOther {
			return
		}
		c, ok := newContains(r[0].text, r[0].fold).(*contains)
		if ok && !c.slow && (first == nil || string(c.needle) != string(first.needle)) {
			out = append(out, c)
		}
	})
	return out
}

// maxOther bounds the sweeps over a block for one expression.
const maxOther = 3

// requiredConcat returns the best of what the parts require, joining neighbours that can
// be spelled out.
func requiredConcat(subs []*syntax.Regexp) []literal {
	var best []literal
	eachRequired(subs, func(r []literal) {
		if best == nil || score(r) > score(best) {
			best = r
		}
	})
	return best
}

// eachRequired calls f with everything that the parts require.
func eachRequired(subs []*syntax.Regexp, f func([]literal)) {
	var run []literal
	consider := func(r []literal) {
		if r = usable(r); r != nil {
			f(r)
		}
	}
	for _, sub := range subs {
		s := spellings(sub)
		if s == nil {
			consider(run)
			run = nil
			consider(required(sub))
			continue
		}
		if joined := cross(run, s); joined != nil {
			run = joined
			continue
		}
		consider(run)
		run = s
	}
	consider(run)
}

// score rates alternatives: long texts and few of them are best.
func score(r []literal) int {
	shortest := len(r[0].text)
	for _, l := range r {
		shortest = min(shortest, len(l.text))
	}
	return shortest*4 - len(r)
}

// usable returns r when none of its texts is empty or folds in ways that a substring
// test does not see.
func usable(r []literal) []literal {
	for _, l := range r {
		if l.text == "" {
			return nil
		}
		for _, c := range l.text {
			if c >= 0x80 && l.fold || l.fold && (c|0x20 == 'k' || c|0x20 == 's') {
				return nil
			}
			if c == 0xfffd {
				return nil
			}
		}
	}
	return r
}
