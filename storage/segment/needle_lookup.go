package segment

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
)

// A request's needles are a conjunction of disjunctions. For each needle the keys are
// computed once; a clause with a needle that the index cannot judge excludes nothing.

// lookup is a needle with its keys.
type lookup struct {
	keys []uint32
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
			l := lookup{keys: needleKeys(n), column: -1}
			if n.Name != "" && n.Text != "" {
				l.column = absent
				if i, ok := slices.BinarySearch(r.index.names, n.Name); ok {
					l.column = i
				}
			}
			if len(l.keys) == 0 {
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

// pruneNeedles returns those of the blocks in which all needles may occur.
func (r *Reader) pruneNeedles(ctx context.Context, needles []model.Needles, blocks []int, stats *model.Stats) ([]int, error) {
	clauses := r.clauses(needles)
	if len(clauses) == 0 || len(blocks) == 0 {
		return blocks, nil
	}
	blocks = slices.DeleteFunc(blocks, func(i int) bool {
		for _, clause := range clauses {
			if !slices.ContainsFunc(clause, func(l lookup) bool { return r.hasColumn(i, l.column) }) {
				return true
			}
		}
		return false
	})
	groups, err := r.needleGroups(ctx, blocks, clauses, stats)
	if err != nil {
		return nil, err
	}
	var probes [][]probe
	current := -1
	return slices.DeleteFunc(blocks, func(i int) bool {
		b := &r.index.blocks[i]
		if b.width == 0 {
			return false // a block without needles
		}
		if b.group != current {
			current, probes = b.group, groups[b.group].probes(clauses)
		}
		return !r.mayHold(i, clauses, probes)
	}), nil
}

// needleGroups reads what the clauses need of the groups of some blocks. All of it is asked
// for at once, since each request may take as long as a round trip to an object store.
func (r *Reader) needleGroups(ctx context.Context, blocks []int, clauses [][]lookup, stats *model.Stats) (map[int]*needleRows, error) {
	groups := make(map[int]*needleRows)
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

// mayHold reports whether a block has all keys of one alternative of each clause. Probes
// are those of the clauses, one after the other.
func (r *Reader) mayHold(block int, clauses [][]lookup, probes [][]probe) bool {
	b := &r.index.blocks[block]
	for _, clause := range clauses {
		found := false
		for i := range clause {
			if !found && allSet(b, probes[i]) && r.hasColumn(block, clause[i].column) {
				found = true
			}
		}
		if !found {
			return false
		}
		probes = probes[len(clause):]
	}
	return true
}

// probe is one key of a needle in a group: the page that has its row, the bit at which the
// row begins, and the key's low bits, which choose one of a block's columns.
type probe struct {
	page  []byte
	bit   int
	low   int
	shift uint
}

// probes finds the rows of the lookups' keys. A lookup in a column that no block has gets
// none, which is why mayHold asks for the column too.
func (n *needleRows) probes(clauses [][]lookup) [][]probe {
	var out [][]probe
	for _, clause := range clauses {
		for _, l := range clause {
			if l.column == absent {
				out = append(out, nil)
				continue
			}
			out = append(out, n.probesOf(l.keys))
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

// needleRows are the pages of a group that hold the rows of some keys.
type needleRows struct {
	group *group
	pages map[int][]byte
}

// needleRows has the pages of a group fetched that the clauses need, neighbours in one
// request. They are there when fetches are done.
func (r *Reader) needleRows(ctx context.Context, fetches *errgroup.Group, number int, clauses [][]lookup, stats *model.Stats) *needleRows {
	g := &r.index.groups[number]
	rows := &needleRows{group: g, pages: make(map[int][]byte)}
	var wanted []int
	for _, clause := range clauses {
		for _, l := range clause {
			if l.column == absent {
				continue
			}
			for _, key := range l.keys {
				wanted = append(wanted, int(key>>(keyBits-g.rowBits))/g.pageRows)
			}
		}
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	for len(wanted) > 0 {
		n := 1
		start, size := g.pageRange(wanted[0])
		end := start + int64(size)
		for n < len(wanted) {
			off, size := g.pageRange(wanted[n])
			if off-end > int64(r.opts.MaxGap)/16 {
				break
			}
			end = off + int64(size)
			n++
		}
		pages, buf := wanted[:n], make([]byte, end-start)
		wanted = wanted[n:]
		for _, p := range pages {
			off, size := g.pageRange(p)
			rows.pages[p] = buf[off-start:][:size]
		}
		fetches.Go(func() error {
			if err := r.read(ctx, buf, start, stats); err != nil {
				return err
			}
			for _, p := range pages {
				off, size := g.pageRange(p)
				if err := checkPage(buf[off-start:][:size], place{kindNeedles, uint32(number), uint32(p)}); err != nil {
					return r.corrupt(fmt.Sprintf("needle index, group %d, page %d", number, p), err)
				}
			}
			return nil
		})
	}
	return rows
}
