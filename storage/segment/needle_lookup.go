package segment

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/sync/errgroup"

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
	rows := make([]*needleRows, len(r.index.groups))
	var fetches errgroup.Group
	fetches.SetLimit(r.opts.Parallel)
	for i := range rows {
		rows[i] = r.needleRows(ctx, &fetches, i, clauses, stats)
	}
	if err := fetches.Wait(); err != nil {
		return nil, err
	}
	blocks, next := []int{}, 0
	for i := range r.index.groups {
		g := &r.index.groups[i]
		answers, err := rows[i].answers(clauses)
		if err != nil {
			return nil, r.corrupt(fmt.Sprintf("%s, group %d", kindIDs, i), err)
		}
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
	groups, err := r.needleGroups(ctx, blocks, clauses, stats)
	if err != nil {
		return nil, err
	}
	answers := make([][]answer, len(groups))
	for number, rows := range groups {
		if rows == nil {
			continue
		}
		if answers[number], err = rows.answers(clauses); err != nil {
			return nil, r.corrupt(fmt.Sprintf("%s, group %d", kindIDs, number), err)
		}
	}
	return slices.DeleteFunc(blocks, func(i int) bool {
		b := &r.index.blocks[i]
		return b.width > 0 && !r.mayHold(i, clauses, answers[b.group]) // without a width it has no needles
	}), nil
}

// needleGroups reads what the clauses need of the groups of some blocks; others are nil. All of
// it is asked for at once, since each request may take as long as a round trip to an object store.
func (r *Reader) needleGroups(ctx context.Context, blocks []int, clauses [][]lookup, stats *model.Stats) ([]*needleRows, error) {
	groups := make([]*needleRows, len(r.index.groups))
	var fetches errgroup.Group
	fetches.SetLimit(r.opts.Parallel)
	for _, i := range blocks {
		b := &r.index.blocks[i]
		if b.width > 0 && groups[b.group] == nil {
			groups[b.group] = r.needleRows(ctx, &fetches, b.group, clauses, stats)
		}
	}
	return groups, fetches.Wait()
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
func (n *needleRows) answers(clauses [][]lookup) ([]answer, error) {
	var out []answer
	for _, clause := range clauses {
		for _, l := range clause {
			switch {
			case l.column == absent:
				out = append(out, answer{})
			case len(l.items) == 0:
				out = append(out, answer{probes: n.probesOf(l.keys)})
			default:
				hits, err := n.find(l.items)
				if err != nil {
					return nil, err
				}
				out = append(out, answer{hits: hits})
			}
		}
	}
	return out, nil
}

// find returns a bit for each block of the group: whether it may have all items.
func (n *needleRows) find(items []uint32) ([]uint64, error) {
	t := &n.group.ids
	var all []uint64
	for _, item := range items {
		hits := make([]uint64, (n.group.blocks+63)/64)
		if t.entries > 0 {
			if err := t.find(n.ids[t.page(item)], item, hits); err != nil {
				return nil, err
			}
		}
		if all == nil {
			all = hits
		}
		for i := range hits {
			all[i] &= hits[i]
		}
	}
	return all, nil
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

// needleRows are pages of a group: those of the matrix that hold the rows of some keys, and
// those of the id table that hold some items.
type needleRows struct {
	group      *group
	pages, ids map[int][]byte
}

func newNeedleRows(g *group) *needleRows {
	return &needleRows{group: g, pages: make(map[int][]byte), ids: make(map[int][]byte)}
}

// needleRows has the pages of a group fetched that the clauses need. They are there when fetches
// are done.
func (r *Reader) needleRows(ctx context.Context, fetches *errgroup.Group, number int, clauses [][]lookup, stats *model.Stats) *needleRows {
	g := &r.index.groups[number]
	rows := newNeedleRows(g)
	var pages, ids []int
	for _, clause := range clauses {
		for _, l := range clause {
			if l.column == absent {
				continue
			}
			for _, item := range l.items {
				if g.ids.entries > 0 {
					ids = append(ids, g.ids.page(item))
				}
			}
			for _, key := range l.keys {
				if len(l.items) == 0 {
					pages = append(pages, int(key>>(keyBits-g.rowBits))/g.pageRows)
				}
			}
		}
	}
	r.fetchPages(ctx, fetches, ids, rows.ids, place{kind: kindIDs, block: uint32(number)}, g.idRange, stats)
	r.fetchPages(ctx, fetches, pages, rows.pages, place{kind: kindNeedles, block: uint32(number)}, g.pageRange, stats)
	return rows
}

// fetchPages has pages fetched, neighbours in one request, and put into the map at once, to be
// filled until fetches are done.
func (r *Reader) fetchPages(ctx context.Context, fetches *errgroup.Group, wanted []int, into map[int][]byte,
	at place, where func(page int) (off int64, n int), stats *model.Stats) {
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	for len(wanted) > 0 {
		n := 1
		start, size := where(wanted[0])
		end := start + int64(size)
		for n < len(wanted) {
			off, size := where(wanted[n])
			if off-end > int64(r.opts.MaxGap)/16 {
				break
			}
			end = off + int64(size)
			n++
		}
		pages, buf := wanted[:n], make([]byte, end-start)
		wanted = wanted[n:]
		for _, p := range pages {
			off, size := where(p)
			into[p] = buf[off-start:][:size]
		}
		fetches.Go(func() error {
			if err := r.read(ctx, buf, start, stats); err != nil {
				return err
			}
			for _, p := range pages {
				off, size := where(p)
				page := place{at.kind, at.block, uint32(p)}
				if err := checkPage(buf[off-start:][:size], page); err != nil {
					return r.corrupt(fmt.Sprintf("%s, group %d, page %d", at.kind, at.block, p), err)
				}
			}
			return nil
		})
	}
}
