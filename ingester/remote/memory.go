package remote

import (
	"slices"
	"sync/atomic"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/rpc"
)

// budget bounds the memory of calls of one kind.
type budget struct {
	most int64 // 0 is any
	used atomic.Int64
}

// take reports whether there was room, and what is used besides.
func (b *budget) take(n int64) (used int64, ok bool) {
	used = b.used.Add(n)
	if b.most > 0 && used > b.most {
		b.used.Add(-n)
		return used - n, false
	}
	return used - n, true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// readMemory counts what open reads hold of what their clients have sent, for as long as they
// hold it: the messages while they come are the server's to count, but a request lives as long as
// its call, and a fetch as long as its answer, which nobody may take.
type readMemory struct{ budget }

func (m *readMemory) take(n int64) error {
	if used, ok := m.budget.take(n); !ok {
		return fault.New(fault.Unavailable, "ingester holds %d bytes of requests to read and is to hold %d more, at most %d are allowed, retry later", used, n, m.most)
	}
	return nil
}

const (
	// selectMemory is what an open Select takes besides its request: what its client may send
	// ahead, goroutines, and buffers.
	selectMemory = rpc.StreamWindow + 32<<10
	// An element of a message may be two bytes, but becomes a string in a slice that grew; those
	// of an element's own become structures.
	fieldMemory = 48
	byteMemory  = 40
)

// memoryOf is at most what a message takes while it is read and afterwards, but for what patterns
// are compiled to. Elements of lists are small things.
func memoryOf(msg []byte, lists ...rpc.Number) int64 {
	n := 2 * int64(len(msg))
	f := rpc.Read(msg)
	for f.Next() {
		n += fieldMemory
		if slices.Contains(lists, f.Num()) {
			n += byteMemory * int64(len(f.Bytes()))
		}
	}
	return n
}
