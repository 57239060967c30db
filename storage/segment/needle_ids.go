package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// A group's id table says which blocks hold a long id or a metadata pair: one small read
// answers for all blocks of a group, where the matrix needs one for each key.
//
// It is a list of entries, each an item and a block, sorted by item and cut into pages. An item
// is a hash. Those of a line come from its runs of hexadecimal digits and dashes, the dashes left
// out, so that UUIDs are ids too. Each digit begins a gram of idGram digits, and of every
// idWindow neighbouring grams of a run the one with the smallest hash makes an item. So
// every idDigits digits have one, and a needle with so many shares it with each line that contains
// the needle; an id of that length costs one entry. Shorter ids have none: for them, and for
// words, there is the matrix. A metadata pair is one item.
//
// Of an item a page keeps so many bits that one lookup in sixteen to thirty-two finds a block in vain.
const (
	idGram   = 16
	idDigits = 32
	idWindow = idDigits - idGram + 1
	// idPageEntries is how many entries a page has on average, in about a kilobyte.
	idPageEntries = 448
	// idSpread is how many different values the bits kept of an item have at least for each
	// entry of a page, and idLowBits how many low bits of a difference of two neighbours are
	// written as they are.
	idSpread  = 16
	idLowBits = 4
	// maxIDEntries bounds the entries of a group, and maxIDPage the bytes of a page.
	maxIDEntries = 1 << 26
	maxIDPage    = 64 << 20
	// minIDPage is what an empty page takes: a zero and the checksum.
	minIDPage = 5
	// maxLookupItems is how many items of a needle are looked up.
	maxLookupItems = 4
)

// noDigit and dash are what idClass has for bytes that are no hexadecimal digits.
const (
	dash    = 0x10
	noDigit = 0xff
)

// idClass has the value of each hexadecimal digit.
var idClass = func() (t [256]byte) {
	for i := range t {
		switch c := byteClass[i]; {
		case c >= 0x100|'a':
			t[i] = byte(c) - 'a' + 10
		case c >= 0x100:
			t[i] = byte(c) - '0'
		case c == '-':
			t[i] = dash
		default:
			t[i] = noDigit
		}
	}
	return t
}()

// idHash is the hash of sixteen digits. Those that begin with four zeros come last, for many
// tracers pad their ids with zeros, and grams of little else would be the same in many ids.
func idHash(digits uint64) uint64 {
	h := gramHash(digits)
	if digits>>48 == 0 {
		return h | 1<<63
	}
	return h >> 1
}

// itemOf makes an item of a hash.
func itemOf(h uint64) uint32 { return uint32(((h ^ h>>32) * 0xd6e8feb86659fd93) >> 32) }

// appendIDs appends the items of lines, end to end, of which the long stretches of ids are known. Some may
// be there twice.
func appendIDs(dst []uint32, lines []byte, offsets []uint32, long []span) []uint32 {
	row := 0
	for _, s := range long {
		for int(offsets[row+1]) <= s.from {
			row++
		}
		// A stretch of one line may go on in the next, but ids do not.
		for from := s.from; from < s.to; row++ {
			to := min(s.to, int(offsets[row+1]))
			if to-from >= idDigits {
				dst = appendRun(dst, lines[from:to])
			}
			if from = to; from < int(offsets[row+1]) {
				break
			}
		}
	}
	return dst
}

// appendRun appends the items of a run of digits and dashes.
func appendRun(dst []uint32, run []byte) []uint32 {
	var (
		digits uint64           // the last sixteen
		hashes [idWindow]uint64 // of the last grams, the next one's at next
		next   int
		least  = ^uint64(0) // of them
		n      int          // digits so far
	)
	for _, c := range run {
		d := idClass[c]
		if d == dash {
			continue
		}
		digits = digits<<4 | uint64(d)
		if n++; n < idGram {
			continue
		}
		h, gone, before := idHash(digits), hashes[next], least
		hashes[next] = h
		if next++; next == idWindow {
			next = 0
		}
		if least = min(least, h); n < idDigits {
			continue
		}
		if n > idDigits && gone == before && h > before {
			least = slices.Min(hashes[:])
		}
		if n == idDigits || least != before {
			dst = append(dst, itemOf(least))
		}
	}
	return dst
}

// needleIDs returns items that every line containing text has: one of each run of digits that is
// long enough, at most maxLookupItems.
func needleIDs(text string) (items []uint32) {
	for len(text) > 0 && len(items) < maxLookupItems {
		n := 0
		for n < len(text) && idClass[text[n]] != noDigit {
			n++
		}
		if found := appendRun(nil, []byte(text[:n])); len(found) > 0 && !slices.Contains(items, found[0]) {
			items = append(items, found[0])
		}
		text = text[min(n+1, len(text)):]
	}
	return items
}

// idTable describes the id table of a group; the sizes of its pages stand in the block index.
type idTable struct {
	entries   int
	blockBits uint
	offsets   []int64 // of the pages from the table's beginning, and its end
}

func newIDTable(entries, blocks int) idTable {
	t := idTable{entries: entries, blockBits: uint(bits.Len(uint(blocks - 1)))}
	t.offsets = make([]int64, 1, t.pages()+1)
	return t
}

func (t *idTable) pages() int { return (t.entries + idPageEntries - 1) / idPageEntries }

func (t *idTable) size() int64 { return t.offsets[len(t.offsets)-1] }

// restBits is how many bits of an item are kept besides the number of its page.
func (t *idTable) restBits() uint {
	pages := t.pages()
	if pages == 0 {
		return 0
	}
	return uint(bits.Len(uint((t.entries+pages-1)/pages*idSpread - 1)))
}

// position returns what is kept of an item: its page, and below it restBits bits. Positions are
// in the order of items.
func (t *idTable) position(item uint32) uint64 {
	return uint64(item) * uint64(t.pages()) >> (32 - t.restBits())
}

func (t *idTable) page(item uint32) int { return int(uint64(item) * uint64(t.pages()) >> 32) }

// decodePage calls entry for each entry of a page, in the order of positions, until that
// returns false. Blocks are numbered within the group, and may be greater than any of it.
func (t *idTable) decodePage(page []byte, number int, entry func(position uint64, block int) bool) error {
	count, n := binary.Uvarint(page[:len(page)-4])
	if n <= 0 || count > maxIDEntries {
		return fmt.Errorf("%d entries", count)
	}
	in := bitReader{b: page[n : len(page)-4]}
	position := uint64(number) << t.restBits()
	for range count {
		high := in.zeros()
		low := in.take(idLowBits)
		block := in.take(t.blockBits)
		if in.bad {
			return errors.New("ends early")
		}
		position += high<<idLowBits | low
		if !entry(position, int(block)) {
			return nil
		}
	}
	return nil
}

// find sets the bits of the blocks that may have an item, by its page.
func (t *idTable) find(page []byte, item uint32, hits []uint64) error {
	wanted := t.position(item)
	return t.decodePage(page, t.page(item), func(position uint64, block int) bool {
		if position == wanted && block>>6 < len(hits) {
			hits[block>>6] |= 1 << (block & 63)
		}
		return position <= wanted
	})
}

// idEntry is an item and, in the low half, a block of the group.
type idEntry uint64

func (e idEntry) item() uint32 { return uint32(e >> 32) }
func (e idEntry) block() int   { return int(uint32(e)) }

// idBuilder collects the entries of a group.
type idBuilder struct {
	entries []idEntry
	// recent has entries added lately, in places that their items choose: ids that stand in
	// many lines of a block are not collected again and again.
	recent [1 << 12]idEntry
	found  []uint32
}

func (b *idBuilder) add(item uint32, block int) {
	e := idEntry(item)<<32 | idEntry(block)
	if at := &b.recent[item>>20]; *at != e || e == 0 {
		*at = e
		b.entries = append(b.entries, e)
	}
}

func (b *idBuilder) addLines(lines []byte, offsets []uint32, long []span, block int) {
	b.found = appendIDs(b.found[:0], lines, offsets, long)
	for _, item := range b.found {
		b.add(item, block)
	}
}

// append appends the table's pages to dst and empties the builder. number is the group's.
func (b *idBuilder) append(dst []byte, number uint32, blocks int) ([]byte, idTable) {
	slices.Sort(b.entries)
	left := slices.Compact(b.entries)
	t := newIDTable(len(left), blocks)
	start := len(dst)
	for i := range t.pages() {
		n := 0
		for n < len(left) && t.page(left[n].item()) == i {
			n++
		}
		from := len(dst)
		dst = binary.AppendUvarint(dst, uint64(n))
		out := bitWriter{b: dst}
		before := uint64(i) << t.restBits()
		for _, e := range left[:n] {
			position := t.position(e.item())
			difference := position - before
			out.zeros(difference >> idLowBits)
			out.put(difference&(1<<idLowBits-1), idLowBits)
			out.put(uint64(e.block()), t.blockBits)
			before = position
		}
		dst, left = out.end(), left[n:]
		dst = binary.LittleEndian.AppendUint32(dst, checksum(place{kindIDs, number, uint32(i)}, dst[from:]))
		t.offsets = append(t.offsets, int64(len(dst)-start))
	}
	b.entries = b.entries[:0]
	clear(b.recent[:])
	return dst, t
}

// bitWriter appends bits to bytes, least significant first.
type bitWriter struct {
	b    []byte
	acc  uint64
	have uint
}

// put appends the n low bits of v, which has no others; n is at most 32.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.have
	for w.have += n; w.have >= 8; w.have -= 8 {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
	}
}

// zeros appends n zeros and a one.
func (w *bitWriter) zeros(n uint64) {
	for ; n >= 32; n -= 32 {
		w.put(0, 32)
	}
	w.put(1<<n, uint(n)+1)
}

// end pads to a byte and returns the bytes.
func (w *bitWriter) end() []byte {
	if w.have > 0 {
		w.b = append(w.b, byte(w.acc))
	}
	return w.b
}

// bitReader reads what a bitWriter wrote.
type bitReader struct {
	b    []byte
	acc  uint64
	have uint
	bad  bool // there were fewer bits
}

func (r *bitReader) fill() {
	for r.have <= 56 && len(r.b) > 0 {
		r.acc |= uint64(r.b[0]) << r.have
		r.b = r.b[1:]
		r.have += 8
	}
}

func (r *bitReader) take(n uint) uint64 {
	if r.fill(); r.have < n {
		r.bad = true
		return 0
	}
	v := r.acc & (1<<n - 1)
	r.acc >>= n
	r.have -= n
	return v
}

// zeros reads zeros up to a one, and returns how many.
func (r *bitReader) zeros() (n uint64) {
	for {
		r.fill()
		if r.acc != 0 {
			k := uint(bits.TrailingZeros64(r.acc))
			r.acc >>= k + 1
			r.have -= k + 1
			return n + uint64(k)
		}
		if r.have == 0 {
			r.bad = true
			return 0
		}
		n += uint64(r.have)
		r.have = 0
	}
}
