package querier

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/syntax"
)

// slice is a part of a query: its parameters, and the key of its place.
type slice struct {
	key    string
	params engine.Params
}

// widths are the lengths of slices: parts of a UTC day that divide it.
var widths = []time.Duration{
	15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

const (
	// slicesPerPeer is how many slices each querier gets of a query, about: enough to even
	// out that some take longer.
	slicesPerPeer = 4
	maxSlices     = 512
)

// plan cuts the query; it leaves no slices when it should stay whole.
func (s *sharing) plan() {
	if s.q.peers == nil || s.p.Instant || s.p.Interval > 0 {
		return
	}
	peers := len(s.allowed(s.q.peers.Queriers(s.tenantKey())))
	if peers < 2 {
		return
	}
	s.parallelism = cmp.Or(s.lim.MaxQueryParallelism, s.lim.TSDBMaxQueryParallelism)
	s.parallelism = max(1, min(s.parallelism, slicesPerPeer*peers))
	if _, log := s.expr.(*syntax.LogExpr); log {
		if s.p.Limit > 0 && s.p.End > s.p.Start {
			s.cutLogs(peers)
		}
		return
	}
	reach, ok := lookback(s.expr)
	if step := s.p.Step.Truncate(time.Millisecond); ok && step > 0 && s.p.End >= s.p.Start {
		s.cutGrid(peers, int64(step), int64(max(2*reach, step)))
	}
}

// lookback is the longest time before a step that its value depends on; false for
// expressions that read nothing, or are limited by part, so that they must stay whole.
func lookback(expr syntax.Expr) (reach time.Duration, ok bool) {
	whole := false
	syntax.Walk(expr, func(x syntax.Expr) bool {
		switch x := x.(type) {
		case *syntax.RangeAgg:
			reach, ok = max(reach, x.Range.Range), true
		case *syntax.Variants:
			whole = true
		}
		return true
	})
	return reach, ok && !whole
}

// width chooses the length of slices.
func width(length, least int64, peers int) int64 {
	for _, w := range widths {
		if int64(w) >= least && length/int64(w) <= int64(slicesPerPeer*peers) {
			return int64(w)
		}
	}
	day := int64(24 * time.Hour)
	days := max(1, (least+day-1)/day, (length/day+maxSlices-1)/maxSlices)
	return days * day
}

// floorTo is the largest multiple of step that is not above t.
func floorTo(t, step int64) int64 {
	r := t % step
	if r < 0 {
		r += step
	}
	return t - r
}

func (s *sharing) tenantKey() string { return queueKey(s.tenants) }

func (s *sharing) key(start, width int64) string {
	return fmt.Sprintf("%s/%s/%s", s.tenantKey(), time.Unix(0, start).UTC().Format(time.RFC3339), time.Duration(width))
}

func (s *sharing) cutLogs(peers int) {
	w := width(s.p.End-s.p.Start, 0, peers)
	for from := floorTo(s.p.Start, w); from < s.p.End; from += w {
		one := slice{key: s.key(from, w), params: s.p}
		one.params.Start, one.params.End = max(from, s.p.Start), min(from+w, s.p.End)
		s.slices = append(s.slices, one)
	}
	if !s.p.Forward {
		slices.Reverse(s.slices)
	}
}

func (s *sharing) cutGrid(peers int, step, least int64) {
	first, last := floorTo(s.p.Start, step), -floorTo(-s.p.End, step)
	w := width(last-first, least, peers)
	for at := first; at <= last; {
		end := floorTo(at, w) + w // the first time of the next slice
		points := (end - at + step - 1) / step
		one := slice{key: s.key(end-w, w), params: s.p}
		one.params.Start, one.params.End = at, min(at+(points-1)*step, last)
		s.slices = append(s.slices, one)
		at += points * step
	}
}

// allowed leaves the queriers that serve the tenant, by max_queriers_per_tenant and
// max_query_capacity. They are the same for all its queries.
func (s *sharing) allowed(ranked []Peer) []Peer {
	most := len(ranked)
	if n := s.lim.MaxQueriersPerTenant; n > 0 {
		most = min(most, n)
	}
	if share := s.lim.MaxQueryCapacity; share > 0 && share < 1 {
		most = min(most, max(1, int(share*float64(len(ranked))+0.999)))
	}
	if most == len(ranked) {
		return ranked
	}
	chosen := s.q.peers.Queriers("tenant " + s.tenantKey())
	chosen = chosen[:min(most, len(chosen))]
	return slices.DeleteFunc(slices.Clone(ranked), func(p Peer) bool {
		return !slices.ContainsFunc(chosen, func(c Peer) bool { return c.ID == p.ID })
	})
}
