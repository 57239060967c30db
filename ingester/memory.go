package ingester

import (
	"sync"
	"sync/atomic"
)

// memory is the budget of all memtables: what they have allocated, and what pushes under
// way are about to take.
type memory struct {
	used     atomic.Int64 // by memtables, frozen ones included
	reserved atomic.Int64 // by pushes between step 2 and the end
	held     atomic.Int64 // by memtables that are segments already, but are being read; see readers.go

	mu struct {
		sync.Mutex
		freed   chan struct{} // closed, and replaced, whenever memory has become free
		readers map[*reader]struct{}
	}
}

func newMemory() *memory {
	m := &memory{}
	m.mu.freed = make(chan struct{})
	m.mu.readers = make(map[*reader]struct{})
	return m
}

// take reserves n bytes when they fit the limit.
func (m *memory) take(n, limit int64) bool {
	if m.reserved.Add(n)+m.used.Load()+m.excess(limit) <= limit {
		return true
	}
	m.reserved.Add(-n)
	return false
}

// wait returns a channel that is closed at the next release. Get it before trying take.
func (m *memory) wait() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.freed
}

// release gives back n bytes of memtables and wakes those who wait.
func (m *memory) release(n int64) {
	m.used.Add(-n)
	m.wake()
}

// wake has those who wait try again.
func (m *memory) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.mu.freed)
	m.mu.freed = make(chan struct{})
}
