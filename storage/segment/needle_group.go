package segment

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
)

// A needle group is a bit matrix over some neighbouring blocks: rows are keys, columns
// are blocks, so that a lookup reads one short row per key whatever the number of blocks.
//
// A block has as many columns as its keys need (Width), so that all columns are filled
// about equally: the high bits of a key choose the row, the low bits one of the block's
// columns. Rows are stored in pages of a few hundred bytes, each with its checksum.
//
//	row    = key >> (keyBits - rowBits)
//	column = block's first column + (low bits of key · width) >> (keyBits - rowBits)
//	bit    = (row within page) · columns + column, least significant first
const (
	groupRowBits = 13 // more rows: less to read per key; fewer: less rounding of widths
	minRowBits   = 6  // for segments with little in them
	maxWidth     = 1 << (keyBits - groupRowBits)
	pageBytes    = 256
	// A group ends when it has this many blocks, or this many bytes of bits or of ids, which a writer
	// keeps in memory. Compaction's largest objects, of 256 MB, have 13 and 10 MB: they are to have one
	// group, for then their keys say where their ids are.
	maxGroupBlocks = 1 << 14
	maxGroupBytes  = 16 << 20
)

// group describes a needle group; it stands in the block index.
type group struct {
	offset     int64
	firstBlock int
	blocks     int
	rowBits    uint
	columns    int // the sum of the blocks' widths
	pageRows   int
	ids        idTable // behind the matrix
}

func (g *group) rows() int  { return 1 << g.rowBits }
func (g *group) pages() int { return (g.rows() + g.pageRows - 1) / g.pageRows }

// pageRange returns where page i lies in the file, checksum included.
func (g *group) pageRange(i int) (off int64, n int) {
	rows := min(g.pageRows, g.rows()-i*g.pageRows)
	return g.offset + int64(i)*int64(g.fullPage()), (rows*g.columns+7)/8 + 4
}

// fullPage is the size of every page but perhaps the last.
func (g *group) fullPage() int { return (g.pageRows*g.columns+7)/8 + 4 }

// matrixSize is what all pages of the matrix take.
func (g *group) matrixSize() int64 {
	off, n := g.pageRange(g.pages() - 1)
	return off + int64(n) - g.offset
}

// idRange returns where a page of the id table lies in the file, checksum included.
func (g *group) idRange(i int) (off int64, n int) { return g.ids.at(i), g.ids.PageBytes }

// listRange does so for a page of its lists.
func (g *group) listRange(i int) (off int64, n int) {
	return g.ids.lists[i].offset, g.ids.lists[i].bytes
}

func (g *group) size() int64 { return g.matrixSize() + g.ids.size() }

// pageRowsFor returns how many rows of so many bits make a page.
func pageRowsFor(columns int, rowBits uint) int {
	return max(1, min(1<<rowBits, pageBytes*8/columns))
}

// cells are a block's bits: row after row of width bits.
type cells struct {
	bits  []uint64
	width int
}

// cellsOf thins the keys of a block to bitsPerKey bits per key and empties the set.
func cellsOf(s *needleSet, bitsPerKey float64) cells {
	width := int(math.Round(float64(s.count()) * bitsPerKey / (1 << groupRowBits)))
	width = max(1, min(maxWidth, width))
	c := cells{width: width, bits: make([]uint64, (width<<groupRowBits+63)/64)}
	// The keys of a row are four words of the set, and those of a cell some bits of them.
	const low = keyBits - groupRowBits
	var masks [maxWidth][1 << low / 64]uint64
	for k := range 1 << low {
		masks[cellOf(uint32(k), groupRowBits, width)][k>>6] |= 1 << (k & 63)
	}
	cell, word := 0, uint64(0)
	for row := 0; row < len(s.words); row += 4 {
		w := (*[4]uint64)(s.words[row:])
		w0, w1, w2, w3 := w[0], w[1], w[2], w[3]
		for i := range masks[:width] {
			m := &masks[i]
			x := w0&m[0] | w1&m[1] | w2&m[2] | w3&m[3]
			word = word>>1 | (x|-x)&(1<<63) // without a branch: a one unless x is zero
			if cell++; cell&63 == 0 {
				c.bits[cell>>6-1] = word
			}
		}
	}
	s.reset()
	return c
}

// cellOf is row·width + column within the block.
func cellOf(key uint32, rowBits uint, width int) int {
	return int(uint64(key) * uint64(width) >> (keyBits - rowBits))
}

// checkPage verifies a page.
func checkPage(page []byte, at place) error {
	end := len(page) - 4
	want, got := binary.LittleEndian.Uint32(page[end:]), checksum(at, page[:end])
	if got != want {
		return fmt.Errorf("%w: got %08x, want %08x", errChecksum, got, want)
	}
	return nil
}

// groupBuilder collects the cells of blocks, and the ids of their rows, until the group is
// written.
type groupBuilder struct {
	blocks []cells
	bytes  int
	ids    idBuilder
}

func (b *groupBuilder) add(c cells) {
	b.blocks = append(b.blocks, c)
	b.bytes += 8 * len(c.bits)
	b.ids.endBlock()
}

func (b *groupBuilder) full() bool {
	return len(b.blocks) >= maxGroupBlocks || max(b.bytes, b.ids.bytes()) >= maxGroupBytes
}

// describe ends the group, but for its ids.
func (b *groupBuilder) describe() group {
	b.fold()
	g := group{blocks: len(b.blocks), rowBits: b.rowBits()}
	for _, c := range b.blocks {
		g.columns += c.width
	}
	g.pageRows = pageRowsFor(g.columns, g.rowBits)
	return g
}

// appendPage appends a page of the matrix. number is the group's place in the segment, for the checksum.
func (b *groupBuilder) appendPage(dst []byte, g *group, page int, number uint32) []byte {
	start := len(dst)
	dst = b.appendRows(dst, page*g.pageRows, min((page+1)*g.pageRows, g.rows()))
	at := place{kindNeedles, number, uint32(page)}
	return binary.LittleEndian.AppendUint32(dst, checksum(at, dst[start:]))
}

// reset empties the builder, but for the ids.
func (b *groupBuilder) reset() { b.blocks, b.bytes = nil, 0 }

// appendRows appends rows [from, to) as a bit string, padded to a byte at the end.
func (b *groupBuilder) appendRows(dst []byte, from, to int) []byte {
	var acc uint64
	have := 0
	for row := from; row < to; row++ {
		for _, c := range b.blocks {
			pos := row * c.width
			for left := c.width; left > 0; {
				n := min(left, 64-have, 64-pos&63)
				v := c.bits[pos>>6] >> (pos & 63)
				if n < 64 {
					v &= 1<<n - 1
				}
				acc |= v << have
				have, pos, left = have+n, pos+n, left-n
				if have == 64 {
					dst = binary.LittleEndian.AppendUint64(dst, acc)
					acc, have = 0, 0
				}
			}
		}
	}
	for ; have > 0; have -= min(have, 8) {
		dst = append(dst, byte(acc))
		acc >>= 8
	}
	return dst
}

func (b *groupBuilder) rowBits() uint {
	c := b.blocks[0]
	return uint(bits.Len(uint(len(b.blocks[0].bits)*64/c.width)) - 1)
}

// fold halves the number of rows while the fullest block stays sparse, so that small
// segments do not pay for a large matrix. Neighbouring rows become one, which is what a
// key's fewer high bits ask for.
func (b *groupBuilder) fold() {
	most := 0
	for _, c := range b.blocks {
		if c.width > 1 {
			return
		}
		n := 0
		for _, w := range c.bits {
			n += bits.OnesCount64(w)
		}
		most = max(most, n)
	}
	for rows := 1 << groupRowBits; rows > 1<<minRowBits && most*3 < rows; rows /= 2 {
		for i := range b.blocks {
			b.blocks[i].bits = foldBits(b.blocks[i].bits)
		}
	}
}

func foldBits(in []uint64) []uint64 {
	out := make([]uint64, (len(in)+1)/2)
	for i := range len(in) * 64 {
		if in[i>>6]>>(i&63)&1 != 0 {
			out[i>>7] |= 1 << (i >> 1 & 63)
		}
	}
	return out
}
