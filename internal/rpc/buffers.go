package rpc

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// Buffers keeps memory for messages, by powers of two. gRPC's own pool has few sizes and
// clears what it hands out; here a buffer holds what its last user left.
var Buffers mem.BufferPool = &buffers{}

// Buffers of 1 KiB to 16 MiB are kept; others are left to the collector.
const (
	leastBits = 10
	mostBits  = 24
)

type buffers struct {
	bySize [mostBits + 1]sync.Pool // of *[]byte with that power of two as capacity
}

// Get returns a buffer of the length with undefined contents.
func (p *buffers) Get(length int) *[]byte {
	exp := max(bits.Len(uint(max(length, 1)-1)), leastBits)
	if exp > mostBits {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.bySize[exp].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<exp)
	return &b
}

// Put takes a buffer back.
func (p *buffers) Put(b *[]byte) {
	n := cap(*b)
	exp := bits.Len(uint(n)) - 1
	if exp < leastBits || exp > mostBits || n != 1<<exp {
		return
	}
	p.bySize[exp].Put(b)
}
