package distributor

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/wire"
)

// bytesCodec sends what it is given, as a client with generated code would have encoded it.
type bytesCodec struct{ encoding.CodecV2 }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

type pushed chan model.Tenant

func (p pushed) Push(_ context.Context, id model.Tenant, _ []model.Stream) error {
	p <- id
	return nil
}

func TestPushOverGRPC(t *testing.T) {
	got := make(pushed, 1)
	g, err := server.NewGRPC(server.GRPCConfig{Listen: "127.0.0.1:0", MaxMessage: 1 << 20, AuthEnabled: true, Grace: time.Second}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var cfg Config
	cfg.MaxReceivedBytes, cfg.MaxDecompressedBytes, cfg.MaxInflightBytes, cfg.LabelCacheBytes = 1<<20, 1<<20, 1<<20, 1<<20
	New(cfg, got, limits.Static(limits.Defaults()), prometheus.NewRegistry(), slog.New(slog.DiscardHandler)).RegisterGRPC(g)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	conn, err := grpc.NewClient(g.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{encoding.GetCodecV2(proto.Name)})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	call := func(tenant string, body []byte) codes.Code {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if tenant != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-scope-orgid", tenant)
		}
		return status.Code(conn.Invoke(ctx, "/logproto.Pusher/Push", body, nil))
	}
	body := wire.AppendPush(nil, []model.Stream{{
		Labels: labels.FromStrings("app", "x"), Entries: []model.Entry{{Timestamp: time.Now().UnixNano(), Line: []byte("hello")}},
	}})
	if code := call("team", body); code != codes.OK {
		t.Errorf("push: %v", code)
	}
	if id := <-got; id != "team" {
		t.Errorf("tenant %q", id)
	}
	if code := call("", body); code != codes.Unauthenticated {
		t.Errorf("without tenant: %v", code)
	}
	if code := call("team", []byte("\x0a\xff\xff\xff\xff\x0f")); code != codes.InvalidArgument {
		t.Errorf("broken body: %v", code)
	}
}
