package turns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skaldlog/skald/internal/fault"
)

// TestQueueIsFair has one tenant with far too many tasks and one with a task now and then,
// in a world where only the queue takes time.
func TestQueueIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(4, 1000, LeavingRoom)
		work := func(tenant string, length time.Duration) time.Duration {
			began := time.Now()
			leave, err := q.Enter(t.Context(), tenant, Queries)
			if err != nil {
				t.Error(err)
				return 0
			}
			waited := time.Since(began)
			time.Sleep(length)
			leave()
			return waited
		}
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() { work("greedy", time.Second) })
		}
		for range 60 {
			time.Sleep(1500 * time.Millisecond)
			if waited := work("modest", 100*time.Millisecond); waited > 0 {
				t.Fatalf("the modest tenant waited %s", waited)
			}
		}
		waiting, held := q.Sizes()
		if waiting == 0 || held != 2 {
			t.Errorf("%d wait and %d run; one active tenant gets half of 4", waiting, held)
		}
		wg.Wait()
	})
}

// TestTurnsGoToWhoUsedLeast has no reserve: whoever used least is first in line.
func TestTurnsGoToWhoUsedLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(2, 1000, AnyNumber)
		var greedy atomic.Int64
		loop := func(tenant string, n int) {
			for range n {
				leave, err := q.Enter(t.Context(), tenant, Queries)
				if err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
				if tenant == "greedy" {
					greedy.Add(1)
				}
				leave()
			}
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { loop("greedy", 100) })
		}
		time.Sleep(5 * time.Second)
		began := time.Now()
		loop("modest", 50)
		if took := time.Since(began); took > 50*22*time.Millisecond {
			t.Errorf("50 turns of 10 ms took the modest tenant %s", took)
		}
		if greedy.Load() < 900 {
			t.Errorf("the greedy tenant was starved: %d turns", greedy.Load())
		}
		wg.Wait()
	})
}

// TestOneTurnIsLeft has a tenant take all turns while it is alone, and leave one to others
// from then on.
func TestOneTurnIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(4, 1000, LeavingOne)
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				for range 10 {
					if leave, err := q.Enter(t.Context(), "greedy", Queries); err == nil {
						time.Sleep(100 * time.Millisecond)
						leave()
					}
				}
			})
		}
		time.Sleep(time.Second)
		if _, held := q.Sizes(); held != 4 {
			t.Errorf("alone it holds %d of 4", held)
		}
		for n := range 5 {
			began := time.Now()
			leave, err := q.Enter(t.Context(), "modest", Queries)
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); n > 0 && waited > 0 {
				t.Errorf("the modest tenant waited %s", waited)
			}
			time.Sleep(10 * time.Millisecond)
			leave()
			time.Sleep(time.Second)
		}
		wg.Wait()
	})
}

func TestQueueIsBounded(t *testing.T) {
	q := New(1, 3, AnyNumber)
	leave, err := q.Enter(t.Context(), "a", Queries)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	for range 3 {
		go func() { _, err := q.Enter(ctx, "a", Queries); errs <- err }()
	}
	for n := 0; n < 3; n, _ = q.Sizes() {
		time.Sleep(time.Millisecond)
	}
	if _, err := q.Enter(t.Context(), "a", Queries); fault.Of(err) != fault.RateLimited || err.Error() != "too many outstanding requests" {
		t.Errorf("the fifth: %v", err)
	}
	cancel()
	for range 3 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	leave()
	if waiting, held := q.Sizes(); waiting != 0 || held != 0 {
		t.Errorf("%d wait, %d hold", waiting, held)
	}
	for i := range 3000 { // many tenants are forgotten again
		leave, err := q.Enter(t.Context(), fmt.Sprint(i), Queries)
		if err != nil {
			t.Fatal(err)
		}
		leave()
	}
	if n := len(q.mu.tenants); n > 1001 {
		t.Errorf("%d tenants are remembered", n)
	}
}

// TestKindsAlternate has a tenant's pushes and queries wait for one place.
func TestKindsAlternate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1, 1000, AnyNumber)
		leave, err := q.Enter(t.Context(), "a", Queries)
		if err != nil {
			t.Fatal(err)
		}
		var order []Kind // written by who has the place
		for _, kind := range []Kind{Queries, Queries, Queries, Queries, Pushes, Pushes} {
			go func() {
				leave, err := q.Enter(t.Context(), "a", kind)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, kind)
				leave()
			}()
			synctest.Wait()
		}
		leave()
		synctest.Wait()
		if want := []Kind{Pushes, Queries, Pushes, Queries, Queries, Queries}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
	})
}
