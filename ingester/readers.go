package ingester

import (
	"sync"
	"sync/atomic"

	"github.com/skaldlog/skald/internal/fault"
)

// A query reads a memtable where it is. When the memtable has become segments meanwhile, its
// slabs stay in memory until the last such query is done with its blocks. They are counted
// apart, as held: up to half the memtables' budget they are nobody's concern, and what is
// beyond counts as memtables do. So memtables, read ones included, never take more than one
// and a half times the budget. When pushes are refused because of that, the query that holds
// most is ended.
//
//	used ──flush, nobody reads──▶ free
//	  └────flush, some read─────▶ held ──last block released──▶ free

// reader is one Select, and what it has of memtables.
type reader struct {
	memory *memory
	ended  atomic.Bool
	leases []*lease // complete before others see the reader
}

// lease keeps a generation's memory counted while a reader has blocks of it. It does not
// keep the memory itself.
type lease struct {
	reader *reader
	of     *readers
	blocks atomic.Int32
}

// readers are those who have leases of a generation.
type readers struct {
	mu struct {
		sync.Mutex
		count int
		held  int64 // bytes, once the rows are in segments
	}
}

// lease begins to read a generation. The caller counts as one block until it calls done.
func (r *reader) lease(g *generation) *lease {
	l := &lease{reader: r, of: g.readers}
	l.blocks.Store(1)
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	if l.of.mu.count++; l.of.mu.count == 1 {
		r.memory.held.Add(l.of.mu.held)
	}
	r.leases = append(r.leases, l)
	return l
}

// done gives one block back. The last one ends the lease.
func (l *lease) done() {
	if l.blocks.Add(-1) > 0 {
		return
	}
	l.of.mu.Lock()
	free := int64(0)
	if l.of.mu.count--; l.of.mu.count == 0 {
		free = l.of.mu.held
	}
	l.of.mu.Unlock()
	if free > 0 {
		l.reader.memory.held.Add(-free)
		l.reader.memory.wake()
	}
	l.reader.memory.forget(l.reader)
}

// retire gives a generation's memory back, or to those who read it.
func (m *memory) retire(g *generation) {
	n := g.bytes.Load()
	g.readers.mu.Lock()
	g.readers.mu.held = n
	if g.readers.mu.count > 0 {
		m.held.Add(n) // first, so that the sum is never too small
	}
	g.readers.mu.Unlock()
	m.release(n)
}

// excess is what readers hold beyond their half of the limit.
func (m *memory) excess(limit int64) int64 { return max(0, m.held.Load()-limit/2) }

// remember lists a reader that has all its leases.
func (m *memory) remember(r *reader) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.blocks() > 0 {
		m.mu.readers[r] = struct{}{}
	}
}

// forget takes a reader off the list when it has no blocks left.
func (m *memory) forget(r *reader) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.blocks() == 0 {
		delete(m.mu.readers, r)
	}
}

func (r *reader) blocks() (n int32) {
	for _, l := range r.leases {
		n += l.blocks.Load()
	}
	return n
}

// held is what would be free without the reader, if it were the only one.
func (r *reader) held() (n int64) {
	for _, l := range r.leases {
		if l.blocks.Load() == 0 {
			continue
		}
		l.of.mu.Lock()
		n += l.of.mu.held
		l.of.mu.Unlock()
	}
	return n
}

// endLargest has the reader that holds most fail when it reads on, and reports whether there
// was one.
func (m *memory) endLargest() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var largest *reader
	most := int64(0)
	for r := range m.mu.readers {
		if r.ended.Load() {
			return true // it has to let go first
		}
		if n := r.held(); n > most {
			largest, most = r, n
		}
	}
	if largest == nil {
		return false
	}
	largest.ended.Store(true)
	return true
}

// It is no fault.Unavailable, which would have queriers do without this ingester.
var errReaderEnded = fault.New(fault.RateLimited, "the query was ended because pushes need the memory of the entries that it reads; "+
	"try again, ask for fewer streams or a shorter time, or raise -ingester.memtable-bytes")

// check returns why the reader may not read on.
func (l *lease) check() error {
	if l != nil && l.reader.ended.Load() {
		return errReaderEnded
	}
	return nil
}
