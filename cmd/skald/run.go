package main

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"
)

// running is a part of the node at work.
type running struct {
	stop context.CancelFunc
	done chan struct{}
	err  error // valid when done is closed
}

// start runs a part in a context of its own, since the parts end one after the other.
func start(run func(context.Context) error) *running {
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = ignoreCanceled(run(ctx))
	}()
	return r
}

// end stops parts, all at once, and waits for them.
func end(parts ...*running) {
	for _, r := range parts {
		r.stop()
	}
	for _, r := range parts {
		<-r.done
	}
}

// run serves until ctx ends, or until a part without which the others are of no use does.
// Of the end, each step says who must still be there.
func (n *node) run(ctx context.Context) error {
	var all []*running
	begin := func(wanted bool, run func(context.Context) error) *running {
		if !wanted {
			run = func(ctx context.Context) error { <-ctx.Done(); return nil }
		}
		r := start(run)
		all = append(all, r)
		return r
	}
	// 1. What all others need.
	overrides := begin(true, func(ctx context.Context) error { return n.overrides.Run(ctx) })
	credentials := begin(n.credentials != nil, func(ctx context.Context) error { return n.credentials.Run(ctx) })
	memory := begin(true, freeMemory)
	cache := begin(n.cache != nil, func(ctx context.Context) error { return n.cache.Run(ctx) })
	// 2. The roles, the ring around them, and the doors.
	ing := begin(n.ingester != nil, func(ctx context.Context) error { return n.ingester.Run(ctx) })
	members := begin(n.members != nil, func(ctx context.Context) error { return n.members.Run(ctx) })
	replicator := begin(n.replicator != nil, func(ctx context.Context) error { return n.replicator.Run(ctx) })
	compactor := begin(n.compactor != nil, func(ctx context.Context) error { return n.compactor.Run(ctx) })
	upload := begin(n.ingester != nil, n.uploadWhenLeaving)
	losses := begin(n.ingester != nil && n.members != nil, n.answerLosses)
	follow := begin(n.pool != nil, n.followRing)
	doors := begin(true, func(ctx context.Context) error { return n.http.Run(ctx) })
	calls := begin(n.grpc != nil, func(ctx context.Context) error { return n.grpc.Run(ctx) })
	pages := begin(true, func(ctx context.Context) error { keepProgramSmall(ctx, programPagesAfter); return nil })
	// 3. Ready for the others.
	enter := begin(n.members != nil, n.enter)

	// The end may take minutes, so its reason is told now.
	broken := func(part string, r *running) {
		n.logger.Error("skald is stopping, because a part of it has ended", "part", part, "err", r.err)
	}
	select {
	case <-ctx.Done():
		n.logger.Info("skald is stopping: requests in flight are finished, then what is in memory is made durable")
	case <-ing.done:
		broken("ingester", ing)
	case <-members.done:
		broken("ring", members)
	case <-doors.done:
		broken("HTTP server", doors)
	case <-calls.done:
		broken("gRPC server", calls)
	}
	// 1. No new requests, and those in flight are finished; meanwhile an ingester uploads,
	// and answers others until they know that they need not ask.
	end(enter, compactor, upload, losses)
	var wg sync.WaitGroup
	wg.Go(func() { end(doors) })
	wg.Go(n.leave)
	wg.Wait()
	// 2. Copies on their way to other ingesters arrive.
	end(replicator)
	// 3. Nobody calls any more; the ingester makes durable what it could not upload, and ends
	// its tails, without which calls would not end.
	end(calls, ing)
	end(members, follow)
	if n.pool != nil {
		n.pool.Close()
	}
	end(overrides, credentials, memory, cache, pages)

	var errs []error
	for _, r := range all {
		errs = append(errs, r.err)
	}
	return errors.Join(errs...)
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// freeMemory gives memory back to the system after a burst, which the runtime alone does
// only slowly, so that an idle server is small.
func freeMemory(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			debug.FreeOSMemory()
		}
	}
}
