package distributor

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/rpc"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/wire"
)

// RegisterGRPC adds the service logproto.Pusher, the same pushes as over HTTP without the
// snappy around them. The server must pass messages as rpc.RawMessage.
func (d *Distributor) RegisterGRPC(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "logproto.Pusher",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Push", Handler: d.handleGRPC}},
	}, d)
}

func (d *Distributor) handleGRPC(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	var msg rpc.RawMessage
	if err := decode(&msg); err != nil {
		return nil, err
	}
	call := func(ctx context.Context, _ any) (any, error) {
		return &rpc.RawMessage{}, grpcError(d.pushGRPC(ctx, msg))
	}
	if intercept == nil {
		return call(ctx, &msg)
	}
	return intercept(ctx, &msg, &grpc.UnaryServerInfo{Server: d, FullMethod: "/logproto.Pusher/Push"}, call)
}

func (d *Distributor) pushGRPC(ctx context.Context, msg rpc.RawMessage) error {
	id, err := server.TenantOfContext(ctx)
	if err != nil {
		return err
	}
	if err := d.cfg.Overloaded(); err != nil {
		return err
	}
	memory := share{of: &d.inflight, own: d.tenant(id).inflight, now: d.cfg.Now}
	defer memory.release()
	if err := memory.reserve(int64(len(msg))); err != nil { // it waits for its turn below
		return err
	}
	inTurn := func(work func() error) error { return turn{d.cfg.Turns, id}.do(ctx, len(msg), work) }
	var batch *wire.Batch
	err = inTurn(func() (err error) {
		batch, err = d.decoder.Proto(msg, memory.reserve)
		return err
	})
	if err != nil {
		return err
	}
	defer batch.Release()
	d.metrics.received.Add(float64(batch.Size()))
	return d.push(ctx, id, batch.Streams, "", batch.Known, batch.Metadata, inTurn)
}

var grpcCodes = map[fault.Kind]codes.Code{
	fault.Invalid: codes.InvalidArgument, fault.Unprocessable: codes.InvalidArgument, fault.TooLarge: codes.InvalidArgument,
	fault.Unauthenticated: codes.Unauthenticated, fault.Forbidden: codes.PermissionDenied,
	fault.RateLimited: codes.ResourceExhausted, fault.Unavailable: codes.Unavailable,
	fault.Canceled: codes.Canceled, fault.Timeout: codes.DeadlineExceeded,
}

// grpcError is the table of kinds for gRPC clients.
func grpcError(err error) error {
	if err == nil {
		return nil
	}
	code, ok := grpcCodes[fault.Of(err)]
	if !ok {
		code = codes.Internal
	}
	return status.Error(code, err.Error())
}
