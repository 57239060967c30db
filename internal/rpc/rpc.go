// Package rpc is what every gRPC service of Skald shares: messages that are bytes, because
// services encode and decode theirs by hand, and errors that keep their kind on the way.
//
// internal/server uses the codec for all services, ingester/remote for its connections.
package rpc

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/fault"
)

// StreamWindow is how much a client may send ahead of who receives; what is more follows when
// the header of a message has been read. It is held unseen by calls that take several messages,
// so it is the least there is; gRPC would let a fast client have 16 MB of each.
const StreamWindow = 64 << 10

// RawMessage is a message as it came, or as it is to be sent. What was received is the
// receiver's to keep.
type RawMessage []byte

// Gather is a message to be sent that lies in several buffers. Sending takes a reference to
// each for as long as it needs it; the caller keeps its own.
type Gather mem.BufferSlice

// Pooled is a received message in memory that is used again after Free.
type Pooled struct{ buffer mem.Buffer }

// Bytes returns the message, valid until Free.
func (p *Pooled) Bytes() []byte {
	if p.buffer == nil {
		return nil
	}
	return p.buffer.ReadOnlyData()
}

// Free gives the memory back. Nothing may alias the message any more.
func (p *Pooled) Free() {
	if p.buffer != nil {
		p.buffer.Free()
		p.buffer = nil
	}
}

// Codec returns a codec that passes *RawMessage, *Gather and *Pooled through and leaves
// other messages to protobuf.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *RawMessage:
		return mem.BufferSlice{mem.SliceBuffer(*m)}, nil
	case *Gather:
		out := make(mem.BufferSlice, len(*m))
		for i, b := range *m {
			b.Ref()
			out[i] = b
		}
		return out, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *RawMessage:
		*m = data.Materialize()
		return nil
	case *Pooled:
		m.Free()
		m.buffer = data.MaterializeToBuffer(Buffers)
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// kindCodes pairs each kind with a code of its own, so that a kind survives the way. The
// codes that gRPC itself makes mean the same: Unavailable without a connection,
// ResourceExhausted for a message over a limit, Unimplemented where a service is not served.
var kindCodes = map[fault.Kind]codes.Code{
	fault.Internal: codes.Internal, fault.Invalid: codes.InvalidArgument,
	fault.Unauthenticated: codes.Unauthenticated, fault.Forbidden: codes.PermissionDenied,
	fault.NotFound: codes.NotFound, fault.TooLarge: codes.ResourceExhausted,
	fault.Unprocessable: codes.FailedPrecondition, fault.RateLimited: codes.Aborted,
	fault.Canceled: codes.Canceled, fault.Unavailable: codes.Unavailable,
	fault.Timeout: codes.DeadlineExceeded, fault.Corrupt: codes.DataLoss,
}

var codeKinds = func() map[codes.Code]fault.Kind {
	m := map[codes.Code]fault.Kind{}
	for kind, code := range kindCodes {
		m[code] = kind
	}
	return m
}()

// maxText bounds the text of an error in gRPC's trailer, whose size peers limit.
const maxText = 4 << 10

// Status turns an error into the status that carries its kind and text between processes
// of Skald. Errors that gRPC made keep their code. A nil err stays nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return s.GRPCStatus().Err() // gRPC's own, of a stream
	}
	text := err.Error()
	return status.Error(kindCodes[fault.Of(err)], text[:min(len(text), maxText)])
}

// Fault turns the error of a call into one with the kind and text that Status was given.
// Errors that gRPC made have the kind of their code. A nil err stays nil.
func Fault(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	return fault.New(codeKinds[s.Code()], "%s", s.Message()) // unknown codes are Internal
}
