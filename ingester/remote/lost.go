package remote

import (
	"context"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/rpc"
)

// Lost is the error of an ingester that cannot be reached, or no longer answers. The query
// may be asked again without it.
type Lost struct {
	Addr  string
	cause error
}

func (e *Lost) Error() string { return "ingester " + e.Addr + ": " + e.cause.Error() }

// Unwrap returns the cause.
func (e *Lost) Unwrap() error { return e.cause }

// LostPeer is the address.
func (e *Lost) LostPeer() string { return e.Addr }

// failure names the ingester in an error of a call.
func failure(ctx context.Context, addr string, err error) error {
	err = rpc.Fault(err)
	switch kind := fault.Of(err); {
	case ctx.Err() != nil:
		return context.Cause(ctx) // what the peer says about it is beside the point
	case kind == fault.Unavailable || kind == fault.Canceled:
		return fault.Wrap(fault.Unavailable, &Lost{addr, err})
	default:
		return fault.New(kind, "ingester %s: %w", addr, err)
	}
}
