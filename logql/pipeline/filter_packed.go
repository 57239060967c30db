package pipeline

import (
	"bytes"
	"slices"
	"sort"

	"github.com/skaldlog/skald/internal/packed"
)

// packedTest is what a line filter asks of lines whose fields are still taken out (package
// internal/packed): a text that they must contain or, unless keep is set, must not contain
// where nothing else can be meant. It lets pass whatever the filter lets pass.
type packedTest struct {
	text *contains
	keep bool
	ids  [][]byte // unless nil, the line may have one of these in its ids instead of text
}

// PackedLines is the lines of a block as model.Packed has them. NonePacked does not need the
// offsets.
type PackedLines struct {
	Text, IDs    []byte
	TextAt, IDAt []uint32
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
				if need == nil {
					continue
				}
				if c := packedCore(need); c != nil {
					out = append(out, packedTest{text: c, keep: true})
				}
				if t := packedID(need); t != nil {
					out = append(out, *t)
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
	needle := longestSimple(c.needle, c.fold)
	from, to := packed.Core(needle, c.fold)
	if to-from < minCore {
		return nil
	}
	core, _ := newContains(string(needle[from:to]), c.fold).(*contains)
	return core
}

// packedID returns the test for an id in a text, nil when there is none.
func packedID(c *contains) *packedTest {
	id, ok := packed.FindID(longestSimple(c.needle, c.fold))
	if !ok {
		return nil
	}
	text, _ := newContains(string(id.Text), c.fold).(*contains)
	return &packedTest{text: text, keep: true, ids: id.Bytes}
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

// NonePacked reports whether no row can pass the leading line filters, as the packed lines
// of a block as a whole lack what all that pass have.
func (p *Pipeline) NonePacked(lines *PackedLines) bool {
	p.packedFrom = 0
	for _, t := range p.lead.packed {
		if !t.keep {
			continue
		}
		if slices.ContainsFunc(t.ids, func(id []byte) bool { return bytes.Contains(lines.IDs, id) }) {
			continue
		}
		at := t.text.index(lines.Text)
		if at < 0 {
			return true
		}
		if t.ids == nil {
			p.packedFrom = max(p.packedFrom, uint32(at))
		}
	}
	return false
}

// FilterPacked keeps, in sel's memory, the rows that may pass the leading line filters. It
// is given lines whose fields are still taken out, of which NonePacked has just said that
// some may pass; the rows that are left go through FilterBatch with their whole lines.
func (p *Pipeline) FilterPacked(lines *PackedLines, sel []uint32) []uint32 {
	before := sort.Search(len(sel), func(i int) bool { return lines.TextAt[sel[i]+1] > p.packedFrom })
	sel = sel[before:]
	for i := range p.lead.packed {
		if len(sel) == 0 {
			break
		}
		if t := &p.lead.packed[i]; t.ids != nil {
			sel = t.sweepIDs(lines, sel)
		} else {
			sel = sweepRows(t.text, t.keep, lines.Text, lines.TextAt, sel)
		}
	}
	return sel
}

// sweepIDs keeps the rows that have one of the ids, or the text. Usually these are a few of
// thousands.
func (t *packedTest) sweepIDs(lines *PackedLines, sel []uint32) []uint32 {
	var found []uint32
	for _, id := range t.ids {
		for at := 0; ; {
			hit := bytes.Index(lines.IDs[at:], id)
			if hit < 0 {
				break
			}
			// The last row that begins there or before; those before it may be empty.
			row := sort.Search(len(lines.IDAt), func(i int) bool { return int(lines.IDAt[i]) > at+hit }) - 1
			found = append(found, uint32(row))
			at += hit + 1
		}
	}
	if t.text.index(lines.Text) >= 0 {
		found = append(found, sweepRows(t.text, true, lines.Text, lines.TextAt, slices.Clone(sel))...)
	}
	slices.Sort(found)
	return slices.DeleteFunc(sel, func(row uint32) bool {
		_, ok := slices.BinarySearch(found, row)
		return !ok
	})
}
