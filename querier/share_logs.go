package querier

import (
	"context"
	"slices"
	"strings"

	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

// logs asks slices in order, more at a time as it goes, until there are enough entries.
func (s *sharing) logs(ctx context.Context) (*engine.Result, error) {
	out := s.newResult("streams")
	m := logMerge{forward: s.p.Forward, left: s.p.Limit, index: map[[2]string]int{}}
	rest := s.slices
	for n := 1; len(rest) > 0 && m.left > 0; n = min(2*n, s.parallelism) {
		wave := rest[:min(n, len(rest))]
		rest = rest[len(wave):]
		results, err := s.wave(ctx, wave, &m)
		if err != nil {
			return nil, err
		}
		for i, r := range results {
			if r == nil {
				continue // there were enough before it
			}
			s.count(out, r)
			if err := m.take(r.Streams, func(ts int64, limit int) ([]scan.Stream, error) { return s.moment(ctx, wave[i], ts, limit) }); err != nil {
				return nil, err
			}
			if err := s.keep(m.grown); err != nil {
				return nil, err
			}
			scan.Hold(ctx, m.grown-weightOf(r))
			m.grown = 0
		}
	}
	out.Streams = m.sorted()
	return out, nil
}

// wave evaluates some slices at a time. Those behind the ones that have enough entries are
// cancelled and have no result.
func (s *sharing) wave(ctx context.Context, wave []slice, m *logMerge) ([]*engine.Result, error) {
	type outcome struct {
		i      int
		result *engine.Result
		err    error
	}
	done := make(chan outcome, len(wave))
	ctxs := make([]context.CancelFunc, len(wave))
	for i, one := range wave {
		one.params.Limit = m.left
		inner, cancel := context.WithCancel(ctx)
		ctxs[i] = cancel
		go func() {
			r, err := s.run(inner, one)
			done <- outcome{i, r, err}
		}()
	}
	results := make([]*engine.Result, len(wave))
	end := len(wave)
	var failed error // of slice end, if any
	for range wave {
		o := <-done
		if o.i >= end {
			continue // it was cancelled
		}
		if o.err != nil {
			failed, end = o.err, o.i
		} else {
			results[o.i] = o.result
			scan.Hold(ctx, weightOf(o.result))
			if n := enough(results[:end], m.left); n < end || n == end && holds(results[:end], m.left) {
				failed, end = nil, n // whatever happened to those behind
			}
		}
		for i, r := range results[end:] {
			if r != nil {
				scan.Hold(ctx, -weightOf(r))
				results[end+i] = nil
			}
		}
		for _, cancel := range ctxs[end:] {
			cancel()
		}
	}
	for _, cancel := range ctxs {
		cancel()
	}
	return results, failed
}

// holds reports whether the results are all there and have so many entries together.
func holds(results []*engine.Result, want int) bool {
	for _, r := range results {
		if r == nil {
			return false
		}
		for j := range r.Streams {
			want -= len(r.Streams[j].Entries)
		}
	}
	return want <= 0
}

// enough is the number of leading results that together have so many entries, all of them
// when that is not known yet.
func enough(results []*engine.Result, want int) int {
	for i, r := range results {
		if r == nil {
			break
		}
		for j := range r.Streams {
			want -= len(r.Streams[j].Entries)
		}
		if want <= 0 {
			return i + 1
		}
	}
	return len(results)
}

// moment asks once more for the entries of a single time, of which only some are wanted:
// which ones depends on an order that answers do not show.
func (s *sharing) moment(ctx context.Context, one slice, ts int64, limit int) ([]scan.Stream, error) {
	one.params.Start, one.params.End, one.params.Limit = ts, ts+1, limit
	r, err := s.run(ctx, one)
	if err != nil {
		return nil, err
	}
	return r.Streams, nil
}

// logMerge puts the answers of slices together in order.
type logMerge struct {
	forward bool
	left    int // entries that are wanted still
	streams []scan.Stream
	index   map[[2]string]int
	grown   int64 // bytes of entries that were added since the last look
}

// take adds the streams of the next slice, of which the first entries are wanted. moment
// decides between entries of one time.
func (m *logMerge) take(streams []scan.Stream, moment func(ts int64, limit int) ([]scan.Stream, error)) error {
	total := 0
	for i := range streams {
		total += len(streams[i].Entries)
	}
	if total <= m.left {
		m.add(streams)
		return nil
	}
	times := make([]int64, 0, total)
	for i := range streams {
		for j := range streams[i].Entries {
			times = append(times, streams[i].Entries[j].Timestamp)
		}
	}
	slices.Sort(times)
	if !m.forward {
		slices.Reverse(times)
	}
	edge := times[m.left-1]
	before := func(ts int64) bool { return m.forward && ts < edge || !m.forward && ts > edge }
	whole := times[m.left] != edge // nobody else is at the edge
	cut := make([]scan.Stream, len(streams))
	for i, s := range streams {
		for j := range s.Entries {
			ts := s.Entries[j].Timestamp
			if !before(ts) && !(whole && ts == edge) {
				s.Entries = s.Entries[:j]
				break
			}
		}
		cut[i] = s
	}
	m.add(cut)
	if whole {
		return nil
	}
	edges, err := moment(edge, m.left)
	if err != nil {
		return err
	}
	m.add(edges)
	m.left = 0
	return nil
}

func (m *logMerge) add(streams []scan.Stream) {
	for _, s := range streams {
		if len(s.Entries) == 0 {
			continue
		}
		key := [2]string{s.Labels.String(), s.StreamLabels.String()}
		i, known := m.index[key]
		if !known {
			i = len(m.streams)
			m.index[key] = i
			m.streams = append(m.streams, scan.Stream{Labels: s.Labels, StreamLabels: s.StreamLabels})
		}
		m.streams[i].Entries = append(m.streams[i].Entries, s.Entries...)
		m.left -= len(s.Entries)
		m.grown += entriesWeight(s.Entries)
	}
}

// sorted are the streams by the text of their labels.
func (m *logMerge) sorted() []scan.Stream {
	texts := make(map[*scan.Stream]string, len(m.streams))
	order := make([]*scan.Stream, len(m.streams))
	for i := range m.streams {
		order[i] = &m.streams[i]
		texts[order[i]] = m.streams[i].Labels.String()
	}
	slices.SortStableFunc(order, func(a, b *scan.Stream) int { return strings.Compare(texts[a], texts[b]) })
	out := make([]scan.Stream, len(order))
	for i, s := range order {
		out[i] = *s
	}
	return out
}
