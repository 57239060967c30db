package flight

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestDoSharesOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		var calls, joins atomic.Int32
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				v, joined, err := g.Do(t.Context(), "k", func(context.Context) (int, error) {
					calls.Add(1)
					<-release
					return 7, nil
				})
				if v != 7 || err != nil {
					t.Errorf("got %d, %v", v, err)
				}
				if joined {
					joins.Add(1)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if calls.Load() != 1 || joins.Load() != 4 {
			t.Errorf("got %d calls and %d joins, want 1 and 4", calls.Load(), joins.Load())
		}
	})
}

func TestOneCallersCancelLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		release := make(chan struct{})
		fn := func(ctx context.Context) (int, error) {
			select {
			case <-release:
				return 7, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		first, cancelFirst := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := g.Do(first, "k", fn); !errors.Is(err, context.Canceled) {
				t.Errorf("first: got %v, want canceled", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if v, _, err := g.Do(t.Context(), "k", fn); v != 7 || err != nil {
				t.Errorf("second: got %d, %v", v, err)
			}
		})
		synctest.Wait()
		cancelFirst()
		synctest.Wait()
		close(release)
		wg.Wait()
	})
}

func TestLastCallerEndsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		_, _, err := g.Do(ctx, "k", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			close(ended)
			return 0, ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
		<-ended
		if v, joined, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 1, nil }); v != 1 || joined || err != nil {
			t.Errorf("afterwards: got %d, joined %v, %v", v, joined, err)
		}
	})
}
