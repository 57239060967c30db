package querier

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// queue hands out a number of places to tenants. When places are short, the tenant that has
// used them least of late comes first, and within a tenant who came first. So a tenant that
// asks for much waits for itself, and one that asks for little hardly notices.
//
//	wait ──place free, least usage──▶ hold ──leave──▶
//	  └─context ends, or too many wait─▶ error
type queue struct {
	places int
	most   int // waiting per tenant; more are refused
	shared sharedBy
	mu     struct {
		sync.Mutex
		held    int
		waiting int
		tenants map[string]*tenantShare
		swept   time.Time
	}
}

// tenantShare is a tenant's part of a queue. Tenants are forgotten when their usage has
// faded away.
type tenantShare struct {
	held    int
	waiters []*waiter
	usage   float64 // seconds of held places, halved every usageHalf
	at      time.Time
}

type waiter struct {
	granted chan struct{}
	gone    bool
}

// usageHalf is the time in which a use of places counts half: fairness is over the last
// seconds, so that the price of a heavy query is soon forgotten.
const usageHalf = 10 * time.Second

// sharedBy says how many places one tenant may hold.
type sharedBy uint8

const (
	// anyNumber lets a tenant hold all.
	anyNumber sharedBy = iota
	// leavingRoom has tenants that are active together leave places for one that comes: one
	// active tenant gets half of them, two a third each, and so on.
	leavingRoom
	// leavingOne keeps a tenant from the last place while others were active lately. A
	// tenant that is alone gets all.
	leavingOne
)

// newQueue returns a queue of places, with at most so many waiting for each tenant.
func newQueue(places, most int, shared sharedBy) *queue {
	q := &queue{places: max(1, places), most: most, shared: shared}
	q.mu.tenants = map[string]*tenantShare{}
	return q
}

// enter waits for a place and returns the function that leaves it.
func (q *queue) enter(ctx context.Context, tenant string) (leave func(), err error) {
	q.mu.Lock()
	s := q.share(tenant)
	if q.mu.waiting == 0 && q.mu.held < q.places && q.may(s) {
		q.hold(s)
		q.mu.Unlock()
		return q.leaver(tenant), nil
	}
	if len(s.waiters) >= q.most {
		q.mu.Unlock()
		return nil, fault.New(fault.RateLimited, "too many outstanding requests")
	}
	w := &waiter{granted: make(chan struct{})}
	s.waiters = append(s.waiters, w)
	q.mu.waiting++
	q.grant()
	q.mu.Unlock()
	select {
	case <-w.granted:
		return q.leaver(tenant), nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-w.granted: // at the same moment
		q.free(tenant, 0)
	default:
		w.gone = true
		q.mu.waiting--
		q.sweep(tenant)
	}
	return nil, context.Cause(ctx)
}

// share returns a tenant's share with its usage up to date; called with mu held.
func (q *queue) share(tenant string) *tenantShare {
	s := q.mu.tenants[tenant]
	if s == nil {
		s = &tenantShare{at: time.Now()}
		q.mu.tenants[tenant] = s
	}
	now := time.Now()
	s.usage *= math.Exp2(-now.Sub(s.at).Seconds() / usageHalf.Seconds())
	s.at = now
	return s
}

// may reports whether a tenant may hold one more place; called with mu held.
func (q *queue) may(s *tenantShare) bool {
	switch {
	case s.held == 0 || q.shared == anyNumber:
		return true
	case q.shared == leavingOne:
		// Those that were active lately have not been forgotten yet.
		return len(q.mu.tenants) == 1 || s.held < q.places-1
	}
	active := 0
	for _, t := range q.mu.tenants {
		if t.held > 0 || len(t.waiters) > 0 {
			active++
		}
	}
	return s.held < (q.places+active)/(active+1)
}

func (q *queue) hold(s *tenantShare) {
	s.held++
	q.mu.held++
}

// leaver returns the function that leaves a place; it may be called once.
func (q *queue) leaver(tenant string) func() {
	began := time.Now()
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.free(tenant, time.Since(began).Seconds())
	}
}

// free gives a place back, and on; called with mu held.
func (q *queue) free(tenant string, used float64) {
	s := q.share(tenant)
	s.usage += used
	s.held--
	q.mu.held--
	q.grant()
	q.sweep(tenant)
}

// negligible is a usage that makes no difference any more.
const negligible = 1e-3

// sweep forgets waiters that are gone, and tenants of whom nothing is left; called with mu
// held.
func (q *queue) sweep(tenant string) {
	s := q.mu.tenants[tenant]
	s.waiters = slices.DeleteFunc(s.waiters, func(w *waiter) bool { return w.gone })
	q.forget(tenant)
	if time.Since(q.mu.swept) > usageHalf {
		q.mu.swept = time.Now()
		for name := range q.mu.tenants {
			q.forget(name)
		}
	}
}

func (q *queue) forget(tenant string) {
	if s := q.share(tenant); s.held == 0 && len(s.waiters) == 0 && s.usage < negligible {
		delete(q.mu.tenants, tenant)
	}
}

// grant gives free places to those that wait; called with mu held.
func (q *queue) grant() {
	for q.mu.waiting > 0 && q.mu.held < q.places {
		var next *tenantShare
		for name, s := range q.mu.tenants {
			if len(s.waiters) == 0 || !q.may(s) {
				continue
			}
			if q.share(name); next == nil || s.usage < next.usage || s.usage == next.usage && s.held < next.held {
				next = s
			}
		}
		if next == nil {
			return
		}
		w := next.waiters[0]
		next.waiters[0] = nil
		next.waiters = next.waiters[1:]
		q.mu.waiting--
		q.hold(next)
		close(w.granted)
	}
}

// sizes are how many wait and how many hold a place.
func (q *queue) sizes() (waiting, held int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mu.waiting, q.mu.held
}

// queues are the places that a querier hands out.
type queues struct {
	// queries are evaluated; slices are parts of queries, of this and other queriers. They
	// are counted apart, because a query waits for its slices.
	queries, slices *queue
	// turns are the right to read a block. There is one for each core, and a query gives it
	// back after every block, so that a small query does not wait for large ones. While
	// several tenants are active, each leaves a core to the others.
	turns *queue
}

func newQueues(cfg Config, reg prometheus.Registerer) queues {
	n := cores.Count()
	q := queues{
		queries: newQueue(cfg.MaxConcurrent, max(1, cfg.MaxOutstanding), leavingRoom),
		slices:  newQueue(max(4, 2*n), math.MaxInt, leavingOne),
		turns:   newQueue(n, math.MaxInt, leavingOne),
	}
	gauge := func(name, help string, value func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "skald_querier_" + name, Help: help}, func() float64 { return float64(value()) }))
	}
	gauge("waiting_queries", "Queries waiting for their turn.", func() int { n, _ := q.queries.sizes(); return n })
	gauge("running_queries", "Queries being evaluated.", func() int { _, n := q.queries.sizes(); return n })
	gauge("waiting_slices", "Slices of queries waiting for their turn.", func() int { n, _ := q.slices.sizes(); return n })
	gauge("running_slices", "Slices of queries being evaluated.", func() int { _, n := q.slices.sizes(); return n })
	gauge("reading_blocks", "Blocks being read by queries.", func() int { _, n := q.turns.sizes(); return n })
	return q
}

// queueKey names the tenants of a query in queues.
func queueKey(tenants []model.Tenant) string {
	names := make([]string, len(tenants))
	for i, t := range tenants {
		names[i] = string(t)
	}
	return strings.Join(names, "|")
}

// takeTurns has the engine read the blocks of a selection in turns.
func (q *Querier) takeTurns(sel *model.Selection, key string) {
	for i := range sel.Parts {
		for j, b := range sel.Parts[i].Blocks {
			sel.Parts[i].Blocks[j] = &turnBlock{Block: b, turns: q.queues.turns, key: key}
		}
	}
}

// turnBlock is a block that is read in its tenant's turn: from when its times are there until
// it is released. Whoever reads it must hold no other block in the same goroutine, or turns
// could run out while all wait.
type turnBlock struct {
	model.Block
	turns *queue
	key   string
	leave func()
}

func (b *turnBlock) enter(ctx context.Context) (err error) {
	if b.leave == nil {
		b.leave, err = b.turns.enter(ctx, b.key)
	}
	return err
}

// Times is what is read first. It fetches the block's columns, or a first one, which may
// mean to wait for the object store or another process; the turn begins after that, so
// that those who wait for bytes do not keep those who have some from the cores.
func (b *turnBlock) Times(ctx context.Context) ([]int64, error) {
	times, err := b.Block.Times(ctx)
	if err == nil {
		err = b.enter(ctx)
	}
	return times, err
}

func (b *turnBlock) Offsets(ctx context.Context) ([]uint32, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	return b.Block.Offsets(ctx)
}

func (b *turnBlock) Lines(ctx context.Context) ([]byte, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	return b.Block.Lines(ctx)
}

func (b *turnBlock) Metadata(ctx context.Context, name string) (model.Column, error) {
	if err := b.enter(ctx); err != nil {
		return model.Column{}, err
	}
	return b.Block.Metadata(ctx, name)
}

// Release gives the turn back too.
func (b *turnBlock) Release() {
	b.Block.Release()
	if b.leave != nil {
		b.leave()
		b.leave = nil
	}
}
