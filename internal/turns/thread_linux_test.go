package turns

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTurnsGiveWay has a turn beside another tenant make the thread's slice long, and leave it
// as it was.
func TestTurnsGiveWay(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slice := func() uint64 {
		t.Helper()
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Skipf("the system does not tell: %v", err)
		}
		return attr.Runtime
	}
	usual := slice()
	giveWay()() // sets it once, to what the kernel has
	if back := giveWay(); slice() != longSlice {
		back()
		t.Skip("the system knows no slices of threads")
	} else {
		back()
	}
	q := ForCores()
	q.places = 4
	turn := func(tenant string, want uint64) (leave func()) {
		t.Helper()
		leave, err := q.Enter(t.Context(), tenant, Queries)
		if err != nil {
			t.Fatal(err)
		}
		if got := slice(); got != want {
			t.Errorf("%s computes with a slice of %d ns, want %d", tenant, got, want)
		}
		return leave
	}
	alone := turn("one", usual)
	beside := turn("other", longSlice)
	beside()
	if got := slice(); got != usual {
		t.Errorf("the slice is %d ns after the turn, want %d as before", got, usual)
	}
	alone()
}
