package memlimit

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

func TestGrowthPercent(t *testing.T) {
	for _, c := range []struct {
		live int64
		want int
	}{
		{0, 6400}, {smallGrowth / 4, 400}, {smallGrowth, 100}, {freeGrowth, 100}, {freeGrowth * 4 / 3, 75}, {2 * freeGrowth, 50}, {20 * freeGrowth, 50},
	} {
		if got := growthPercent(c.live); got != c.want {
			t.Errorf("growthPercent(%d) = %d, want %d", c.live, got, c.want)
		}
	}
}

// The growth follows the size of the heap, up and down, collection after collection.
func TestPaceCollector(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	paceCollector()
	percent := func(want func(uint64) bool) (got uint64) {
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		// The setting is made behind a collection, at a time of the runtime's choosing.
		for range 1000 {
			runtime.GC()
			metrics.Read(sample)
			if got = sample[0].Value.Uint64(); want(got) {
				return got
			}
		}
		return got
	}
	large := make([]byte, 2*freeGrowth)
	if got := percent(func(p uint64) bool { return p <= 50 }); got > 50 {
		t.Errorf("with %d bytes alive the heap may grow by %d %%, want 50", len(large), got)
	}
	runtime.KeepAlive(large)
	if got := percent(func(p uint64) bool { return p > 100 }); got <= 100 {
		t.Errorf("with an empty heap it may grow by %d %%, want more than 100", got)
	}
}
