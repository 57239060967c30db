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

// However many segments there are, a needle costs four round trips: to list them, to open
// them, to ask their needle indexes, and to fetch the blocks.
func TestNeedleTakesFourRoundTrips(t *testing.T) {
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
