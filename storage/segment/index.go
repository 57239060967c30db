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
//	groups    uvarint     needle groups, then for each: uvarint blocks, u8 row bits, uvarint
//	                      ids, and a uvarint for each page of the id table: its bytes
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
	blocks   []blockMeta
	groups   []group
	postings []nameEntry
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
		dst = binary.AppendUvarint(dst, uint64(g.ids.entries))
		for p := range g.ids.pages() {
			dst = binary.AppendUvarint(dst, uint64(g.ids.offsets[p+1]-g.ids.offsets[p]-minIDPage))
		}
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

// decodeIndex decodes the section and checks it against the footer: whatever it says
// lies inside the file, in order, and adds up.
func decodeIndex(raw []byte, ft *footer) (*index, error) {
	f := fields{b: raw}
	x := &index{names: f.strings(f.count(1, "names"), "name")}
	if n := len(raw) / minBlockEntry; ft.blocks > n {
		return nil, fmt.Errorf("%d blocks in %d bytes", ft.blocks, len(raw))
	}
	x.blocks = make([]blockMeta, ft.blocks)
	at := blockCursor{time: ft.minTime, limit: ft.streamsOffset, stream: -1}
	for i := range x.blocks {
		if err := x.decodeBlock(&f, i, &at); err != nil {
			return nil, fmt.Errorf("block %d: %w", i, err)
		}
	}
	if err := x.decodeGroups(&f); err != nil {
		return nil, err
	}
	if err := x.decodePostings(&f, ft); err != nil {
		return nil, err
	}
	if at.stream != ft.streams-1 {
		return nil, fmt.Errorf("blocks have %d streams, the footer says %d", at.stream+1, ft.streams)
	}
	if at.row != ft.rows || at.bytes != ft.rawBytes {
		return nil, fmt.Errorf("blocks have %d rows and %d bytes, the footer says %d and %d", at.row, at.bytes, ft.rows, ft.rawBytes)
	}
	return x, f.done()
}

// minBlockEntry is the fewest bytes that a block takes in the index.
const minBlockEntry = 11

// blockCursor carries what a block's entry is relative to.
type blockCursor struct {
	row, bytes, time, limit int64
	stream                  int // the last one of the block before
}

func (x *index) decodeBlock(f *fields, i int, at *blockCursor) error {
	b := &x.blocks[i]
	b.row = at.row
	b.rows = int(f.upTo(maxBlockRows, "rows"))
	b.bytes = int64(f.upTo(maxBlockBytes, "bytes"))
	b.first = at.time + f.varint()
	b.last = b.first + int64(f.uvarint())
	streams := int(f.upTo(2*maxBlockRows, "streams"))
	b.streams = streams/2 + 1
	b.stream = at.stream + streams%2
	length := func(what string) int { return int(f.upTo(uint64(min(at.limit, 1<<31-1)), what)) }
	b.times, b.lengths, b.lines, b.hashes = length("times"), length("lengths"), length("lines"), length("hashes")
	if n := f.count(2, "metadata columns"); n > 0 {
		b.metadata = make([]columnMeta, n)
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
	at.row, at.bytes, at.time = at.row+int64(b.rows), at.bytes+b.bytes, b.first
	at.stream = b.stream + b.streams - 1
	return nil
}

func (x *index) decodeGroups(f *fields) error {
	n := f.count(3, "needle groups")
	x.groups = make([]group, 0, n)
	block := 0
	for i := range n {
		g := group{firstBlock: block, blocks: int(f.upTo(uint64(len(x.blocks)-block), "blocks")), rowBits: uint(f.byte())}
		entries := int(f.upTo(maxIDEntries, "ids"))
		if f.err != nil {
			return f.err
		}
		if g.blocks == 0 || g.rowBits > groupRowBits {
			return fmt.Errorf("needle group %d: %d blocks, %d row bits", i, g.blocks, g.rowBits)
		}
		if entries/idPageEntries > len(f.b) {
			return fmt.Errorf("needle group %d: %d ids in %d bytes", i, entries, len(f.b))
		}
		g.ids = newIDTable(entries, g.blocks)
		for range g.ids.pages() {
			g.ids.offsets = append(g.ids.offsets, g.ids.size()+int64(minIDPage+f.upTo(maxIDPage, "id page")))
		}
		for k := block; k < block+g.blocks; k++ {
			b := &x.blocks[k]
			if b.width == 0 || g.rowBits < groupRowBits && b.width > 1 {
				return fmt.Errorf("needle group %d: block %d has width %d", i, k, b.width)
			}
			b.group, b.column = i, g.columns
			g.columns += b.width
		}
		block += g.blocks
		g.pageRows = pageRowsFor(g.columns, g.rowBits)
		x.groups = append(x.groups, g)
	}
	for k := block; k < len(x.blocks); k++ {
		if x.blocks[k].width != 0 {
			return fmt.Errorf("block %d has needles but no group", k)
		}
	}
	return nil
}

func (x *index) decodePostings(f *fields, ft *footer) error {
	names := f.strings(f.count(2, "label names"), "label name")
	if !slices.IsSorted(names) {
		return errors.New("label names out of order")
	}
	total := int64(0)
	for _, name := range names {
		n := int(f.upTo(uint64(ft.streamsOffset), "postings"))
		x.postings = append(x.postings, nameEntry{name: name, offset: total, length: n})
		total += int64(n)
	}
	if f.err != nil {
		return f.err
	}
	start := ft.streamsOffset - total
	for i := range x.postings {
		x.postings[i].offset += start
	}
	return x.layOut(start)
}

// layOut finds out where blocks and needle groups lie, and makes sure that they end at limit.
func (x *index) layOut(limit int64) error {
	at := int64(len(headerMagic))
	next := 0 // group
	for i := range x.blocks {
		x.blocks[i].offset = at
		at = x.blocks[i].end()
		if next < len(x.groups) && x.groups[next].firstBlock+x.groups[next].blocks == i+1 {
			x.groups[next].offset = at
			at += x.groups[next].size()
			next++
		}
		if at > limit {
			return fmt.Errorf("block %d ends at byte %d, must end before %d", i, at, limit)
		}
	}
	if at != limit {
		return fmt.Errorf("blocks end at byte %d, want %d", at, limit)
	}
	return nil
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
