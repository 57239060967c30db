package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
)

// corpus returns pushes of an agent that reads 200 files: ten streams with fifty entries.
func corpus(streams int) (pushes [][]model.Stream, bytes int64) {
	rng := rand.New(rand.NewPCG(1, 2))
	ts := day0
	for range 200 {
		var batch []model.Stream
		for range 10 {
			id := rng.IntN(streams)
			s := model.Stream{Labels: labels.FromStrings("app", fmt.Sprint("service-", id%40), "namespace", "production", "pod", fmt.Sprintf("service-%d-%08x", id%40, id), "container", "main")}
			for range 50 {
				ts += int64(rng.IntN(1_000_000))
				line := fmt.Sprintf(`{"ts":"2026-01-15T10:%02d:%02d.%06dZ","level":"info","caller":"http/server.go:%d","msg":"request served","method":"GET","path":"/api/v1/orders/%d","status":%d,"duration_ms":%d,"trace_id":"%016x%016x"}`,
					rng.IntN(60), rng.IntN(60), rng.IntN(1_000_000), rng.IntN(400), rng.IntN(100_000), 200+rng.IntN(5)*100, rng.IntN(2000), rng.Uint64(), rng.Uint64())
				s.Entries = append(s.Entries, entry(ts, line, "detected_level", "info"))
				bytes += int64(len(line))
			}
			batch = append(batch, s)
		}
		pushes = append(pushes, batch)
	}
	return pushes, bytes / int64(len(pushes))
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// BenchmarkPush measures pushes with the log synced, from many clients: to the log and the
// memtable alone, and with everything that follows on the way to the object store.
func BenchmarkPush(b *testing.B) {
	for _, streams := range []int{200, 100_000} {
		for _, all := range []bool{false, true} {
			name := fmt.Sprintf("streams=%d/log+memtable", streams)
			if all {
				name = fmt.Sprintf("streams=%d/everything", streams)
			}
			b.Run(name, func(b *testing.B) { benchmarkPush(b, streams, all) })
		}
	}
}

func benchmarkPush(b *testing.B, streams int, all bool) {
	pushes, size := corpus(streams)
	cfg := DefaultConfig(b.TempDir())
	store, err := object.Open(context.Background(), "file://"+b.TempDir(), object.Options{})
	if err != nil {
		b.Fatal(err)
	}
	i, err := New(cfg, store, noLimits(), prometheus.NewRegistry(), quiet)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := make(chan error, 1)
	if all {
		go func() { run <- i.Run(ctx) }()
	} else {
		go i.freezeLoop(ctx)
		go forgetFrozen(ctx, i)
	}
	var n atomic.Int64
	b.SetBytes(size)
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	start := cpuSeconds()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			k := n.Add(1)
			for i.Push(context.Background(), "t", pushes[k%int64(len(pushes))]) != nil {
				// Memory is full: this is the pace of the flush.
			}
		}
	})
	if all {
		if err := i.Flush(ctx); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric((cpuSeconds()-start)/float64(size*int64(b.N))*1e9, "CPU-s/GB")
	cancel()
	if all {
		if err := <-run; err != nil {
			b.Fatal(err)
		}
	}
	i.stopping.Store(true)
	i.closeFiles()
}

// forgetFrozen stands in for the flush: it drops what is frozen.
func forgetFrozen(ctx context.Context, i *Ingester) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.flushWanted:
		}
		i.mu.Lock()
		frozen := i.mu.frozen
		i.mu.frozen = nil
		i.mu.Unlock()
		for _, g := range frozen {
			<-g.complete
			_ = i.disk.Remove(g.walPath)
			i.memory.release(g.bytes.Load())
		}
	}
}

// BenchmarkSelect measures a query of all rows, and of one stream's, over a full memtable.
func BenchmarkSelect(b *testing.B) {
	pushes, size := corpus(200)
	i, err := New(testConfig(b.TempDir()), object.NewMem(), noLimits(), prometheus.NewRegistry(), quiet)
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range pushes {
		if err := i.Push(context.Background(), "t", p); err != nil {
			b.Fatal(err)
		}
	}
	for name, matchers := range map[string][]*labels.Matcher{
		"all": nil,
		"one": {labels.MustNewMatcher(labels.MatchEqual, "app", "service-7")},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size * int64(len(pushes)))
			b.ReportAllocs()
			for b.Loop() {
				sel, err := i.Select(context.Background(), "t", everything(matchers...))
				if err != nil {
					b.Fatal(err)
				}
				for _, p := range sel.Parts {
					for _, block := range p.Blocks {
						_, _ = block.Times(context.Background())
						_, _ = block.Lines(context.Background())
					}
				}
				sel.Release()
			}
		})
	}
	_ = i.Close()
}

// BenchmarkRecover measures a start after kill -9 with full memtables.
func BenchmarkRecover(b *testing.B) {
	pushes, size := corpus(200)
	cfg := testConfig(b.TempDir())
	open := func() *Ingester {
		i, err := New(cfg, object.NewMem(), noLimits(), prometheus.NewRegistry(), quiet)
		if err != nil {
			b.Fatal(err)
		}
		return i
	}
	i, raw := open(), int64(0)
	for n := 0; i.memory.used.Load() < cfg.MemtableBytes/2; n++ { // more is flushed while starting
		if err := i.Push(context.Background(), "t", pushes[n%len(pushes)]); err != nil {
			b.Fatal(err)
		}
		raw += size
		if i.mu.current.bytes.Load() >= cfg.FreezeBytes {
			if err := i.freeze(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.SetBytes(raw)
	for b.Loop() {
		i.stopping.Store(true) // as kill -9 leaves it
		i.closeFiles()
		i = open()
	}
	_ = i.Close()
}
