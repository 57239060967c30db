package storage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

func TestSelect(t *testing.T) {
	w := newWorld(t)
	today := someRows(300, day1.From, day1.Through)
	yesterday := someRows(100, day1.From-int64(24*time.Hour), day1.From)
	w.put("a", 0, today[:100])
	w.put("a", 0, today[100:])
	w.put("a", 0, yesterday)
	w.put("b", 0, someRows(10, day1.From, day1.Through))
	r := w.reader(Config{}, 0)
	all := append(append([]row{}, today...), yesterday...)
	for _, span := range []model.TimeRange{
		day1, {From: day1.From - 1e15, Through: day1.Through + 1e15},
		{From: day1.From + 1e12, Through: day1.From + 5e12}, {From: day1.From - 3e12, Through: day1.From + 3e12},
		{From: day1.Through, Through: day1.Through + 1e12}, {From: 5, Through: 5},
	} {
		got, err := read(t.Context(), r, "a", request(span))
		must(t, err)
		equal(t, "tenant a", got, want(all, span))
	}
	got, err := read(t.Context(), r, "nobody", request(day1))
	must(t, err)
	equal(t, "a tenant without data", got, nil)
}

func TestSelectCounts(t *testing.T) {
	w := newWorld(t)
	rows := someRows(200, day1.From, day1.From+1e12)
	ref := w.put("a", 0, rows)
	w.put("a", 0, someRows(100, day1.From+2e12, day1.From+3e12))
	store, err := Cached(remote{w.store}, object.CacheConfig{MemoryBytes: 1 << 20}, nil, nil)
	must(t, err)
	r := NewReader(store, catalog.New(store, catalog.Config{}, nil, nil), Config{}, nil, nil)
	span := model.TimeRange{From: day1.From, Through: day1.From + 1e12}

	cold := request(span)
	_, err = read(t.Context(), r, "a", cold)
	must(t, err)
	if s := cold.Stats; s.SegmentsConsidered.Load() != 2 || s.SegmentsPrunedTime.Load() != 1 {
		t.Errorf("considered %d segments and pruned %d by time, want 2 and 1", s.SegmentsConsidered.Load(), s.SegmentsPrunedTime.Load())
	}
	if s := cold.Stats; s.BytesFetched.Load() < ref.Size/2 || s.CacheMisses.Load() != s.FetchRequests.Load() || s.CacheHits.Load() != 0 {
		t.Errorf("cold: fetched %d bytes of %d in %d requests, %d hits, %d misses", s.BytesFetched.Load(), ref.Size, s.FetchRequests.Load(), s.CacheHits.Load(), s.CacheMisses.Load())
	}
	warm := request(span)
	_, err = read(t.Context(), r, "a", warm)
	must(t, err)
	if s := warm.Stats; s.BytesFetched.Load() != 0 || s.FetchRequests.Load() != 0 || s.CacheHits.Load() == 0 || s.CacheMisses.Load() != 0 {
		t.Errorf("warm: fetched %d bytes in %d requests, %d hits, %d misses", s.BytesFetched.Load(), s.FetchRequests.Load(), s.CacheHits.Load(), s.CacheMisses.Load())
	}
	if got := testutil.ToFloat64(r.metrics.opened.WithLabelValues("miss")); got != 1 {
		t.Errorf("opened %v segments, want 1", got)
	}
}

// remote pretends to be far away.
type remote struct{ object.Store }

func (remote) Remote() bool { return true }

func TestReplacedSegmentsAreNotRead(t *testing.T) {
	w := newWorld(t)
	rows := someRows(300, day1.From, day1.Through)
	a, b := w.put("t", 0, rows[:100]), w.put("t", 0, rows[100:200])
	c := w.put("t", 1, rows[:200], a, b)
	d := w.put("t", 0, rows[200:])
	e := w.put("t", 2, rows, a, b, c, d)
	expect := func(what string) {
		t.Helper()
		got, err := read(t.Context(), w.reader(Config{}, 0), "t", request(day1))
		must(t, err)
		equal(t, what, got, want(rows, day1))
	}
	expect("all generations are there")
	w.delete(a)
	expect("a source is deleted")
	w.delete(b, c)
	expect("the middle is deleted")
	w.delete(d)
	expect("the last alone")
	w.delete(e)
	got, err := read(t.Context(), w.reader(Config{}, 0), "t", request(day1))
	must(t, err)
	equal(t, "nothing", got, nil)
}

// A merged segment lacks the rows whose retention has ended. Its source, not yet deleted,
// must not bring them back, even where the merged segment has no row at all.
func TestDroppedRowsStayDropped(t *testing.T) {
	w := newWorld(t)
	rows := someRows(100, day1.From, day1.From+1e12)
	kept := []row{{day1.From + 5e12, 1}}
	source := w.put("t", 0, append(rows, kept...))
	w.put("t", 1, kept, source)
	early := model.TimeRange{From: day1.From, Through: day1.From + 1e12}
	got, err := read(t.Context(), w.reader(Config{}, 0), "t", request(early))
	must(t, err)
	equal(t, "dropped", got, nil)
}

func TestMayBeReplacedBy(t *testing.T) {
	id := func(minutes int) string {
		w := world{t: t, made: uint64(minutes) * 60_000}
		return w.newID()
	}
	source := catalog.Ref{Day: "2026-11-24", Level: 1, ID: id(100)}
	f := func(day string, level, minutes int, want bool) {
		t.Helper()
		o := make(oldest)
		o.add(source.Day, source.Level, source.ID)
		if got := o.mayBeReplacedBy(catalog.Ref{Day: day, Level: level, ID: id(minutes)}); got != want {
			t.Errorf("day %s, level %d, minute %d: got %v", day, level, minutes, got)
		}
	}
	f("2026-11-24", 2, 200, true)
	f("2026-11-24", 2, 50, true) // clocks may be apart
	f("2026-11-24", 2, 30, false)
	f("2026-11-24", 1, 200, false)
	f("2026-11-25", 2, 200, false)
	source.Level = catalog.MaxLevel
	f("2026-11-24", catalog.MaxLevel, 200, true)
	f("2026-11-24", catalog.MaxLevel, 30, false)
}

// Between the listing and the reading a merge ends and its sources go.
func TestDeletedBetweenListAndOpen(t *testing.T) {
	for _, moment := range []string{"before open", "after open"} {
		t.Run(moment, func(t *testing.T) {
			w := newWorld(t)
			rows := someRows(200, day1.From, day1.Through)
			a, b := w.put("t", 0, rows[:100]), w.put("t", 0, rows[100:])
			r := w.reader(Config{}, time.Hour)
			if moment == "after open" {
				_, err := read(t.Context(), r, "t", request(day1))
				must(t, err)
			} else {
				_, err := r.catalog.Segments(t.Context(), "t", day1)
				must(t, err)
			}
			w.put("t", 1, rows, a, b)
			w.delete(a, b)
			got, err := read(t.Context(), r, "t", request(day1))
			if moment == "after open" {
				// Select needed nothing that is gone, but its blocks do. The query fails, and
				// the next one lists anew.
				if !errors.Is(err, object.ErrNotFound) || fault.Of(err) != fault.Unavailable {
					t.Errorf("got %v, want the object missing, Unavailable", err)
				}
				got, err = read(t.Context(), r, "t", request(day1))
			}
			must(t, err)
			equal(t, moment, got, want(rows, day1))
		})
	}
}

func TestMissingSegment(t *testing.T) {
	w := newWorld(t)
	rows := someRows(200, day1.From, day1.Through)
	w.put("t", 0, rows[:100])
	lost := w.put("t", 0, rows[100:])
	w.store.LagListings(func(int) int { return 1 }) // goes on listing what was deleted
	w.delete(lost)

	_, err := read(t.Context(), w.reader(Config{}, time.Hour), "t", request(day1))
	if !errors.Is(err, object.ErrNotFound) || fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), string(lost.Key)) {
		t.Errorf("got %v, want an error of kind Unavailable that names %s", err, lost.Key)
	}
	r := w.reader(Config{SkipDamaged: true}, time.Hour)
	selection, err := r.Select(t.Context(), "t", request(day1))
	must(t, err)
	defer selection.Release()
	if len(selection.Parts) != 1 || len(selection.Warnings) != 1 || !strings.Contains(selection.Warnings[0], string(lost.Key)) {
		t.Errorf("got %d parts and warnings %q", len(selection.Parts), selection.Warnings)
	}
}

func TestCorruptSegments(t *testing.T) {
	rewrite := func(w *world, ref catalog.Ref, edit func([]byte) []byte) {
		data, err := object.ReadAll(t.Context(), w.store, ref.Key, 1<<20)
		must(t, err)
		data = edit(data)
		must(t, w.store.Put(t.Context(), ref.Key, bytes.NewReader(data), int64(len(data))))
	}
	for name, damage := range map[string]func(w *world, ref catalog.Ref){
		"cut":   func(w *world, ref catalog.Ref) { rewrite(w, ref, func(b []byte) []byte { return b[:len(b)-1] }) },
		"empty": func(w *world, ref catalog.Ref) { rewrite(w, ref, func(b []byte) []byte { return nil }) },
		"footer": func(w *world, ref catalog.Ref) {
			rewrite(w, ref, func(b []byte) []byte { b[len(b)-40] ^= 1; return b })
		},
		"another segment": func(w *world, ref catalog.Ref) {
			other := w.put("other", 0, someRows(5, ref.Min, ref.Max))
			data, err := object.ReadAll(t.Context(), w.store, other.Key, 1<<20)
			must(t, err)
			rewrite(w, ref, func([]byte) []byte { return data })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rows := someRows(200, day1.From, day1.Through)
			bad := w.put("t", 0, rows[:100])
			w.put("t", 0, rows[100:])
			damage(w, bad)
			_, err := read(t.Context(), w.reader(Config{}, 0), "t", request(day1))
			if fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), string(bad.Key)) {
				t.Errorf("got %v, want an error of kind Corrupt that names %s", err, bad.Key)
			}
			if _, err = w.reader(Config{}, 0).Series(t.Context(), "t", request(day1)); fault.Of(err) != fault.Corrupt {
				t.Errorf("Series: got %v", err)
			}
			got, err := read(t.Context(), w.reader(Config{SkipDamaged: true}, 0), "t", request(day1))
			must(t, err)
			equal(t, "partial answer", got, want(rows[100:], day1))
		})
	}
}

// A connection that breaks is no corruption, whatever the error under it.
func TestTransientErrorsAreUnavailable(t *testing.T) {
	w := newWorld(t)
	w.put("t", 0, someRows(100, day1.From, day1.Through))
	for _, op := range []string{"list", "read"} {
		w.store.SetFaults(object.Fault{Op: op, Transient: true, Err: io.ErrUnexpectedEOF})
		_, err := read(t.Context(), w.reader(Config{SkipDamaged: true}, 0), "t", request(day1))
		if fault.Of(err) != fault.Unavailable {
			t.Errorf("%s: got %v of kind %d, want Unavailable", op, err, fault.Of(err))
		}
	}
	w.store.SetFaults()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(ctx, w.reader(Config{}, 0), "t", request(day1)); fault.Of(err) != fault.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
}

func TestSeries(t *testing.T) {
	w := newWorld(t)
	var rows []row
	for i := range 60 {
		rows = append(rows, row{day1.From + int64(i), i})
	}
	a := w.put("t", 0, rows[:30])
	w.put("t", 1, rows[:30], a)
	w.put("t", 0, rows[30:])
	w.put("t", 0, rows[59:]) // the one row of app-2, by another replica
	got, err := w.reader(Config{}, 0).Series(t.Context(), "t", &model.Request{Range: day1,
		Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, "app", "app-1")}})
	must(t, err)
	for i := range got {
		got[i].Blocks = 0 // how rows fall into blocks is the segment's matter
	}
	if d := cmp.Diff([]model.Series{
		{Labels: rows[0].stream(), Entries: 20, Bytes: bytesOf(rows, 0), First: day1.From, Last: day1.From + 57},
		{Labels: rows[2].stream(), Entries: 21, Bytes: bytesOf(rows, 2) + int64(len(rows[59].line())), First: day1.From + 2, Last: day1.From + 59},
	}, got, cmp.Comparer(labels.Equal)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func bytesOf(rows []row, stream int) (n int64) {
	for _, r := range rows {
		if r.n%3 == stream {
			n += int64(len(r.line()))
		}
	}
	return n
}

func TestOpenSegmentsAreBounded(t *testing.T) {
	w := newWorld(t)
	for range 20 {
		w.put("t", 0, someRows(10, day1.From, day1.Through))
	}
	r := w.reader(Config{OpenSegments: 5}, 0)
	_, err := read(t.Context(), r, "t", request(day1))
	must(t, err)
	if got := r.mu.open.Len(); got != 5 {
		t.Errorf("%d segments are open, want 5", got)
	}
}

// A history of uploads, merges of any segments, and deletions of what was merged; at every
// moment, with listings that lag by any number of changes, a query sees each row once or
// fails because something it needs is gone. It never sees a row twice or not at all.
func TestEveryRowOnceOrAnError(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 10
	}
	answers, failures := 0, 0
	for round := range rounds {
		rnd := rand.New(rand.NewPCG(7, uint64(round)))
		w := newWorld(t)
		rows := someRows(120, day1.From, day1.Through)
		var live []merged // listed and not merged into another
		var dead []catalog.Ref
		for i := range 6 {
			part := rows[i*20 : (i+1)*20]
			live = append(live, merged{w.put("t", 0, part), part, nil})
		}
		changes := 0
		w.store.LagListings(func(int) int { return rnd.IntN(changes + 1) })
		for step := range 12 {
			if len(live) > 1 && rnd.IntN(2) == 0 {
				live, dead = w.merge(rnd, live, dead)
				changes++
			} else if len(dead) > 0 {
				i := rnd.IntN(len(dead))
				w.delete(dead[i])
				dead = append(dead[:i], dead[i+1:]...)
				changes++
			}
			r := w.reader(Config{}, time.Duration(rnd.IntN(2))*time.Hour)
			for range 2 {
				got, err := read(t.Context(), r, "t", request(day1))
				switch {
				case errors.Is(err, object.ErrNotFound):
					failures++
				case err != nil:
					t.Fatalf("round %d, step %d: %v", round, step, err)
				default:
					answers++
					equal(t, "with a stale listing", got, want(rows, day1))
				}
			}
			exact := changes
			changes = 0 // now with an exact listing, which must always answer
			got, err := read(t.Context(), w.reader(Config{}, 0), "t", request(day1))
			must(t, err)
			equal(t, "with an exact listing", got, want(rows, day1))
			changes = exact
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	if answers < failures || failures == 0 {
		t.Errorf("%d answers and %d failures: the test does not try what it should", answers, failures)
	}
}

type merged struct {
	ref     catalog.Ref
	rows    []row
	sources []catalog.Ref // all generations
}

// merge merges some live segments into one, and makes them ready for deletion.
func (w *world) merge(rnd *rand.Rand, live []merged, dead []catalog.Ref) ([]merged, []catalog.Ref) {
	rnd.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	n := 2 + rnd.IntN(len(live)-1)
	var all merged
	level := 0
	for _, m := range live[:n] {
		all.rows = append(all.rows, m.rows...)
		all.sources = append(append(all.sources, m.ref), m.sources...)
		dead = append(dead, m.ref)
		level = max(level, m.ref.Level)
	}
	all.ref = w.put("t", level+1, all.rows, all.sources...)
	return append(append([]merged{}, live[n:]...), all), dead
}

// Each operation in turn fails once: the query fails or its answer is right, and so is the
// next query's on the same reader.
func TestFaultAtEveryOperation(t *testing.T) {
	w := newWorld(t)
	rows := someRows(300, day1.From, day1.Through)
	a, b := w.put("t", 0, rows[:100]), w.put("t", 0, rows[100:200])
	w.put("t", 1, rows[:200], a, b)
	w.put("t", 0, rows[200:])
	w.delete(a)
	for name, f := range map[string]object.Fault{
		"permanent": {}, "transient": {Transient: true}, "not found": {Err: object.ErrNotFound},
		"short": {Err: io.ErrUnexpectedEOF}, "breaks off": {After: true},
	} {
		t.Run(name, func(t *testing.T) {
			failed := 0
			for call := 1; ; call++ {
				for _, cached := range []bool{false, true} {
					var store object.Store = w.store
					if cached {
						var err error
						store, err = Cached(remote{w.store}, object.CacheConfig{MemoryBytes: 1 << 20}, nil, nil)
						must(t, err)
					}
					r := NewReader(store, catalog.New(store, catalog.Config{}, nil, nil), Config{}, nil, nil)
					f.Call = call
					w.store.SetFaults(f)
					got, err := read(t.Context(), r, "t", request(day1))
					if err == nil {
						equal(t, "with a fault", got, want(rows, day1))
						if w.store.Calls() < call {
							if failed == 0 {
								t.Error("no fault made a query fail")
							}
							return
						}
					} else {
						failed++
					}
					w.store.SetFaults()
					got, err = read(t.Context(), r, "t", request(day1))
					must(t, err)
					equal(t, "after a fault", got, want(rows, day1))
				}
			}
		})
	}
}
