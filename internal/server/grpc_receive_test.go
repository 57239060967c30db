package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/rpc"
)

func pushServer(t *testing.T, cfg GRPCConfig) *GRPC {
	t.Helper()
	cfg.Listen, cfg.MaxMessage, cfg.Grace = "127.0.0.1:0", 100<<20, time.Second
	g, err := NewGRPC(cfg, slog.New(slog.DiscardHandler))
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
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "test", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Push", Handler: handler}}}, g)
	run(t, g.Run)
	return g
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
	conn, err := grpc.NewClient(g.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	push := func() error {
		var answer rpc.RawMessage
		return conn.Invoke(t.Context(), "/test/Push", &rpc.RawMessage{1}, &answer)
	}
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
