package pipeline

import (
	"sort"

	"github.com/skaldlog/skald/internal/packed"
)

// packedTest is what a line filter asks of lines whose fields are still taken out (package
// internal/packed): a text that they must contain or, unless keep is set, must not contain
// where nothing else can be meant. It lets pass whatever the filter lets pass.
type packedTest struct {
	text *contains
	keep bool
}

// minCore is the shortest piece of a needle that is looked for in packed lines: shorter ones
// are nearly everywhere.
const minCore = 3

// packedTests derives the tests on packed lines from those on lines.
func packedTests(tests []lineTest) []packedTest {
	var out []packedTest
	for _, t := range tests {
		switch t := t.(type) {
		case not:
			if c, ok := t.lineTest.(*contains); ok && !c.slow && plain(c.needle) {
				verbatim := *c
				verbatim.verbatim = true
				out = append(out, packedTest{text: &verbatim})
			}
		default:
			for _, need := range needed(t) {
				if c := packedCore(need); c != nil {
					out = append(out, packedTest{c, true})
				}
			}
		}
	}
	return out
}

func plain(needle []byte) bool {
	for _, b := range needle {
		if b >= packed.First {
			return false
		}
	}
	return true
}

// needed returns texts that every line has that passes a test, as far as they are known.
func needed(t lineTest) []*contains {
	switch t := t.(type) {
	case *contains:
		return []*contains{t}
	case *anyText:
		return []*contains{t.common}
	case *sequence:
		return []*contains{t.rarest()}
	case *regexpTest:
		c, _ := t.need.(*contains)
		return append([]*contains{c}, t.also...)
	}
	return nil
}

// packedCore returns the test for the piece of a text that stands in packed lines, too.
func packedCore(c *contains) *contains {
	if c == nil {
		return nil
	}
	needle := longestSimple(c.needle, c.fold)
	from, to := packed.Core(needle, c.fold)
	if to-from < minCore {
		return nil
	}
	core, _ := newContains(string(needle[from:to]), c.fold).(*contains)
	return core
}

// longestSimple returns the longest piece of a needle that can be searched for byte by byte:
// with fold, one without letters that fold to others outside of ASCII.
func longestSimple(needle []byte, fold bool) []byte {
	if !fold {
		return needle
	}
	best, start := needle[:0], 0
	for i := 0; i <= len(needle); i++ {
		if i < len(needle) && !foldsSlowly(needle[i]) {
			continue
		}
		if i-start > len(best) {
			best = needle[start:i]
		}
		start = i + 1
	}
	return best
}

// Packs reports whether FilterPacked can exclude anything.
func (p *Pipeline) Packs() bool { return p.lead != nil && len(p.lead.packed) > 0 }

// NonePacked reports whether no row can pass the leading line filters, as the whole packed
// text of a block lacks what all that pass have.
func (p *Pipeline) NonePacked(text []byte) bool {
	p.packedFrom = 0
	for _, t := range p.lead.packed {
		if !t.keep {
			continue
		}
		at := t.text.index(text)
		if at < 0 {
			return true
		}
		p.packedFrom = max(p.packedFrom, uint32(at))
	}
	return false
}

// FilterPacked keeps, in sel's memory, the rows that may pass the leading line filters. It
// is given lines whose fields are still taken out, of which NonePacked has just said that
// some may pass; the rows that are left go through FilterBatch with their whole lines.
func (p *Pipeline) FilterPacked(text []byte, offsets, sel []uint32) []uint32 {
	before := sort.Search(len(sel), func(i int) bool { return offsets[sel[i]+1] > p.packedFrom })
	sel = sel[before:]
	for _, t := range p.lead.packed {
		if len(sel) == 0 {
			break
		}
		sel = sweepRows(t.text, t.keep, text, offsets, sel)
	}
	return sel
}
