package segment

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/skaldlog/skald/internal/model"
)

// idContent is what the id table of a group says, read as a whole.
type idContent struct {
	values  uint64     // of each page
	entries []position // with those of lists; sorted
	marked  []uint64   // positions that must have a list, and those that have one
	lists   []uint64
	listed  []uint64 // of each page
}

// position is what is kept of an item and, in the low positionBlock bits, a block.
type position uint64

const positionBlock = 31

func (c *idContent) has(item uint32, pages, block int) bool {
	_, ok := slices.BinarySearch(c.entries, position(idPosition(item, pages, c.values)<<positionBlock|uint64(block)))
	return ok
}

// readNeedles reads all needle groups.
func (v *verifier) readNeedles(ctx context.Context) error {
	v.needles = make([]*needleRows, len(v.r.index.groups))
	v.ids = make([]idContent, len(v.r.index.groups))
	for i := range v.r.index.groups {
		g, c, rows := &v.r.index.groups[i], &v.ids[i], newNeedleRows(&v.r.index.groups[i])
		buf := make([]byte, g.size())
		if err := v.r.read(ctx, buf, g.offset, nil); err != nil {
			return err
		}
		v.needles[i] = rows
		each := func(k kind, pages int, where func(int) (int64, int), read func(page []byte, number int) error) {
			for p := range pages {
				off, n := where(p)
				page := buf[off-g.offset:][:n]
				err := v.r.checkPage(page, place{k, uint32(i), uint32(p)})
				if err == nil {
					err = read(page, p)
				}
				if err != nil {
					v.problemf(fmt.Sprintf("%s, group %d, page %d", k, i, p), "%w", err)
					v.needles[i] = nil // what it says need not be compared
				}
			}
		}
		each(kindNeedles, g.pages(), g.pageRange, func(page []byte, p int) error {
			rows.pages[p] = page
			return nil
		})
		whole := v.r.index.wholeTable(v.r.footer.blocks) != IDPages{}
		each(kindIDs, g.ids.Pages, g.idRange, func(page []byte, p int) error { return c.readPage(g, page[:len(page)-4], p, whole) })
		each(kindIDLists, len(g.ids.lists), g.listRange, func(page []byte, p int) error { return c.readLists(g, page[:len(page)-4], p) })
		if err := c.complete(); err != nil && v.needles[i] != nil {
			v.problemf(fmt.Sprintf("%s, group %d", kindIDs, i), "%w", err)
		}
	}
	return nil
}

// readPage takes over the entries of a page.
func (c *idContent) readPage(g *group, raw []byte, number int, whole bool) error {
	page, err := decodeIDPage(raw, g.ids.Pages, number)
	switch {
	case err != nil:
		return err
	case page.blocks != g.blocks:
		return fmt.Errorf("is for %d blocks, the group has %d", page.blocks, g.blocks)
	case number > 0 && page.values != c.values:
		return fmt.Errorf("has %d values, the page before %d", page.values, c.values)
	case whole != (page.flags&idWhole != 0):
		return fmt.Errorf("covers the whole segment: %v, want %v", !whole, whole)
	}
	c.values, c.listed = page.values, append(c.listed, page.listed)
	return page.each(func(at uint64, block int) bool {
		if block == page.blocks {
			c.marked = append(c.marked, at)
		} else {
			c.entries = append(c.entries, position(at<<positionBlock|uint64(block)))
		}
		return true
	})
}

// readLists takes over a page of lists.
func (c *idContent) readLists(g *group, page []byte, number int) error {
	first := true
	return eachList(page, g.ids.lists[number].first, g.blocks, func(at uint64, block int) {
		if first || c.lists[len(c.lists)-1] != at {
			c.lists = append(c.lists, at)
		}
		first = false
		c.entries = append(c.entries, position(at<<positionBlock|uint64(block)))
	})
}

// complete sorts the entries, and makes sure that those have lists that the pages say, and no others.
func (c *idContent) complete() error {
	slices.Sort(c.entries)
	if len(slices.Compact(slices.Clone(c.entries))) != len(c.entries) {
		return errors.New("an entry is there twice")
	}
	lists := slices.DeleteFunc(slices.Clone(c.lists), func(at uint64) bool {
		return c.values > 0 && at/c.values < uint64(len(c.listed)) && at >= c.listed[at/c.values]
	})
	if !slices.Equal(lists, c.marked) {
		return fmt.Errorf("%d items have lists, %d should", len(lists), len(c.marked))
	}
	return nil
}

// checkKeys makes sure that the needle index finds every row of the block.
func (v *verifier) checkKeys(b *block, number int, offsets []uint32, lines []byte, columns []model.Column, where string) {
	if b.meta.width == 0 || v.needles[b.meta.group] == nil {
		return
	}
	if v.keys == nil {
		v.keys = new(needleSet)
	}
	for row := range b.meta.rows {
		v.keys.addLine(lines[offsets[row]:offsets[row+1]])
	}
	v.classes.find(lines)
	v.items = appendIDs(v.items[:0], lines, offsets, v.classes.long)
	for i, c := range columns {
		for _, value := range c.Values[1:] {
			v.items = append(v.items, pairItem(v.r.index.names[b.meta.metadata[i].name], []byte(value)))
		}
	}
	rows, missing := v.needles[b.meta.group], 0
	for key := range v.keys.all() {
		if !allSet(b.meta, rows.probesOf([]uint32{key})) {
			missing++
		}
	}
	v.keys.reset()
	for _, item := range v.items {
		if !v.ids[b.meta.group].has(item, rows.group.ids.Pages, number-rows.group.firstBlock) {
			missing++
		}
	}
	if missing > 0 {
		v.problemf(where, "%d keys are missing in the needle index", missing)
	}
}
