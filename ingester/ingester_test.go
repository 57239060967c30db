package ingester

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// One batch is followed through every place that it can be in, and across restarts.
func TestSameRowsEverywhere(t *testing.T) {
	r := newRig(t)
	batch := []model.Stream{
		logs("b", entry(day0+9, "late"), entry(day0+3, "early", "detected_level", "info"), entry(day0+3, "early", "detected_level", "warn")),
		logs("a", entry(day0-1, "yesterday"), entry(day0+3, "early"), entry(day0+9, "late"), entry(day0+9, "late")),
	}
	want := rendered(batch...)
	check := func(where string) {
		t.Helper()
		if diff := cmp.Diff(want, r.rows("t")); diff != "" {
			t.Fatalf("%s: rows differ (-want +got):\n%s", where, diff)
		}
		if got := r.rows("other"); len(got) != 0 {
			t.Fatalf("%s: another tenant sees %q", where, got)
		}
	}
	r.push("t", batch...)
	check("memtable")
	r.crash()
	r.start()
	check("replayed")
	r.must(r.freeze())
	check("frozen")
	r.must(r.flushFrozen(context.Background()))
	check("local segments")
	r.crash()
	r.start()
	check("local segments after a crash")
	r.must(r.Flush(context.Background()))
	check("uploaded, still local")
	if diff := cmp.Diff(want, r.stored("t")); diff != "" {
		t.Fatalf("object store: rows differ (-want +got):\n%s", diff)
	}
	r.must(r.Close())
	r.start()
	check("uploaded, after a restart")
}

// An ingester that leaves: once it is read only, one flush puts all that it has
// acknowledged into the store, also what was being pushed at that moment.
func TestReadOnlyThenFlush(t *testing.T) {
	r := newRig(t)
	var mu sync.Mutex
	var acknowledged []model.Stream
	var wg sync.WaitGroup
	started := make(chan struct{}, 4)
	for w := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				batch := logs(fmt.Sprint("app-", w), entry(day0+int64(n), "line"))
				if err := r.Push(context.Background(), "t", []model.Stream{batch}); err != nil {
					if fault.Of(err) != fault.Unavailable {
						t.Errorf("got %v", err)
					}
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, batch)
				mu.Unlock()
				if n == 20 {
					started <- struct{}{}
				}
			}
		})
	}
	for range 4 {
		<-started
	}
	r.SetReadOnly(true)
	r.must(r.Flush(context.Background()))
	wg.Wait()
	if diff := cmp.Diff(rendered(acknowledged...), r.stored("t")); diff != "" {
		t.Errorf("object store: rows differ (-want +got):\n%s", diff)
	}
	r.SetReadOnly(false)
	r.push("t", logs("a", entry(day0, "again")))
}
