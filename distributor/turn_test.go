package distributor

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/busy"
	"github.com/skaldlog/skald/internal/turns"
)

// pusherOf is a Pusher that is a function.
type pusherOf func()

func (f pusherOf) Push(context.Context, model.Tenant, []model.Stream) error { f(); return nil }

// TestLargePushesTakeTurns has all turns taken: a small push goes on, a large one waits. It
// has none any more when the next hop has it.
func TestLargePushesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t, "")
		q := turns.NewCores(1)
		k.cfg.Turns = q
		small := at(`{"app":"x"}`, `["NOW","info"]`)
		large := at(`{"app":"x"}`, strings.Repeat(`["NOW","info"],`, turnBytes/16)+`["NOW","info"]`)
		k.next = pusherOf(func() {
			if _, held := q.Sizes(); held != 0 {
				t.Error("a push that is stored keeps its turn")
			}
		})
		if status, text := k.post(large); status != http.StatusNoContent {
			t.Fatalf("%d %s", status, text)
		}
		leave := busy.Turn(t, q)
		var done atomic.Bool
		k.next = pusherOf(func() {})
		go func() {
			if status, text := k.post(large); status != http.StatusNoContent {
				t.Errorf("%d %s", status, text)
			}
			done.Store(true)
		}()
		synctest.Wait()
		if status, text := k.post(small); status != http.StatusNoContent {
			t.Errorf("the small push: %d %s", status, text)
		}
		if done.Load() {
			t.Error("the large push had no turn")
		}
		leave()
		synctest.Wait()
		if !done.Load() {
			t.Error("the large push waits although nobody has a turn")
		}
		if waiting, held := q.Sizes(); waiting != 0 || held != 0 {
			t.Errorf("%d wait for a turn and %d have one when all is done", waiting, held)
		}
	})
}

// TestTenantGetsHalfOfTheMemory has one tenant's pushes take what they may: all while no
// other pushes, and half from then on.
func TestTenantGetsHalfOfTheMemory(t *testing.T) {
	clock := now
	b := &budget{max: 100}
	var greedy, modest atomic.Int64
	of := func(own *atomic.Int64) *share {
		return &share{of: b, own: own, now: func() time.Time { return clock }}
	}
	first, second, other := of(&greedy), of(&greedy), of(&modest)
	for i, step := range []struct {
		s    *share
		n    int64 // to reserve; 0 gives all back
		pass time.Duration
		want fault.Kind // Internal: none
	}{
		{s: first, n: 60}, // alone
		{s: second, n: 40},
		{s: other, n: 10, want: fault.Unavailable}, // nothing is taken back
		{s: second},
		{s: other, n: 10},
		{s: second, n: 1, want: fault.Unavailable}, // it is not alone any more
		{s: other, n: 30},
		{s: other, n: 1, want: fault.Unavailable},
		{s: other, n: 100, want: fault.TooLarge},
		{s: other},
		{s: second, n: 1, want: fault.Unavailable},
		{s: second, n: 40, pass: sharedFor}, // the other has gone
	} {
		clock = clock.Add(step.pass)
		if step.n == 0 {
			step.s.release()
			continue
		}
		if err := step.s.reserve(step.n); err == nil != (step.want == fault.Internal) || err != nil && fault.Of(err) != step.want {
			t.Errorf("step %d: reserving %d of %d: %v", i, step.n, b.max-b.used.Load(), err)
		}
	}
	first.release()
	second.release()
	other.release()
	if b.used.Load() != 0 || greedy.Load() != 0 || modest.Load() != 0 {
		t.Errorf("in the end %d are reserved, %d and %d of them for the tenants", b.used.Load(), greedy.Load(), modest.Load())
	}
}

// TestLargePushesAreEncodedInTurns does the same with a replicator.
func TestLargePushesAreEncodedInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := turns.NewCores(1)
		w := newWorld(t, 3, 3, func(c *ReplicatorConfig, _ *Cluster) { c.Turns = q })
		defer w.end(t)
		leave := busy.Turn(t, q)
		done := make(chan error, 1)
		go func() { done <- w.Push(t.Context(), "t", someStreams(turnBytes/16, 0)) }()
		synctest.Wait()
		if err := w.Push(t.Context(), "t", someStreams(5, 1)); err != nil {
			t.Errorf("the small push: %v", err)
		}
		select {
		case err := <-done:
			t.Fatalf("the large push had no turn: %v", err)
		default:
		}
		leave()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, held := q.Sizes(); held != 0 {
			t.Error("a push that is stored keeps its turn")
		}
	})
}
