package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/rpc"
)

func pushServer(t *testing.T, cfg GRPCConfig) *GRPC {
	t.Helper()
	cfg.Listen, cfg.Grace = "127.0.0.1:0", time.Second
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = 100 << 20
	}
	g, err := NewGRPC(cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	handler := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		var msg rpc.RawMessage
		if err := decode(&msg); err != nil {
			return nil, err
		}
		return intercept(ctx, &msg, &grpc.UnaryServerInfo{FullMethod: "/test/Push"}, func(context.Context, any) (any, error) {
			return &rpc.RawMessage{1}, nil
		})
	}
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "test", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Push", Handler: handler}},
		Streams: []grpc.StreamDesc{{StreamName: "Echo", Handler: echo, ClientStreams: true, ServerStreams: true}}}, g)
	run(t, g.Run)
	return g
}

// echo answers each message with its length.
func echo(_ any, stream grpc.ServerStream) error {
	for {
		var msg rpc.RawMessage
		if err := stream.RecvMsg(&msg); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		answer := rpc.RawMessage(strconv.Itoa(len(msg)))
		if err := stream.SendMsg(&answer); err != nil {
			return err
		}
	}
}

// stall begins to send a message of 50 MB and stops. It returns what waits for the end of the
// call, by a reset or by trailers.
func stall(t *testing.T, addr string) (wait func() error) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var block bytes.Buffer
	h := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/test/Push"}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := h.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	prefix := binary.BigEndian.AppendUint32([]byte{0}, 50<<20)
	_, err = io.WriteString(conn, http2.ClientPreface)
	for _, step := range []func() error{
		func() error { return framer.WriteSettings() },
		func() error {
			return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
		},
		func() error { return framer.WriteData(1, false, append(prefix, make([]byte, 1000)...)) },
	} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() error {
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return err
			}
			switch f := frame.(type) {
			case *http2.RSTStreamFrame:
				return nil
			case *http2.HeadersFrame:
				if f.StreamEnded() {
					return nil
				}
			}
		}
	}
}

// While memory is short, who is sending a message is ended, and pushes are refused before they
// are read; afterwards all is as before.
func TestGRPCMessagesWhileMemoryIsShort(t *testing.T) {
	var short atomic.Bool
	g := pushServer(t, GRPCConfig{Overloaded: func() error {
		if short.Load() {
			return errors.New("short of memory")
		}
		return nil
	}})
	conn := dialTest(t, g)
	push := func() error { return pushTest(t, conn, 1) }
	var hostile []func() error
	for range 20 {
		hostile = append(hostile, stall(t, g.Addr().String()))
	}
	if err := push(); err != nil {
		t.Fatalf("beside calls that stall: %v", err)
	}
	short.Store(true)
	for _, wait := range hostile {
		if err := wait(); err != nil {
			t.Fatalf("a call that stalls was not ended: %v", err)
		}
	}
	if err := push(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "short of memory" {
		t.Errorf("got %v, want Unavailable: short of memory", err)
	}
	short.Store(false)
	if err := push(); err != nil {
		t.Error(err)
	}
}

// A message that does not come ends its call.
func TestGRPCReceiveTimeout(t *testing.T) {
	g := pushServer(t, GRPCConfig{ReceiveTimeout: time.Millisecond})
	if err := stall(t, g.Addr().String())(); err != nil {
		t.Fatalf("the call was not ended: %v", err)
	}
}

func dialTest(t *testing.T, g *GRPC, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(g.Addr().String(), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec())))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func pushTest(t *testing.T, conn *grpc.ClientConn, bytes int, options ...grpc.CallOption) error {
	msg, answer := make(rpc.RawMessage, bytes), rpc.RawMessage(nil)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	return conn.Invoke(ctx, "/test/Push", &msg, &answer, options...)
}

// stallingConn sends so many bytes, and then nothing until it is closed.
type stallingConn struct {
	net.Conn
	left   int
	closed chan struct{}
	once   sync.Once
}

func (c *stallingConn) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *stallingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Messages being received hold no more than they may together: who has sent most is ended, and
// told so.
func TestGRPCBytesBeingReceived(t *testing.T) {
	g := pushServer(t, GRPCConfig{MaxReceiving: 8 << 20})
	stalling := dialTest(t, g, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		return &stallingConn{Conn: conn, left: 6 << 20, closed: make(chan struct{})}, err
	}))
	ended := make(chan error, 1)
	go func() { ended <- pushTest(t, stalling, 7<<20) }()
	for g.incoming.now() < 5<<20 {
		time.Sleep(time.Millisecond)
	}
	honest := dialTest(t, g)
	if err := pushTest(t, honest, 1<<20); err != nil {
		t.Errorf("while there is room: %v", err)
	}
	if err := pushTest(t, honest, 4<<20); err != nil {
		t.Errorf("beside one that has sent more: %v", err)
	}
	if err := <-ended; status.Code(err) != codes.Unavailable || status.Convert(err).Message() != errReceiving.Message() {
		t.Errorf("who had sent most got %v", err)
	}
	if err := pushTest(t, honest, 20<<20); status.Code(err) != codes.Unavailable {
		t.Errorf("a message above the bound: %v", err)
	}
	for range 20 { // more than the bound, one after the other
		if err := pushTest(t, honest, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.incoming.now(); n != 0 {
		t.Errorf("%d bytes are being received when nobody sends", n)
	}
}

// A packed message gives its place back, whether it could be unpacked or not.
func TestGRPCPackedMessages(t *testing.T) {
	conn := dialTest(t, pushServer(t, GRPCConfig{MaxMessage: 1 << 20}))
	for range 3 {
		if err := pushTest(t, conn, 1<<19, grpc.UseCompressor(gzip.Name)); err != nil {
			t.Fatal(err)
		}
		if err := pushTest(t, conn, 2<<20, grpc.UseCompressor(gzip.Name)); status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("a message that is too large: %v", err)
		}
	}
}

// openEcho opens a call that takes several messages, and returns what sends one and waits for the
// answer.
func openEcho(t *testing.T, conn *grpc.ClientConn, options ...grpc.CallOption) (grpc.ClientStream, func(bytes int) (string, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test/Echo", options...)
	if err != nil {
		t.Fatal(err)
	}
	return stream, func(bytes int) (string, error) {
		msg, answer := make(rpc.RawMessage, bytes), rpc.RawMessage(nil)
		if err := stream.SendMsg(&msg); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		err := stream.RecvMsg(&answer)
		return string(answer), err
	}
}

// Messages after a call's first come as it did, and end as cleanly.
func TestGRPCLaterMessages(t *testing.T) {
	g := pushServer(t, GRPCConfig{MaxMessage: 1 << 20})
	conn := dialTest(t, g)
	stream, send := openEcho(t, conn)
	for _, n := range []int{1, 0, 1 << 20, 100_000} {
		if answer, err := send(n); err != nil || answer != strconv.Itoa(n) {
			t.Fatalf("a message of %d bytes: %q, %v", n, answer, err)
		}
	}
	if n := g.incoming.now(); n != 0 {
		t.Errorf("%d bytes are being received between messages", n)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&rpc.RawMessage{}); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the call: %v", err)
	}
	_, send = openEcho(t, conn)
	_, _ = send(1)
	if _, err := send(1<<20 + 1); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message that is too large: %v", err)
	}
	_, send = openEcho(t, conn, grpc.UseCompressor(gzip.Name))
	if answer, err := send(1000); answer != "1000" {
		t.Errorf("a first message that is packed: %v", err)
	}
	if _, err := send(1000); status.Code(err) != codes.Unimplemented {
		t.Errorf("a later message that is packed: %v", err)
	}
}

// A message after a call's first has the bounds of the first, from when it begins: a call may be
// silent for any time.
func TestGRPCLaterMessagesAreBounded(t *testing.T) {
	for name, cfg := range map[string]GRPCConfig{
		"bytes": {MaxReceiving: 2 << 20},
		"time":  {ReceiveTimeout: 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			g := pushServer(t, cfg)
			_, silent := openEcho(t, dialTest(t, g))
			_, slow := openEcho(t, dialTest(t, g, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				var d net.Dialer
				conn, err := d.DialContext(ctx, "tcp", addr)
				return &stallingConn{Conn: conn, left: 7 << 20, closed: make(chan struct{})}, err
			})))
			for _, send := range []func(int) (string, error){silent, slow} {
				if _, err := send(1); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := slow(8 << 20); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != errReceiving.Message() {
				t.Errorf("a message that does not come: %v", err)
			}
			if _, err := silent(1); err != nil {
				t.Errorf("who was silent: %v", err)
			}
		})
	}
}
