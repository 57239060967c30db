package segment

import (
	"fmt"
	"sync"

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
