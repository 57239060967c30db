package distributor

import (
	"sync/atomic"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/internal/fault"
)

// budget is the memory that pushes in flight may take together, those of one tenant at most
// half of it: pushes that wait for their turn must not keep others from the door.
type budget struct {
	max  int64
	used atomic.Int64
}

// share is what one push has taken of a budget.
type share struct {
	of    *budget
	own   *atomic.Int64 // what the tenant's pushes have taken
	taken int64
}

// reserve takes n bytes more. It never waits: a push that must wait for memory holds the
// memory it has, and enough of them would wait for each other.
func (s *share) reserve(n int64) error {
	if s.taken+n > s.of.max {
		return fault.New(fault.TooLarge, "request body too large: decoding needs more than the %s that all pushes may take",
			humanize.IBytes(uint64(s.of.max)))
	}
	// A push that is alone may take all.
	if own := s.own.Add(n); own > s.of.max/2 && own > s.taken+n {
		s.own.Add(-n)
		return fault.New(fault.Unavailable, "the tenant's pushes in flight take %s, of at most half of %s, try again later",
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
