package segment

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
)

// needleRows is what a group says of some lookups: pages of the matrix that hold the rows of keys, and
// the blocks of items.
type needleRows struct {
	group             *group
	pages, ids, lists map[int][]byte
	found             map[uint32]*idHits // by item
}

// idHits is what a table says of an item.
type idHits struct {
	blocks   []uint64 // a bit for each block of the group
	position uint64
	list     int // the page that has its list; -1 without
	marked   bool
}

func newNeedleRows(g *group) *needleRows {
	return &needleRows{group: g, pages: make(map[int][]byte), ids: make(map[int][]byte), lists: make(map[int][]byte), found: make(map[uint32]*idHits)}
}

// ask asks the wanted groups about the clauses; the rows of others are nil. All pages are asked for at
// once, since each request may take as long as a round trip to an object store, and then lists, which few
// ids have.
func (r *Reader) ask(ctx context.Context, wanted []bool, clauses [][]lookup, stats *model.Stats) ([]*needleRows, error) {
	groups := make([]*needleRows, len(wanted))
	var fetches, more errgroup.Group
	fetches.SetLimit(r.opts.Parallel)
	more.SetLimit(r.opts.Parallel)
	for i, want := range wanted {
		if want {
			groups[i] = r.needleRows(ctx, &fetches, i, clauses, stats)
		}
	}
	if err := fetches.Wait(); err != nil {
		return nil, err
	}
	for i, rows := range groups {
		if rows == nil {
			continue
		}
		lists, err := rows.findAll(clauses)
		if err != nil {
			return nil, r.corrupt(fmt.Sprintf("%s, group %d", kindIDs, i), err)
		}
		r.fetchPages(ctx, &more, lists, rows.lists, place{kind: kindIDLists, block: uint32(i)}, rows.group.listRange, stats)
	}
	if err := more.Wait(); err != nil {
		return nil, err
	}
	for i, rows := range groups {
		if rows == nil {
			continue
		}
		if err := rows.readLists(); err != nil {
			return nil, r.corrupt(fmt.Sprintf("%s, group %d", kindIDLists, i), err)
		}
	}
	return groups, nil
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
				ids = append(ids, g.ids.page(item))
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

// findAll looks for the clauses' items in the pages, and returns the pages of lists that are needed.
func (n *needleRows) findAll(clauses [][]lookup) (lists []int, err error) {
	for _, clause := range clauses {
		for _, l := range clause {
			if l.column == absent {
				continue
			}
			for _, item := range l.items {
				if n.found[item] != nil {
					continue
				}
				hits, err := n.find(item)
				if err != nil {
					return nil, err
				}
				if n.found[item] = hits; hits.list >= 0 {
					lists = append(lists, hits.list)
				}
			}
		}
	}
	return lists, nil
}

func (n *needleRows) find(item uint32) (*idHits, error) {
	t := &n.group.ids
	number := t.page(item)
	raw := n.ids[number]
	page, err := decodeIDPage(raw[:len(raw)-4], t.Pages, number)
	if err != nil {
		return nil, err
	}
	if page.blocks != n.group.blocks {
		return nil, fmt.Errorf("a page for %d blocks, the group has %d", page.blocks, n.group.blocks)
	}
	hits := &idHits{position: idPosition(item, t.Pages, page.values), list: -1}
	var listed bool
	if hits.blocks, listed, err = page.find(hits.position); err != nil || !listed {
		return hits, err
	}
	hits.list, hits.marked = t.listPage(hits.position), hits.position < page.listed
	if hits.list < 0 && hits.marked {
		return nil, errNoList
	}
	return hits, nil
}

var errNoList = errors.New("a list is missing")

// readLists finds the blocks of the items that have lists.
func (n *needleRows) readLists() error {
	for _, hits := range n.found {
		if hits.list < 0 {
			continue
		}
		raw, there := n.lists[hits.list], false
		err := eachList(raw[:len(raw)-4], n.group.ids.lists[hits.list].first, n.group.blocks, func(position uint64, block int) {
			if position == hits.position {
				hits.blocks[block>>6] |= 1 << (block & 63)
				there = true
			}
		})
		if err == nil && hits.marked && !there {
			err = errNoList
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inAll returns a bit for each block of the group: whether it may have all items.
func (n *needleRows) inAll(items []uint32) []uint64 {
	all := slices.Clone(n.found[items[0]].blocks)
	for _, item := range items[1:] {
		for i, some := range n.found[item].blocks {
			all[i] &= some
		}
	}
	return all
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
				if err := r.checkPage(buf[off-start:][:size], place{at.kind, at.block, uint32(p)}); err != nil {
					return r.corrupt(fmt.Sprintf("%s, group %d, page %d", at.kind, at.block, p), err)
				}
			}
			return nil
		})
	}
}

// checkPage verifies a page of a group.
func (r *Reader) checkPage(page []byte, at place) error {
	if at.kind != kindIDs {
		return checkPage(page, at)
	}
	_, err := openIDPage(page, r.footer.id, r.index.groups[at.block].ids.Pages, at)
	return err
}
