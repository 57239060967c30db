package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/rpc"
)

// TestFlood has clients send gRPC messages as large as they may be, and larger, to a server
// with little memory: at once or drop by drop, packed or not, and many at a time. It must stay
// inside that memory, and whoever else pushes must be taken or told to come back.
func TestFlood(t *testing.T) {
	if raceDetector && testing.Short() {
		t.Skip("with the race detector memory says nothing, and it takes long")
	}
	const container = 384 << 20
	senders, span := []int{16}, 3*time.Second
	if full() {
		senders, span = []int{4, 16, 64, 256}, 10*time.Second
	}
	for _, n := range senders {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", strconv.Itoa(container-64<<20)) // what -memory.limit-ratio makes of it
			addr := freeAddr(t)
			s := startServer(t, append([]string{"-grpc.listen=" + addr}, roomy...)...)
			began := time.Now()
			// The largest that is taken, and some that are not.
			messages := []rpc.RawMessage{floodPush(began, 25<<20), floodPush(began, 50<<20), floodPush(began, 90<<20)}
			f := flood{t: t, addr: addr, answers: map[string]int{}}
			ctx, cancel := context.WithTimeout(t.Context(), span)
			defer cancel()
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() { f.send(ctx, messages[max(0, i%8-5)], i%4 == 3, i%8 == 2) })
			}
			pushed := 0
			for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				pushed += f.push(t.Context(), began, pushed)
			}
			wg.Wait()
			f.stayed(s, container, pushed)
			for deadline := time.Now().Add(patience); f.push(t.Context(), began, pushed) == 0; {
				if time.Now().After(deadline) {
					t.Fatal("it does not recover")
				}
			}
			s.settled(`sum(count_over_time({job="honest"}[1h]))`, time.Now().Add(time.Second), pushed+honestLines)
		})
	}
}

// TestFloodOfReads has what looks like queriers open many reads with a small message, and then send
// messages as large as they may be: some drop by drop, some whole but without taking an answer.
// Both must stay inside the memory there is, beside an honest client.
func TestFloodOfReads(t *testing.T) {
	if raceDetector && testing.Short() {
		t.Skip("with the race detector memory says nothing, and it takes long")
	}
	const container, conns, reads, size, span = 384 << 20, 32, 16, 25 << 20, 6 * time.Second
	matcher := rpc.AppendString(rpc.AppendString(nil, 2, "job"), 3, "honest")
	request := rpc.RawMessage(rpc.AppendInt(rpc.AppendString(nil, 1, "fake"), 3, math.MaxInt64))
	request = rpc.AppendElement(request, 4, matcher)
	large := func(msg rpc.RawMessage, field rpc.Number, element int) rpc.RawMessage {
		for msg = slices.Clone(msg); len(msg)+element < size; {
			msg = rpc.AppendString(msg, field, make([]byte, element))
		}
		return msg
	}
	fetch := large(rpc.AppendUint(nil, 2, 1), 3, 1<<20) // times, and metadata of long names
	for name, attack := range map[string]readAttack{
		"slow":          {messages: []rpc.RawMessage{request, fetch}, options: []grpc.DialOption{grpc.WithContextDialer(dialSlow)}, takes: true},
		"at once":       {messages: []rpc.RawMessage{request, fetch, fetch, fetch, fetch}},
		"in turn":       {messages: []rpc.RawMessage{request, fetch, fetch, fetch, fetch}, turn: &sync.Mutex{}},
		"large request": {messages: []rpc.RawMessage{large(request, 7, 1<<20)}, turn: &sync.Mutex{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", strconv.Itoa(container-64<<20))
			m := newCluster(t, nil, []int{1}, "-replication.factor=1").start("alone", 1)
			m.cluster.ready(m)
			f := flood{t: t, addr: m.ip + ":9095", answers: map[string]int{}}
			began := time.Now()
			pushed := f.push(t.Context(), began, 0)
			ctx, cancel := context.WithTimeout(t.Context(), span)
			defer cancel()
			var wg sync.WaitGroup
			for range conns {
				conn := f.dial(attack.options...)
				for range reads {
					wg.Go(func() { f.read(ctx, conn, attack) })
				}
			}
			late := 0 // lines taken once all reads hold what they can
			for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				n := f.push(t.Context(), began, pushed)
				if pushed += n; time.Since(began) > span/2 {
					late += n
				}
			}
			wg.Wait()
			if late == 0 {
				t.Errorf("reads that stay open keep an honest client out: %v", f.honest)
			}
			f.stayed(m.server, container, pushed)
			m.settled(`sum(count_over_time({job="honest"}[1h]))`, time.Now().Add(time.Second), pushed)
		})
	}
}

// readAttack is what the reads of a flood send.
type readAttack struct {
	messages []rpc.RawMessage // of each
	options  []grpc.DialOption
	takes    bool        // answers
	turn     *sync.Mutex // one sends at a time; nil: all do
}

// read opens reads until the end.
func (f *flood) read(ctx context.Context, conn *grpc.ClientConn, attack readAttack) {
	send := func() (call grpc.ClientStream, err error) {
		if attack.turn != nil {
			attack.turn.Lock()
			defer attack.turn.Unlock()
		}
		call, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/skald.Ingester/Select")
		for i := 0; err == nil && i < len(attack.messages); i++ {
			err = call.SendMsg(&attack.messages[i])
			if err == nil && attack.turn != nil {
				var answer rpc.RawMessage
				err = call.RecvMsg(&answer) // so it has come
			}
		}
		return call, err
	}
	for ctx.Err() == nil {
		call, err := send()
		if err == nil && !attack.takes {
			<-ctx.Done()
		}
		if err == nil || errors.Is(err, io.EOF) { // the reason comes last
			var answer rpc.RawMessage
			for err = nil; err == nil; err = call.RecvMsg(&answer) {
			}
		}
		f.mu.Lock()
		f.answers[status.Code(err).String()]++
		f.mu.Unlock()
	}
}

// TestIdleConnections opens more connections than there may be: some say nothing, some begin a
// request and do not end it. They must give way to those that have something to say.
func TestIdleConnections(t *testing.T) {
	const container = 384 << 20
	t.Setenv("GOMEMLIMIT", strconv.Itoa(container-64<<20))
	addr := freeAddr(t)
	s := startServer(t, append([]string{"-grpc.listen=" + addr}, roomy...)...)
	f := flood{t: t, addr: addr}
	began, pushed := time.Now(), 0
	open := func(addr, hello string) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, hello) // the server may have closed it
	}
	for i := range size(3000, 3000, 12_000) {
		switch i % 4 {
		case 0:
			open(s.addr, "")
		case 1:
			open(s.addr, "POST /loki/api/v1/push HTTP/1.1\r\nHost: skald\r\nX-Slow: "+strings.Repeat("x", 3000))
		case 2:
			open(addr, "")
		case 3:
			open(addr, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		}
		if i%100 == 0 {
			s.mustPush(numbered("idle", began.UnixNano(), pushed, pushed+honestLines))
			if f.push(t.Context(), began, pushed) == 0 {
				t.Fatalf("beside %d connections a push is refused: %v", i, f.honest)
			}
			pushed += honestLines
		}
	}
	requests, calls := s.metric("skald_http_connections", ""), s.metric("skald_grpc_connections", "")
	_, peak, program := s.memory()
	t.Logf("%v connections for HTTP and %v for gRPC are open; resident at most %d MB", requests, calls, (peak-program)>>20)
	eventually(t, "all connections are open or gave way", func() bool { // the last may not have been let in yet
		gaveWay := s.metric("skald_http_closed_connections_total", "idle") + s.metric("skald_grpc_closed_connections_total", "idle")
		left := s.metric("skald_http_connections", "") + s.metric("skald_grpc_connections", "")
		return gaveWay > 0 && gaveWay+left >= float64(size(3000, 3000, 12_000))
	})
	if peak-program > container && !raceDetector {
		t.Errorf("at most %d MB besides the program were resident, the container has %d", (peak-program)>>20, container>>20)
	}
	s.settled(`sum(count_over_time({job=~"honest|numbers"}[1h]))`, time.Now().Add(time.Second), 2*pushed)
}

type flood struct {
	t       *testing.T
	addr    string
	once    sync.Once
	conn    *grpc.ClientConn // of the honest client
	honest  map[string]int   // refusals
	mu      sync.Mutex
	answers map[string]int // of the others
}

// stayed checks that a server is there and was always inside its container.
func (f *flood) stayed(s *server, container int64, pushed int) {
	f.t.Helper()
	_, peak, program := s.memory()
	peak -= program
	f.t.Logf("%d lines of an honest client; it was told %v; the others %v; resident at most %d of %d MB", pushed, f.honest, f.answers, peak>>20, container>>20)
	if peak > container && !raceDetector {
		f.t.Errorf("at most %d MB besides the program were resident, the container has %d", peak>>20, container>>20)
	}
	if !s.alive() {
		f.t.Fatalf("the server ended: %v", s.err)
	}
}

func (f *flood) dial(options ...grpc.DialOption) *grpc.ClientConn {
	conn, err := grpc.NewClient(f.addr, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec())))...)
	if err != nil {
		f.t.Error(err)
		return nil
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

const pushMethod = "/logproto.Pusher/Push"

// send sends a message again and again.
func (f *flood) send(ctx context.Context, msg rpc.RawMessage, slow, packed bool) {
	var options []grpc.DialOption
	if slow {
		options = append(options, grpc.WithContextDialer(dialSlow))
	}
	var calls []grpc.CallOption
	if packed {
		calls = append(calls, grpc.UseCompressor(gzip.Name))
	}
	conn := f.dial(options...)
	for ctx.Err() == nil {
		var answer rpc.RawMessage
		err := conn.Invoke(ctx, pushMethod, &msg, &answer, calls...)
		f.mu.Lock()
		f.answers[status.Code(err).String()]++
		f.mu.Unlock()
	}
}

const honestLines = 20

// push sends what an honest client has, and returns how many lines were taken.
func (f *flood) push(ctx context.Context, began time.Time, from int) int {
	f.once.Do(func() { f.conn, f.honest = f.dial(), map[string]int{} })
	var body []byte
	for n := from; n < from+honestLines; n++ {
		body = appendEntry(body, began.Add(time.Duration(n)*time.Microsecond), fmt.Sprintf("honest n=%d", n))
	}
	msg, answer := pushOf(`{job="honest"}`, body), rpc.RawMessage(nil)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch err := f.conn.Invoke(ctx, pushMethod, &msg, &answer); status.Code(err) {
	case codes.OK:
		return honestLines
	case codes.Unavailable, codes.ResourceExhausted:
		f.honest[status.Code(err).String()]++
	default:
		f.t.Errorf("an honest push: %v", err)
	}
	return 0
}

// floodPush is a push of so many bytes.
func floodPush(began time.Time, size int) rpc.RawMessage {
	body := make([]byte, 0, size)
	for n := 0; len(body) < size-400; n++ {
		body = appendEntry(body, began.Add(time.Duration(n)), fmt.Sprintf("level=info n=%d hash=%x caller=handler.go:112 msg=\"request served\" method=GET path=/api/v1/items", n, uint64(n)*0x9e3779b97f4a7c15))
	}
	return pushOf(`{job="flood"}`, body)
}

// pushOf is a logproto.PushRequest with one stream.
func pushOf(labels string, entries []byte) rpc.RawMessage {
	stream := append(rpc.AppendString(nil, 1, labels), entries...)
	return rpc.AppendElement(nil, 1, stream)
}

func appendEntry(dst []byte, at time.Time, line string) []byte {
	stamp := rpc.AppendUint(rpc.AppendUint(nil, 1, uint64(at.Unix())), 2, uint64(at.Nanosecond()))
	entry := rpc.AppendString(rpc.AppendElement(nil, 1, stamp), 2, line)
	return protowire.AppendBytes(protowire.AppendTag(dst, 2, protowire.BytesType), entry)
}

// slowConn sends four megabytes a second.
type slowConn struct{ net.Conn }

func dialSlow(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	return slowConn{conn}, err
}

func (c slowConn) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Second / (4 << 20))
	return c.Conn.Write(p)
}
