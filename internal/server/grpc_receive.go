package server

import (
	"container/list"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// gRPC reads a message wholly before the handler can count it in a budget, and does not say
// how long it is going to be. So the calls whose message is on its way are listed here. Pushes
// are refused before they are read while memory is short; those being read then are ended,
// oldest first, since who sends slowly or sends much is found there; and each has a time to be
// received in.

const (
	// maxStreams is how many calls one connection may have under way. A member's connection
	// carries the pushes, reads and tails of another one.
	maxStreams = 4096
	// maxReceiving is how many calls may be sending their message at a time, over all connections.
	maxReceiving = 16384
	// watchEvery is how often memory and times are looked at while calls are being received.
	watchEvery = 20 * time.Millisecond
)

var errReceiving = errors.New("the message was not received in time, or memory ran short")

// receiving are the calls whose first message is on its way.
type receiving struct {
	timeout    time.Duration // 0 is any
	overloaded func() error
	mu         struct {
		sync.Mutex
		calls *list.List // of *receivedCall, oldest first
	}
}

type receivedCall struct {
	began  time.Time
	cancel context.CancelCauseFunc
	forget func() bool // takes back that the call's end removes it
	place  *list.Element
}

type receivedKey struct{}

func newReceiving(cfg GRPCConfig) *receiving {
	r := &receiving{timeout: cfg.ReceiveTimeout, overloaded: cfg.Overloaded}
	if r.overloaded == nil {
		r.overloaded = func() error { return nil }
	}
	r.mu.calls = list.New()
	return r
}

// begin is asked when a call's headers are there, before its message is read.
func (r *receiving) begin(ctx context.Context, info *tap.Info) (context.Context, error) {
	if strings.HasSuffix(info.FullMethodName, "/Push") {
		if err := r.overloaded(); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	c := &receivedCall{began: time.Now()}
	ctx, c.cancel = context.WithCancelCause(context.WithValue(ctx, receivedKey{}, c))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.calls.Len() >= maxReceiving {
		c.cancel(nil)
		return nil, status.Errorf(codes.Unavailable, "%d calls are sending their message already, try again later", maxReceiving)
	}
	c.place = r.mu.calls.PushBack(c)
	c.forget = context.AfterFunc(ctx, func() { r.remove(c) })
	return ctx, nil
}

// done notes that a call's message is there; for a stream, that it has begun.
func (r *receiving) done(ctx context.Context) {
	if c, ok := ctx.Value(receivedKey{}).(*receivedCall); ok {
		c.forget()
		r.remove(c)
	}
}

func (r *receiving) remove(c *receivedCall) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.place != nil {
		r.mu.calls.Remove(c.place)
		c.place = nil
	}
}

func (r *receiving) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	r.done(ctx)
	return next(ctx, req)
}

func (r *receiving) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	r.done(stream.Context())
	return next(srv, stream)
}

// watch ends calls until ctx ends.
func (r *receiving) watch(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			r.cut(now)
		}
	}
}

// cut ends calls that take too long, and while memory is short the older half of all.
func (r *receiving) cut(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.mu.calls.Len()
	if n == 0 {
		return
	}
	most := 0
	if r.overloaded() != nil {
		most = (n + 1) / 2
	}
	for e := r.mu.calls.Front(); e != nil; {
		c := e.Value.(*receivedCall)
		if most <= 0 && (r.timeout <= 0 || now.Sub(c.began) <= r.timeout) {
			return
		}
		most--
		e = e.Next()
		r.mu.calls.Remove(c.place)
		c.place = nil
		c.cancel(errReceiving)
	}
}
