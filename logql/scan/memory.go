package scan

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/skaldlog/skald/internal/fault"
)

// Pool is the memory that the scans of all queries of a process may hold together. When it is
// used up the query that holds most is ended, whichever asked for more.
type Pool struct {
	limit int64
	mu    struct {
		sync.Mutex
		used     int64
		accounts map[*account]struct{}
	}
}

// NewPool returns a pool of so many bytes; 0 is no bound.
func NewPool(limit int64) *Pool {
	p := &Pool{limit: limit}
	p.mu.accounts = map[*account]struct{}{}
	return p
}

// Within runs a query: what the scans of its context hold counts as held until it returns. When
// the query was ended for its memory, the error says so.
func (p *Pool) Within(ctx context.Context, query func(context.Context) error) error {
	ctx, a := p.open(ctx)
	defer a.close()
	err := query(ctx)
	if ended := a.err(); err != nil && ended != nil {
		return ended
	}
	return err
}

// Hold counts bytes that the query of a context holds besides its scans, for as long as Within
// lasts. It may be the one that is ended for them: then the context is.
func Hold(ctx context.Context, n int64) { accountOf(ctx).charge(n) }

// account is what one query holds of a pool.
type account struct {
	pool   *Pool
	cancel context.CancelFunc
	used   int64 // guarded by the pool's lock, like ended
	ended  bool
}

type accountKey struct{}

// open returns an account, and the context in which the query's scans are charged to it.
func (p *Pool) open(ctx context.Context) (context.Context, *account) {
	a := &account{pool: p}
	ctx, a.cancel = context.WithCancel(context.WithValue(ctx, accountKey{}, a))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.accounts[a] = struct{}{}
	return ctx, a
}

// accountOf returns the account of a query's context, nil when it has none.
func accountOf(ctx context.Context) *account {
	a, _ := ctx.Value(accountKey{}).(*account)
	return a
}

// close gives everything back.
func (a *account) close() {
	a.pool.mu.Lock()
	a.pool.mu.used -= a.used
	delete(a.pool.mu.accounts, a)
	a.pool.mu.Unlock()
	a.cancel()
}

// err says that the query was ended for its memory, or is nil.
func (a *account) err() error {
	a.pool.mu.Lock()
	defer a.pool.mu.Unlock()
	if !a.ended {
		return nil
	}
	return fault.New(fault.Unavailable, "all queries together need more memory than -querier.total-memory (%d MiB), and this one was ended because it held most; try again later, reduce the time range, use a larger step, or group by fewer labels", a.pool.limit>>20)
}

// charge adds to what the query holds; n may be negative. A nil account takes anything.
func (a *account) charge(n int64) {
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
	var largest *account
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

// DefaultMaxMemory is half a gigabyte: room for 30 million buckets of counts, and a
// quarter of what a small server has.
const DefaultMaxMemory = 512 << 20

// Budget is the memory of one scan, shared by its workers. What it is charged, the query's account
// of a Pool is charged too.
type Budget struct {
	limit   int64
	used    atomic.Int64
	account *account
}

// NewBudget returns a budget of so many bytes, for a scan in the context of its query; 0 means
// DefaultMaxMemory.
func NewBudget(ctx context.Context, limit int64) *Budget {
	if limit <= 0 {
		limit = DefaultMaxMemory
	}
	return &Budget{limit: limit, account: accountOf(ctx)}
}

// Charge adds to what is in use, and fails with MemoryError when it is too much. Less than zero
// gives back, and does not fail.
func (b *Budget) Charge(n int64) error {
	b.account.charge(n)
	if used := b.used.Add(n); n > 0 && used > b.limit {
		return MemoryError(b.limit)
	}
	return nil
}

// MemoryError is the refusal of a query that needs more memory than limit bytes.
func MemoryError(limit int64) error {
	return fault.New(fault.Invalid, "the query needs more memory than its budget (%d MiB); reduce the time range, use a larger step, or group by fewer labels", limit>>20)
}
