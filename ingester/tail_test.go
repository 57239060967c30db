package ingester

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

func (r *rig) tail(name model.Tenant, app string) model.Tail {
	r.t.Helper()
	t, err := r.Tail(context.Background(), name, []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "app", app)})
	r.must(err)
	return t
}

func next(t *testing.T, tail model.Tail) model.TailBatch {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := tail.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTail(t *testing.T) {
	r := newRig(t)
	r.push("t", logs("a", entry(day0, "before the tail")))
	ab, b := r.tail("t", "a|b"), r.tail("t", "b")
	other := r.tail("u", ".*")
	batch := []model.Stream{logs("a", entry(day0, "1"), entry(day0-5, "2", "k", "v")), logs("c", entry(day0, "3")), logs("b", entry(day0, "4"))}
	r.push("t", batch...)
	copy(batch[0].Entries[0].Line, "overwritten") // the push is over, its memory is used again
	f := func(name string, tail model.Tail, want ...model.Stream) {
		t.Helper()
		if diff := cmp.Diff(rendered(want...), rendered(next(t, tail).Streams...)); diff != "" {
			t.Errorf("%s: entries differ (-want +got):\n%s", name, diff)
		}
	}
	f("a or b", ab, logs("a", entry(day0, "1"), entry(day0-5, "2", "k", "v")), logs("b", entry(day0, "4")))
	f("b", b, logs("b", entry(day0, "4")))
	// Streams that are known match new tails too.
	late := r.tail("t", "c")
	r.push("t", logs("c", entry(day0, "5")))
	f("a tail of a known stream", late, logs("c", entry(day0, "5")))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := other.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("another tenant's tail: got %v, want nothing but the end of the context", err)
	}
	b.Close()
	b.Close()
	if _, err := b.Next(context.Background()); !errors.Is(err, ErrTailClosed) {
		t.Errorf("got %v, want ErrTailClosed", err)
	}
	r.must(r.Close())
	if _, err := ab.Next(context.Background()); !errors.Is(err, ErrTailClosed) {
		t.Errorf("the ingester stopped: got %v, want ErrTailClosed", err)
	}
}

// A reader that does not read costs a bounded buffer and no push; it learns what it missed.
func TestSlowTail(t *testing.T) {
	r := newRig(t)
	tail := r.tail("t", ".*")
	line := strings.Repeat("x", 64<<10)
	const pushed = 1200
	for n := range pushed {
		r.push("t", logs("a", entry(day0+int64(n), line[:len(line)-n])))
	}
	b := next(t, tail)
	got := 0
	for _, s := range b.Streams {
		got += len(s.Entries)
	}
	if got == 0 || got > tailBytes/(len(line)-pushed) {
		t.Errorf("%d entries were buffered", got)
	}
	if len(b.Dropped) != tailDropped || got+len(b.Dropped)+b.DroppedMore != pushed {
		t.Errorf("%d delivered, %d dropped by name, %d more, want %d in all", got, len(b.Dropped), b.DroppedMore, pushed)
	}
	if want := (model.Dropped{Timestamp: day0 + int64(got), Labels: labels.FromStrings("app", "a")}); !cmp.Equal(fmt.Sprint(want), fmt.Sprint(b.Dropped[0])) {
		t.Errorf("first dropped: got %v, want %v", b.Dropped[0], want)
	}
	r.push("t", logs("a", entry(day0, "again")))
	if b := next(t, tail); len(b.Streams) != 1 || len(b.Dropped) != 0 {
		t.Errorf("after reading: got %v, want the next entry alone", b)
	}
}
