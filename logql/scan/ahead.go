package scan

import (
	"context"
	"sync"

	"github.com/skaldlog/skald/internal/model"
)

const (
	// maxAhead is how many blocks are on their way at once, and maxAheadBytes how many bytes
	// of lines these may have. A request to an object store takes about as long as the work
	// on ten blocks, and there are few workers.
	maxAhead      = 16
	maxAheadBytes = 32 << 20
)

// ahead has blocks fetched before the workers come to them, where fetching means to wait.
type ahead[B model.Block] struct {
	blocks []B
	// slow begins with few: the scan may end before it has seen all blocks, and then no
	// more has been fetched in vain than about what was needed.
	slow bool
	mu   struct {
		sync.Mutex
		next  int             // the first block that nobody has begun to fetch
		ready []chan struct{} // by block, of those that are being fetched; nil for others
		begun int             // blocks that workers have taken
		bytes int64           // of lines of blocks that are fetched and not yet taken
	}
	running sync.WaitGroup
}

// take has block i and those behind it fetched, and waits until block i is there. Each block is
// taken once; the context is that of the scan.
func (a *ahead[B]) take(ctx context.Context, i int) {
	a.mu.Lock()
	if a.mu.ready == nil {
		a.mu.ready = make([]chan struct{}, len(a.blocks))
	}
	a.mu.begun++
	a.fetchUntil(ctx, i, func() bool { return true })
	ready := a.mu.ready[i]
	if ready != nil {
		a.mu.bytes -= a.blocks[i].RawBytes()
	}
	window := maxAhead
	if a.slow {
		window = min(window, a.mu.begun)
	}
	a.fetchUntil(ctx, i+window, func() bool { return a.mu.bytes < maxAheadBytes })
	a.mu.Unlock()
	if ready != nil {
		<-ready
	}
}

// atHand reports whether taking block i means no wait.
func (a *ahead[B]) atHand(i int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i >= a.mu.next {
		return a.blocks[i].Fetch() == nil
	}
	select {
	case <-a.mu.ready[i]:
		return true
	default:
		return a.mu.ready[i] == nil
	}
}

// fetchUntil begins to fetch the blocks up to the last one, for as long as there is room. It is
// called with the lock held.
func (a *ahead[B]) fetchUntil(ctx context.Context, last int, room func() bool) {
	for a.mu.next <= min(last, len(a.blocks)-1) && room() && ctx.Err() == nil {
		a.fetch(ctx, a.mu.next)
		a.mu.next++
	}
}

// fetch begins to fetch a block. It is called with the lock held.
func (a *ahead[B]) fetch(ctx context.Context, i int) {
	fetch := a.blocks[i].Fetch()
	if fetch == nil {
		return
	}
	ready := make(chan struct{})
	a.mu.ready[i] = ready
	a.mu.bytes += a.blocks[i].RawBytes()
	a.running.Go(func() {
		defer close(ready)
		_ = fetch(ctx) // who reads the block will meet the same error, and knows what to do
	})
}
