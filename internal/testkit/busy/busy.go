// Package busy keeps cores busy in tests of what waits for a turn, such as large pushes and the
// printing of answers: while a turn is taken here, whoever needs one must wait, and whoever needs
// none must not.
package busy

import (
	"testing"

	"github.com/skaldlog/skald/internal/turns"
)

// Turn takes a turn as a tenant of its own and returns what gives it back.
func Turn(t testing.TB, cores *turns.Cores) (leave func()) {
	t.Helper()
	held, left := make(chan struct{}), make(chan struct{})
	go func() {
		_ = cores.Do(t.Context(), "other", turns.Queries, func() error {
			close(held)
			<-left
			return nil
		})
	}()
	<-held
	return func() { close(left) }
}
