package storage

import (
	"context"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

// slow is a store far away: each request takes a second.
type slow struct{ remote }

const roundTrip = time.Second

func (s slow) ReadAt(ctx context.Context, key object.Key, p []byte, off int64) error {
	time.Sleep(roundTrip)
	return s.Store.ReadAt(ctx, key, p, off)
}

func (s slow) List(ctx context.Context, prefix string) iter.Seq2[object.Info, error] {
	time.Sleep(roundTrip)
	return s.Store.List(ctx, prefix)
}

// makeDecoders reads a block. What decompresses is made once for all tests, and must not belong to the
// bubble of the one that needs it first.
func makeDecoders(t *testing.T) {
	w := newWorld(t)
	w.put("a", 0, someRows(3000, day1.From, day1.Through))
	_, err := read(t.Context(), w.reader(Config{}, time.Hour), "a", request(day1))
	must(t, err)
}

// However many segments there are, a needle costs four round trips: to list them, to open
// them, to ask their needle indexes, and to fetch the blocks.
func TestNeedleTakesFourRoundTrips(t *testing.T) {
	makeDecoders(t)
	for name, needles := range map[string][]model.Needles{
		"words":           {{{Text: "hello"}}, {{Text: "row 1777 says"}}},
		"an id":           {{{Text: row{n: 1777}.id()}}},
		"an id and words": {{{Text: "row 1777 says"}}, {{Text: row{n: 1777}.id()}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testRoundTrips(t, needles) })
		})
	}
}

func testRoundTrips(t *testing.T, needles []model.Needles) {
	w := newWorld(t)
	rows := someRows(3000, day1.From, day1.Through)
	for part := range 12 {
		w.put("a", 0, rows[250*part:][:250])
	}
	store, err := Cached(slow{remote{w.store}}, object.CacheConfig{MemoryBytes: 1 << 20}, nil, nil)
	must(t, err)
	r := NewReader(store, catalog.New(store, catalog.Config{TTL: time.Hour, MaxRefs: 100}, nil, nil), Config{}, nil, nil)
	ask := func(what string, trips int) {
		t.Helper()
		began := time.Now()
		req := request(day1)
		req.Needles = needles
		selection, err := r.Select(t.Context(), "a", req)
		must(t, err)
		defer selection.Release()
		var fetches sync.WaitGroup
		blocks := 0
		for _, part := range selection.Parts {
			for _, b := range part.Blocks {
				blocks++
				fetches.Go(func() {
					if err := b.Fetch()(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
		}
		fetches.Wait()
		for _, part := range selection.Parts {
			for _, b := range part.Blocks {
				_, err := b.Lines(t.Context())
				must(t, err)
			}
		}
		if blocks == 0 || blocks > 200 {
			t.Errorf("%s: %d blocks", what, blocks)
		}
		if took := time.Since(began); took != time.Duration(trips)*roundTrip {
			t.Errorf("%s: %v round trips for %d requests, want %d", what, took.Seconds(), req.Stats.FetchRequests.Load(), trips)
		}
	}
	ask("cold", 4)
	ask("warm", 0)
}

// Sources that are still there are not opened. What only looks like one is, after the segment that
// might have been merged from it.
func TestSourcesAreNotOpened(t *testing.T) {
	hours := func(of ...int) (rows []row) {
		for _, h := range of {
			rows = append(rows, row{day1.From + int64(h)*int64(time.Hour), h})
		}
		return rows
	}
	w := newWorld(t)
	a, b := w.put("t", 0, hours(0, 2)), w.put("t", 0, hours(1, 3))
	beside := w.put("t", 0, hours(18, 20))
	c, d := w.put("t", 0, hours(17, 22)), w.put("t", 0, hours(16))
	half := w.put("t", 1, hours(0, 1, 2, 3), a, b)
	merged := w.put("t", 2, hours(0, 1, 2, 3, 16, 17, 22), a, b, c, d, half)
	late := w.put("t", 0, hours(4, 5))
	open := func(what string, rows []string, opened ...catalog.Ref) {
		t.Helper()
		r := w.reader(Config{}, 0)
		got, err := read(t.Context(), r, "t", request(day1))
		must(t, err)
		equal(t, what, got, rows)
		for _, ref := range opened {
			if _, ok := r.mu.open.Get(ref.Key); !ok {
				t.Errorf("%s: %s is not open", what, ref.Key)
			}
		}
		if n := r.mu.open.Len(); n != len(opened) {
			t.Errorf("%s: %d segments are open, want %d", what, n, len(opened))
		}
	}
	all := want(hours(0, 1, 2, 3, 4, 5, 16, 17, 18, 20, 22), day1)
	open("all are there", all, merged, beside, late)
	w.delete(merged)
	open("without the merged one", all, half, beside, c, d, late)
}
