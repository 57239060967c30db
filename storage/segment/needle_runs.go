package segment

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// idEntry is an item and, in the low half, a block of the group.
type idEntry uint64

func (e idEntry) item() uint32 { return uint32(e >> 32) }
func (e idEntry) block() int   { return int(uint32(e)) }

// idRunEntries is how many entries are sorted at a time, in 2 MiB.
const idRunEntries = 1 << 18

// idBuilder collects the entries of a group. How many there will be is known at the end only, and a
// table is for a whole segment if possible: so sorted runs of them wait packed, in three bytes
// each rather than eight, and are merged then.
type idBuilder struct {
	entries []idEntry
	runs    []idRun
	packed  int // bytes of the runs
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

// endBlock ends the run when it is long enough. No block is in two runs.
func (b *idBuilder) endBlock() {
	if len(b.entries) >= idRunEntries {
		b.endRun()
	}
}

func (b *idBuilder) endRun() {
	slices.Sort(b.entries)
	r := packRun(slices.Compact(b.entries))
	b.runs = append(b.runs, r)
	b.packed += len(r.bits)
	b.entries = b.entries[:0]
}

// bytes is what the entries take.
func (b *idBuilder) bytes() int { return b.packed + 8*len(b.entries) }

// reset empties the builder.
func (b *idBuilder) reset() {
	b.entries, b.runs, b.packed = b.entries[:0], nil, 0
	clear(b.recent[:])
}

// idRun has entries in order: of each item the difference to the one before, its low bits as they
// are, and the block.
type idRun struct {
	bits              []byte
	n                 int
	lowBits, blockLen uint
	block             int // the least
}

func packRun(entries []idEntry) idRun {
	r := idRun{n: len(entries)}
	if r.n == 0 {
		return r
	}
	r.block = entries[0].block()
	most := r.block
	for _, e := range entries {
		r.block, most = min(r.block, e.block()), max(most, e.block())
	}
	r.blockLen = uint(bits.Len(uint(most - r.block)))
	r.lowBits = uint(bits.Len64(1 << 32 / uint64(r.n)))
	w := bitWriter{b: make([]byte, 0, r.n*int(r.lowBits+r.blockLen+3)/8)}
	before := uint32(0)
	for _, e := range entries {
		d := uint64(e.item() - before)
		before = e.item()
		w.zeros(d >> r.lowBits)
		w.put(d&(1<<r.lowBits-1), r.lowBits)
		w.put(uint64(e.block()-r.block), r.blockLen)
	}
	r.bits = w.end()
	return r
}

// idWalk goes through a run.
type idWalk struct {
	run  *idRun
	in   bitReader
	left int
	at   idEntry
}

func (w *idWalk) next() bool {
	if w.left == 0 {
		return false
	}
	w.left--
	d := w.in.zeros()<<w.run.lowBits | w.in.take(w.run.lowBits)
	w.at = idEntry(uint64(w.at.item())+d)<<32 | idEntry(w.run.block+int(w.in.take(w.run.blockLen)))
	return true
}

// eachItem calls item for each item in order, with its blocks, which are only valid during the call.
func (b *idBuilder) eachItem(item func(item uint32, blocks []uint32)) {
	walks := make([]*idWalk, 0, len(b.runs))
	for i := range b.runs {
		w := &idWalk{run: &b.runs[i], in: bitReader{b: b.runs[i].bits}, left: b.runs[i].n}
		if w.next() {
			walks = append(walks, w)
		}
	}
	var blocks []uint32
	for len(walks) > 0 {
		next := slices.MinFunc(walks, func(a, b *idWalk) int { return int(int64(a.at.item()) - int64(b.at.item())) }).at.item()
		blocks = blocks[:0]
		walks = slices.DeleteFunc(walks, func(w *idWalk) bool {
			for w.at.item() == next {
				blocks = append(blocks, uint32(w.at.block()))
				if !w.next() {
					return true
				}
			}
			return false
		})
		item(next, blocks) // runs are in the order of blocks
	}
}

// build empties the builder, makes the table of a group of so many blocks, and returns it with its pages and its pages of
// lists. It is for the segment of that id; whole says that it has no other group.
func (b *idBuilder) build(segment string, group uint32, blocks int, whole bool) (t idTable, pages, lists []byte) {
	b.endRun()
	entries := 0
	b.eachItem(func(_ uint32, blocks []uint32) {
		entries += entriesOf(blocks)
	})
	w := newIDTableWriter(entries, blocks, whole)
	b.eachItem(w.add)
	w.endPages(w.pages)
	w.endListPage()
	b.reset()
	return w.finish(segment, group)
}

// idTableWriter writes a table whose items come in order.
type idTableWriter struct {
	pages  int
	values uint64
	blocks int
	flags  byte
	room   int // bits of a page

	page     int // the one being filled
	entries  int
	bits     bitWriter // its entries
	used     int       // bits of them
	before   uint64    // position of the last one
	listed   uint64    // as in idPage
	position uint64    // whose blocks are being collected
	of       []uint32  // these

	out   []byte  // pages without padding and checksum
	ends  []int   // of the pages in out
	table idTable // its lists
	lists []byte
	start int    // of the page of lists being filled
	last  uint64 // position of the last list in it
}

func newIDTableWriter(entries, blocks int, whole bool) *idTableWriter {
	w := &idTableWriter{blocks: blocks, room: 8 * (idPageMost - idPageHead)}
	const difference = 6.6 // bits, if differences are as random as can be
	size := difference + float64(w.blockBits())
	w.pages = min(max(1, int(float64(entries)*size/8+idPageTarget/2)/idPageTarget), maxIDPages)
	perPage := float64(entries) / float64(w.pages)
	if w.pages > 1 {
		w.room = min(w.room, int((perPage+math.Sqrt(perPage))*size))
	}
	w.values = min(uint64(math.Ceil(max(1, perPage)))*idSpread, (1<<32-1)/uint64(w.pages))
	if whole {
		w.flags = idWhole
	}
	w.beginPage()
	return w
}

// idPageHead is the most that a page's head and checksum take.
const idPageHead = 1 + 5 + 3 + 5 + 3 + 4

func (w *idTableWriter) blockBits() uint { return uint(bits.Len(uint(w.blocks))) }

func (w *idTableWriter) beginPage() {
	w.before = uint64(w.page) * w.values
	w.listed = w.before + w.values
	w.entries, w.used = 0, 0
	w.bits = bitWriter{b: w.bits.b[:0]}
}

// endPages writes the pages up to one.
func (w *idTableWriter) endPages(next int) {
	for ; w.page < next; w.beginPage() {
		w.endPosition()
		w.out = append(w.out, w.flags)
		for _, n := range []uint64{w.values, uint64(w.blocks), w.listed - uint64(w.page)*w.values, uint64(w.entries)} {
			w.out = binary.AppendUvarint(w.out, n)
		}
		w.bits.b = w.bits.end()
		w.out = append(w.out, w.bits.b...)
		w.ends = append(w.ends, len(w.out))
		w.page++
	}
}

func (w *idTableWriter) add(item uint32, blocks []uint32) {
	position := idPosition(item, w.pages, w.values)
	if position != w.position {
		w.endPosition()
		w.endPages(int(position / w.values))
		w.position = position
	}
	w.of = append(w.of, blocks...)
}

// endPosition writes the entries of a position whose blocks are all known.
func (w *idTableWriter) endPosition() {
	if len(w.of) == 0 {
		return
	}
	slices.Sort(w.of) // two items may have the same
	w.of = slices.Compact(w.of)
	first, n := w.position-w.before, entriesOf(w.of)
	need := int(first>>idLowBits) + n*int(1+idLowBits+w.blockBits())
	fits := w.position < w.listed && w.used+need <= w.room
	switch {
	case !fits:
		w.listed = min(w.listed, w.position)
		w.addList()
	case n < len(w.of):
		w.addEntry(uint64(w.blocks))
		w.addList()
	default:
		for _, block := range w.of {
			w.addEntry(uint64(block))
		}
	}
	if fits {
		w.used += need
	}
	w.of = w.of[:0]
}

func (w *idTableWriter) addEntry(block uint64) {
	difference := w.position - w.before
	w.bits.zeros(difference >> idLowBits)
	w.bits.put(difference&(1<<idLowBits-1), idLowBits)
	w.bits.put(block, w.blockBits())
	w.before = w.position
	w.entries++
}

// entriesOf is how many entries of a page an item in these blocks takes.
func entriesOf(blocks []uint32) int {
	if len(blocks) > idListed {
		return 1 // for the list
	}
	return len(blocks)
}

// addList appends the list of the position.
func (w *idTableWriter) addList() {
	if len(w.lists)-w.start >= idListTarget {
		w.endListPage()
	}
	if len(w.lists) == w.start {
		w.table.lists = append(w.table.lists, idListPage{first: w.position})
		w.last = w.position
	}
	w.lists = binary.AppendUvarint(w.lists, w.position-w.last)
	w.last = w.position
	w.lists = binary.AppendUvarint(w.lists, uint64(len(w.of)))
	next := uint32(0)
	for _, block := range w.of {
		w.lists = binary.AppendUvarint(w.lists, uint64(block-next))
		next = block + 1
	}
}

// endListPage leaves room for the checksum.
func (w *idTableWriter) endListPage() {
	if len(w.lists) > w.start {
		w.lists = append(w.lists, 0, 0, 0, 0)
		w.table.lists[len(w.table.lists)-1].bytes = len(w.lists) - w.start
		w.start = len(w.lists)
	}
}

// finish pads the pages to the size of the largest, and puts the checksums.
func (w *idTableWriter) finish(segment string, group uint32) (t idTable, pages, lists []byte) {
	t, from := w.table, 0
	t.Pages = w.pages
	for _, end := range w.ends {
		t.PageBytes, from = max(t.PageBytes, end-from+4), end
	}
	pages, from = make([]byte, t.Pages*t.PageBytes), 0
	for i, end := range w.ends {
		page := pages[i*t.PageBytes:][:t.PageBytes]
		copy(page, w.out[from:end])
		from = end
		sum := idChecksum(segment, t.Pages, place{kindIDs, group, uint32(i)}, page[:len(page)-4])
		binary.LittleEndian.PutUint32(page[len(page)-4:], sum)
	}
	t.setOffset(0)
	for i, l := range t.lists {
		page := w.lists[l.offset-t.lists[0].offset:][:l.bytes]
		binary.LittleEndian.PutUint32(page[l.bytes-4:], checksum(place{kindIDLists, group, uint32(i)}, page[:l.bytes-4]))
	}
	return t, pages, w.lists
}
