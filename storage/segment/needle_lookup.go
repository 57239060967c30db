package segment

import (
	"context"
	"math/bits"
	"slices"

	"github.com/skaldlog/skald/internal/model"
)

// A request's needles are a conjunction of disjunctions. For each needle the keys are
// computed once; a clause with a needle that the index cannot judge excludes nothing.

// lookup is a needle with its keys and items. The items are asked for when there are some.
type lookup struct {
	keys, items []uint32
	// column is the number of the metadata name that a block must have; -1 for lines, and
	// absent when no block of the segment has it.
	column int
}

const absent = -2

// clauses prepares the clauses that can exclude something.
func (r *Reader) clauses(needles []model.Needles) [][]lookup {
	var out [][]lookup
	for _, clause := range needles {
		var alternatives []lookup
		for _, n := range clause {
			l := lookup{column: -1}
			l.keys, l.items = needleKeys(n)
			if n.Name != "" && n.Text != "" {
				l.column = absent
				if i, ok := slices.BinarySearch(r.index.names, n.Name); ok {
					l.column = i
				}
			}
			if len(l.keys)+len(l.items) == 0 {
				alternatives = nil
				break
			}
			alternatives = append(alternatives, l)
		}
		if len(alternatives) > 0 {
			out = append(out, alternatives)
		}
	}
	return out
}

// fewBlocks are so few that reading them costs less than to ask the matrix about them.
const fewBlocks = 8

// splitClauses returns the clauses that the id tables can judge alone, and the others.
func splitClauses(clauses [][]lookup) (certain, others [][]lookup) {
	for _, clause := range clauses {
		if slices.ContainsFunc(clause, func(l lookup) bool { return len(l.items) == 0 }) {
			others = append(others, clause)
		} else {
			certain = append(certain, clause)
		}
	}
	return certain, others
}

// pruneNeedles returns those of the blocks in which all needles may occur; nil stands for all
// blocks of the segment. Clauses that the id tables can judge come first, since hardly a
// block is left behind them.
func (r *Reader) pruneNeedles(ctx context.Context, needles []model.Needles, blocks []int, stats *model.Stats) ([]int, error) {
	clauses := r.clauses(needles)
	certain, others := splitClauses(clauses)
	var err error
	if blocks == nil && len(certain) > 0 {
		if blocks, err = r.named(ctx, certain, stats); err == nil && len(blocks) > fewBlocks {
			_, err = r.blocks()
		}
	} else if _, err = r.blocks(); err == nil {
		if blocks == nil {
			blocks = r.allBlocks()
		}
		for _, clause := range clauses {
			if !slices.ContainsFunc(clause, func(l lookup) bool { return l.column == -1 }) {
				blocks = slices.DeleteFunc(blocks, func(i int) bool {
					return !slices.ContainsFunc(clause, func(l lookup) bool { return r.hasColumn(i, l.column) })
				})
			}
		}
		blocks, err = r.pruneBy(ctx, certain, blocks, stats)
	}
	if err != nil || len(certain) > 0 && len(blocks) <= fewBlocks {
		return blocks, err
	}
	// The id is in many lines, or what makes the item is: ids may have much in common, as those
	// that begin with the time have. The matrix knows more of them.
	for _, clause := range certain {
		clause = slices.Clone(clause)
		for i := range clause {
			clause[i].items = nil
		}
		if !slices.ContainsFunc(clause, func(l lookup) bool { return len(l.keys) == 0 }) {
			others = append(others, clause)
		}
	}
	return r.pruneBy(ctx, others, blocks, stats)
}

func (r *Reader) allBlocks() []int {
	blocks := make([]int, r.footer.blocks)
	for i := range blocks {
		blocks[i] = i
	}
	return blocks
}

// named returns the blocks of the segment that the id tables name for all clauses, and those
// without needles. It does not look at the blocks, of which there are thousands.
func (r *Reader) named(ctx context.Context, clauses [][]lookup, stats *model.Stats) ([]int, error) {
	all := make([]bool, len(r.index.groups))
	for i := range all {
		all[i] = true
	}
	rows, err := r.ask(ctx, all, clauses, stats)
	if err != nil {
		return nil, err
	}
	blocks, next := []int{}, 0
	for i := range r.index.groups {
		g, answers := &r.index.groups[i], rows[i].answers(clauses)
		next = g.firstBlock + g.blocks
		for word := range (g.blocks + 63) / 64 {
			all, left := ^uint64(0), answers
			for _, clause := range clauses {
				some := uint64(0)
				for _, a := range left[:len(clause)] {
					if a.hits != nil {
						some |= a.hits[word]
					}
				}
				all, left = all&some, left[len(clause):]
			}
			for ; all != 0; all &= all - 1 {
				blocks = append(blocks, g.firstBlock+64*word+bits.TrailingZeros64(all))
			}
		}
	}
	for ; next < r.footer.blocks; next++ {
		blocks = append(blocks, next)
	}
	return blocks, nil
}

// pruneBy returns those of the blocks that may satisfy all clauses.
func (r *Reader) pruneBy(ctx context.Context, clauses [][]lookup, blocks []int, stats *model.Stats) ([]int, error) {
	if len(clauses) == 0 || len(blocks) == 0 {
		return blocks, nil
	}
	wanted := make([]bool, len(r.index.groups))
	for _, i := range blocks {
		if b := &r.index.blocks[i]; b.width > 0 {
			wanted[b.group] = true
		}
	}
	groups, err := r.ask(ctx, wanted, clauses, stats)
	if err != nil {
		return nil, err
	}
	answers := make([][]answer, len(groups))
	for number, rows := range groups {
		if rows != nil {
			answers[number] = rows.answers(clauses)
		}
	}
	return slices.DeleteFunc(blocks, func(i int) bool {
		b := &r.index.blocks[i]
		return b.width > 0 && !r.mayHold(i, clauses, answers[b.group]) // without a width it has no needles
	}), nil
}

// hasColumn reports whether a block has a metadata column; column -1 stands for the lines.
func (r *Reader) hasColumn(block, column int) bool {
	if column < 0 {
		return column != absent
	}
	_, ok := r.index.blocks[block].find(column)
	return ok
}

// mayHold reports whether a block may hold one alternative of each clause. Answers are those
// of the block's group to the clauses' lookups, one after the other.
func (r *Reader) mayHold(block int, clauses [][]lookup, answers []answer) bool {
	b := &r.index.blocks[block]
	first := r.index.groups[b.group].firstBlock
	for _, clause := range clauses {
		found := false
		for i := range clause {
			if !found && answers[i].holds(b, block-first) && r.hasColumn(block, clause[i].column) {
				found = true
			}
		}
		if !found {
			return false
		}
		answers = answers[len(clause):]
	}
	return true
}

// answer is what a group says to a lookup: the blocks that its id table names, or the rows of
// the matrix for its keys.
type answer struct {
	hits   []uint64 // a bit for each block of the group; nil when the matrix is asked
	probes []probe
}

// holds reports whether a block, the number-th of its group, may hold what was looked up.
func (a *answer) holds(b *blockMeta, number int) bool {
	if a.hits != nil {
		return a.hits[number>>6]>>(number&63)&1 != 0
	}
	return allSet(b, a.probes)
}

// probe is one key of a needle in a group: the page that has its row, the bit at which the
// row begins, and the key's low bits, which choose one of a block's columns.
type probe struct {
	page  []byte
	bit   int
	low   int
	shift uint
}

// answers answers the lookups of the clauses. To one in a column that no block has anything
// will do, because mayHold asks for the column too.
func (n *needleRows) answers(clauses [][]lookup) []answer {
	var out []answer
	for _, clause := range clauses {
		for _, l := range clause {
			switch {
			case l.column == absent:
				out = append(out, answer{})
			case len(l.items) == 0:
				out = append(out, answer{probes: n.probesOf(l.keys)})
			default:
				out = append(out, answer{hits: n.inAll(l.items)})
			}
		}
	}
	return out
}

func (n *needleRows) probesOf(keys []uint32) []probe {
	out := make([]probe, len(keys))
	shift := keyBits - n.group.rowBits
	for i, key := range keys {
		row := int(key >> shift)
		out[i] = probe{n.pages[row/n.group.pageRows], row % n.group.pageRows * n.group.columns, int(key & (1<<shift - 1)), shift}
	}
	return out
}

// allSet reports whether a block has all keys.
func allSet(b *blockMeta, probes []probe) bool {
	for i := range probes {
		p := &probes[i]
		bit := p.bit + b.column + p.low*b.width>>p.shift
		if p.page[bit>>3]>>(bit&7)&1 == 0 {
			return false
		}
	}
	return true
}
