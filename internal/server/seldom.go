package server

import (
	"sync"
	"time"
)

// Seldom lets one of many like events through each second, for logs that a flood of failed
// requests would fill. The zero value is ready; it is safe for concurrent use.
type Seldom struct {
	mu struct {
		sync.Mutex
		next   time.Time
		missed int
	}
}

// Now reports whether an event may be told at a time, and how many before it were not.
func (s *Seldom) Now(at time.Time) (untold int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.Before(s.mu.next) {
		s.mu.missed++
		return 0, false
	}
	untold, s.mu.missed = s.mu.missed, 0
	s.mu.next = at.Add(time.Second)
	return untold, true
}
