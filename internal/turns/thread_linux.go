package turns

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// longSlice is the slice of a thread that computes in a turn, in nanoseconds. The kernel's own
// is a millisecond or so. Linux has known slices of a thread since 6.12; before that there is
// no difference.
const longSlice = 20e6

// giveWay has the calling goroutine keep its thread, and the kernel let any thread that wakes
// up go before it: one with a shorter slice needs not wait for a running one's to end. The
// thread gets no less of the cores. The function that is returned takes it back; it is called
// by the same goroutine. When another calls it, the first keeps its thread until it ends.
func giveWay() (back func()) {
	runtime.LockOSThread()
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		runtime.UnlockOSThread()
		return func() {}
	}
	set := func(slice uint64) error {
		// With the thread's own niceness, which needs no permission.
		return unix.SchedSetAttr(0, &unix.SchedAttr{
			Size: uint32(unsafe.Sizeof(*attr)), Flags: attr.Flags & unix.SCHED_FLAG_RESET_ON_FORK,
			Nice: attr.Nice, Runtime: slice,
		}, 0)
	}
	if err := set(longSlice); err != nil { // a sandbox may forbid it
		runtime.UnlockOSThread()
		return func() {}
	}
	thread := unix.Gettid()
	return func() {
		if unix.Gettid() != thread { // nobody else runs on a kept thread
			return
		}
		_ = set(0) // the kernel's own
		runtime.UnlockOSThread()
	}
}
