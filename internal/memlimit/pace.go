package memlimit

import (
	"os"
	"runtime"
	"runtime/debug"
)

// By itself the collector lets the heap double before it begins anew, whatever its size: a
// server that keeps 150 MB would take 300, and one that keeps 20 MB collects when it has made 20
// more, many times a second under load, and requests wait for each. Most of what a server keeps
// are bytes without pointers, which cost a collection nothing, so it may well begin earlier when
// the heap is large.
const (
	// freeGrowth is how much garbage may gather between two collections, smallGrowth how much
	// always may.
	freeGrowth, smallGrowth = 96 << 20, 64 << 20
	// leastPercent is the least growth in per cent of what is alive: with a heap of gigabytes
	// collections would follow upon each other.
	leastPercent = 50
	// paceStep is the least change worth a setting, which stops the world.
	paceStep = 5
)

// growthPercent is how many per cent the heap may grow when so many bytes are alive.
func growthPercent(live int64) int {
	live = max(live, 1<<20)
	return max(leastPercent, int(100*min(max(live, smallGrowth), freeGrowth)/live))
}

// paceCollector sets the growth of the heap after each collection, for as long as the
// process runs. It does nothing when the environment has set GOGC.
func paceCollector() {
	if os.Getenv("GOGC") == "" {
		afterCollection(100)
	}
}

// afterCollection calls itself when the next collection has ended; percent is what is set.
func afterCollection(percent int) {
	// What nobody holds is found by the next collection. It must not share its place in memory
	// with anything that lives longer, so it has a pointer.
	mark := new(*byte)
	runtime.AddCleanup(mark, func(percent int) {
		live, _ := readRuntime()
		if p := growthPercent(live); p <= percent-paceStep || p >= percent+paceStep {
			debug.SetGCPercent(p)
			percent = p
		}
		afterCollection(percent)
	}, percent)
}
