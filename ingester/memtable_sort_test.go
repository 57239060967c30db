package ingester

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// With the order of an earlier table, which has some of the streams and others too, streams
// are sorted as without it.
func TestSortStreamsAfterAnEarlierTable(t *testing.T) {
	fill := func(rng *rand.Rand) *table {
		table := newTable("t", 0, func(int64) {})
		for _, n := range rng.Perm(60)[:rng.IntN(60)] {
			ls := labels.FromStrings("app", fmt.Sprint(n%7), "pod", fmt.Sprint(n))
			// Few hashes, so that streams share them.
			table.append([]model.Stream{{Labels: ls, Entries: []model.Entry{{Line: []byte("x")}}}}, []uint64{uint64(n % 20)})
		}
		return table
	}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var before *streamOrder
		for range rng.IntN(2 * mostMissed) {
			before = fill(rng).sortStreams(before)
		}
		later := fill(rng)
		after := later.sortStreams(before)
		if !slices.IsSortedFunc(after.streams, func(a, b orderedStream) int { return cmp.Or(labels.Compare(a.labels, b.labels), -1) }) {
			t.Fatalf("seed %d: the order that is kept is not sorted: %v", seed, after)
		}
		var got, want []string
		for _, id := range later.snapshot().sortedStreams() {
			got = append(got, later.mu.streams[id].labels.String())
		}
		streams := slices.SortedFunc(slices.Values(later.mu.streams), func(a, b memStream) int { return labels.Compare(a.labels, b.labels) })
		for _, s := range streams {
			want = append(want, s.labels.String())
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: order is %v, want %v", seed, got, want)
		}
	}
}

// Rows that come in runs, overtaken by few or by all others, are sorted, and those of one time
// stay in order of arrival.
func TestTimeSort(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var s model.Stream
		at, drift := int64(0), int64(rng.IntN(60)-20) // falling, rising fast or slowly
		for range 1 + rng.IntN(400) {
			at += rng.Int64N(20)
			if rng.IntN(1+rng.IntN(20)) == 0 {
				at += drift - 15
			}
			s.Entries = append(s.Entries, model.Entry{Timestamp: at})
		}
		if seed%10 == 0 { // no order at all, and many of one time
			for range 2000 {
				s.Entries = append(s.Entries, model.Entry{Timestamp: rng.Int64N(100)})
			}
		}
		table := newTable("t", 0, func(int64) {})
		table.append([]model.Stream{s}, []uint64{1})
		snap := table.snapshot()
		var got []ref
		snap.scan([]int32{1}, allTime, func(_ int32, r ref) { got = append(got, r) })
		want := slices.Clone(got)
		slices.SortStableFunc(want, func(a, b ref) int { return cmp.Compare(snap.time(a), snap.time(b)) })
		new(timeSort).sort(snap, got)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, got, want)
		}
	}
}
