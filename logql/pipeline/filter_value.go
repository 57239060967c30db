package pipeline

import (
	"regexp"
	"regexp/syntax"
	"strings"
)

// newValueRegexp compiles an expression for label values: it must match the value from
// end to end. A literal with .* beside it accepts line breaks there; elsewhere a dot does
// not match them.
func newValueRegexp(expr string) (lineTest, error) {
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	tree = tree.Simplify()
	switch {
	case isAnything(tree), tree.Op == syntax.OpEmptyMatch:
		return matchAll{}, nil
	case tree.Op == syntax.OpPlus && tree.Sub[0].Op == syntax.OpAnyCharNotNL:
		return matchSome{}, nil
	}
	if t := affixTest(tree); t != nil {
		return t, nil
	}
	if texts := spellings(tree); texts != nil {
		var legs anyOf
		for _, t := range texts {
			text := t.text
			if t.fold {
				text = strings.ToLower(text)
			}
			legs = append(legs, &equals{text, t.fold})
		}
		return legs.reduce(), nil
	}
	expr = "^(?:" + expr + ")$"
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	anchored, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	return &regexpTest{re: re, dfa: newDFA(anchored.Simplify(), re), need: necessary(tree)}, nil
}

func isAnything(tree *syntax.Regexp) bool {
	return tree.Op == syntax.OpStar && tree.Sub[0].Op == syntax.OpAnyCharNotNL
}

// affixTest handles one literal with .* before it, behind it, or both.
func affixTest(tree *syntax.Regexp) lineTest {
	if tree.Op != syntax.OpConcat || len(tree.Sub) > 3 {
		return nil
	}
	subs := tree.Sub
	head, tail := isAnything(subs[0]), isAnything(subs[len(subs)-1])
	if head {
		subs = subs[1:]
	}
	if tail && len(subs) > 0 {
		subs = subs[:len(subs)-1]
	}
	if len(subs) != 1 || subs[0].Op != syntax.OpLiteral || (!head && !tail) {
		return nil
	}
	lit := spellings(subs[0])[0]
	if lit.fold {
		lit.text = strings.ToLower(lit.text)
	}
	if head && tail {
		return newContains(lit.text, lit.fold)
	}
	return &affix{text: lit.text, fold: lit.fold, suffix: head}
}

// affix is a test for the beginning or the end of a value.
type affix struct {
	text   string
	fold   bool // text is in lower case
	suffix bool
}

func (a *affix) match(v []byte) bool {
	if len(v) < len(a.text) {
		return false
	}
	switch {
	case a.suffix:
		v = v[len(v)-len(a.text):]
	default:
		v = v[:len(a.text)]
	}
	if a.fold {
		return hasPrefixFold(v, bytesOf(a.text))
	}
	return string(v) == a.text
}
