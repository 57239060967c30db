package distributor

import (
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/internal/fault"
)

// budget is the memory that pushes in flight may take together. While several tenants push,
// each gets at most half of it: pushes that wait for their turn must not keep others from the
// door. A tenant that is alone gets all, and nothing is taken from it when another comes: that
// one may be refused until the first pushes are done.
type budget struct {
	max    int64
	used   atomic.Int64
	last   atomic.Pointer[atomic.Int64] // what the last tenant has taken; says who it was
	shared atomic.Int64                 // when another tenant than the one before came, in nanoseconds
}

// sharedFor is how long a tenant counts as present after a push that was not followed by another
// of its own.
const sharedFor = 10 * time.Second

// seen notes who pushes.
func (b *budget) seen(own *atomic.Int64, now func() time.Time) {
	if b.last.Load() == own {
		return
	}
	if before := b.last.Swap(own); before != nil && before != own {
		b.shared.Store(now().UnixNano())
	}
}

// most is what one tenant may take.
func (b *budget) most(now func() time.Time) int64 {
	if at := b.shared.Load(); at != 0 && now().UnixNano()-at < int64(sharedFor) {
		return b.max / 2
	}
	return b.max
}

// share is what one push has taken of a budget.
type share struct {
	of    *budget
	own   *atomic.Int64 // what the tenant's pushes have taken
	now   func() time.Time
	taken int64
}

// reserve takes n bytes more. It never waits: a push that must wait for memory holds the
// memory it has, and enough of them would wait for each other.
func (s *share) reserve(n int64) error {
	if s.taken+n > s.of.max {
		return fault.New(fault.TooLarge, "request body too large: decoding needs more than the %s that all pushes may take",
			humanize.IBytes(uint64(s.of.max)))
	}
	s.of.seen(s.own, s.now)
	// A push that is alone may take all.
	if own := s.own.Add(n); own > s.of.max/2 && own > s.taken+n && own > s.of.most(s.now) {
		s.own.Add(-n)
		return fault.New(fault.Unavailable, "the tenant's pushes in flight take %s, of at most half of %s beside other tenants, try again later",
			humanize.IBytes(uint64(own-n)), humanize.IBytes(uint64(s.of.max)))
	}
	if used := s.of.used.Add(n); used > s.of.max {
		s.own.Add(-n)
		s.of.used.Add(-n)
		return fault.New(fault.Unavailable, "pushes in flight take %s of %s, try again later",
			humanize.IBytes(uint64(used-n)), humanize.IBytes(uint64(s.of.max)))
	}
	s.taken += n
	return nil
}

// release gives back all that was taken.
func (s *share) release() {
	s.of.used.Add(-s.taken)
	s.own.Add(-s.taken)
	s.taken = 0
}
