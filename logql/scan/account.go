package scan

import (
	"context"
	"sync"

	"github.com/skaldlog/skald/internal/fault"
)

// Pool is the memory that the scans of all queries of a process may hold together. When it is
// used up the query that holds most is ended, whichever asked for more.
type Pool struct {
	limit int64
	mu    struct {
		sync.Mutex
		used     int64
		accounts map[*Account]struct{}
	}
}

// NewPool returns a pool of so many bytes; 0 is no bound.
func NewPool(limit int64) *Pool {
	p := &Pool{limit: limit}
	p.mu.accounts = map[*Account]struct{}{}
	return p
}

// Account is what one query holds of a pool.
type Account struct {
	pool   *Pool
	cancel context.CancelFunc
	used   int64 // guarded by the pool's lock, like ended
	ended  bool
}

type accountKey struct{}

// Open returns an account, and the context in which the query's scans are charged to it. The
// account must be closed when what they returned is no longer held.
func (p *Pool) Open(ctx context.Context) (context.Context, *Account) {
	a := &Account{pool: p}
	ctx, a.cancel = context.WithCancel(context.WithValue(ctx, accountKey{}, a))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.accounts[a] = struct{}{}
	return ctx, a
}

// AccountOf returns the account of a query's context, nil when it has none.
func AccountOf(ctx context.Context) *Account {
	a, _ := ctx.Value(accountKey{}).(*Account)
	return a
}

// Close gives everything back.
func (a *Account) Close() {
	a.pool.mu.Lock()
	a.pool.mu.used -= a.used
	delete(a.pool.mu.accounts, a)
	a.pool.mu.Unlock()
	a.cancel()
}

// Err says that the query was ended for its memory, or is nil.
func (a *Account) Err() error {
	a.pool.mu.Lock()
	defer a.pool.mu.Unlock()
	if !a.ended {
		return nil
	}
	return fault.New(fault.Unavailable, "all queries together need more memory than -querier.total-memory (%d MiB), and this one was ended because it held most; try again later, reduce the time range, use a larger step, or group by fewer labels", a.pool.limit>>20)
}

// charge adds to what the query holds; n may be negative. A nil account takes anything.
func (a *Account) charge(n int64) {
	if a == nil {
		return
	}
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	a.used += n
	p.mu.used += n
	if n <= 0 || p.limit <= 0 || p.mu.used <= p.limit {
		return
	}
	var largest *Account
	left := p.mu.used // when those that were ended have closed
	for other := range p.mu.accounts {
		switch {
		case other.ended:
			left -= other.used
		case largest == nil || other.used > largest.used:
			largest = other
		}
	}
	if left > p.limit && largest != nil {
		largest.ended = true
		largest.cancel()
	}
}
