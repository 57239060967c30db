package querier

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/rpc"
	"github.com/skaldlog/skald/logql/engine"
)

const evaluateMethod = "/skald.Querier/Evaluate"

var evaluateDesc = grpc.StreamDesc{StreamName: "Evaluate", ServerStreams: true}

// RegisterGRPC serves slices to other queriers. The server must pass messages by rpc.Codec.
func (q *Querier) RegisterGRPC(s grpc.ServiceRegistrar) {
	desc := evaluateDesc
	desc.Handler = func(_ any, stream grpc.ServerStream) error { return rpc.Status(q.serveSlice(stream)) }
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "skald.Querier", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc}}, q)
}

// serveSlice evaluates a slice for another querier. The call's context ends when that
// querier has no more use for it.
func (q *Querier) serveSlice(stream grpc.ServerStream) error {
	var msg rpc.RawMessage
	if err := stream.RecvMsg(&msg); err != nil {
		return err
	}
	t, err := readTask(msg)
	if err != nil {
		return fault.New(fault.Invalid, "task: %w", err)
	}
	result, err := engine.Within(stream.Context(), engine.Limits{}, func(ctx context.Context) (*engine.Result, error) {
		return q.evaluateSlice(ctx, t)
	})
	if err != nil {
		return err
	}
	return sendResult(result, func(frame []byte) error {
		msg := rpc.RawMessage(frame)
		return stream.SendMsg(&msg)
	})
}

// askPeer has another querier evaluate a slice. An error is fault.Unavailable when a third
// querier may do better.
func (q *Querier) askPeer(ctx context.Context, peer Peer, t task) (*engine.Result, error) {
	conn, err := q.dialPeer(peer.Addr)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "querier %s: %w", peer.ID, err)
	}
	ctx, cancel := context.WithCancel(ctx) // also ends a call that is left early
	defer cancel()
	stream, err := conn.NewStream(ctx, &evaluateDesc, evaluateMethod)
	if err != nil {
		return nil, peerError(peer, err)
	}
	msg := rpc.RawMessage(t.append(nil))
	if err = stream.SendMsg(&msg); err == nil {
		err = stream.CloseSend()
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the reason comes with the answer
		return nil, peerError(peer, err)
	}
	r := newResultReader()
	var size int64
	for {
		var frame rpc.RawMessage
		err := stream.RecvMsg(&frame)
		switch {
		case errors.Is(err, io.EOF) && r.whole:
			return &r.result, nil
		case errors.Is(err, io.EOF):
			return nil, fault.New(fault.Unavailable, "querier %s: the answer ended early", peer.ID)
		case err != nil:
			return nil, peerError(peer, err)
		}
		if size += int64(len(frame)); q.cfg.MaxMemory > 0 && size > q.cfg.MaxMemory {
			return nil, fault.New(fault.Invalid, "querier %s: the answer is larger than -querier.max-memory (%d)", peer.ID, q.cfg.MaxMemory)
		}
		if err := r.frame(frame); err != nil {
			return nil, fault.New(fault.Unavailable, "querier %s: %w", peer.ID, err)
		}
	}
}

// peerError keeps the text of errors, which clients compare, and names a querier that cannot
// be reached. A call that it cancelled is one it had to leave.
func peerError(peer Peer, err error) error {
	err = rpc.Fault(err)
	if kind := fault.Of(err); kind == fault.Canceled || kind == fault.Unavailable {
		return fault.New(fault.Unavailable, "querier %s: %w", peer.ID, err)
	}
	return err
}
