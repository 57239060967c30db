package ingester

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// flushed pushes about so many bytes, runs read, and makes them a local segment.
func (r *rig) flushed(n, bytes int, read func()) {
	r.t.Helper()
	for at := 0; at < bytes; at += 64 << 10 {
		r.push("t", logs("a", entry(day0+int64(n)<<32+int64(at), strings.Repeat("x", 64<<10))))
	}
	read()
	r.must(r.freeze())
	r.must(r.flushFrozen(context.Background()))
}

// A memtable that is read counts until the last of its blocks is released, however many read
// it, in whatever order they end, and whatever the reads came to.
func TestReadMemtablesCount(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRig(t)
		var open []*model.Selection
		read := func() {
			for range rng.IntN(3) {
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(4) == 0 {
					cancel()
				}
				sel, err := r.Select(ctx, "t", everything())
				if cancel(); err == nil {
					open = append(open, sel)
				}
			}
		}
		for n := range 4 {
			r.flushed(n, 256<<10, read)
			rng.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
			for len(open) > 3 {
				open[0].Release()
				open = open[1:]
			}
			if used := r.memory.used.Load(); used != 0 {
				t.Fatalf("seed %d: %d bytes count as used, all is flushed", seed, used)
			}
			reading := false // some block of a memtable is open
			for _, sel := range open {
				for _, p := range sel.Parts {
					reading = reading || p.Segment == ""
				}
			}
			if held := r.memory.held.Load(); held > 0 != reading {
				t.Fatalf("seed %d: %d bytes are held, memtables are read: %t", seed, held, reading)
			}
		}
		for _, sel := range open {
			sel.Release()
		}
		if held, readers := r.memory.held.Load(), len(r.memory.mu.readers); held != 0 || readers != 0 {
			t.Fatalf("seed %d: nobody reads, and %d bytes are held by %d readers", seed, held, readers)
		}
		r.must(r.Close())
	}
}

// Memtables and those that are only read take one and a half times the budget at most. Pushes
// that wait for such memory end the query that holds most, and then go on.
func TestReadersMakeRoomForPushes(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.FreezeBytes, r.cfg.MemtableBytes = 1<<20, 8<<20 })
	var sels []*model.Selection
	var refused error
	for n := 0; refused == nil; n++ {
		if n == 100 {
			t.Fatal("100 MB were taken while all is read")
		}
		for at := 0; at < 1<<20 && refused == nil; at += 64 << 10 {
			refused = r.Push(context.Background(), "t", []model.Stream{logs("a", entry(day0+int64(n)<<32+int64(at), strings.Repeat("x", 64<<10)))})
		}
		sel, err := r.Select(context.Background(), "t", everything())
		r.must(err)
		sels = append(sels, sel)
		r.must(r.freeze())
		r.must(r.flushFrozen(context.Background()))
	}
	r.refused(fault.Unavailable, "queries still read", refused)
	if all := r.memory.held.Load() + r.memory.used.Load(); all > r.cfg.MemtableBytes*3/2+2*lastSlabBytes {
		t.Errorf("memtables take %d bytes, the budget is %d", all, r.cfg.MemtableBytes)
	}
	ended := 0
	for _, sel := range sels {
		for _, p := range sel.Parts {
			if p.Segment != "" {
				continue
			}
			if _, err := p.Blocks[0].Lines(context.Background()); err != nil {
				r.refused(fault.RateLimited, "-ingester.memtable-bytes", err)
				ended++
			}
			break
		}
	}
	if ended != 1 {
		t.Errorf("%d readers were ended, want 1", ended)
	}
	for _, sel := range sels {
		sel.Release()
	}
	r.push("t", logs("a", entry(day0, "after")))
	if held := r.memory.held.Load(); held != 0 {
		t.Errorf("%d bytes are held by nobody", held)
	}
}
