package syntax

import (
	"regexp/syntax"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/skaldlog/skald/internal/model"
)

// maxLiteral bounds the texts taken from a regular expression, in bytes.
const maxLiteral = 256

// demands is what a piece of a regular expression asks of a text that it matches.
type demands struct {
	// exact lists every text that the piece can match; nil when there are too many.
	exact model.Needles
	// conditions are texts of which one must occur, when exact is nil.
	conditions []model.Needles
}

// all returns the conditions, with the exact texts as one more.
func (d demands) all() []model.Needles {
	if d.exact != nil {
		return []model.Needles{d.exact}
	}
	return d.conditions
}

// regexpConditions returns what a line that matches expr must contain.
func regexpConditions(expr string) []model.Needles {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	conditions := demandsOf(re).all()
	for _, c := range conditions {
		for i := range c {
			if c[i].Fold && strings.ToUpper(c[i].Text) == c[i].Text {
				c[i].Fold = false // nothing to fold
			}
		}
	}
	return conditions
}

func demandsOf(re *syntax.Regexp) demands {
	switch re.Op {
	case syntax.OpLiteral:
		return literalDemands(re.Rune, re.Flags&syntax.FoldCase != 0)
	case syntax.OpCharClass:
		return classDemands(re.Rune)
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText,
		syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return demands{exact: model.Needles{{}}}
	case syntax.OpCapture:
		return demandsOf(re.Sub[0])
	case syntax.OpPlus:
		return demands{conditions: demandsOf(re.Sub[0]).all()}
	case syntax.OpRepeat:
		if re.Min > 0 {
			return demands{conditions: demandsOf(re.Sub[0]).all()}
		}
	case syntax.OpQuest:
		if d := demandsOf(re.Sub[0]); d.exact != nil && len(d.exact) < maxAlternatives {
			return demands{exact: append(d.exact, model.Needle{})}
		}
	case syntax.OpConcat:
		return concatDemands(re.Sub)
	case syntax.OpAlternate:
		return alternateDemands(re.Sub)
	}
	return demands{}
}

// classDemands handles classes of a few characters.
func classDemands(ranges []rune) demands {
	var exact model.Needles
	for i := 0; i < len(ranges); i += 2 {
		for r := ranges[i]; r <= ranges[i+1]; r++ {
			if len(exact) == maxAlternatives || r == utf8.RuneError {
				return demands{}
			}
			exact = append(exact, model.Needle{Text: string(r)})
		}
	}
	return demands{exact: exact}
}

// literalDemands joins the notations of each character.
func literalDemands(runes []rune, fold bool) demands {
	var c concat
	for _, r := range runes {
		c.append(demands{exact: notations(r, fold)})
	}
	return c.demands()
}

// notations lists the texts that match a character. Folding goes beyond ASCII: "k"
// matches the Kelvin sign and "s" the long s, which Needle.Fold does not know of, so
// these are alternatives. The replacement character has no text of its own, because
// every invalid byte matches it.
func notations(r rune, fold bool) model.Needles {
	if r == utf8.RuneError {
		return nil
	}
	if !fold {
		return model.Needles{{Text: string(r)}}
	}
	var list model.Needles
	ascii := false
	for f := r; ; {
		switch {
		case f >= utf8.RuneSelf:
			list = append(list, model.Needle{Text: string(f), Fold: true})
		case !ascii:
			ascii = true
			list = append(list, model.Needle{Text: string(unicode.ToLower(f)), Fold: true})
		}
		if f = unicode.SimpleFold(f); f == r {
			return list
		}
	}
}

func concatDemands(subs []*syntax.Regexp) demands {
	var c concat
	for _, sub := range subs {
		c.append(demandsOf(sub))
	}
	return c.demands()
}

// concat collects the demands of pieces that follow one another.
type concat struct {
	run        model.Needles // the texts of the pieces since the last inexact one
	conditions []model.Needles
	inexact    bool
}

func (c *concat) append(d demands) {
	if d.exact == nil {
		c.flush()
		c.inexact = true
		c.conditions = append(c.conditions, d.conditions...)
		return
	}
	if c.run == nil {
		c.run = model.Needles{{}}
	}
	if len(c.run)*len(d.exact) > maxAlternatives || len(c.run[0].Text) > maxLiteral {
		c.flush()
		c.inexact = true
		c.run = model.Needles{{}}
	}
	joined := make(model.Needles, 0, len(c.run)*len(d.exact))
	for _, a := range c.run {
		for _, b := range d.exact {
			joined = append(joined, join(a, b))
		}
	}
	c.run = joined
}

func (c *concat) flush() {
	if c.run != nil {
		c.conditions = append(c.conditions, c.run)
		c.run = nil
	}
}

func (c *concat) demands() demands {
	if !c.inexact && c.run != nil {
		return demands{exact: c.run}
	}
	c.flush()
	return demands{conditions: c.conditions}
}

// join puts two texts together. If one folds, the other must too, which demands less.
func join(a, b model.Needle) model.Needle {
	if a.Fold != b.Fold {
		a, b = folded(a), folded(b)
	}
	return model.Needle{Text: a.Text + b.Text, Fold: a.Fold}
}

func folded(n model.Needle) model.Needle {
	if n.Fold || n.Text == "" {
		n.Fold = true
		return n
	}
	lower := []byte(n.Text)
	for i, c := range lower {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return model.Needle{Text: string(lower), Fold: true}
}

// alternateDemands unites the texts of all branches, or else the best condition of each.
func alternateDemands(subs []*syntax.Regexp) demands {
	var exact, either model.Needles
	isExact, isEither := true, true
	for _, sub := range subs {
		d := demandsOf(sub)
		one := best(d.all())
		isExact = isExact && d.exact != nil && len(exact)+len(d.exact) <= maxAlternatives
		isEither = isEither && one != nil && len(either)+len(one) <= maxAlternatives
		if !isExact && !isEither {
			return demands{}
		}
		if isExact {
			exact = append(exact, d.exact...)
		}
		if isEither {
			either = append(either, one...)
		}
	}
	if isExact {
		return demands{exact: exact}
	}
	return demands{conditions: []model.Needles{either}}
}
