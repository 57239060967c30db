// Package turns has tenants share what a process has little of: its places for queries (Queue)
// and its cores (Cores). Whatever there is a number of, the next goes to the tenant that used
// least in the last seconds, so a tenant that asks for much waits for itself.
package turns

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/skaldlog/skald/internal/fault"
)

// Queue hands out a number of places to tenants. When places are short, the tenant that has
// used them least of late comes first; within a tenant its queries and its pushes alternate, and
// of these who came first. So a tenant that asks for much waits for itself, and one that asks
// for little hardly notices.
//
//	wait ──place free, least usage──▶ hold ──leave──▶
//	  └─context ends, or too many wait─▶ error
type Queue struct {
	places int
	most   int // waiting per tenant; more are refused
	shared SharedBy
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
	waiters [kinds][]*waiter
	last    Kind    // that was given a place
	usage   float64 // seconds of held places, halved every usageHalf
	at      time.Time
}

// Kind says what a place is wanted for.
type Kind uint8

// The kinds alternate, so that a tenant's pushes do not wait for all its queries, nor the
// other way.
const (
	Queries Kind = iota
	Pushes
	kinds
)

func (s *tenantShare) waiting() (n int) {
	for _, list := range s.waiters {
		n += len(list)
	}
	return n
}

// next removes the waiter whose turn it is.
func (s *tenantShare) next() *waiter {
	for i := range kinds {
		kind := (s.last + 1 + i) % kinds
		if list := s.waiters[kind]; len(list) > 0 {
			w := list[0]
			list[0] = nil
			s.waiters[kind], s.last = list[1:], kind
			return w
		}
	}
	return nil
}

type waiter struct {
	granted chan struct{}
	used    float64 // seconds, of its tenant, when it was granted
	gone    bool
}

// usageHalf is the time in which a use of places counts half: fairness is over the last
// seconds, so that the price of a heavy query is soon forgotten.
const usageHalf = 10 * time.Second

// SharedBy says how many places one tenant may hold.
type SharedBy uint8

const (
	// AnyNumber lets a tenant hold all.
	AnyNumber SharedBy = iota
	// LeavingRoom has tenants that are active together leave places for one that comes: one
	// active tenant gets half of them, two a third each, and so on.
	LeavingRoom
	// LeavingOne keeps a tenant from the last place while others were active lately. A
	// tenant that is alone gets all.
	LeavingOne
)

// New returns a queue of places, with at most so many waiting for each tenant.
func New(places, most int, shared SharedBy) *Queue {
	q := &Queue{places: max(1, places), most: most, shared: shared}
	q.mu.tenants = map[string]*tenantShare{}
	return q
}

// Enter waits for a place and returns the function that leaves it.
func (q *Queue) Enter(ctx context.Context, tenant string, kind Kind) (leave func(), err error) {
	if _, err := q.enter(ctx, tenant, kind); err != nil {
		return nil, err
	}
	began := time.Now()
	return func() { q.leave(tenant, began) }, nil
}

// enter waits for a place. used are the seconds that the tenant has used of late.
func (q *Queue) enter(ctx context.Context, tenant string, kind Kind) (used float64, err error) {
	q.mu.Lock()
	s := q.share(tenant)
	if q.mu.waiting == 0 && q.mu.held < q.places && q.may(s) {
		q.hold(s)
		used = s.usage
		q.mu.Unlock()
		return used, nil
	}
	if s.waiting() >= q.most {
		q.mu.Unlock()
		return 0, fault.New(fault.RateLimited, "too many outstanding requests")
	}
	w := &waiter{granted: make(chan struct{})}
	s.waiters[kind] = append(s.waiters[kind], w)
	q.mu.waiting++
	q.grant()
	q.mu.Unlock()
	select {
	case <-w.granted:
		return w.used, nil
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
	return 0, context.Cause(ctx)
}

// leave gives a place back that was held since then.
func (q *Queue) leave(tenant string, began time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free(tenant, time.Since(began).Seconds())
}

// share returns a tenant's share with its usage up to date; called with mu held.
func (q *Queue) share(tenant string) *tenantShare {
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
func (q *Queue) may(s *tenantShare) bool {
	switch {
	case s.held == 0 || q.shared == AnyNumber:
		return true
	case q.shared == LeavingOne:
		// Those that were active lately have not been forgotten yet.
		return len(q.mu.tenants) == 1 || s.held < q.places-1
	}
	active := 0
	for _, t := range q.mu.tenants {
		if t.held > 0 || t.waiting() > 0 {
			active++
		}
	}
	return s.held < (q.places+active)/(active+1)
}

func (q *Queue) hold(s *tenantShare) {
	s.held++
	q.mu.held++
}

// dominates reports whether a tenant that is not alone has used more than all others.
func (q *Queue) dominates(tenant string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	others := 0.0
	for name := range q.mu.tenants {
		if name != tenant {
			others += q.share(name).usage
		}
	}
	return len(q.mu.tenants) > 1 && q.share(tenant).usage > others
}

// free gives a place back, and on; called with mu held.
func (q *Queue) free(tenant string, used float64) {
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
func (q *Queue) sweep(tenant string) {
	s := q.mu.tenants[tenant]
	for kind, list := range s.waiters {
		s.waiters[kind] = slices.DeleteFunc(list, func(w *waiter) bool { return w.gone })
	}
	q.forget(tenant)
	if time.Since(q.mu.swept) > usageHalf {
		q.mu.swept = time.Now()
		for name := range q.mu.tenants {
			q.forget(name)
		}
	}
}

func (q *Queue) forget(tenant string) {
	if s := q.share(tenant); s.held == 0 && s.waiting() == 0 && s.usage < negligible {
		delete(q.mu.tenants, tenant)
	}
}

// grant gives free places to those that wait; called with mu held.
func (q *Queue) grant() {
	for q.mu.waiting > 0 && q.mu.held < q.places {
		var next *tenantShare
		for name, s := range q.mu.tenants {
			if s.waiting() == 0 || !q.may(s) {
				continue
			}
			if q.share(name); next == nil || s.usage < next.usage || s.usage == next.usage && s.held < next.held {
				next = s
			}
		}
		if next == nil {
			return
		}
		w := next.next()
		w.used = next.usage
		q.mu.waiting--
		q.hold(next)
		close(w.granted)
	}
}

// Sizes are how many wait and how many hold a place.
func (q *Queue) Sizes() (waiting, held int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mu.waiting, q.mu.held
}
