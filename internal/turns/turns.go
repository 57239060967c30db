// Package turns has tenants share what a process has little of: its cores, and its places for
// queries.
//
// Work that keeps a core busy for a millisecond or more is done in turns, of which there is
// one for each core (ForCores), and is cut so that a turn is short: one block of a query, one
// push to decode. The next turn goes to the tenant that used least in the last seconds, and
// while several are active none gets the last one. So a tenant that asks for much waits for
// itself. Nobody waits for anything but a core while having a turn: not for the network, a
// disk, or another turn.
package turns

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/skaldlog/skald/internal/cores"
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
	yields bool // whoever has a place gives way to short work; see giveWay
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
	beside  bool // others were active when it was granted
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

// ForCores returns the queue of the turns to keep a core busy. The goroutine that has entered
// it must be the one that leaves: while several tenants are active it keeps its thread, which
// gives way to all that is short.
func ForCores() *Queue {
	q := New(cores.Count(), math.MaxInt, LeavingOne)
	q.yields = true
	return q
}

// Enter waits for a place and returns the function that leaves it.
func (q *Queue) Enter(ctx context.Context, tenant string, kind Kind) (leave func(), err error) {
	q.mu.Lock()
	s := q.share(tenant)
	if q.mu.waiting == 0 && q.mu.held < q.places && q.may(s) {
		q.hold(s)
		beside := len(q.mu.tenants) > 1
		q.mu.Unlock()
		return q.leaver(tenant, beside), nil
	}
	if s.waiting() >= q.most {
		q.mu.Unlock()
		return nil, fault.New(fault.RateLimited, "too many outstanding requests")
	}
	w := &waiter{granted: make(chan struct{})}
	s.waiters[kind] = append(s.waiters[kind], w)
	q.mu.waiting++
	q.grant()
	q.mu.Unlock()
	select {
	case <-w.granted:
		return q.leaver(tenant, w.beside), nil
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

// leaver returns the function that leaves a place; it may be called once. beside says that
// other tenants are active.
func (q *Queue) leaver(tenant string, beside bool) func() {
	began, back := time.Now(), func() {}
	if q.yields && beside {
		back = giveWay()
	}
	return func() {
		back()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.free(tenant, time.Since(began).Seconds())
	}
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
		w.beside = len(q.mu.tenants) > 1
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
