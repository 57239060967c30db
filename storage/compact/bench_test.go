package compact

import (
	"bytes"
	"context"
	"runtime"
	gometrics "runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/bench/corpus"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// benchUploads fills a directory with what an ingester uploads in a day: 16 segments of
// neighboring times, packed fast and with row hashes. It returns raw and stored bytes.
func benchUploads(t testing.TB, store object.Store, raw int64) (lines, stored int64) {
	start := time.Date(2025, 11, 3, 0, 0, 0, 0, time.UTC)
	c := corpus.New(corpus.Config{Seed: 1, Bytes: raw, Streams: 200, Start: start, Span: 24*time.Hour - time.Second})
	var batch corpus.Batch
	for c.Next(&batch, int(raw/16)) {
		lines += batch.Bytes
		slices.SortFunc(batch.Streams, func(a, b model.Stream) int { return labels.Compare(a.Labels, b.Labels) })
		var buf bytes.Buffer
		w := segment.NewWriter(&buf, segment.WriterOptions{Tenant: "t", Level: 1, RowHash: true})
		for _, s := range batch.Streams {
			for _, e := range s.Entries {
				must(t, w.Append(s.Labels, s.Labels.Hash(), e.Timestamp, e.Line, e.Metadata))
			}
		}
		info, err := w.Close()
		must(t, err)
		stored += info.Size
		key := catalog.KeyFor("t", catalog.DayOf(info.MinTime), 1, info.MinTime, info.MaxTime, info.ID, info.IDs)
		must(t, store.Put(t.Context(), key, bytes.NewReader(buf.Bytes()), info.Size))
	}
	return lines, stored
}

// BenchmarkOnce compacts a day of 16 uploads into one object, checking included. Besides
// the throughput in raw bytes it reports how often the stored bytes before and after go into
// the raw bytes, CPU seconds per raw gigabyte, and by how much memory grew at most: what is
// reachable (live), and what is in use with the garbage that the collector allows (MiB).
func BenchmarkOnce(b *testing.B) {
	for _, verify := range []bool{true, false} {
		name := "verify"
		if !verify {
			name = "trust"
		}
		b.Run(name, func(b *testing.B) {
			store, err := object.NewFS(b.TempDir())
			must(b, err)
			raw, before := benchUploads(b, store, 128<<20)
			uploads := map[object.Key]bool{}
			each(b, store, func(info object.Info) { uploads[info.Key] = true })
			lim := limits.Static(limits.Defaults())
			b.SetBytes(raw)
			var after int64
			var memory, live uint64
			cpu := 0.0
			for b.Loop() {
				c := New(Config{Dir: b.TempDir(), Verify: verify}, store, nil, lim, nil, nil, nil, nil)
				stop := watchMemory()
				cpu -= cpuSeconds()
				sum, err := c.Once(b.Context(), Filter{Full: true}, nil)
				must(b, err)
				cpu += cpuSeconds()
				used, reachable := stop()
				memory, live = max(memory, used), max(live, reachable)
				after = sum.BytesOut
				b.StopTimer()
				each(b, store, func(info object.Info) {
					if !uploads[info.Key] {
						must(b, store.Delete(b.Context(), info.Key))
					}
				})
				b.StartTimer()
			}
			b.ReportMetric(float64(raw)/float64(before), "raw/before")
			b.ReportMetric(float64(raw)/float64(after), "raw/after")
			b.ReportMetric(cpu/float64(b.N)/float64(raw)*1e9, "CPU-s/GB")
			b.ReportMetric(float64(memory)/(1<<20), "MiB")
			b.ReportMetric(float64(live)/(1<<20), "live-MiB")
		})
	}
}

func each(b *testing.B, store object.Store, fn func(object.Info)) {
	for info, err := range store.List(b.Context(), "") {
		must(b, err)
		if strings.HasSuffix(string(info.Key), catalog.Suffix) {
			fn(info)
		}
	}
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// watchMemory samples the memory in use and the part of it that was reachable when the
// collector last looked. The returned function stops it and says by how much they grew.
func watchMemory() func() (used, live uint64) {
	runtime.GC()
	samples := []gometrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"}}
	read := func() (used, live uint64) {
		gometrics.Read(samples)
		return samples[0].Value.Uint64() - samples[1].Value.Uint64() - samples[2].Value.Uint64(), samples[3].Value.Uint64()
	}
	usedBefore, liveBefore := read()
	usedMost, liveMost := usedBefore, liveBefore
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			used, live := read()
			usedMost, liveMost = max(used, usedMost), max(live, liveMost)
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return func() (used, live uint64) {
		cancel()
		<-done
		return usedMost - usedBefore, liveMost - liveBefore
	}
}
