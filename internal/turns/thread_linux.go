package turns

import "golang.org/x/sys/unix"

// lower is added to the niceness of a thread: the kernel gives it a quarter of a core beside one
// that has work all the time, so that what it holds, a lock or a place of Go's, is not held up
// for long.
const lower = 5

// lowerPriority makes the calling thread one that others go before, those of this process
// included: on Linux each thread has a niceness of its own.
func lowerPriority() {
	const most = 19
	// The system call gives 20 less the niceness.
	if n, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
		// Nothing is lost where it is not allowed.
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-n+lower, most))
	}
}
