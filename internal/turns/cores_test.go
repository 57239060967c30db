package turns

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestDo checks what comes back from a turn, wherever the work was done.
func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, used := range map[string]time.Duration{"at once": 0, "behind": 2 * spared * time.Second} {
			c := NewCores(1)
			if err := c.Do(t.Context(), "a", Queries, func() error { time.Sleep(used); return nil }); err != nil {
				t.Fatal(err)
			}
			want := errors.New("the work's")
			if err := c.Do(t.Context(), "a", Queries, func() error { return want }); err != want {
				t.Errorf("%s: got %v", name, err)
			}
			func() {
				defer func() {
					if p := recover(); p == nil || used > 0 && !strings.Contains(p.(error).Error(), "cores_test.go") {
						t.Errorf("%s: the panic came as %v, want it with where it happened", name, p)
					}
				}()
				_ = c.Do(t.Context(), "a", Queries, func() error { panic("oh") })
			}()
			if waiting, held := c.Sizes(); waiting != 0 || held != 0 {
				t.Errorf("%s: %d wait and %d have a turn after a panic", name, waiting, held)
			}
			ctx, cancel := context.WithCancel(t.Context())
			_ = c.Do(t.Context(), "a", Queries, func() error {
				cancel()
				if err := c.Do(ctx, "b", Queries, func() error { t.Error("it had no turn"); return nil }); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: got %v", name, err)
				}
				return nil
			})
			time.Sleep(2 * lingers) // threads end
		}
	})
}

// TestThreadsAreFew has more work than turns, one after the other and at once.
func TestThreadsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const turns = 3
		c := NewCores(turns)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 10 {
					if err := c.Do(t.Context(), "a", Queries, func() error { time.Sleep(time.Second); return nil }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		idle := func() int {
			c.back.mu.Lock()
			defer c.back.mu.Unlock()
			return len(c.back.mu.idle)
		}
		if n := idle(); n < 1 || n > turns {
			t.Errorf("%d threads are left of %d turns", n, turns)
		}
		time.Sleep(2 * lingers)
		if n := idle(); n != 0 {
			t.Errorf("%d threads are left when there was nothing to do for %s", n, 2*lingers)
		}
	})
}

// BenchmarkDo is what a turn costs, on the caller's thread and on one that is behind.
func BenchmarkDo(b *testing.B) {
	for name, used := range map[string]float64{"at once": 0, "behind": 1e9} {
		b.Run(name, func(b *testing.B) {
			c := NewCores(2)
			c.turns.share("a").usage = used
			for b.Loop() {
				_ = c.Do(b.Context(), "a", Queries, func() error { return nil })
			}
		})
	}
}
