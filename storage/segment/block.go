package segment

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/skaldlog/skald/internal/model"
)

// block is a model.Block over one block of a segment. Columns are fetched when the
// first of them is asked for: those that the request named, together, the lines and any other one
// by itself. Decoded columns live in pooled buffers until Release.
type block struct {
	r      *Reader
	number int
	meta   *blockMeta
	runs   []model.Run
	want   *model.Columns
	stats  *model.Stats

	asked    bool     // the wanted columns have been fetched
	frames   [][]byte // by part, nil when not fetched
	buffers  []*[]byte
	times    *[]int64
	offsets  *[]uint32
	lines    *[]byte
	packed   *packedLines
	hashes   *[]uint64
	metadata map[int]metadataColumn // by place among the block's columns
}

type metadataColumn struct {
	column model.Column
	codes  *[]uint32
}

var (
	// Buffers of one use are of one size, more or less; a pool that mixed them would hand
	// out small ones where large ones are wanted, and most would be allocated anew.
	framePool  = sync.Pool{New: func() any { return new([]byte) }} // as fetched
	bytePool   = sync.Pool{New: func() any { return new([]byte) }} // decoded small columns
	textPool   = sync.Pool{New: func() any { return new([]byte) }} // lines before their fields are put back
	idPool     = sync.Pool{New: func() any { return new([]byte) }}
	linePool   = sync.Pool{New: func() any { return new([]byte) }}
	int64Pool  = sync.Pool{New: func() any { return new([]int64) }}
	uint32Pool = sync.Pool{New: func() any { return new([]uint32) }}
	uint64Pool = sync.Pool{New: func() any { return new([]uint64) }}
)

// pooled returns a slice of n elements, with what contents may be, from a pool.
func pooled[T any](pool *sync.Pool, n int) *[]T {
	p := pool.Get().(*[]T)
	if cap(*p) < n {
		*p = make([]T, n)
	}
	*p = (*p)[:n]
	return p
}

func newBlock(r *Reader, number int, runs []model.Run, want *model.Columns, stats *model.Stats) *block {
	return &block{r: r, number: number, meta: &r.index.blocks[number], runs: runs, want: want, stats: stats}
}

func (b *block) Name() string                { return fmt.Sprintf("segment %s, block %d", b.r.src.Name(), b.number) }
func (b *block) Rows() int                   { return b.meta.rows }
func (b *block) Bounds() (first, last int64) { return b.meta.first, b.meta.last }
func (b *block) RawBytes() int64             { return b.meta.bytes }
func (b *block) Runs() []model.Run           { return b.runs }
func (b *block) Dead() model.Bitmap          { return nil }

// Release gives the buffers back.
func (b *block) Release() {
	b.dropFrames()
	b.dropColumns()
}

// Forget implements model.Forgetter. What came from afar stays as it came, compressed.
func (b *block) Forget() {
	if !b.far() {
		b.dropFrames()
	}
	b.dropColumns()
}

func (b *block) dropColumns() {
	if b.times != nil {
		int64Pool.Put(b.times)
	}
	if b.offsets != nil {
		uint32Pool.Put(b.offsets)
	}
	if b.lines != nil {
		linePool.Put(b.lines)
	}
	if b.packed != nil {
		b.packed.release()
	}
	if b.hashes != nil {
		uint64Pool.Put(b.hashes)
	}
	for _, c := range b.metadata {
		if c.codes != nil {
			uint32Pool.Put(c.codes)
		}
	}
	b.times, b.offsets, b.lines, b.packed, b.hashes, b.metadata = nil, nil, nil, nil, nil, nil
}

func (b *block) dropFrames() {
	for _, p := range b.buffers {
		framePool.Put(p)
	}
	b.buffers, b.frames, b.asked = nil, nil, false
}

// The parts of a block in the order of the file: times, lengths, the metadata columns,
// hashes, lines.
const (
	partTimes = iota
	partLengths
	partMetadata
)

func (b *block) partHashes() int { return partMetadata + len(b.meta.metadata) }
func (b *block) partLines() int  { return b.partHashes() + 1 }

// at returns the place of a part, for its checksum, and where it lies.
func (b *blockMeta) at(number, part int) (at place, off int64, n int) {
	at.block = uint32(number)
	off = b.offset
	if at.kind, n = kindTimes, b.times; part == partTimes {
		return at, off, n
	}
	off += int64(n)
	if at.kind, n = kindLengths, b.lengths; part == partLengths {
		return at, off, n
	}
	off += int64(n)
	at.kind = kindMetadata
	for i, c := range b.metadata {
		if n = c.length; part == partMetadata+i {
			at.ordinal = uint32(i)
			return at, off, n
		}
		off += int64(n)
	}
	if at.kind, n = kindHashes, b.hashes; part == partMetadata+len(b.metadata) {
		return at, off, n
	}
	return place{kind: kindLines, block: uint32(number)}, off + int64(n), b.lines
}

// wanted lists the parts that the request named, but for the lines.
func (b *block) wanted() []int {
	parts := []int{partTimes}
	if b.want.Lengths || b.want.Lines {
		parts = append(parts, partLengths)
	}
	for i, c := range b.meta.metadata {
		if b.want.AllMetadata || slices.Contains(b.want.Metadata, b.r.index.names[c.name]) {
			parts = append(parts, partMetadata+i)
		}
	}
	return parts
}

// frame returns the bytes of a part, which it fetches when needed. Lines, which are most of a
// block, come when they are asked for, here or by Fetch: a query that looks for rows that stand
// twice has the times of many blocks in memory.
func (b *block) frame(ctx context.Context, part int) ([]byte, error) {
	if b.frames == nil || b.frames[part] == nil {
		parts := []int{part}
		if !b.asked {
			parts = append(parts, b.wanted()...)
		}
		if err := b.bring(ctx, parts); err != nil {
			return nil, err
		}
	}
	return b.frames[part], nil
}

// bring fetches those of the parts that are not there, neighbours in one read. It is called with
// the wanted ones the first time.
func (b *block) bring(ctx context.Context, parts []int) error {
	if b.frames == nil {
		b.frames = make([][]byte, b.partLines()+1)
	}
	slices.Sort(parts)
	parts = slices.DeleteFunc(slices.Compact(parts), func(p int) bool { return b.frames[p] != nil })
	for len(parts) > 0 {
		_, start, n := b.meta.at(b.number, parts[0])
		end := start + int64(n)
		k := 1
		for ; k < len(parts); k++ {
			_, off, n := b.meta.at(b.number, parts[k])
			if off-end > int64(b.r.opts.MaxGap) {
				break
			}
			end = off + int64(n)
		}
		buf := pooled[byte](&framePool, int(end-start))
		b.buffers = append(b.buffers, buf)
		if err := b.r.read(ctx, *buf, start, b.stats); err != nil {
			b.dropFrames()
			return err
		}
		for _, p := range parts[:k] {
			_, off, n := b.meta.at(b.number, p)
			b.frames[p] = (*buf)[off-start:][:n:n]
		}
		parts = parts[k:]
	}
	b.asked = true
	return nil
}

// open returns the raw bytes of a part in a buffer, at most so many.
func (b *block) open(ctx context.Context, part, most int, pool *sync.Pool) (*[]byte, error) {
	frame, err := b.frame(ctx, part)
	if err != nil {
		return nil, err
	}
	at, _, _ := b.meta.at(b.number, part)
	buf := pool.Get().(*[]byte)
	raw, err := openFrame((*buf)[:0], frame, at, most)
	if err != nil {
		pool.Put(buf)
		return nil, b.corrupt(part, err)
	}
	*buf = raw
	return buf, nil
}

func (b *block) corrupt(part int, err error) error {
	if err == nil {
		return nil
	}
	at, _, _ := b.meta.at(b.number, part)
	where := fmt.Sprintf("block %d, %s", b.number, at.kind)
	if at.kind == kindMetadata {
		where += fmt.Sprintf(" %q", b.r.index.names[b.meta.metadata[at.ordinal].name])
	}
	return b.r.corrupt(where, err)
}

// Fetch implements model.Block.
func (b *block) Fetch() func(context.Context) error {
	if !b.far() {
		return nil
	}
	return func(ctx context.Context) error {
		parts := b.wanted()
		if b.want.Lines {
			parts = append(parts, b.partLines())
		}
		return b.bring(ctx, parts)
	}
}

func (b *block) far() bool {
	far, ok := b.r.src.(interface{ Far() bool })
	return ok && far.Far()
}

// Times decodes the timestamps.
func (b *block) Times(ctx context.Context) ([]int64, error) {
	if b.times != nil {
		return *b.times, nil
	}
	frame, err := b.frame(ctx, partTimes)
	if err != nil {
		return nil, err
	}
	// The frame is not compressed: its bytes are read where they are.
	codec, _, body, err := checkFrame(frame, place{kind: kindTimes, block: uint32(b.number)}, len(frame))
	if err == nil && codec != CodecNone {
		err = fmt.Errorf("unexpected %s", codec)
	}
	if err != nil {
		return nil, b.corrupt(partTimes, err)
	}
	times := pooled[int64](&int64Pool, b.meta.rows)
	scratch := bytePool.Get().(*[]byte)
	*scratch, err = decodeTimes(*times, body, *scratch)
	bytePool.Put(scratch)
	if err != nil {
		int64Pool.Put(times)
		return nil, b.corrupt(partTimes, err)
	}
	b.stats.DecompressedTimestamp.Add(8 * int64(b.meta.rows))
	b.times = times
	return *times, nil
}

// Offsets decodes the lengths of the lines.
func (b *block) Offsets(ctx context.Context) ([]uint32, error) {
	if b.offsets != nil {
		return *b.offsets, nil
	}
	raw, err := b.open(ctx, partLengths, maxLengthsBytes(b.meta.rows), &bytePool)
	if err != nil {
		return nil, err
	}
	defer bytePool.Put(raw)
	offsets := pooled[uint32](&uint32Pool, b.meta.rows+1)
	if err := decodeLengths(*offsets, *raw, b.meta.bytes); err != nil {
		uint32Pool.Put(offsets)
		return nil, b.corrupt(partLengths, err)
	}
	b.stats.DecompressedLength.Add(4 * int64(b.meta.rows))
	b.offsets = offsets
	return *offsets, nil
}

// lineFrame checks the frame of the lines and returns its codec and body.
func (b *block) lineFrame(ctx context.Context) (Codec, []byte, error) {
	part := b.partLines()
	frame, err := b.frame(ctx, part)
	if err != nil {
		return 0, nil, err
	}
	at, _, _ := b.meta.at(b.number, part)
	codec, n, body, err := checkFrame(frame, at, int(b.meta.bytes))
	if err == nil && int64(n) != b.meta.bytes {
		err = fmt.Errorf("%d bytes, the block index says %d", n, b.meta.bytes)
	}
	return codec, body, b.corrupt(part, err)
}

// Lines decodes the lines.
func (b *block) Lines(ctx context.Context) ([]byte, error) {
	if b.lines != nil {
		return *b.lines, nil
	}
	if b.packed != nil {
		return b.expandAll(ctx)
	}
	codec, body, err := b.lineFrame(ctx)
	if err != nil {
		return nil, err
	}
	lines := linePool.Get().(*[]byte)
	var decoded []byte
	if codec == CodecFields {
		decoded, err = b.decodeFields(ctx, *lines, body)
	} else {
		decoded, err = decompress((*lines)[:0], codec, int(b.meta.bytes), body)
		err = b.corrupt(b.partLines(), err)
	}
	if err != nil {
		linePool.Put(lines)
		return nil, err
	}
	*lines = decoded
	b.stats.DecompressedLine.Add(b.meta.bytes)
	b.stats.LineBlocks.Add(1)
	b.lines = lines
	return *lines, nil
}

// decodeFields decodes lines whose timestamps stand in their own column.
func (b *block) decodeFields(ctx context.Context, dst, body []byte) ([]byte, error) {
	times, offsets, err := b.rowColumns(ctx)
	if err != nil {
		return nil, err
	}
	dst, err = decodeFields(dst, body, times, offsets)
	return dst, b.corrupt(b.partLines(), err)
}

// rowColumns are what lines are put together with.
func (b *block) rowColumns(ctx context.Context) ([]int64, []uint32, error) {
	times, err := b.Times(ctx)
	if err != nil {
		return nil, nil, err
	}
	offsets, err := b.Offsets(ctx)
	return times, offsets, err
}

// Packed decodes the lines up to the fields that have been taken out of them.
func (b *block) Packed(ctx context.Context) (model.Packed, error) {
	if b.packed != nil {
		return b.packed, nil
	}
	if b.lines != nil {
		return nil, nil
	}
	codec, body, err := b.lineFrame(ctx)
	if err != nil || codec != CodecFields {
		return nil, err
	}
	p, err := newPackedLines(b, body)
	if err != nil {
		return nil, b.corrupt(b.partLines(), err)
	}
	b.stats.DecompressedLine.Add(int64(len(*p.text) + len(p.ids)))
	b.stats.LineBlocks.Add(1)
	b.packed = p
	return p, nil
}

// expandAll makes all lines of the packed ones.
func (b *block) expandAll(ctx context.Context) ([]byte, error) {
	times, offsets, err := b.rowColumns(ctx)
	if err != nil {
		return nil, err
	}
	n := int(b.meta.bytes)
	lines := linePool.Get().(*[]byte)
	*lines = grow((*lines)[:0], n+expandSlack)[:n+expandSlack]
	p := b.packed
	if err := expandFields(*lines, n, *p.text, p.ids, &p.clock, times, offsets); err != nil {
		linePool.Put(lines)
		return nil, b.corrupt(b.partLines(), err)
	}
	*lines = (*lines)[:n]
	b.lines = lines
	return *lines, nil
}

// MetadataNames lists the block's metadata columns.
func (b *block) MetadataNames() []string {
	names := make([]string, len(b.meta.metadata))
	for i, c := range b.meta.metadata {
		names[i] = b.r.index.names[c.name]
	}
	return names
}

// Metadata decodes a metadata column.
func (b *block) Metadata(ctx context.Context, name string) (model.Column, error) {
	n, ok := slices.BinarySearch(b.r.index.names, name)
	if ok {
		n, ok = b.meta.find(n)
	}
	if !ok {
		return model.Column{Values: []string{""}}, nil
	}
	return b.metadataAt(ctx, n)
}

// metadataAt decodes the block's n-th metadata column.
func (b *block) metadataAt(ctx context.Context, n int) (model.Column, error) {
	if c, ok := b.metadata[n]; ok {
		return c.column, nil
	}
	raw, err := b.open(ctx, partMetadata+n, maxMetadataBytes, &bytePool)
	if err != nil {
		return model.Column{}, err
	}
	defer bytePool.Put(raw)
	codes := pooled[uint32](&uint32Pool, b.meta.rows)
	c, err := decodeMetadata(*codes, *raw, b.meta.rows)
	if err != nil {
		uint32Pool.Put(codes)
		return model.Column{}, b.corrupt(partMetadata+n, err)
	}
	*codes = c.Codes
	b.stats.DecompressedMetadata.Add(int64(len(*raw)))
	if b.metadata == nil {
		b.metadata = make(map[int]metadataColumn)
	}
	b.metadata[n] = metadataColumn{c, codes}
	return c, nil
}

// Hashes returns the hash column or, where there is none, computes it.
func (b *block) Hashes(ctx context.Context) ([]uint64, error) {
	if b.hashes != nil {
		return *b.hashes, nil
	}
	if b.meta.hashes == 0 {
		return b.computeHashes(ctx)
	}
	raw, err := b.open(ctx, b.partHashes(), 8*b.meta.rows, &bytePool)
	if err != nil {
		return nil, err
	}
	defer bytePool.Put(raw)
	if len(*raw) != 8*b.meta.rows {
		return nil, b.corrupt(b.partHashes(), fmt.Errorf("%d bytes for %d rows", len(*raw), b.meta.rows))
	}
	hashes := pooled[uint64](&uint64Pool, b.meta.rows)
	for i := range *hashes {
		(*hashes)[i] = binary.LittleEndian.Uint64((*raw)[8*i:])
	}
	b.stats.DecompressedHash.Add(int64(len(*raw)))
	b.hashes = hashes
	return *hashes, nil
}

// computeHashes is model.RowHash for every row. What hashes are made of is kept only if others have
// read some of it: who compares hashes has those of many blocks.
func (b *block) computeHashes(ctx context.Context) ([]uint64, error) {
	others := b.offsets != nil || b.lines != nil || b.packed != nil || b.metadata != nil || b.frames != nil && b.frames[b.partLines()] != nil
	offsets, err := b.Offsets(ctx)
	if err != nil {
		return nil, err
	}
	lines, err := b.Lines(ctx)
	if err != nil {
		return nil, err
	}
	columns := make([]model.Column, len(b.meta.metadata))
	for i := range columns {
		if columns[i], err = b.metadataAt(ctx, i); err != nil {
			return nil, err
		}
	}
	hashes := pooled[uint64](&uint64Pool, b.meta.rows)
	var d xxhash.Digest
	for row := range *hashes {
		d.Reset()
		_, _ = d.Write(lines[offsets[row]:offsets[row+1]])
		for i := range columns {
			if v := columns[i].Value(row); v != "" {
				_, _ = d.Write(hashSeparator)
				_, _ = d.WriteString(b.r.index.names[b.meta.metadata[i].name])
				_, _ = d.Write(hashSeparator)
				_, _ = d.WriteString(v)
			}
		}
		(*hashes)[row] = d.Sum64()
	}
	if !others {
		times := b.times
		b.times = nil
		b.Release()
		b.times = times
	}
	b.hashes = hashes
	return *hashes, nil
}
