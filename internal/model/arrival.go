package model

import "context"

// Arrival is the body of a push as it was received. It travels beside the streams that were
// decoded from it, in the context of Push, for whoever can keep it as it is instead of
// packing the same lines once more. Nothing depends on it: without one, or with one of
// which the streams hold little, the streams are what counts.
//
// Text is what snappy.Decode makes of Packed, and both are valid until Push returns. Lines
// that are a part of Text in memory are found there by their address.
type Arrival struct {
	Text, Packed []byte
}

type arrivalKey struct{}

// WithArrival returns a context that carries a.
func WithArrival(ctx context.Context, a Arrival) context.Context {
	return context.WithValue(ctx, arrivalKey{}, a)
}

// ArrivalOf returns what WithArrival has put into the context, or an empty Arrival.
func ArrivalOf(ctx context.Context) Arrival {
	a, _ := ctx.Value(arrivalKey{}).(Arrival)
	return a
}
