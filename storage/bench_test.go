package storage

import (
	"testing"
	"time"
)

// BenchmarkSelectWarm is what a query costs before it reads a column: listing and indexes
// of 100 segments are in memory.
func BenchmarkSelectWarm(b *testing.B) {
	w := newWorld(b)
	for range 100 {
		w.put("t", 0, someRows(100, day1.From, day1.Through))
	}
	r := w.reader(Config{}, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		selection, err := r.Select(b.Context(), "t", request(day1))
		must(b, err)
		selection.Release()
	}
}
