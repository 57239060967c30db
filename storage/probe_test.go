package storage

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

func forID(span model.TimeRange, r row) *model.Request {
	req := request(span)
	req.Needles = []model.Needles{{{Text: r.id()}}}
	return req
}

// matching leaves the rows with a text.
func matching(rows []string, text string) []string {
	return slices.DeleteFunc(rows, func(s string) bool { return !strings.Contains(s, text) })
}

// An id that is nowhere costs a request for each segment, beside the listing, and two round trips.
func TestAbsentIDTakesOneRequestEach(t *testing.T) {
	makeDecoders(t)
	w := newWorld(t)
	rows := someRows(3000, day1.From, day1.Through)
	for part := range 12 {
		w.put("a", 0, rows[250*part:][:250])
	}
	synctest.Test(t, func(t *testing.T) {
		store, err := Cached(slow{remote{w.store}}, object.CacheConfig{MemoryBytes: 1 << 20}, nil, nil)
		must(t, err)
		r := NewReader(store, catalog.New(store, catalog.Config{TTL: time.Hour, MaxRefs: 100}, nil, nil), Config{}, nil, nil)
		for _, c := range []struct {
			what            string
			trips, requests int64
		}{{"cold", 2, 12}, {"warm", 0, 0}} {
			began, req := time.Now(), forID(day1, row{n: 5001})
			got, err := read(t.Context(), r, "a", req)
			must(t, err)
			equal(t, c.what, matching(got, row{n: 5001}.id()), nil)
			if trips, n := int64(time.Since(began)/roundTrip), req.Stats.FetchRequests.Load(); len(got) == 0 && (trips != c.trips || n != c.requests) {
				t.Errorf("%s: %d requests in %d round trips, want %d in %d", c.what, n, trips, c.requests, c.trips)
			} else if len(got) > 0 {
				t.Errorf("%s: a block passed in vain", c.what)
			}
			if n := req.Stats.SegmentsPrunedNeedle.Load(); n != 12 {
				t.Errorf("%s: %d segments pruned by needle, want 12", c.what, n)
			}
		}
	})
}

// rename puts an object under another key.
func (w *world) rename(ref catalog.Ref, key object.Key) {
	w.t.Helper()
	data := make([]byte, ref.Size)
	must(w.t, w.store.ReadAt(context.Background(), ref.Key, data, 0))
	must(w.t, w.store.Put(context.Background(), key, io.NewSectionReader(bytes.NewReader(data), 0, ref.Size), ref.Size))
	w.delete(ref)
}

// A key that promises ids where there are none, or others, hides nothing: the segment is found out.
func TestWrongKeysAreFoundOut(t *testing.T) {
	rows := someRows(4500, day1.From, day1.Through)
	for what, change := range map[string]func(ref, other *catalog.Ref){
		"offset":               func(ref, _ *catalog.Ref) { ref.IDs.Offset-- },
		"beyond the end":       func(ref, _ *catalog.Ref) { ref.IDs.Offset += ref.Size },
		"fewer pages":          func(ref, _ *catalog.Ref) { ref.IDs.Pages-- },
		"more pages":           func(ref, _ *catalog.Ref) { ref.IDs.Pages++ },
		"smaller pages":        func(ref, _ *catalog.Ref) { ref.IDs.PageBytes-- },
		"another one's":        func(ref, other *catalog.Ref) { ref.IDs = other.IDs },
		"another one's id":     func(ref, other *catalog.Ref) { ref.ID = other.ID },
		"another one's object": func(ref, other *catalog.Ref) { ref.ID, ref.IDs = other.ID, other.IDs },
	} {
		w := newWorld(t)
		ref, other := w.put("t", 0, rows[:4000]), w.put("t", 0, rows[4000:])
		if ref.IDs.Pages < 2 || ref.IDs == other.IDs {
			t.Fatalf("%+v and %+v: the test tests nothing", ref.IDs, other.IDs)
		}
		w.delete(other)
		bad := ref
		change(&bad, &other)
		key := catalog.KeyFor(bad.Tenant, bad.Day, bad.Level, bad.Min, bad.Max, bad.ID, bad.IDs)
		w.rename(ref, key)
		for _, id := range []row{rows[7], {n: 5000}} {
			if _, err := read(t.Context(), w.reader(Config{}, 0), "t", forID(day1, id)); fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), string(key)) {
				t.Errorf("%s: got %v", what, err)
			}
		}
	}
	w := newWorld(t)
	ref := w.put("t", 0, rows)
	w.rename(ref, catalog.KeyFor(ref.Tenant, ref.Day, ref.Level, ref.Min, ref.Max, ref.ID, segment.IDPages{}))
	if _, err := read(t.Context(), w.reader(Config{}, 0), "t", forID(day1, rows[7])); fault.Of(err) != fault.Corrupt {
		t.Errorf("without: got %v", err)
	}
}

// A damaged page is reported, whether the id would be on it or not.
func TestDamagedIDPage(t *testing.T) {
	rows := someRows(200, day1.From, day1.Through)
	w := newWorld(t)
	ref := w.put("t", 0, rows)
	data := make([]byte, ref.Size)
	must(t, w.store.ReadAt(t.Context(), ref.Key, data, 0))
	data[ref.IDs.Offset+9] ^= 4
	must(t, w.store.Put(t.Context(), ref.Key, io.NewSectionReader(bytes.NewReader(data), 0, ref.Size), ref.Size))
	for _, id := range []row{rows[7], {n: 5000}} {
		if _, err := read(t.Context(), w.reader(Config{}, 0), "t", forID(day1, id)); fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), "id table") {
			t.Errorf("got %v", err)
		}
	}
}

// Rows that a merge has dropped do not come back because nothing of the merged segment is looked for.
func TestDroppedRowsStayDroppedForIDs(t *testing.T) {
	w := newWorld(t)
	rows := someRows(100, day1.From+1, day1.Through)
	first := row{day1.From, 1000}
	source := w.put("t", 1, append(rows, first))
	merged := w.put("t", 2, rows[:50], source)
	if others, _ := likelySources([]*piece{{ref: source}, {ref: merged}}); len(others) != 2 {
		t.Fatal("the test tests nothing")
	}
	got, err := read(t.Context(), w.reader(Config{}, 0), "t", forID(day1, first))
	must(t, err)
	equal(t, "dropped", got, nil)
	got, err = read(t.Context(), w.reader(Config{}, 0), "t", forID(day1, rows[7]))
	must(t, err)
	equal(t, "kept", matching(got, rows[7].id()), want(rows[7:8], day1))
	w.delete(merged)
	got, err = read(t.Context(), w.reader(Config{}, 0), "t", forID(day1, first))
	must(t, err)
	equal(t, "without the merged one", matching(got, first.id()), want([]row{first}, day1))
}

// What an ingester has must be replaced too.
func TestHeldSegmentsAreReplaced(t *testing.T) {
	w := newWorld(t)
	held := catalog.Ref{ID: w.newID()}
	ref := w.put("t", 1, someRows(100, day1.From, day1.Through), held)
	for _, ids := range [][]string{{held.ID}, nil} {
		req := forID(day1, row{n: 5001})
		req.Held = ids
		selection, err := w.reader(Config{}, 0).Select(t.Context(), "t", req)
		must(t, err)
		named := slices.ContainsFunc(selection.Parts, func(p model.Part) bool { return p.Segment == ref.ID })
		if selection.Release(); named != (ids != nil) {
			t.Errorf("held %v: the segment that replaces it is named: %v", ids, named)
		}
	}
}

// Whatever was merged and dropped, an id finds the rows that a look at all rows finds.
func TestIDsFindWhatAllRowsSay(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	for range 20 {
		w := newWorld(t)
		rows := someRows(400, day1.From, day1.Through)
		slices.SortFunc(rows, func(a, b row) int { return int(a.ts - b.ts) })
		type kept struct {
			ref  catalog.Ref
			rows []row
		}
		var live []kept
		for i := range 8 {
			part := slices.Clone(rows[50*i:][:50])
			live = append(live, kept{w.put("t", 0, part), part})
			if rng.IntN(3) == 0 && len(live) > 1 {
				n := 2 + rng.IntN(len(live)-1)
				var all []row
				var from []catalog.Ref
				for _, k := range live[len(live)-n:] {
					all, from = append(all, k.rows...), append(from, k.ref)
				}
				all = slices.DeleteFunc(all, func(row) bool { return rng.IntN(10) == 0 })
				live = append(live[:len(live)-n], kept{w.put("t", 1+i, all, from...), all})
				if rng.IntN(2) == 0 {
					w.delete(from...)
				}
			}
		}
		r := w.reader(Config{}, time.Hour)
		for i := range 100 {
			id := rows[rng.IntN(len(rows))]
			if i%10 == 0 {
				r = w.reader(Config{}, time.Hour) // which has opened nothing
			}
			got, err := read(t.Context(), r, "t", forID(day1, id))
			must(t, err)
			all, err := read(t.Context(), w.reader(Config{}, time.Hour), "t", request(day1))
			must(t, err)
			equal(t, id.id(), matching(got, id.id()), matching(all, id.id()))
		}
	}
}
