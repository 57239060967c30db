package model

import "context"

type aloneKey struct{}

// Alone returns a context in which a block from afar reads the column that it is asked for
// and no other ahead: for readers that have many blocks in memory.
func Alone(ctx context.Context) context.Context { return context.WithValue(ctx, aloneKey{}, true) }

// IsAlone reports whether a context is one of Alone.
func IsAlone(ctx context.Context) bool { return ctx.Value(aloneKey{}) != nil }

// Forgetter is a Block that can give back the memory of its columns and read them again. One
// that wraps another passes it on with Forget.
type Forgetter interface{ Forget() }

// Forget has a block give back the memory of the columns that were read, if it can read them
// again from nearby. Slices that it returned are no longer valid.
func Forget(b Block) {
	if f, ok := b.(Forgetter); ok {
		f.Forget()
	}
}
