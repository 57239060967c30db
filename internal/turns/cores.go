package turns

import (
	"context"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"github.com/skaldlog/skald/internal/cores"
)

// Cores are the turns to keep a core busy, one for each core. Work that takes a millisecond or
// more is done in turns, and is cut so that a turn is short: one block of a query, one push to
// decode. While several tenants are active none gets the last turn. Nobody waits for anything
// but a core while having a turn: not for the network, a disk, or another turn.
//
// A tenant that has used much of late has its turns on threads that the kernel prefers all
// others to. What is short, a push of a few lines or the few steps between a request and its
// turn, so waits neither for Go, which has places left for it (internal/cores), nor for the kernel.
// Large pushes are put back only when others are active and the tenant uses most: segments are
// written and merged at the process's priority, and pushes should not wait for these.
type Cores struct {
	turns *Queue
	back  threads
}

// ForCores returns the turns of a process; it has one of these.
func ForCores() *Cores { return NewCores(cores.Count()) }

// NewCores returns so many turns.
func NewCores(n int) *Cores {
	return &Cores{turns: New(n, math.MaxInt, LeavingOne)}
}

// spared are the seconds that a tenant may have used of late without giving way to short work:
// a thirtieth of a core, steadily, since what is counted fades with usageHalf.
const spared = 0.5

// Do waits for a turn and runs work in it, maybe on another goroutine. It returns work's error,
// or why there was no turn; a panic of work becomes the caller's.
func (c *Cores) Do(ctx context.Context, tenant string, kind Kind, work func() error) (err error) {
	used, err := c.turns.enter(ctx, tenant, kind)
	if err != nil {
		return err
	}
	began := time.Now()
	defer func() { c.turns.leave(tenant, began) }()
	if used < spared || kind == Pushes && !c.turns.dominates(tenant) {
		return work()
	}
	var panicked error
	c.back.run(func() {
		defer func() {
			if p := recover(); p != nil {
				panicked = fmt.Errorf("%v\n\n%s", p, debug.Stack())
			}
		}()
		err = work()
	})
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// Sizes are how many wait and how many have a turn.
func (c *Cores) Sizes() (waiting, held int) { return c.turns.Sizes() }
