package turns

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGiveWay has the turns of a tenant that used much run at a lower priority, and only these.
func TestGiveWay(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	nice := func() int {
		n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Skipf("the system does not tell: %v", err)
		}
		return 20 - n
	}
	usual := nice()
	if usual+lower > 19 {
		t.Skipf("the tests run at niceness %d", usual)
	}
	c := NewCores(2)
	c.turns.share("greedy").usage = 100
	turn := func(tenant string, kind Kind, want int) {
		t.Helper()
		if err := c.Do(t.Context(), tenant, kind, func() error {
			if got := nice(); got != want {
				t.Errorf("%s computes (%d) at niceness %d, want %d", tenant, kind, got, want)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	turn("greedy", Queries, usual+lower)
	turn("greedy", Pushes, usual) // nobody else is there
	turn("modest", Queries, usual)
	turn("greedy", Queries, usual+lower)
	c.turns.share("modest").usage = 10
	turn("modest", Pushes, usual)
	turn("greedy", Pushes, usual+lower)
	if got := nice(); got != usual {
		t.Errorf("the niceness is %d after the turns, want %d as before", got, usual)
	}
}
