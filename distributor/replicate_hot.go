package distributor

import (
	"math"
	"sync"
	"time"
)

// hotStreams estimates the rate of each stream, in bytes per second, from the pushes that
// this process sees. The rate is an average that forgets: half of it within hotMemory.
//
// Streams are told apart by 96 bits of hash. Two that share them would be spread together,
// which does no harm.
type hotStreams struct {
	shards [hotShards]struct {
		sync.Mutex
		rates map[hotKey]*hotRate
		sweep time.Time
	}
}

const (
	hotShards = 32
	hotMemory = 10 * time.Second
	// hotTracked bounds the streams that are followed, in each shard. Others count as cold.
	hotTracked = 4 << 10
	// hotForget is the rate below which a stream need not be followed.
	hotForget = 100.0
)

type hotKey struct {
	hash  uint64
	token uint32
}

type hotRate struct {
	bytes float64 // decayed sum, as of at
	at    time.Time
}

// decayed is what is left of the sum now.
func (h *hotRate) decayed(now time.Time) float64 {
	dt := now.Sub(h.at)
	if dt <= 0 {
		return h.bytes
	}
	return h.bytes * math.Exp2(-float64(dt)/float64(hotMemory))
}

// rateOf turns a decayed sum into a rate: a steady rate r sums up to r·hotMemory/ln 2.
func rateOf(sum float64) float64 { return sum * math.Ln2 / hotMemory.Seconds() }

// add counts bytes of a stream and returns its rate.
func (h *hotStreams) add(token uint32, hash uint64, bytes int, now time.Time) float64 {
	s := &h.shards[hash%hotShards]
	s.Lock()
	defer s.Unlock()
	key := hotKey{hash, token}
	r := s.rates[key]
	if r == nil {
		if s.rates == nil {
			s.rates, s.sweep = map[hotKey]*hotRate{}, now
		}
		if now.Sub(s.sweep) > hotMemory || len(s.rates) >= hotTracked && now.Sub(s.sweep) > hotMemory/10 {
			s.sweep = now
			for k, old := range s.rates {
				if rateOf(old.decayed(now)) < hotForget {
					delete(s.rates, k)
				}
			}
		}
		if len(s.rates) >= hotTracked {
			return 0
		}
		r = &hotRate{}
		s.rates[key] = r
	}
	r.bytes, r.at = r.decayed(now)+float64(bytes), now
	return rateOf(r.bytes)
}
