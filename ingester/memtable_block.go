package ingester

import (
	"context"
	"slices"

	"github.com/skaldlog/skald/internal/model"
)

// Blocks of a memtable have the size of a segment's, so that queries spread them over
// cores in the same way.
const (
	blockLineBytes = 1 << 20
	blockRows      = 64 << 10
)

// memBlock is a range of sorted rows of a snapshot. A column is gathered from the slabs
// when it is asked for.
type memBlock struct {
	tenant      model.Tenant
	snap        *snapshot // nil once it is released
	lease       *lease    // likewise; counts the memory that snap holds
	refs        []ref
	runs        []model.Run
	first, last int64
	raw         int64

	times   []int64
	offsets []uint32
	lines   []byte
	hashes  []uint64
}

// blocks cuts rows into blocks, each of which counts in the lease.
func (r sortedRows) blocks(lease *lease) []model.Block {
	var out []model.Block
	run := 0
	for from := 0; from < len(r.refs); {
		b := &memBlock{tenant: r.snap.table.tenant, snap: r.snap, lease: lease}
		lease.blocks.Add(1)
		to := from
		for ; to < len(r.refs) && to-from < blockRows; to++ {
			sl, i := r.snap.at(r.refs[to])
			size := int64(sl.lineEnd[i] - sl.start(i))
			if to > from && b.raw+size > blockLineBytes {
				break
			}
			b.raw += size
			if t := sl.times[i]; to == from {
				b.first, b.last = t, t
			} else {
				b.first, b.last = min(b.first, t), max(b.last, t)
			}
		}
		b.refs = r.refs[from:to:to]
		for ; run < len(r.runs) && r.runs[run].Start < to; run++ {
			piece := r.runs[run]
			piece.Start, piece.End = max(piece.Start, from)-from, min(piece.End, to)-from
			b.runs = append(b.runs, piece)
			if r.runs[run].End > to {
				break // the rest of this run is in the next block
			}
		}
		out = append(out, b)
		from = to
	}
	return out
}

func (b *memBlock) Name() string           { return "memtable of tenant " + string(b.tenant) }
func (b *memBlock) Rows() int              { return len(b.refs) }
func (b *memBlock) Bounds() (int64, int64) { return b.first, b.last }
func (b *memBlock) RawBytes() int64        { return b.raw }
func (b *memBlock) Runs() []model.Run      { return b.runs }
func (b *memBlock) Dead() model.Bitmap     { return nil }

func (b *memBlock) Times(context.Context) ([]int64, error) {
	if b.times == nil {
		if err := b.lease.check(); err != nil {
			return nil, err
		}
		b.times = make([]int64, len(b.refs))
		for i, r := range b.refs {
			b.times[i] = b.snap.time(r)
		}
	}
	return b.times, nil
}

func (b *memBlock) Offsets(context.Context) ([]uint32, error) {
	if b.offsets == nil {
		if err := b.lease.check(); err != nil {
			return nil, err
		}
		b.offsets = make([]uint32, len(b.refs)+1)
		at := uint32(0)
		for i, r := range b.refs {
			sl, row := b.snap.at(r)
			at += sl.lineEnd[row] - sl.start(row)
			b.offsets[i+1] = at
		}
	}
	return b.offsets, nil
}

func (b *memBlock) Lines(context.Context) ([]byte, error) {
	if b.lines == nil {
		if err := b.lease.check(); err != nil {
			return nil, err
		}
		b.lines = make([]byte, 0, b.raw)
		for _, r := range b.refs {
			line, _ := b.snap.row(r)
			b.lines = append(b.lines, line...)
		}
	}
	return b.lines, nil
}

// Packed returns nil: in memory lines are whole.
func (b *memBlock) Packed(context.Context) (model.Packed, error) { return nil, nil }

// Fetch returns nil: rows are in memory.
func (b *memBlock) Fetch() func(context.Context) error { return nil }

func (b *memBlock) MetadataNames() []string {
	present := make([]bool, len(b.snap.names))
	for _, r := range b.refs {
		_, metadata := b.snap.row(r)
		eachMetadata(metadata, func(name uint32, _ []byte) { present[name] = true })
	}
	var names []string
	for id, ok := range present {
		if ok {
			names = append(names, b.snap.names[id])
		}
	}
	slices.Sort(names)
	return names
}

func (b *memBlock) Metadata(_ context.Context, name string) (model.Column, error) {
	column := model.Column{Values: []string{""}}
	if err := b.lease.check(); err != nil {
		return column, err
	}
	id := slices.Index(b.snap.names, name)
	if id < 0 {
		return column, nil
	}
	codes := make(map[string]uint32)
	for i, r := range b.refs {
		_, metadata := b.snap.row(r)
		eachMetadata(metadata, func(n uint32, value []byte) {
			if n != uint32(id) {
				return
			}
			if column.Codes == nil {
				column.Codes = make([]uint32, len(b.refs))
			}
			code, ok := codes[string(value)]
			if !ok {
				code = uint32(len(column.Values))
				column.Values = append(column.Values, string(value))
				codes[column.Values[code]] = code
			}
			column.Codes[i] = code
		})
	}
	return column, nil
}

func (b *memBlock) Hashes(context.Context) ([]uint64, error) {
	if b.hashes == nil {
		if err := b.lease.check(); err != nil {
			return nil, err
		}
		b.hashes = make([]uint64, len(b.refs))
		for i, r := range b.refs {
			b.hashes[i] = b.snap.hash(r)
		}
	}
	return b.hashes, nil
}

// Forget implements model.Forgetter: the rows are in the memtable still.
func (b *memBlock) Forget() { b.times, b.offsets, b.lines, b.hashes = nil, nil, nil, nil }

// Release lets the memtable go, too: the block may be listed until its query ends.
func (b *memBlock) Release() {
	if b.lease != nil {
		b.lease.done()
	}
	*b = memBlock{tenant: b.tenant}
}
