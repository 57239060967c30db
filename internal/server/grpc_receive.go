package server

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/skaldlog/skald/internal/rpc"
)

// gRPC reads a message wholly before the handler can count it in a budget, and does not say
// how long it is going to be. So the calls with a message on its way are listed here. Pushes
// are refused before they are read while memory is short; those being read then are ended,
// oldest first, since who sends slowly or sends much is found there; and each has a time to be
// received in.
//
// A call that takes several messages is listed while one of them comes, from its header on.
//
// What such calls hold is bounded at every moment, since a fast sender needs no time for more
// than there is. gRPC tells the bytes of a connection but not those of a call: what came over a
// connection since the oldest such call on it began is at least what all such calls on it hold.

const (
	// maxStreams is how many calls one connection may have under way. A member's connection
	// carries the pushes, reads and tails of another one.
	maxStreams = 4096
	// maxReceiving is how many calls may be sending their message at a time, over all connections.
	maxReceiving = 16384
	// watchEvery is how often memory and times are looked at while calls are being received.
	watchEvery = 20 * time.Millisecond
	// countEvery is after how many bytes what is held is counted anew.
	countEvery = 1 << 20
)

var errReceiving = status.New(codes.Unavailable, "the message did not come in time, or messages being received take too much memory, try again later")

// receiving are the calls with a message on its way.
type receiving struct {
	most       int64         // bytes of them; 0 is any number
	largest    uint32        // message, in bytes
	timeout    time.Duration // 0 is any
	overloaded func() error
	ended      prometheus.Counter
	uncounted  atomic.Int64 // bytes that have come since the last count
	mu         struct {
		sync.Mutex
		calls *list.List // of *receivedCall, oldest first
		count uint64     // of counts
	}
}

type receivedCall struct {
	began  time.Time
	cancel context.CancelFunc
	stream transportStream // nil until somebody receives
	place  *list.Element
	conn   *countedConn
	from   int64 // of what has come over conn
}

// transportStream is what gRPC's streams are besides.
type transportStream interface {
	// WriteStatus answers. A call whose context ends is answered with CANCELED, which tells a
	// client nothing; gRPC writes that before whoever receives sees an error, so no error
	// returned to it comes in its place.
	WriteStatus(*status.Status) error
	// ReadMessageHeader and Read wait for bytes. gRPC's RecvMsg calls them one after the other,
	// so that nobody learns when a message has begun.
	ReadMessageHeader([]byte) error
	Read(n int) (mem.BufferSlice, error)
}

type receivedKey struct{}

func newReceiving(cfg GRPCConfig, reg prometheus.Registerer) *receiving {
	r := &receiving{most: cfg.MaxReceiving, largest: uint32(min(cfg.MaxMessage, math.MaxInt32)), timeout: cfg.ReceiveTimeout, overloaded: cfg.Overloaded}
	if r.overloaded == nil {
		r.overloaded = func() error { return nil }
	}
	r.mu.calls = list.New()
	r.ended = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "skald_grpc_ended_messages_total", Help: "gRPC calls ended while their message was being received: memory was short, or they took too long.",
	})
	reg.MustRegister(r.ended, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "skald_grpc_receiving_bytes", Help: "At most so many bytes of gRPC messages being received are in memory.",
	}, func() float64 { return float64(r.now()) }))
	return r
}

// now is what all calls hold at most.
func (r *receiving) now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	held, _ := r.held()
	return held
}

// begin is asked when a call's headers are there, before its message is read.
func (r *receiving) begin(ctx context.Context, info *tap.Info) (context.Context, error) {
	if strings.HasSuffix(info.FullMethodName, "/Push") {
		if err := r.overloaded(); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	from, _ := peer.FromContext(ctx)
	conn := from.Addr.(countedAddr).conn // the doorman lets in no other
	c := &receivedCall{conn: conn}
	ctx, c.cancel = context.WithCancel(context.WithValue(ctx, receivedKey{}, c))
	if err := r.list(c); err != nil {
		c.cancel()
		return nil, err
	}
	conn.call(1)
	context.AfterFunc(ctx, func() {
		r.remove(c)
		conn.call(-1)
	})
	return ctx, nil
}

// list adds a call with a message on its way.
func (r *receiving) list(c *receivedCall) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.calls.Len() >= maxReceiving {
		return status.Errorf(codes.Unavailable, "%d calls are sending their message already, try again later", maxReceiving)
	}
	c.began, c.from = time.Now(), c.conn.read.Load()
	c.place = r.mu.calls.PushBack(c)
	return nil
}

// first receives a call's first message.
func (r *receiving) first(ctx context.Context, receive func() error) error {
	c, ok := ctx.Value(receivedKey{}).(*receivedCall)
	if !ok {
		return receive()
	}
	r.mu.Lock()
	ended := c.place == nil
	c.stream, _ = grpc.ServerTransportStreamFromContext(ctx).(transportStream)
	r.mu.Unlock()
	if ended {
		return errReceiving.Err()
	}
	defer r.remove(c)
	return receive()
}

// next receives a message after the first, which may begin at any time. It does what gRPC's
// RecvMsg does, and its errors have been answered, too.
func (r *receiving) next(ctx context.Context, msg any) error {
	c, ok := ctx.Value(receivedKey{}).(*receivedCall)
	if !ok || c.stream == nil {
		return status.Error(codes.Internal, "this version of gRPC does not tell when a message begins")
	}
	data, err := r.data(c)
	if err == nil {
		defer data.Free()
		err = rpc.Codec().Unmarshal(data, msg)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		_ = c.stream.WriteStatus(status.Convert(err)) // nobody may be there
	}
	return err
}

func (r *receiving) data(c *receivedCall) (mem.BufferSlice, error) {
	var header [5]byte // whether it is compressed, and its length
	if err := c.stream.ReadMessageHeader(header[:]); err != nil {
		return nil, err
	}
	if header[0] != 0 {
		return nil, status.Error(codes.Unimplemented, "only the first message of a call may be compressed")
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > r.largest {
		return nil, status.Errorf(codes.ResourceExhausted, "a message of %d bytes, at most %d are taken", length, r.largest)
	}
	if err := r.list(c); err != nil {
		return nil, err
	}
	defer r.remove(c)
	data, err := c.stream.Read(int(length))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

func (r *receiving) remove(c *receivedCall) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(c)
}

// drop takes a call off the list; called with mu held.
func (r *receiving) drop(c *receivedCall) {
	if c.place != nil {
		r.mu.calls.Remove(c.place)
		c.place = nil
	}
}

// end ends a call; called with mu held.
func (r *receiving) end(c *receivedCall) {
	r.drop(c)
	r.ended.Inc()
	if c.stream == nil {
		return // nobody has begun to receive, and will not
	}
	_ = c.stream.WriteStatus(errReceiving) // nobody may be there
	c.cancel()
}

// methodHandler is what a grpc.MethodDesc has.
type methodHandler = func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error)

func (r *receiving) unary(next methodHandler) methodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		receive := func(msg any) error { return r.first(ctx, func() error { return decode(msg) }) }
		return next(srv, ctx, receive, intercept)
	}
}

func (r *receiving) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, &receivedStream{ServerStream: stream, incoming: r})
}

// receivedStream is a stream whose messages are listed.
type receivedStream struct {
	grpc.ServerStream
	incoming *receiving
	begun    bool
}

// RecvMsg receives a message.
func (s *receivedStream) RecvMsg(msg any) error {
	if s.begun {
		return s.incoming.next(s.Context(), msg)
	}
	s.begun = true
	return s.incoming.first(s.Context(), func() error { return s.ServerStream.RecvMsg(msg) })
}

// came notes that bytes have come over a connection. While there are too many, nobody's are read.
func (r *receiving) came(n int) {
	if r.most <= 0 || r.uncounted.Add(int64(n)) < countEvery {
		return
	}
	r.uncounted.Store(0)
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		held, worst := r.held()
		if held <= r.most || worst == nil {
			return
		}
		r.end(worst)
	}
}

// held returns the bytes that all calls may hold, and the one that may hold most; called with
// mu held.
func (r *receiving) held() (sum int64, worst *receivedCall) {
	r.mu.count++
	var most int64
	for e := r.mu.calls.Front(); e != nil; e = e.Next() {
		c := e.Value.(*receivedCall)
		if c.conn.count == r.mu.count {
			continue // an older one of its connection stands for it
		}
		c.conn.count = r.mu.count
		n := c.conn.read.Load() - c.from
		if sum += n; n > most {
			worst, most = c, n
		}
	}
	return sum, worst
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
		r.end(c)
	}
}
