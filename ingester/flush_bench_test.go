package ingester

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
)

// BenchmarkFlush measures what a full memtable costs from its first row to the segment: one
// of few streams with many rows each, and one of so many that most have a single row.
func BenchmarkFlush(b *testing.B) {
	for _, streams := range []int{200, 100_000} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) { benchmarkFlush(b, streams) })
	}
}

func benchmarkFlush(b *testing.B, streams int) {
	rng := rand.New(rand.NewPCG(1, 2))
	var all []model.Stream
	var hashes []uint64
	for id := range streams {
		ls := labels.FromStrings("app", fmt.Sprint("service-", id%40), "cluster", "eu-1", "container", "main", "env", "production",
			"namespace", fmt.Sprint("team-", id%12), "pod", fmt.Sprintf("service-%d-%08x", id%40, id))
		all, hashes = append(all, model.Stream{Labels: ls}), append(hashes, ls.Hash())
	}
	cfg := DefaultConfig(b.TempDir())
	i, err := New(cfg, object.NewMem(), noLimits(), prometheus.NewRegistry(), quiet)
	if err != nil {
		b.Fatal(err)
	}
	tenant := i.lockTenant("t")
	tenant.mu.Unlock()
	ts, bytes := day0, int64(0)
	b.ReportAllocs()
	for b.Loop() {
		for g := i.mu.current; g.bytes.Load() < cfg.FreezeBytes; {
			var push []model.Stream
			var sums []uint64
			for range min(streams, 2000) {
				id := rng.IntN(streams)
				s := model.Stream{Labels: all[id].Labels}
				for range 1 + 4000/min(streams, 4000) {
					ts += int64(rng.IntN(1_000_000))
					line := fmt.Sprintf(`ts=2026-01-15T10:%02d:%02d.%06dZ level=info caller=http/server.go:%d msg="request served" method=GET path=/api/v1/orders/%d status=%d duration=%dms trace=%016x%016x`,
						rng.IntN(60), rng.IntN(60), rng.IntN(1_000_000), rng.IntN(400), rng.IntN(100_000), 200+rng.IntN(5)*100, rng.IntN(2000), rng.Uint64(), rng.Uint64())
					s.Entries = append(s.Entries, entry(ts, line, "detected_level", "info"))
					bytes += int64(len(line))
				}
				push, sums = append(push, s), append(sums, hashes[id])
			}
			i.appendTo(g, tenant, push, sums)
			g.entries.Add(1)
		}
		if err := i.freeze(); err != nil {
			b.Fatal(err)
		}
		if err := i.flushFrozen(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(bytes)/float64(b.N), "line-B/op")
	_ = i.Close()
}
