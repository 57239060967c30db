package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// randomBatch has streams, times, lines and metadata that repeat often, so that all that
// sorting and deduplication have to tell apart occurs.
func randomBatch(rng *rand.Rand) (batch []model.Stream) {
	for range 1 + rng.IntN(4) {
		s := logs(fmt.Sprint("app-", rng.IntN(6)))
		at := day0 + rng.Int64N(100) - 50
		for range rng.IntN(30) {
			at += rng.Int64N(5) - 1
			e := entry(at, strings.Repeat("x", rng.IntN(3)*rng.IntN(40)))
			switch rng.IntN(4) {
			case 0:
				e.Metadata = labels.FromStrings("detected_level", []string{"info", "warn"}[rng.IntN(2)])
			case 1:
				e.Metadata = labels.FromStrings("detected_level", "info", "trace_id", fmt.Sprint(rng.IntN(3)))
			}
			s.Entries = append(s.Entries, e)
		}
		batch = append(batch, s)
	}
	return batch
}

// Memtable, frozen memtable, local segment and merged segment give the same rows in the
// same order, whatever the matchers and the time range.
func TestMemtableEqualsSegment(t *testing.T) {
	for seed := range uint64(15) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRig(t)
		var all []model.Stream
		for range 1 + rng.IntN(20) {
			batch := randomBatch(rng)
			r.push("t", batch...)
			all = append(all, batch...)
		}
		if diff := cmp.Diff(rendered(all...), r.rows("t")); diff != "" {
			t.Fatalf("seed %d: memtable differs (-pushed +read):\n%s", seed, diff)
		}
		requests := []*model.Request{everything(),
			everything(labels.MustNewMatcher(labels.MatchRegexp, "app", "app-[0-2]")),
			everything(labels.MustNewMatcher(labels.MatchEqual, "app", "nobody")),
			everything(labels.MustNewMatcher(labels.MatchEqual, "missing", "")),
			{Range: model.TimeRange{From: day0 - 20, Through: day0 + 7}, Columns: model.Columns{Lines: true, AllMetadata: true}},
		}
		var want [][]string
		for _, req := range requests {
			want = append(want, inOrder(t, r, req))
		}
		check := func(where string) {
			t.Helper()
			for i, req := range requests {
				if diff := cmp.Diff(want[i], inOrder(t, r, req)); diff != "" {
					t.Fatalf("seed %d: request %d: %s differs (-memtable +it):\n%s", seed, i, where, diff)
				}
			}
		}
		r.must(r.freeze())
		check("frozen memtable")
		r.must(r.flushFrozen(context.Background()))
		check("local segments")
		r.must(r.Flush(context.Background()))
		check("uploaded segments")
	}
}

// inOrder returns rows by day, as segments part them, in the order of each part.
func inOrder(t *testing.T, r *rig, req *model.Request) (rows []string) {
	t.Helper()
	sel, err := r.Select(context.Background(), "t", req)
	r.must(err)
	var before, after []string
	for _, part := range read(t, sel, req.Range) {
		for _, row := range part {
			if strings.Contains(row, fmt.Sprint("} ", day0/100_000)) { // of day0, but for the digits that vary
				after = append(after, row)
			} else {
				before = append(before, row)
			}
		}
	}
	return append(append(before, "--"), after...)
}

// A memtable with one row in many blocks' worth, long lines, and more rows than a slab.
func TestMemtableShapes(t *testing.T) {
	f := func(name string, rows, size int) {
		t.Helper()
		r := newRig(t)
		s := logs("a")
		for i := range rows {
			s.Entries = append(s.Entries, entry(day0+int64(i), fmt.Sprintf("%0*d", size, i)))
		}
		r.push("t", s)
		if diff := cmp.Diff(rendered(s), r.rows("t")); diff != "" {
			t.Errorf("%s: rows differ", name)
		}
		used, raw := r.memory.used.Load(), int64(rows*(size+rowBytes))
		if used > raw*3/2+lastSlabBytes {
			t.Errorf("%s: memtable takes %d bytes for %d", name, used, raw)
		}
	}
	f("short lines", 70_000, 6)
	f("usual lines", 20_000, 120)
	f("long lines", 40, 300_000)
}

// A clock that stands still must not make deduplication quadratic, nor lose a row.
func TestManyRowsOfOneTime(t *testing.T) {
	r := newRig(t)
	s := logs("a")
	for i := range 50_000 {
		s.Entries = append(s.Entries, entry(day0, fmt.Sprint("line ", i%25_000)))
	}
	r.push("t", s)
	if got := len(r.rows("t")); got != 25_000 {
		t.Errorf("got %d rows, want 25000", got)
	}
}

// Readers see a prefix of every stream, at least what had been acknowledged when they
// began, while writers go on. Meaningful under the race detector.
func TestSnapshotsWhileWriting(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.FreezeBytes = 64 << 10 })
	const writers, each = 4, 150
	ctx, cancel := context.WithCancel(context.Background())
	run := make(chan error, 1)
	go func() { run <- r.Run(ctx) }()
	var acked [writers]chan int
	for w := range writers {
		acked[w] = make(chan int, each)
		go func() {
			defer close(acked[w])
			for n := range each {
				s := logs(fmt.Sprint(w))
				for k := range 10 {
					s.Entries = append(s.Entries, entry(day0+int64(n*10+k), fmt.Sprint("entry ", n*10+k, strings.Repeat(" padding", 8))))
				}
				if err := r.Push(context.Background(), "t", []model.Stream{s}); err != nil {
					t.Error(err)
					return
				}
				acked[w] <- (n + 1) * 10
			}
		}()
	}
	for w := range writers {
		for n := range acked[w] {
			if n%50 != 0 {
				continue
			}
			got := r.rows("t", labels.MustNewMatcher(labels.MatchEqual, "app", fmt.Sprint(w)))
			if len(slices.Compact(got)) != len(got) || len(got) < n {
				t.Fatalf("writer %d: %d rows (%d distinct) after %d were acknowledged", w, len(got), len(slices.Compact(slices.Clone(got))), n)
			}
		}
	}
	cancel()
	r.must(<-run)
	r.start()
	if got := len(r.rows("t")); got != writers*each*10 {
		t.Errorf("after a restart: %d rows, want %d", got, writers*each*10)
	}
}

func TestSeries(t *testing.T) {
	r := newRig(t)
	r.push("t", logs("a", entry(day0, "12345"), entry(day0+100, "12345")), logs("b", entry(day0+5, "1")))
	r.must(r.freeze())
	r.push("t", logs("a", entry(day0+50, "123")))
	get := func(req *model.Request) string {
		series, err := r.Series(context.Background(), "t", req)
		r.must(err)
		var b strings.Builder
		for _, s := range series {
			fmt.Fprintf(&b, "%s %d entries %d bytes %d…%d in %d; ", s.Labels, s.Entries, s.Bytes, s.First-day0, s.Last-day0, s.Blocks)
		}
		return b.String()
	}
	want := `{app="a"} 3 entries 13 bytes 0…100 in 2; {app="b"} 1 entries 1 bytes 5…5 in 1; `
	if got := get(everything()); got != want {
		t.Errorf("memtables: got %s, want %s", got, want)
	}
	r.must(r.flushFrozen(context.Background()))
	if got := get(everything()); got != want {
		t.Errorf("a segment and a memtable: got %s, want %s", got, want)
	}
	if got, want := get(everything(labels.MustNewMatcher(labels.MatchEqual, "app", "b"))), `{app="b"} 1 entries 1 bytes 5…5 in 1; `; got != want {
		t.Errorf("matcher: got %s, want %s", got, want)
	}
	if got := get(&model.Request{Range: model.TimeRange{From: day0 + 101, Through: day0 + 200}}); got != "" {
		t.Errorf("outside: got %s, want nothing", got)
	}
}
