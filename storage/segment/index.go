package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The block index says of every block where its columns are and what it holds, and
// where the needle groups and postings are. Raw bytes of the section:
//
//	names     uvarint     metadata names, then their lengths and bytes
//	blocks                for each block:
//	    rows       uvarint
//	    bytes      uvarint   line bytes
//	    first      varint    first time minus the first time of the block before (of the
//	                         segment, for block 0)
//	    span       uvarint   last time minus first time
//	    streams    uvarint   streams in the block, minus 1; times 2, plus 1 when the first of
//	                         them is not the last stream of the block before
//	    times, lengths, lines, hashes   uvarints: bytes of the columns' frames; hashes may be 0
//	    columns    uvarint   metadata columns, then for each: uvarint name, uvarint bytes
//	    width      uvarint   columns of the needle matrix; 0 when there is no needle index
//	groups    uvarint     needle groups, then for each: uvarint blocks, u8 row bits, uvarints of the
//	                      id table: pages, bytes of each, n pages of lists, and for each of these
//	                      the first position, minus that of the page before, and its bytes
//	postings  uvarint     label names, then their lengths and bytes, then a uvarint for each:
//	                      bytes of its frame
//
// Offsets are not stored, because nothing lies between the parts: the blocks follow the
// header, each needle group follows the last block that it covers, and the postings end
// where the stream table begins.
//

type blockMeta struct {
	row         int64 // of its first row in the segment
	stream      int   // the first one
	rows        int
	bytes       int64
	first, last int64
	streams     int // how many have rows here
	offset      int64
	times       int // lengths of the columns' frames
	lengths     int
	metadata    []columnMeta
	hashes      int // 0 when there is no such column
	lines       int
	width       int // columns in the needle matrix; 0 when there is none
	column      int // the first of them, in the group
	group       int
}

type columnMeta struct {
	name   int // in index.names
	length int
}

func (b *blockMeta) size() int64 {
	n := int64(b.times) + int64(b.lengths) + int64(b.hashes) + int64(b.lines)
	for _, c := range b.metadata {
		n += int64(c.length)
	}
	return n
}

// find returns the place of a metadata name's column among the block's, if it has one.
func (b *blockMeta) find(name int) (int, bool) {
	return slices.BinarySearchFunc(b.metadata, name, func(c columnMeta, n int) int { return c.name - n })
}

func (b *blockMeta) end() int64 { return b.offset + b.size() }

type index struct {
	names    []string
	blocks   []blockMeta // of a reader: there when Reader.blocks has returned
	groups   []group
	postings []nameEntry
	entries  []byte // those of the blocks, not yet decoded
}

func (x *index) append(dst []byte, minTime int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(x.names)))
	dst = appendStrings(dst, x.names)
	before := minTime
	for i := range x.blocks {
		b := &x.blocks[i]
		dst = binary.AppendUvarint(dst, uint64(b.rows))
		dst = binary.AppendUvarint(dst, uint64(b.bytes))
		dst = binary.AppendVarint(dst, b.first-before)
		dst = binary.AppendUvarint(dst, uint64(b.last)-uint64(b.first))
		fresh := 1
		if i > 0 && b.stream == x.blocks[i-1].stream+x.blocks[i-1].streams-1 {
			fresh = 0
		}
		dst = binary.AppendUvarint(dst, uint64(2*(b.streams-1)+fresh))
		for _, n := range []int{b.times, b.lengths, b.lines, b.hashes, len(b.metadata)} {
			dst = binary.AppendUvarint(dst, uint64(n))
		}
		for _, c := range b.metadata {
			dst = binary.AppendUvarint(dst, uint64(c.name))
			dst = binary.AppendUvarint(dst, uint64(c.length))
		}
		dst = binary.AppendUvarint(dst, uint64(b.width))
		before = b.first
	}
	dst = binary.AppendUvarint(dst, uint64(len(x.groups)))
	for i := range x.groups {
		g := &x.groups[i]
		dst = binary.AppendUvarint(dst, uint64(g.blocks))
		dst = append(dst, byte(g.rowBits))
		dst = g.ids.append(dst)
	}
	return x.appendPostings(dst)
}

func (x *index) appendPostings(dst []byte) []byte {
	names := make([]string, len(x.postings))
	for i, p := range x.postings {
		names[i] = p.name
	}
	dst = binary.AppendUvarint(dst, uint64(len(names)))
	dst = appendStrings(dst, names)
	for _, p := range x.postings {
		dst = binary.AppendUvarint(dst, uint64(p.length))
	}
	return dst
}

// decodeIndex decodes the section and checks that the parts it tells of fill the file. The entries of
// the blocks, of which there are thousands, it only goes over: who looks for an id mostly learns
// from the id tables that no block is needed.
func decodeIndex(raw []byte, ft *footer) (*index, error) {
	f := fields{b: raw}
	x := &index{names: f.strings(f.count(1, "names"), "name")}
	if n := len(raw) / minBlockEntry; ft.blocks > n {
		return nil, fmt.Errorf("%d blocks in %d bytes", ft.blocks, len(raw))
	}
	x.entries = f.b
	extents := make([]extent, ft.blocks)
	for i := range extents {
		extents[i] = decodeExtent(&f)
	}
	x.entries = x.entries[:len(x.entries)-len(f.b)]
	end, err := x.decodeGroups(&f, extents)
	if err != nil {
		return nil, err
	}
	start, err := x.decodePostings(&f, ft)
	if err == nil && end != start {
		err = fmt.Errorf("blocks end at byte %d, want %d", end, start)
	}
	if err != nil {
		return nil, err
	}
	return x, f.done()
}

// extent is what the place of a needle group depends on: the bytes of a block, and its width.
type extent struct {
	bytes int64
	width int
}

// decodeExtent goes over a block's entry. Lengths that are too large are left to decodeBlock, as
// long as their sum means something.
func decodeExtent(f *fields) (e extent) {
	for range 5 { // rows, bytes, times and streams
		f.uvarint()
	}
	a, b, c, d := f.uvarint(), f.uvarint(), f.uvarint(), f.uvarint()
	sum, all := a+b+c+d, a|b|c|d
	for range f.count(2, "metadata columns") {
		f.uvarint()
		n := f.uvarint()
		sum, all = sum+n, all|n
	}
	if all > maxPart && f.err == nil {
		f.b, f.err = nil, fmt.Errorf("column: more than %d bytes", maxPart)
	}
	e.bytes, e.width = int64(sum), int(f.upTo(maxWidth, "width"))
	return e
}

// decodeBlocks decodes the entries of the blocks and checks them against the footer: they are in
// order, and add up.
func (x *index) decodeBlocks(ft *footer) error {
	f := fields{b: x.entries}
	blocks := make([]blockMeta, ft.blocks)
	at := blockCursor{time: ft.minTime, limit: ft.streamsOffset, stream: -1, offset: int64(len(headerMagic))}
	for i := range blocks {
		b := &blocks[i]
		if err := x.decodeBlock(&f, b, &at); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		if at.group == len(x.groups) {
			continue
		}
		g := &x.groups[at.group]
		b.group, b.column = at.group, at.column
		if at.column += b.width; i+1 == g.firstBlock+g.blocks {
			at.offset += g.size()
			at.group, at.column = at.group+1, 0
		}
	}
	switch {
	case at.stream != ft.streams-1:
		return fmt.Errorf("blocks have %d streams, the footer says %d", at.stream+1, ft.streams)
	case at.row != ft.rows || at.bytes != ft.rawBytes:
		return fmt.Errorf("blocks have %d rows and %d bytes, the footer says %d and %d", at.row, at.bytes, ft.rows, ft.rawBytes)
	}
	x.blocks, x.entries = blocks, nil
	return f.done()
}

// minBlockEntry is the fewest bytes that a block takes in the index.
const minBlockEntry = 11

// maxPart is the largest length of a column's frame.
const maxPart = 1<<31 - 1

// blockCursor carries what a block's entry is relative to.
type blockCursor struct {
	row, bytes, time, limit int64
	stream                  int // the last one of the block before
	offset                  int64
	group, column           int
	columns                 []columnMeta // room for those of the next blocks
}

func (x *index) decodeBlock(f *fields, b *blockMeta, at *blockCursor) error {
	b.row = at.row
	b.rows = int(f.upTo(maxBlockRows, "rows"))
	b.bytes = int64(f.upTo(maxBlockBytes, "bytes"))
	b.first = at.time + f.varint()
	b.last = b.first + int64(f.uvarint())
	streams := int(f.upTo(2*maxBlockRows, "streams"))
	b.streams = streams/2 + 1
	b.stream = at.stream + streams%2
	length := func(what string) int { return int(f.upTo(uint64(min(at.limit, maxPart)), what)) }
	b.times, b.lengths, b.lines, b.hashes = length("times"), length("lengths"), length("lines"), length("hashes")
	if n := f.count(2, "metadata columns"); n > 0 {
		if n > len(at.columns) {
			at.columns = make([]columnMeta, max(n, 1<<10))
		}
		b.metadata, at.columns = at.columns[:n:n], at.columns[n:]
	}
	for k := range b.metadata {
		b.metadata[k].name = int(f.upTo(uint64(len(x.names)), "name"))
		b.metadata[k].length = length("metadata column")
		if f.err == nil && (b.metadata[k].name == len(x.names) || k > 0 && x.names[b.metadata[k].name] <= x.names[b.metadata[k-1].name]) {
			return errors.New("metadata columns out of order")
		}
	}
	b.width = int(f.upTo(maxWidth, "width"))
	switch {
	case f.err != nil:
		return f.err
	case b.rows == 0 || b.streams > b.rows || b.stream < 0:
		return fmt.Errorf("%d rows of %d streams", b.rows, b.streams)
	case b.last < b.first:
		return errors.New("time runs backwards")
	}
	b.offset = at.offset
	at.row, at.bytes, at.time, at.offset = at.row+int64(b.rows), at.bytes+b.bytes, b.first, b.end()
	at.stream = b.stream + b.streams - 1
	return nil
}

// decodeGroups finds out where the needle groups lie, and returns where the last of all blocks and
// groups ends.
func (x *index) decodeGroups(f *fields, extents []extent) (end int64, err error) {
	n := f.count(5, "needle groups")
	x.groups = make([]group, 0, n)
	end = int64(len(headerMagic))
	block := 0
	for i := range n {
		g := group{firstBlock: block, blocks: int(f.upTo(uint64(len(extents)-block), "blocks")), rowBits: uint(f.byte())}
		if g.ids = decodeIDTable(f); f.err != nil {
			return 0, f.err
		}
		if g.blocks == 0 || g.rowBits > groupRowBits {
			return 0, fmt.Errorf("needle group %d: %d blocks, %d row bits", i, g.blocks, g.rowBits)
		}
		for ; block < g.firstBlock+g.blocks; block++ {
			e := extents[block]
			if e.width == 0 || g.rowBits < groupRowBits && e.width > 1 {
				return 0, fmt.Errorf("needle group %d: block %d has width %d", i, block, e.width)
			}
			g.columns += e.width
			end += e.bytes
		}
		g.pageRows = pageRowsFor(g.columns, g.rowBits)
		g.offset = end
		g.ids.setOffset(end + g.matrixSize())
		end += g.size()
		x.groups = append(x.groups, g)
	}
	for ; block < len(extents); block++ {
		if extents[block].width != 0 {
			return 0, fmt.Errorf("block %d has needles but no group", block)
		}
		end += extents[block].bytes
	}
	return end, f.err
}

// wholeTable returns the place of the id table when there is one for all blocks.
func (x *index) wholeTable(blocks int) IDPages {
	if len(x.groups) != 1 || x.groups[0].blocks != blocks {
		return IDPages{}
	}
	return x.groups[0].ids.IDPages
}

// decodePostings finds out where the postings lie, and returns where the first ones begin.
func (x *index) decodePostings(f *fields, ft *footer) (start int64, err error) {
	names := f.strings(f.count(2, "label names"), "label name")
	if !slices.IsSorted(names) {
		return 0, errors.New("label names out of order")
	}
	total := int64(0)
	for _, name := range names {
		n := int(f.upTo(uint64(ft.streamsOffset), "postings"))
		x.postings = append(x.postings, nameEntry{name: name, offset: total, length: n})
		total += int64(n)
	}
	start = ft.streamsOffset - total
	for i := range x.postings {
		x.postings[i].offset += start
	}
	return start, f.err
}

// find returns the entry of a label name, nil when no stream has it.
func (x *index) find(name string) *nameEntry {
	i, ok := slices.BinarySearchFunc(x.postings, name, func(e nameEntry, n string) int {
		switch {
		case e.name < n:
			return -1
		case e.name > n:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &x.postings[i]
}
