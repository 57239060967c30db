package deliver

import (
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// Origin is where an entry comes from. It is retained by a batch and released when the
// batch was delivered.
type Origin interface {
	Retain()
	Release()
}

// Staging collects what one turn of one log gives, before it is shared with others. Its
// lines may alias the reader's buffer until Commit.
type Staging struct {
	streams []staged
	last    int
	held    []Origin // transferred to the first batch that receives something
	origins []Origin // not yet retained
}

type staged struct {
	labels  labels.Labels
	hash    uint64
	tenant  string
	entries []model.Entry
}

// Add stages an entry. held are origins that were retained for it before; o, the origin of
// its last line, is retained by Commit.
func (s *Staging) Add(tenant string, ls labels.Labels, hash uint64, e model.Entry, o Origin, held []Origin) {
	if n := len(s.origins); n == 0 || s.origins[n-1] != o {
		s.origins = append(s.origins, o)
	}
	s.held = append(s.held, held...)
	if s.last < len(s.streams) {
		if st := &s.streams[s.last]; st.hash == hash && st.tenant == tenant && labels.Equal(st.labels, ls) {
			st.entries = append(st.entries, e)
			return
		}
	}
	for i := range s.streams {
		if st := &s.streams[i]; st.hash == hash && st.tenant == tenant && labels.Equal(st.labels, ls) {
			st.entries = append(st.entries, e)
			s.last = i
			return
		}
	}
	s.last = len(s.streams)
	if s.last < cap(s.streams) { // with the entries' memory of an earlier turn
		s.streams = s.streams[:s.last+1]
		st := &s.streams[s.last]
		st.labels, st.hash, st.tenant, st.entries = ls, hash, tenant, append(st.entries[:0], e)
		return
	}
	s.streams = append(s.streams, staged{ls, hash, tenant, []model.Entry{e}})
}

// Empty reports whether nothing is staged.
func (s *Staging) Empty() bool { return len(s.streams) == 0 }

// maxKeptEntries bounds the memory that an unused Staging keeps, in entries a stream.
const maxKeptEntries = 4096

func (s *Staging) reset() {
	for i := range s.streams {
		st := &s.streams[i]
		clear(st.entries)
		st.labels = labels.EmptyLabels()
		if cap(st.entries) > maxKeptEntries || i >= 8 {
			st.entries = nil
		}
	}
	s.streams, s.last = s.streams[:0], 0
	clear(s.held)
	clear(s.origins)
	s.held, s.origins = s.held[:0], s.origins[:0]
}

// blockSize is the unit in which batches take memory for lines.
const blockSize = 64 << 10

// blocks are used again by all batches, and go back to the system when there is less to do.
var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// entryCost is what an entry costs beside its line, in bytes.
const entryCost = 64

// batch is what is sent in one request. Its lines lie in its own blocks.
type batch struct {
	streams []model.Stream
	index   map[uint64]int // stream by hash of labels
	blocks  []*[blockSize]byte
	room    []byte // rest of the last block in use
	size    int    // lines and metadata, as batchsize counts
	count   int
	born    time.Time
	origins []Origin
}

func newBatch() *batch { return &batch{index: map[uint64]int{}} }

// cost is what the batch takes of the budget.
func (b *batch) cost() int64 { return int64(b.size + b.count*entryCost) }

func (b *batch) stream(st *staged, external func(labels.Labels) labels.Labels) *model.Stream {
	for h := st.hash; ; h++ {
		i, ok := b.index[h]
		if !ok {
			b.index[h] = len(b.streams)
			if len(b.streams) < cap(b.streams) {
				b.streams = b.streams[:len(b.streams)+1]
			} else {
				b.streams = append(b.streams, model.Stream{})
			}
			s := &b.streams[len(b.streams)-1]
			s.Labels, s.Entries = external(st.labels), s.Entries[:0]
			return s
		}
		if labels.Equal(b.streams[i].Labels, external(st.labels)) {
			return &b.streams[i]
		}
	}
}

// add copies an entry into the batch.
func (b *batch) add(s *model.Stream, e *model.Entry) {
	line := b.alloc(len(e.Line))
	copy(line, e.Line)
	s.Entries = append(s.Entries, model.Entry{Timestamp: e.Timestamp, Line: line, Metadata: e.Metadata})
	b.size += entrySize(e)
	b.count++
}

func (b *batch) alloc(n int) []byte {
	if n > len(b.room) {
		if n > blockSize/4 {
			return make([]byte, n)
		}
		block, _ := blocks.Get().(*[blockSize]byte) // the pool holds nothing else
		b.blocks = append(b.blocks, block)
		b.room = block[:]
	}
	p := b.room[:n:n]
	b.room = b.room[n:]
	return p
}

// reset makes a delivered batch ready for use again.
func (b *batch) reset() {
	for i := range b.streams {
		clear(b.streams[i].Entries)
		b.streams[i].Labels = labels.EmptyLabels()
	}
	for _, block := range b.blocks {
		blocks.Put(block)
	}
	clear(b.blocks)
	clear(b.index)
	clear(b.origins)
	b.streams, b.origins, b.blocks = b.streams[:0], b.origins[:0], b.blocks[:0]
	b.room, b.size, b.count = nil, 0, 0
}

func (b *batch) release() {
	for _, o := range b.origins {
		o.Release()
	}
}

func entrySize(e *model.Entry) int {
	n := len(e.Line)
	if !e.Metadata.IsEmpty() {
		e.Metadata.Range(func(l labels.Label) { n += len(l.Name) + len(l.Value) })
	}
	return n
}
