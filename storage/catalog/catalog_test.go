package catalog

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

const day = 24 * int64(time.Hour)

func putSegment(t *testing.T, s object.Store, tenant model.Tenant, first, last int64, id string) object.Key {
	t.Helper()
	key := KeyFor(tenant, DayOf(first), 0, first, last, id, segment.IDPages{})
	put(t, s, key)
	return key
}

func put(t *testing.T, s object.Store, key object.Key) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader("data"), 4); err != nil {
		t.Fatal(err)
	}
}

// newCatalog returns a catalog over a store that counts its calls.
func newCatalog(t *testing.T, ttl time.Duration) (*Catalog, *object.Faulty) {
	t.Helper()
	store, err := object.NewFaulty(t.Context(), object.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	return New(store, Config{TTL: ttl, MaxRefs: 1000}, nil, nil), store
}

func segments(t *testing.T, c *Catalog, tenant model.Tenant, from, through int64) []object.Key {
	t.Helper()
	refs, err := c.Segments(t.Context(), tenant, model.TimeRange{From: from, Through: through})
	if err != nil {
		t.Fatal(err)
	}
	var keys []object.Key
	for _, r := range refs {
		if r.Size != 4 {
			t.Errorf("%s has size %d, want 4", r.Key, r.Size)
		}
		keys = append(keys, r.Key)
	}
	return keys
}

func TestSegments(t *testing.T) {
	c, store := newCatalog(t, 0)
	midnight := noon - day/2
	old := putSegment(t, store, "a", noon-100*day, noon-100*day+9, id1)
	yesterday := putSegment(t, store, "a", midnight-10, midnight-1, id1)
	early := putSegment(t, store, "a", midnight, midnight+10, id1)
	late := putSegment(t, store, "a", noon, noon+10, id1)
	putSegment(t, store, "b", noon, noon+10, id1)
	f := func(from, through int64, want ...object.Key) {
		t.Helper()
		if d := cmp.Diff(want, segments(t, c, "a", from, through)); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	f(noon, noon+1, late)
	f(noon+10, noon+11, late)
	f(noon+11, noon+12)
	f(noon-5, noon)
	f(midnight-1, midnight+1, yesterday, early)
	f(midnight-1, midnight, yesterday)
	f(midnight, midnight)
	f(midnight-10*day, noon+day, yesterday, early, late)
	f(midnight-10*day, midnight, yesterday)
	f(minTime, maxTime, old, yesterday, early, late)
	f(minTime, midnight-1-day, old)
	f(noon, minTime)
	if got := segments(t, c, "c", minTime, maxTime); got != nil {
		t.Errorf("a tenant without data has %v", got)
	}

	store.SetFaults()
	segments(t, c, "a", minTime, maxTime)
	if got := store.Calls(); got != 1+3 {
		t.Errorf("all of time took %d listings, want one of the days and one for each of 3", got)
	}
	tenants, err := c.Tenants(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]model.Tenant{"a", "b"}, tenants); d != "" {
		t.Errorf("tenants (-want +got):\n%s", d)
	}
	days, err := c.Days(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{DayOf(noon - 100*day), "2026-11-23", "2026-11-24"}, days); d != "" {
		t.Errorf("days (-want +got):\n%s", d)
	}
}

func TestForeignObjectsAreIgnored(t *testing.T) {
	c, store := newCatalog(t, 0)
	var log bytes.Buffer
	c.logger = slog.New(slog.NewTextHandler(&log, nil))
	key := putSegment(t, store, "a", noon, noon, id1)
	for _, foreign := range []object.Key{"README", "a b/x", "a/README", "a/deletes/1.json", "a/2026-11-24/README", "a/2026-11-24/x/" + object.Key(id1) + ".seg", key + ".bak"} {
		put(t, store, foreign)
	}
	for range 3 {
		if d := cmp.Diff([]object.Key{key}, segments(t, c, "a", minTime, maxTime)); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	if got := testutil.ToFloat64(c.metrics.foreign); got != 3*3 {
		t.Errorf("counted %v foreign objects, want 9", got)
	}
	if got := strings.Count(log.String(), "level=WARN"); got != 1 {
		t.Errorf("warned %d times, want once:\n%s", got, log.String())
	}
}

func TestListingsAreCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := newCatalog(t, 5*time.Second)
		list := func(what string, wantSegments, wantCalls int) {
			t.Helper()
			store.SetFaults()
			if got := len(segments(t, c, "a", noon, noon+10)); got != wantSegments {
				t.Errorf("%s: %d segments, want %d", what, got, wantSegments)
			}
			if got := store.Calls(); got != wantCalls {
				t.Errorf("%s: %d listings, want %d", what, got, wantCalls)
			}
		}
		putSegment(t, store, "a", noon, noon, id1)
		list("first", 1, 1)
		putSegment(t, store, "a", noon+1, noon+1, id1)
		list("cached", 1, 0)
		time.Sleep(5 * time.Second)
		list("expired", 2, 1)
		putSegment(t, store, "a", noon+2, noon+2, id1)
		c.Invalidate("a", "2026-11-24")
		list("invalidated", 3, 1)
		putSegment(t, store, "a", noon+3, noon+3, id1)
		c.InvalidateAll()
		list("all invalidated", 4, 1)

		c.Invalidate("a", "2026-11-24")
		store.SetFaults(object.Fault{Op: "list"})
		if _, err := c.Segments(t.Context(), "a", model.TimeRange{From: noon, Through: noon + 1}); !errors.Is(err, object.ErrInjected) {
			t.Errorf("got %v, want the store's error", err)
		}
		list("errors are not cached", 4, 1)
	})
}

// A listing that began before an upload must neither be kept nor be joined after it.
func TestInvalidateDuringListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := newCatalog(t, time.Hour)
		slow := &slowList{Faulty: store, release: make(chan struct{})}
		c.store = slow
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := len(segments(t, c, "a", noon, noon+10)); got != 0 {
				t.Errorf("the early listing has %d segments, want 0", got)
			}
		})
		synctest.Wait()
		putSegment(t, store, "a", noon, noon, id1)
		c.Invalidate("a", "2026-11-24")
		early := slow.release
		slow.mu.Lock()
		slow.release = make(chan struct{})
		slow.mu.Unlock()
		wg.Go(func() {
			if got := len(segments(t, c, "a", noon, noon+10)); got != 1 {
				t.Errorf("the listing after Invalidate has %d segments, want 1", got)
			}
		})
		synctest.Wait()
		close(slow.release) // the later listing ends first, so that the early one could spoil the cache
		synctest.Wait()
		close(early)
		wg.Wait()
		if got := len(segments(t, c, "a", noon, noon+10)); got != 1 {
			t.Errorf("the cache has %d segments, want 1", got)
		}
	})
}

// slowList takes a listing at once and delivers it later.
type slowList struct {
	*object.Faulty
	mu      sync.Mutex
	release chan struct{} // of the listings that begin now
}

func (s *slowList) List(ctx context.Context, prefix string) iter.Seq2[object.Info, error] {
	var infos []object.Info
	for info := range s.Faulty.List(ctx, prefix) {
		infos = append(infos, info)
	}
	s.mu.Lock()
	release := s.release
	s.mu.Unlock()
	return func(yield func(object.Info, error) bool) {
		<-release
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}
