// Package cores says how many cores a process may keep busy, and has its threads share them
// so that short work need not wait for long work.
//
// Go's scheduler runs as many goroutines at once as GOMAXPROCS says, by default one for each
// core, and takes one off after 10 ms. While that many are computing, nobody even looks
// whether a request has arrived: it waits 10 ms to be seen and again as long for its turn, at
// each step of its way. With two cores and a heavy query beside a collection of garbage that
// is what the slowest requests were made of. The kernel does better: it shares cores between
// threads in slices of about a millisecond, and a thread that has slept comes first.
//
// So work that computes for long is bounded by Count, in turns that internal/turns hands out,
// and a server calls Overcommit: there are then places left for everything that is short, and
// the kernel decides. With turns as the only bound, those who compute would take these
// places, too; with the places as the only bound, they do.
package cores

import (
	"os"
	"runtime"
	"sync/atomic"
)

// counted is what Count returns once GOMAXPROCS says something else.
var counted atomic.Int64

// Count is the number of cores that this process may keep busy: those of the machine, or what
// its container or the environment variable GOMAXPROCS allows.
func Count() int {
	if n := counted.Load(); n > 0 {
		return int(n)
	}
	return runtime.GOMAXPROCS(0)
}

// Overcommit has twice as many goroutines run at once as there are cores. It does nothing
// when the environment has set GOMAXPROCS: whoever did that wants no more threads. It is
// called once, before the work begins.
func Overcommit() {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	n := runtime.GOMAXPROCS(0)
	counted.Store(int64(n))
	runtime.GOMAXPROCS(2 * n)
}
