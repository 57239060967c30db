// Package flight lets callers that want the same thing at the same time share one
// attempt to get it. Unlike x/sync/singleflight, the attempt belongs to all of them:
// one caller's cancellation only takes that caller away, and the attempt's context ends
// when the last one has gone. The object cache, the catalog and the storage reader use it.
package flight

import (
	"context"
	"sync"
)

// Group holds the attempts under way. Its zero value is ready to use.
type Group[K comparable, V any] struct {
	mu struct {
		sync.Mutex
		calls map[K]*call[V]
	}
}

type call[V any] struct {
	waiters int // guarded by Group.mu
	cancel  context.CancelFunc
	done    chan struct{}
	value   V
	err     error
}

// Do returns fn's result for key, calling fn in a goroutine of its own unless a call for
// key is under way. joined says that the call had been started by another. When ctx ends
// first Do returns its cause; fn is cancelled once nobody waits for it, and its result,
// if it still has one, is dropped: fn itself must own whatever needs closing.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(context.Context) (V, error)) (v V, joined bool, err error) {
	if err := ctx.Err(); err != nil {
		return v, false, context.Cause(ctx)
	}
	g.mu.Lock()
	c, joined := g.mu.calls[key]
	if !joined {
		callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		c = &call[V]{cancel: cancel, done: make(chan struct{})}
		if g.mu.calls == nil {
			g.mu.calls = make(map[K]*call[V])
		}
		g.mu.calls[key] = c
		go func() {
			defer cancel()
			c.value, c.err = fn(callCtx)
			g.forget(key, c)
			close(c.done)
		}()
	}
	c.waiters++
	g.mu.Unlock()

	select {
	case <-c.done:
		return c.value, joined, c.err
	case <-ctx.Done():
		g.leave(key, c)
		return v, joined, context.Cause(ctx)
	}
}

// leave takes one waiter away. The last one ends the call and frees the key, so that a
// newcomer starts afresh instead of joining a cancelled call.
func (g *Group[K, V]) leave(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.waiters--
	if c.waiters == 0 {
		c.cancel()
		if g.mu.calls[key] == c {
			delete(g.mu.calls, key)
		}
	}
}

func (g *Group[K, V]) forget(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.calls[key] == c {
		delete(g.mu.calls, key)
	}
}
