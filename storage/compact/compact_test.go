package compact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// uploads puts rows as n uploads of neighboring times, each of which holds some rows of
// the next one too, as replicas and repeated pushes do.
func (w *world) uploads(all []row, n int) (refs []catalog.Ref) {
	for i := range n {
		from, to := i*len(all)/n, (i+1)*len(all)/n
		refs = append(refs, w.put("t", 1, all[from:min(to+len(all)/n/3, len(all))]))
	}
	return refs
}

func TestSmallSegmentsBecomeOne(t *testing.T) {
	w := newWorld(t)
	all := rows(400, w.today())
	sources := w.uploads(all, 20)
	w.offset = 2 * time.Hour // nothing has come for a while
	c := w.compactor()
	var stages []string
	sum, err := c.Once(t.Context(), Filter{}, func(p Progress) {
		if n := len(stages); n == 0 || stages[n-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
	})
	must(t, err)
	w.expect("merged", texts(all, nil))
	if got := strings.Join(stages, " "); got != "merge verify upload done merge verify upload done" {
		t.Errorf("stages %s", got)
	}
	if sum.Merges != 2 || sum.SegmentsIn != 21 || sum.RowsDuplicate == 0 || sum.SegmentsDeleted != 0 {
		t.Errorf("got %s", sum)
	}
	if got := testutil.ToFloat64(c.metrics.merges.WithLabelValues("size")); got != 2 {
		t.Errorf("%v merges counted", got)
	}

	w.offset += w.cfg.DeleteDelay
	w.expect("before the sources go", texts(all, nil))
	sum = w.once(Filter{})
	if sum.Merges != 0 || sum.SegmentsDeleted != 21 {
		t.Errorf("later: got %s", sum)
	}
	w.expect("after the sources are gone", texts(all, nil))
	left := w.segments()
	if len(left) != 1 || left[0].Level != 3 {
		t.Fatalf("left %v", left)
	}
	info := w.info(left[0])
	for _, s := range sources {
		if !slices.Contains(info.MergedFrom, s.ID) {
			t.Errorf("the last segment does not name %s", s.ID)
		}
	}
	if sum = w.once(Filter{Full: true}); sum.Merges != 0 || sum.SegmentsDeleted != 0 {
		t.Errorf("a further round is not idle: %s", sum)
	}
}

func (w *world) info(ref catalog.Ref) segment.Info {
	s, err := w.compactor().footer(w.t.Context(), ref)
	must(w.t, err)
	return s.info
}

// Each operation on the store fails once, without effect or with its answer lost, and the
// process dies of it. Before and after every operation each row is seen exactly once, also
// by readers whose listings miss some of the last changes; whoever starts next finishes.
func TestCrashAtEveryOperation(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%t", after), func(t *testing.T) {
			crashAt(t, 0, after) // none: only the moments between operations
			for call := 1; ; call++ {
				if !crashAt(t, call, after) {
					if call < 40 {
						t.Errorf("only %d operations were tried", call)
					}
					return
				}
			}
		})
	}
}

// crashAt runs the rounds of some hours with a crash at one call, and reports whether
// there were as many calls.
func crashAt(t *testing.T, call int, after bool) bool {
	w := newWorld(t)
	w.cfg.MaxInputs = 4
	w.cfg.Verify = false
	all := rows(60, w.today())
	for i := range 6 {
		w.put("t", 1, all[i*10:(i+1)*10])
	}
	w.offset = 2 * time.Hour
	want := texts(all, nil)
	settled := w.below.changes // listings may miss later ones, as many as there are
	look := func(when string) {
		t.Helper()
		changes := w.below.changes - settled
		for _, lag := range []int{0, 1, changes} {
			if lag > changes {
				continue
			}
			w.store.LagListings(func(int) int { return lag })
			got, err := w.read("t", everything)
			if err != nil {
				t.Fatalf("call %d, %s, listings without the last %d changes: %v", call, when, lag, err)
			}
			equal(t, fmt.Sprintf("call %d, %s, listings without the last %d changes", call, when, lag), got, want)
		}
		w.store.LagListings(nil)
	}
	if call > 0 {
		w.store.SetFaults(object.Fault{Call: call, After: after})
	}
	calls, looking := 0, false
	w.store.Intercept(func(op, key string) {
		if looking {
			return
		}
		looking = true
		defer func() { looking = false }()
		calls++
		if call == 0 && (op == "put" || op == "delete") {
			look("before " + op + " " + key)
		}
	})
	for hour := 0; ; hour++ {
		_, err := w.compactor().Once(t.Context(), Filter{}, nil)
		if err != nil {
			if !errors.Is(err, object.ErrInjected) || calls < call {
				t.Fatalf("call %d: %v", call, err)
			}
		}
		looking = true
		if call == 0 || err != nil {
			look("after the round")
		}
		looking = false
		w.offset += w.cfg.DeleteDelay
		looking = true
		settled = w.below.changes
		left := w.segments()
		looking = false
		if len(left) == 1 {
			return calls >= call
		}
		if hour == 6 {
			t.Fatalf("call %d: %d segments are left", call, len(left))
		}
	}
}

// Two compactors merge the same segments at the same time. Both outputs are visible for a
// while, and then one.
func TestTwoCompactors(t *testing.T) {
	for _, moment := range []string{"put", "stat"} {
		w := newWorld(t)
		all := rows(100, w.today())
		w.uploads(all, 5)
		w.offset = 2 * time.Hour
		other, nested := w.compactor(), false
		w.store.Intercept(func(op, key string) {
			if op == moment && !nested {
				nested = true
				_, err := other.Once(t.Context(), Filter{}, nil)
				must(t, err)
			}
		})
		w.once(Filter{})
		if !nested {
			t.Fatal("there was no second compactor")
		}
		for range 4 {
			got, err := w.read("t", everything)
			must(t, err)
			equal(t, "as a set", slices.Compact(got), texts(all, nil))
			w.offset += w.cfg.DeleteDelay
			w.once(Filter{})
		}
		w.expect("in the end", texts(all, nil))
		if left := w.segments(); len(left) != 1 {
			t.Errorf("left %v", left)
		}
	}
}

// A history of uploads, rounds that fail anywhere, compactors whose listings are stale, and
// time that passes: no row is ever missing or wrong, and in the end each is there once.
func TestHistories(t *testing.T) {
	histories := 40
	if testing.Short() {
		histories = 8
	}
	merges, failures := 0, 0
	for seed := range histories {
		rnd := rand.New(rand.NewPCG(11, uint64(seed)))
		w := newWorld(t)
		w.cfg.MaxInputs, w.cfg.Verify = 2+rnd.IntN(4), false
		w.remote = seed%2 == 0
		all := rows(200, w.today())
		var stored []row
		for range 25 {
			switch rnd.IntN(4) {
			case 0:
				from := rnd.IntN(len(all) - 20)
				part := all[from : from+1+rnd.IntN(20)]
				w.put("t", rnd.IntN(2), part)
				stored = append(stored, part...)
			case 1:
				w.offset += time.Duration(rnd.Int64N(int64(3 * time.Hour)))
			default:
				lag := rnd.IntN(3)
				w.store.LagListings(func(int) int { return lag })
				w.store.SetFaults(object.Fault{Call: 1 + rnd.IntN(60), After: rnd.IntN(2) == 0})
				sum, err := w.compactor().Once(t.Context(), Filter{Full: rnd.IntN(2) == 0}, nil)
				merges += sum.Merges
				if err != nil {
					failures++
				}
				w.store.SetFaults()
				w.store.LagListings(nil)
			}
			got, err := w.read("t", everything)
			must(t, err)
			equal(t, fmt.Sprintf("history %d", seed), slices.Compact(got), texts(stored, nil))
		}
		for range 6 {
			w.offset += 3 * time.Hour
			w.once(Filter{Full: true})
		}
		w.expect(fmt.Sprintf("history %d, in the end", seed), texts(stored, nil))
		if left := w.segments(); len(left) > 1 {
			t.Errorf("history %d: %d segments are left", seed, len(left))
		}
	}
	if merges < histories || failures < histories {
		t.Errorf("%d merges and %d failures: the test does not try what it should", merges, failures)
	}
}

// A successor that only a stale listing shows must not cost its sources.
func TestSourcesStayWithoutSuccessor(t *testing.T) {
	w := newWorld(t)
	all := rows(50, w.today())
	a, b := w.put("t", 1, all[:25]), w.put("t", 1, all[25:])
	m := w.put("t", 2, all, a, b)
	w.offset = 3 * time.Hour
	w.store.LagListings(func(int) int { return 1 })
	must(t, w.store.Delete(t.Context(), m.Key))
	sum, err := w.compactor().Once(t.Context(), Filter{}, nil)
	if err == nil {
		t.Error("a missing segment went unnoticed")
	}
	w.store.LagListings(nil)
	if left := w.segments(); len(left) != 2 {
		t.Errorf("left %v, done: %s", left, sum)
	}
}

func TestCorruptSegmentStopsNothingElse(t *testing.T) {
	w := newWorld(t)
	all := rows(90, w.today())
	var refs []catalog.Ref
	for i := range 3 {
		refs = append(refs, w.put("t", 1, all[i*30:(i+1)*30]))
	}
	data, err := object.ReadAll(t.Context(), w.store, refs[1].Key, 1<<20)
	must(t, err)
	data[40] ^= 1 // in a block
	must(t, w.store.Put(t.Context(), refs[1].Key, strings.NewReader(string(data)), int64(len(data))))
	w.offset = 2 * time.Hour
	c := w.compactor()
	_, err = c.Once(t.Context(), Filter{}, nil)
	if fault.Of(errors.Unwrap(err)) != fault.Corrupt && !strings.Contains(err.Error(), string(refs[1].Key)) {
		t.Fatalf("got %v, want an error that names %s", err, refs[1].Key)
	}
	sum, err := c.Once(t.Context(), Filter{}, nil)
	must(t, err)
	if sum.Merges != 1 || sum.SegmentsIn != 2 {
		t.Errorf("got %s, want the other two merged", sum)
	}
	w.offset += 2 * time.Hour
	_, err = c.Once(t.Context(), Filter{}, nil)
	must(t, err)
	if left := w.segments(); len(left) != 2 {
		t.Errorf("left %v, want the corrupt one and the merged one", left)
	}
}

// Run works until it is told to stop, and a merge does not outlive it.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.cfg.Interval = 10 * time.Millisecond
	all := rows(100, w.today())
	w.uploads(all, 5)
	w.offset = 2 * time.Hour
	c := w.compactor()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); len(w.segments()) != 6; {
		if time.Now().After(deadline) {
			t.Fatal("Run does nothing")
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.expect("after Run", texts(all, nil))
}
