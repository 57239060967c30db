package pipeline

import (
	"bytes"
	"regexp/syntax"
	"strings"
)

// anyText is a test for any of some texts.
type anyText struct {
	anyOf
	// common is a test for a text that all of them contain; nil when there is none
	// worth a look.
	common *contains
}

// newAnyText returns a test for any of the texts.
func newAnyText(texts []literal) lineTest {
	var legs anyOf
	for _, t := range texts {
		legs = append(legs, newContains(t.text, t.fold))
	}
	if reduced, ok := legs.reduce().(anyOf); ok {
		t := &anyText{anyOf: reduced}
		if prefix := commonPrefix(texts); len(prefix.text) >= 3 {
			if c, ok := newContains(prefix.text, prefix.fold).(*contains); ok && !c.slow {
				t.common = c
			}
		}
		return t
	}
	return legs.reduce()
}

func (t *anyText) match(line []byte) bool {
	return (t.common == nil || t.common.match(line)) && t.anyOf.match(line)
}

// commonPrefix returns the longest text that all of several begin with.
func commonPrefix(texts []literal) literal {
	p := texts[0]
	for _, t := range texts[1:] {
		if t.fold != p.fold {
			return literal{}
		}
		n := 0
		for n < len(p.text) && n < len(t.text) && p.text[n] == t.text[n] {
			n++
		}
		p.text = p.text[:n]
	}
	p.text = strings.ToValidUTF8(p.text, "")
	return p
}

// sequence is a test for texts that follow each other, with anything but line breaks in
// between: a.*b.*c.
type sequence struct {
	parts []sequencePart
}

// sequencePart is one text, which begins at least gap characters behind the one before.
type sequencePart struct {
	text *contains
	gap  int
}

// newSequence returns the test for an expression of texts joined by .* and .+, nil for
// others.
func newSequence(tree *syntax.Regexp) lineTest {
	if tree.Op != syntax.OpConcat {
		return nil
	}
	s := &sequence{}
	texts, gap := []literal{{}}, 0
	end := func() bool {
		if len(texts) != 1 {
			return false
		}
		c, ok := newContains(texts[0].text, texts[0].fold).(*contains)
		if !ok || c.slow || bytes.IndexByte(c.needle, '\n') >= 0 {
			return false
		}
		s.parts = append(s.parts, sequencePart{c, gap})
		texts, gap = []literal{{}}, 0
		return true
	}
	for _, sub := range tree.Sub {
		between := sub.Op == syntax.OpStar || sub.Op == syntax.OpPlus
		if !between {
			if texts = cross(texts, spellings(sub)); texts == nil {
				return nil
			}
			continue
		}
		if sub.Sub[0].Op != syntax.OpAnyCharNotNL {
			return nil
		}
		if texts[0].text != "" && !end() {
			return nil
		}
		if sub.Op == syntax.OpPlus {
			gap++
		}
	}
	// What is left is the last text. Gaps at either end are not worth the trouble, unless
	// they may be empty.
	if texts[0].text != "" && !end() || gap > 0 || len(s.parts) < 2 || s.parts[0].gap > 0 {
		return nil
	}
	return s
}

// match looks for the first occurrence of each text behind the one before: if the texts
// follow each other at all, they do so like this.
func (s *sequence) match(line []byte) bool {
	for {
		end := bytes.IndexByte(line, '\n')
		if end < 0 {
			return s.matchPlain(line)
		}
		if s.matchPlain(line[:end]) {
			return true
		}
		line = line[end+1:]
	}
}

func (s *sequence) matchPlain(line []byte) bool {
	for _, p := range s.parts {
		for range p.gap {
			if len(line) == 0 {
				return false
			}
			line = line[runeLen(line):]
		}
		i := p.text.index(line)
		if i < 0 {
			return false
		}
		line = line[i+len(p.text.needle):]
	}
	return true
}

// rarest returns the longest of the texts.
func (s *sequence) rarest() *contains {
	best := s.parts[0].text
	for _, p := range s.parts[1:] {
		if len(p.text.needle) > len(best.needle) {
			best = p.text
		}
	}
	return best
}
