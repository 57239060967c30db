package cores

import (
	"runtime"
	"testing"
)

// TestOvercommit checks that more may run than the count says, which stays, and that an
// operator's word counts more.
func TestOvercommit(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before); counted.Store(0) })
	t.Setenv("GOMAXPROCS", "1")
	Overcommit()
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS was set in the environment, and Overcommit made %d of %d", got, before)
	}
	t.Setenv("GOMAXPROCS", "")
	Overcommit()
	if got := runtime.GOMAXPROCS(0); got != 2*before || Count() != before {
		t.Errorf("%d run at once on %d cores, counted as %d", got, before, Count())
	}
}
