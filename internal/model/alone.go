package model

import "context"

type aloneKey struct{}

// Alone returns a context in which a block reads the column that it is asked for and no
// other ahead, unless they come from afar: for readers that keep many blocks.
func Alone(ctx context.Context) context.Context { return context.WithValue(ctx, aloneKey{}, true) }

// IsAlone reports whether a context is one of Alone.
func IsAlone(ctx context.Context) bool { return ctx.Value(aloneKey{}) != nil }
