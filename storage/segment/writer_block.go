package segment

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// blockBuilder holds the rows of the block being filled.
type blockBuilder struct {
	times   []int64
	offsets []uint32 // one more than rows
	lines   []byte
	hashes  []uint64
	streams int
	columns []*columnBuilder          // in the order in which the keys came up
	byName  map[string]*columnBuilder // the same
	spare   []*columnBuilder
	digest  xxhash.Digest
	pairs   int // bytes of metadata values
}

func (b *blockBuilder) rows() int { return len(b.times) }

// crowded reports whether the block is full because of its metadata.
func (b *blockBuilder) crowded() bool {
	return b.pairs > maxMetadataBytes/4 || len(b.columns) > maxMetadataNames/2
}

func (b *blockBuilder) line(row int) []byte { return b.lines[b.offsets[row]:b.offsets[row+1]] }

func (b *blockBuilder) add(ts int64, line []byte, metadata []pair, hash bool) {
	if len(b.offsets) == 0 {
		b.offsets = append(b.offsets, 0)
	}
	row := len(b.times)
	b.times = append(b.times, ts)
	b.lines = append(b.lines, line...)
	b.offsets = append(b.offsets, uint32(len(b.lines)))
	for i := range metadata {
		// Rows mostly have the same keys, so the column is where it was in the row before.
		var c *columnBuilder
		if i < len(b.columns) && b.columns[i].name == metadata[i].name {
			c = b.columns[i]
		} else {
			c = b.column(metadata[i].name)
		}
		c.add(row, metadata[i].value)
		b.pairs += len(metadata[i].value)
	}
	if hash {
		b.hashes = append(b.hashes, b.rowHash(line, metadata))
	}
}

// rowHash is model.RowHash for metadata in pairs.
func (b *blockBuilder) rowHash(line []byte, metadata []pair) uint64 {
	if len(metadata) == 0 {
		return xxhash.Sum64(line)
	}
	d := &b.digest
	d.Reset()
	_, _ = d.Write(line)
	for i := range metadata {
		_, _ = d.Write(hashSeparator)
		_, _ = d.WriteString(metadata[i].name)
		_, _ = d.Write(hashSeparator)
		_, _ = d.WriteString(metadata[i].value)
	}
	return d.Sum64()
}

var hashSeparator = []byte{0xff}

// column returns the key's builder, a new one when the block has none yet.
func (b *blockBuilder) column(name string) *columnBuilder {
	if c := b.byName[name]; c != nil {
		return c
	}
	if b.byName == nil {
		b.byName = make(map[string]*columnBuilder)
	}
	var c *columnBuilder
	if n := len(b.spare); n > 0 {
		c, b.spare = b.spare[n-1], b.spare[:n-1]
	} else {
		c = new(columnBuilder)
	}
	c.reset()
	c.name = strings.Clone(name)
	b.columns = append(b.columns, c)
	b.byName[c.name] = c
	return c
}

func (b *blockBuilder) reset() {
	b.times, b.offsets, b.lines, b.hashes, b.streams = b.times[:0], b.offsets[:0], b.lines[:0], b.hashes[:0], 0
	b.pairs = 0
	if len(b.spare) < 64 {
		b.spare = append(b.spare, b.columns...)
	}
	b.columns = b.columns[:0]
	clear(b.byName)
}

// equal reports whether a row of the block has this line and metadata.
func (b *blockBuilder) equal(row int, line []byte, metadata []pair) bool {
	if !bytes.Equal(b.line(row), line) {
		return false
	}
	// Every pair given must be there, and the row must not have more.
	for i := range metadata {
		c := b.byName[metadata[i].name]
		if c == nil || string(c.at(row)) != metadata[i].value {
			return false
		}
	}
	n := 0
	for _, c := range b.columns {
		if len(c.at(row)) > 0 {
			n++
		}
	}
	return n == len(metadata)
}

// sameTime knows the rows of the stream and timestamp being written, to drop repeated
// ones. A few are compared directly; many, or those in a block already written, by two
// 64-bit hashes with seeds of this process, which nobody can aim at.
type sameTime struct {
	start int // first such row in the block
	count int
	seen  map[[2]uint64]struct{} // nil while rows are compared directly
}

const compareDirectly = 8

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func (s *sameTime) reset(start int) {
	s.start, s.count, s.seen = start, 0, nil
}

func (s *sameTime) has(b *blockBuilder, line []byte, metadata []pair) bool {
	if s.seen != nil {
		_, ok := s.seen[identity(line, metadata)]
		return ok
	}
	for row := s.start; row < b.rows(); row++ {
		if b.equal(row, line, metadata) {
			return true
		}
	}
	if s.count >= compareDirectly {
		s.carry(b)
	}
	return false
}

// carry switches to comparing by hashes.
func (s *sameTime) carry(b *blockBuilder) {
	if s.seen != nil {
		return
	}
	s.seen = make(map[[2]uint64]struct{}, 2*s.count)
	var metadata []pair
	for row := s.start; row < b.rows(); row++ {
		metadata = metadata[:0]
		for _, c := range b.columns {
			if v := c.at(row); len(v) > 0 {
				metadata = append(metadata, pair{c.name, string(v)})
			}
		}
		slices.SortFunc(metadata, func(a, b pair) int { return strings.Compare(a.name, b.name) })
		s.seen[identity(b.line(row), metadata)] = struct{}{}
	}
}

// added notes that a row is about to be added.
func (s *sameTime) added(row int, line []byte, metadata []pair) {
	s.count++
	if s.seen != nil {
		s.seen[identity(line, metadata)] = struct{}{}
	}
}

func identity(line []byte, metadata []pair) (id [2]uint64) {
	for i, seed := range seeds {
		var h maphash.Hash
		h.SetSeed(seed)
		var n [8]byte
		part := func(s string) {
			binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
			_, _ = h.Write(n[:])
			_, _ = h.WriteString(s)
		}
		part(view(line))
		for k := range metadata {
			part(metadata[k].name)
			part(metadata[k].value)
		}
		id[i] = h.Sum64()
	}
	return id
}

// endBlock encodes the block, if it has rows, and writes it out.
func (w *Writer) endBlock() error {
	b := &w.block
	if b.rows() == 0 {
		return nil
	}
	number := uint32(len(w.index.blocks))
	meta := blockMeta{rows: b.rows(), bytes: int64(len(b.lines)), stream: len(w.streams) - b.streams, streams: b.streams,
		first: slices.Min(b.times), last: slices.Max(b.times)}
	frame := func(k kind, ordinal int, c compression) int {
		start := len(w.buf)
		w.buf = appendFrame(w.buf, place{k, number, uint32(ordinal)}, c, w.raw)
		return len(w.buf) - start
	}
	w.raw = w.times.append(w.raw[:0], b.times, w.small())
	meta.times = frame(kindTimes, 0, compression{codec: CodecNone})
	w.raw = w.lengths.append(w.raw[:0], b.offsets)
	meta.lengths = frame(kindLengths, 0, w.small())

	slices.SortFunc(b.columns, func(x, y *columnBuilder) int { return strings.Compare(x.name, y.name) })
	for i, c := range b.columns {
		w.raw = c.append(w.raw[:0], b.rows())
		meta.metadata = append(meta.metadata, columnMeta{name: w.name(c.name), length: frame(kindMetadata, i, w.small())})
		if w.needles != nil {
			for n := range c.ends {
				w.group.ids.add(pairItem(c.name, c.value(uint32(n+1))), len(w.group.blocks))
			}
		}
	}
	if w.opts.RowHash {
		w.raw = w.raw[:0]
		for _, h := range b.hashes {
			w.raw = binary.LittleEndian.AppendUint64(w.raw, h)
		}
		meta.hashes = frame(kindHashes, 0, compression{codec: CodecNone})
	}
	if w.needles != nil || w.opts.Codec == CodecFields {
		w.classes.find(b.lines)
	}
	meta.lines = w.appendLines(place{kind: kindLines, block: number})
	if w.needles != nil {
		c := cellsOf(w.needles, w.opts.NeedleBits)
		meta.width = c.width
		w.group.ids.addLines(b.lines, b.offsets, w.classes.long, len(w.group.blocks))
		w.group.add(c)
	}
	w.index.blocks = append(w.index.blocks, meta)
	b.reset()
	if w.group.full() {
		if err := w.endGroup(false); err != nil {
			return err
		}
	}
	return w.flush()
}

// appendLines appends the frame of the line column to w.buf and returns its length.
func (w *Writer) appendLines(at place) int {
	b, start := &w.block, len(w.buf)
	c := compression{codec: w.opts.Codec, level: w.opts.ZstdLevel}
	if c.codec == CodecFields {
		w.buf = append(w.buf, byte(CodecFields))
		w.buf = binary.AppendUvarint(w.buf, uint64(len(b.lines)))
		var ok bool
		if w.buf, ok = w.fields.append(w.buf, b, &w.classes, c.level); ok {
			w.buf = binary.LittleEndian.AppendUint32(w.buf, checksum(at, w.buf[start:]))
			return len(w.buf) - start
		}
		w.buf, c.codec = w.buf[:start], CodecZstd
	}
	w.buf = appendFrame(w.buf, at, c, b.lines)
	return len(w.buf) - start
}

// endGroup writes the needle group out, and frees what it can on the way.
func (w *Writer) endGroup(last bool) error {
	const some = 1 << 20
	number := uint32(len(w.index.groups))
	g := w.group.describe()
	for page := range g.pages() {
		w.buf = w.group.appendPage(w.buf, &g, page, number)
		if len(w.buf) >= some {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	w.group.reset()
	var pages, lists []byte
	g.ids, pages, lists = w.group.ids.build(w.opts.ID, number, g.blocks, last && number == 0)
	g.ids.setOffset(w.offset + int64(len(w.buf)))
	w.index.groups = append(w.index.groups, g)
	for _, part := range [][]byte{pages, lists} {
		w.buf = append(w.buf, part...)
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

// name returns the provisional number of a metadata name.
func (w *Writer) name(name string) int {
	n, ok := w.names[name]
	if !ok {
		n = len(w.names)
		w.names[name] = n
	}
	return n
}

// sortNames numbers the metadata names in sorted order, which is the order of a block's columns.
func (w *Writer) sortNames() {
	provisional := make([]string, len(w.names))
	for name, n := range w.names {
		provisional[n] = name
	}
	w.index.names = slices.Sorted(slices.Values(provisional))
	number := make([]int, len(provisional))
	for i, name := range w.index.names {
		number[w.names[name]] = i
	}
	for i := range w.index.blocks {
		for k := range w.index.blocks[i].metadata {
			c := &w.index.blocks[i].metadata[k]
			c.name = number[c.name]
		}
	}
}
