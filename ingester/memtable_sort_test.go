package ingester

import (
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
		table := newTable("t", func(int64) {})
		for _, n := range rng.Perm(60)[:rng.IntN(60)] {
			ls := labels.FromStrings("app", fmt.Sprint(n%7), "pod", fmt.Sprint(n))
			// Few hashes, so that streams share them.
			table.append([]model.Stream{{Labels: ls, Entries: []model.Entry{{Line: []byte("x")}}}}, []uint64{uint64(n % 20)})
		}
		return table
	}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		earlier, later := fill(rng), fill(rng)
		earlier.sortStreams(nil)
		var before []memStream
		for _, id := range *earlier.order.Load() {
			before = append(before, earlier.mu.streams[id])
		}
		later.sortStreams(before)
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
