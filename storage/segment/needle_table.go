package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"sort"
)

// An id table maps items to blocks of a group. It is built so that who knows three numbers, which stand
// in the key of an object, asks it with one read: all its pages have the same size, and the page of
// an item is a multiplication.
//
//	pages of pageBytes each | list pages
//
// A page has the entries of its items, each a position (what is kept of an item) and a block, in the
// order of positions:
//
//	flags u8 | values uvarint | blocks uvarint | listed uvarint | entries uvarint | bit string | zeros | CRC-32C u32
//
// Items are hashes, so pages fill evenly, and are padded to a size that is hardly larger than the mean. What
// has no room goes to the lists, which have pages of any size and a directory in the block index: the
// blocks of an item that is in many, for which its page has a single entry, with the number of blocks as
// block; and the last positions of a page that has more of them than others, from the one on that it
// names.
const (
	// idSpread is how many values a position can have for each entry: one look-up in so many finds
	// a block in vain. idLowBits of the difference of two neighbours are written as they are.
	idSpread  = 32
	idLowBits = 5
	// idPageTarget is the mean size of pages, idPageMost the largest. Their room is the mean and a
	// standard deviation, which is 2.5 % of 4 KiB (and 5 % of 1 KiB): one position in 500 is in the lists
	// then, and found by opening the segment.
	idPageTarget = 4 << 10
	idPageMost   = 8 << 10
	// minIDPage is what a page without entries takes.
	minIDPage = 9
	// idListed is how many blocks an item of a page has at most; more are a list.
	idListed = 8
	// idListTarget is the size at which a page of lists ends, maxIDList the most that its last one
	// makes of it.
	idListTarget = 4 << 10
	maxIDList    = idListTarget + 4*maxGroupBlocks
	minIDList    = 4 + 3
	// maxIDPages bounds the pages of a table.
	maxIDPages = 1 << 22

	idWhole = 1 // flag: the table covers all blocks of the segment
)

// IDPages says where a segment's id table lies, if there is one that covers all blocks. It is all that
// a Probe needs to know of the segment. The zero value stands for none.
type IDPages struct {
	Offset           int64
	Pages, PageBytes int
}

// Valid reports whether there can be such a table in a file of so many bytes.
func (p IDPages) Valid(size int64) bool {
	return p.Pages > 0 && p.Pages <= maxIDPages && p.PageBytes >= minIDPage && p.PageBytes <= idPageMost && p.Offset > 0 &&
		p.Offset <= size-int64(p.Pages)*int64(p.PageBytes)
}

// page returns the page of an item.
func (p IDPages) page(item uint32) int { return int(uint64(item) * uint64(p.Pages) >> 32) }

// at returns where a page begins.
func (p IDPages) at(page int) int64 { return p.Offset + int64(page)*int64(p.PageBytes) }

// idTable is the id table of a group.
type idTable struct {
	IDPages
	lists []idListPage
}

// idListPage is an entry of the directory of lists.
type idListPage struct {
	first  uint64 // position of its first list
	offset int64
	bytes  int
}

// size is what pages and lists take.
func (t *idTable) size() int64 { return int64(t.Pages)*int64(t.PageBytes) + t.listBytes() }

func (t *idTable) listBytes() int64 {
	if len(t.lists) == 0 {
		return 0
	}
	last := &t.lists[len(t.lists)-1]
	return last.offset + int64(last.bytes) - t.lists[0].offset
}

// setOffset places the table.
func (t *idTable) setOffset(off int64) {
	t.Offset = off
	off += int64(t.Pages) * int64(t.PageBytes)
	for i := range t.lists {
		t.lists[i].offset = off
		off += int64(t.lists[i].bytes)
	}
}

// append appends what the block index says of the table.
func (t *idTable) append(dst []byte) []byte {
	for _, n := range []int{t.Pages, t.PageBytes, len(t.lists)} {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	before := uint64(0)
	for _, l := range t.lists {
		dst = binary.AppendUvarint(dst, l.first-before)
		dst = binary.AppendUvarint(dst, uint64(l.bytes))
		before = l.first
	}
	return dst
}

func decodeIDTable(f *fields) (t idTable) {
	t.Pages = int(f.upTo(maxIDPages, "pages of the id table"))
	t.PageBytes = int(f.upTo(idPageMost, "id page"))
	t.lists = make([]idListPage, f.count(2, "lists of the id table"))
	before := uint64(0)
	for i := range t.lists {
		before += f.upTo(1<<32, "position")
		t.lists[i] = idListPage{first: before, bytes: int(f.upTo(maxIDList, "list page"))}
		if t.lists[i].bytes < minIDList && f.err == nil {
			f.err = fmt.Errorf("list page of %d bytes", t.lists[i].bytes)
		}
	}
	if (t.Pages == 0 || t.PageBytes < minIDPage) && f.err == nil {
		f.err = fmt.Errorf("id table of %d pages of %d bytes", t.Pages, t.PageBytes)
	}
	return t
}

// listPage returns the number of the page that has a position's list, -1 when none has.
func (t *idTable) listPage(position uint64) int {
	return sort.Search(len(t.lists), func(i int) bool { return t.lists[i].first > position }) - 1
}

// idChecksum covers where a page stands, which is all of what a key says: a key that is wrong, or of
// another segment, leads to no page whose checksum is right.
func idChecksum(segment string, pages int, at place, page []byte) uint32 {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(pages))
	sum := crc32.Update(checksum(at, n[:]), castagnoli, []byte(segment))
	return crc32.Update(sum, castagnoli, page)
}

var errNotWhole = errors.New("does not cover the whole segment")

// idPage is a page whose head is decoded.
type idPage struct {
	first           uint64 // the least position
	values          uint64 // positions of a page
	listed          uint64 // those from here on have lists, or no blocks
	blocks, entries int
	flags           byte
	bits            []byte
}

// openIDPage checks a page.
func openIDPage(page []byte, segment string, pages int, at place) (idPage, error) {
	end := len(page) - 4
	want, got := binary.LittleEndian.Uint32(page[end:]), idChecksum(segment, pages, at, page[:end])
	if got != want {
		return idPage{}, fmt.Errorf("%w: got %08x, want %08x", errChecksum, got, want)
	}
	return decodeIDPage(page[:end], pages, int(at.ordinal))
}

func decodeIDPage(b []byte, pages, number int) (p idPage, err error) {
	f := fields{b: b}
	p.flags = f.byte()
	p.values = f.upTo((1<<32-1)/uint64(pages), "values")
	p.blocks = int(f.upTo(maxGroupBlocks, "blocks"))
	p.first = uint64(number) * p.values
	p.listed = p.first + f.upTo(p.values, "listed")
	p.entries = int(f.upTo(uint64(len(f.b))*8, "entries"))
	p.bits = f.b
	switch {
	case f.err != nil:
		return p, f.err
	case p.flags&^idWhole != 0:
		return p, fmt.Errorf("unknown flags %x", p.flags)
	case p.values == 0 || p.blocks == 0:
		return p, fmt.Errorf("%d values, %d blocks", p.values, p.blocks)
	}
	return p, nil
}

func idPosition(item uint32, pages int, values uint64) uint64 {
	return uint64(item) * (uint64(pages) * values) >> 32
}

// each calls entry for each entry of the page, in the order of positions, until that returns false. A
// block equal to the number of blocks stands for a list.
func (p *idPage) each(entry func(position uint64, block int) bool) error {
	in := bitReader{b: p.bits}
	position, blockBits := p.first, uint(bits.Len(uint(p.blocks)))
	for range p.entries {
		high := in.zeros()
		low := in.take(idLowBits)
		block := int(in.take(blockBits))
		if in.bad {
			return errors.New("ends early")
		}
		position += high<<idLowBits | low
		if block > p.blocks || position >= p.listed {
			return fmt.Errorf("block %d of %d at position %d, up to %d", block, p.blocks, position, p.listed)
		}
		if !entry(position, block) {
			break
		}
	}
	return nil
}

// find returns a bit for each block that may have the item at the position, or that there is a list of
// them.
func (p *idPage) find(wanted uint64) (hits []uint64, listed bool, err error) {
	hits = make([]uint64, (p.blocks+63)/64)
	if wanted >= p.listed {
		return hits, true, nil
	}
	err = p.each(func(position uint64, block int) bool {
		if position == wanted {
			if block == p.blocks {
				listed = true
			} else {
				hits[block>>6] |= 1 << (block & 63)
			}
		}
		return position <= wanted
	})
	return hits, listed, err
}

// eachList calls entry for each block of each list of a page, whose checksum is cut off.
func eachList(page []byte, first uint64, blocks int, entry func(position uint64, block int)) error {
	f := fields{b: page}
	position := first
	for n := 0; len(f.b) > 0; n++ {
		step := f.upTo(1<<32, "position")
		if step == 0 != (n == 0) && f.err == nil {
			return fmt.Errorf("list %d begins %d after the one before", n, step)
		}
		position += step
		block := -1
		for range f.count(1, "blocks") {
			block += 1 + int(f.upTo(maxGroupBlocks, "block"))
			if f.err == nil && block >= blocks {
				return fmt.Errorf("block %d of %d", block, blocks)
			}
			if f.err == nil {
				entry(position, block)
			}
		}
	}
	return f.err
}
