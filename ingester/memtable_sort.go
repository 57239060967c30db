package ingester

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// allTime is every timestamp but the last nanosecond there is.
var allTime = model.TimeRange{From: math.MinInt64, Through: math.MaxInt64}

// sortedRows are rows of a snapshot sorted by (stream, time, arrival), each row once.
type sortedRows struct {
	snap *snapshot
	refs []ref
	// runs cover refs, one for each stream that has rows.
	runs []model.Run
}

// sortedStreams returns the numbers of the snapshot's streams, sorted by labels. Streams
// only ever come to a table, and most of them early, so the order is kept between calls.
func (s *snapshot) sortedStreams() []uint32 {
	var order []uint32
	if p := s.table.order.Load(); p != nil {
		order = *p
	}
	if len(order) > len(s.streams) { // a later snapshot's
		kept := make([]uint32, 0, len(s.streams))
		for _, id := range order {
			if int(id) < len(s.streams) {
				kept = append(kept, id)
			}
		}
		return kept
	}
	if len(order) == len(s.streams) {
		return order
	}
	order = slices.Grow(slices.Clone(order), len(s.streams)-len(order))
	for id := len(order); id < len(s.streams); id++ {
		order = append(order, uint32(id))
	}
	slices.SortFunc(order, func(a, b uint32) int { return labels.Compare(s.streams[a].labels, s.streams[b].labels) })
	s.table.order.Store(&order)
	return order
}

// streamOrder is what is kept of a tenant's memtables to sort the next one: a table of a hundred
// thousand streams has a row or none of each, so every table has other ones than that before.
type streamOrder struct {
	streams []orderedStream // sorted by labels
	last    int             // how many of them the newest table had
}

type orderedStream struct {
	labels labels.Labels
	hash   uint64
	at     uint32 // 1 + its number in the table being sorted, 0 when it is not there
	missed uint8  // tables since the last one that had it
}

// mostMissed is after how many tables without it a stream is no longer kept in the order.
const mostMissed = 16

// manyStreams is from how many streams on their order is kept for the next memtable.
const manyStreams = 1 << 10

// sortStreams sorts the streams of a table that is complete. Most of them are in the order of
// the tables before: those need no comparing, which with a hundred thousand streams is most of
// what a small memtable costs. It returns the order for the next table;
// before stays as it is, and may be nil.
func (t *table) sortStreams(before *streamOrder) *streamOrder {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var all []orderedStream
	placed := make([]bool, len(t.mu.streams))
	if before != nil {
		all = make([]orderedStream, 0, len(before.streams)+max(0, len(placed)-before.last))
		for _, s := range before.streams {
			if s.at = t.find(s.labels, s.hash); s.at != 0 {
				s.missed = 0
				placed[s.at-1] = true
			} else if s.missed++; s.missed > mostMissed {
				continue
			}
			all = append(all, s)
		}
	}
	var fresh []orderedStream
	for id, ok := range placed {
		if s := &t.mu.streams[id]; !ok {
			fresh = append(fresh, orderedStream{labels: s.labels, hash: s.hash, at: uint32(id + 1)})
		}
	}
	slices.SortFunc(fresh, func(a, b orderedStream) int { return labels.Compare(a.labels, b.labels) })
	all = mergeOrdered(all, fresh)
	order := make([]uint32, 0, len(placed))
	for i := range all {
		if all[i].at != 0 {
			order = append(order, all[i].at-1)
		}
	}
	t.order.Store(&order)
	return &streamOrder{streams: all, last: len(order)}
}

// mergeOrdered merges two sorted lists that have no stream in common, using the room behind the
// first. Where the second has few streams, those of the first between them are not looked at.
func mergeOrdered(a, b []orderedStream) []orderedStream {
	n := len(a)
	a = append(a, b...)
	for m := len(b); m > 0; m-- {
		after := func(at int) bool { return labels.Compare(a[at].labels, b[m-1].labels) > 0 }
		// From the end in ever longer steps, then between the last two.
		high, step := n, 1
		for high >= step && after(high-step) {
			high, step = high-step, 2*step
		}
		low := max(0, high-step)
		at := low + sort.Search(high-low, func(i int) bool { return after(low + i) })
		copy(a[at+m:], a[at:n])
		a[at+m-1], n = b[m-1], at
	}
	return a
}

// match returns the streams that all matchers select, sorted by labels.
func (s *snapshot) match(matchers []*labels.Matcher) []uint32 {
	order := s.sortedStreams()
	if len(matchers) == 0 {
		return order
	}
	var selected []uint32
	for _, id := range order {
		if matchLabels(matchers, s.streams[id].labels) {
			selected = append(selected, id)
		}
	}
	return selected
}

func matchLabels(matchers []*labels.Matcher, ls labels.Labels) bool {
	for _, m := range matchers {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// sorted returns the rows of the selected streams in the time range.
func (s *snapshot) sorted(selected []uint32, r model.TimeRange) sortedRows {
	out := sortedRows{snap: s}
	if len(selected) == 0 || s.rows == 0 {
		return out
	}
	// Counting sort by the stream's place in the selection: count, then place.
	place := make([]int32, len(s.streams)) // 1 + index into selected; 0 for not selected
	for i, id := range selected {
		place[id] = int32(i + 1)
	}
	ends := make([]int, len(selected)+1) // of stream i-1 after the second pass
	total := 0
	s.scan(place, r, func(p int32, _ ref) { ends[p-1]++; total++ })
	at := 0
	for i, n := range ends {
		ends[i] = at
		at += n
	}
	refs := make([]ref, total)
	s.scan(place, r, func(p int32, row ref) { refs[ends[p-1]] = row; ends[p-1]++ })

	out.refs, out.runs = refs[:0], make([]model.Run, 0, min(len(selected), total))
	from := 0
	var order timeSort
	for i, id := range selected {
		rows := refs[from:ends[i]]
		from = ends[i]
		if len(rows) == 0 {
			continue
		}
		order.sort(s, rows)
		start := len(out.refs)
		out.refs = append(out.refs, s.unique(rows)...) // moves rows down only
		st := &s.streams[id]
		out.runs = append(out.runs, model.Run{Labels: st.labels, Hash: st.hash, Start: start, End: len(out.refs)})
	}
	return out
}

// scan calls fn with every wanted row, in order of arrival.
func (s *snapshot) scan(place []int32, r model.TimeRange, fn func(place int32, row ref)) {
	all := r == allTime
	for si, sl := range s.slabs {
		n := s.count(si)
		streams, times := sl.streams[:n], sl.times[:n]
		base := ref(si) << slabRowBits
		for i, id := range streams {
			if p := place[id]; p != 0 && (all || r.Contains(times[i])) {
				fn(p, base+ref(i))
			}
		}
	}
}

// timeSort sorts rows by time; its buffers are reused.
type timeSort struct {
	rows, before []timedRow
}

type timedRow struct {
	ts  int64
	row ref
}

// sort sorts rows that are in order of arrival; rows of equal time keep it. Time is nearly
// sorted already: what comes late is a push that was overtaken by a few others. So each
// ascending run is merged into the end of those before it, as long as that end is short.
func (o *timeSort) sort(s *snapshot, rows []ref) {
	all, sorted, last := o.rows[:0], true, int64(math.MinInt64)
	for _, r := range rows {
		ts := s.time(r)
		sorted, last = sorted && ts >= last, ts
		all = append(all, timedRow{ts, r})
	}
	if o.rows = all; sorted {
		return
	}
	moves := 16 * len(all)
	for i := 1; i < len(all) && moves > 0; {
		if all[i].ts >= all[i-1].ts {
			i++
			continue
		}
		end := i + 1
		for end < len(all) && all[end].ts >= all[end-1].ts {
			end++
		}
		at, _ := slices.BinarySearchFunc(all[:i], all[i].ts, func(t timedRow, ts int64) int {
			if t.ts <= ts {
				return -1
			}
			return 1
		})
		moves -= end - at
		o.merge(all[at:end], i-at)
		i = end
	}
	if moves <= 0 {
		slices.SortFunc(all, func(a, b timedRow) int { return cmp.Or(cmp.Compare(a.ts, b.ts), cmp.Compare(a.row, b.row)) })
	}
	for i, t := range all {
		rows[i] = t.row
	}
}

// merge merges the first rows, n of them, with the others.
func (o *timeSort) merge(rows []timedRow, n int) {
	before := append(o.before[:0], rows[:n]...)
	o.before = before
	for at, next := 0, n; len(before) > 0; at++ {
		if next < len(rows) && rows[next].ts < before[0].ts {
			rows[at] = rows[next]
			next++
		} else {
			rows[at], before = before[0], before[1:]
		}
	}
}

// unique removes rows that repeat an earlier one of the same time, and returns the rest.
func (s *snapshot) unique(rows []ref) []ref {
	kept := rows[:1]
	group := 0 // where the rows of the current time begin in kept
	var seen map[uint64][]ref
	for _, r := range rows[1:] {
		if s.time(r) != s.time(kept[group]) {
			group, seen = len(kept), nil
			kept = append(kept, r)
			continue
		}
		// Most groups are tiny. In a large one (a clock that stands still) comparing all
		// with all would take for ever, so rows are found by hash.
		const small = 16
		if seen == nil && len(kept)-group >= small {
			seen = make(map[uint64][]ref)
			for _, k := range kept[group:] {
				h := s.hash(k)
				seen[h] = append(seen[h], k)
			}
		}
		if seen == nil {
			if !s.anyEqual(kept[group:], r) {
				kept = append(kept, r)
			}
			continue
		}
		if h := s.hash(r); !s.anyEqual(seen[h], r) {
			seen[h] = append(seen[h], r)
			kept = append(kept, r)
		}
	}
	return kept
}

// anyEqual reports whether one of the candidates has the line and the metadata of r.
// Metadata is encoded alike in the whole table, so its bytes compare.
func (s *snapshot) anyEqual(candidates []ref, r ref) bool {
	line, metadata := s.row(r)
	for _, c := range candidates {
		l, m := s.row(c)
		if bytes.Equal(l, line) && bytes.Equal(m, metadata) {
			return true
		}
	}
	return false
}

var hashSeparator = []byte{0xff}

// hash is model.RowHash, computed from the encoded row.
func (s *snapshot) hash(r ref) uint64 {
	line, metadata := s.row(r)
	if len(metadata) == 0 {
		return xxhash.Sum64(line)
	}
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(line)
	eachMetadata(metadata, func(name uint32, value []byte) {
		_, _ = d.Write(hashSeparator)
		_, _ = d.WriteString(s.names[name])
		_, _ = d.Write(hashSeparator)
		_, _ = d.Write(value)
	})
	return d.Sum64()
}
