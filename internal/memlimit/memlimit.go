// Package memlimit keeps a process inside the memory it was given. It tells the runtime's
// collector what the container allows, bounds the garbage that gathers beside a large heap, and
// says when what is alive leaves too little room, so that the doors can refuse work before the
// kernel kills the process.
//
// cmd/skald sets the limit at the start; the distributor and the ingester's gRPC door ask
// the Guard before they take a push.
package memlimit

import (
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/internal/fault"
)

// Config says how much of the memory is used.
type Config struct {
	// Ratio is the part of the container's memory that the runtime may take.
	Ratio float64
	// Shed is the part of the runtime's limit above which work is refused.
	Shed float64
}

// RegisterFlags declares the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.Float64Var(&c.Ratio, "memory.limit-ratio", 0.9, "Part of the container's memory (cgroup) that becomes the runtime's soft limit, GOMEMLIMIT, unless that is set; in a small container less, so that 64 MiB are left for the program itself. 0 sets no limit.")
	fs.Float64Var(&c.Shed, "memory.shed-ratio", 0.85, "Part of the runtime's memory limit above which pushes get 503 and Retry-After; 0 refuses none. Without a limit none are.")
}

// Validate checks the settings.
func (c *Config) Validate() error {
	if !(c.Ratio >= 0 && c.Ratio <= 1) {
		return fmt.Errorf("memory.limit-ratio: got %v, want 0 to 1", c.Ratio)
	}
	if !(c.Shed >= 0 && c.Shed <= 1) {
		return fmt.Errorf("memory.shed-ratio: got %v, want 0 to 1", c.Shed)
	}
	return nil
}

// Apply sets the runtime's limit and the collector's pace, and returns the guard over the limit.
func Apply(cfg Config, logger *slog.Logger) *Guard {
	paceCollector()
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 && cfg.Ratio > 0 {
		if memory, ok := cgroupLimit(os.DirFS("/")); ok {
			limit = fitting(memory, cfg.Ratio)
			debug.SetMemoryLimit(limit)
			logger.Info("memory limit set from the container's", "container", humanize.IBytes(uint64(memory)), "limit", humanize.IBytes(uint64(limit)))
		}
	}
	if limit == math.MaxInt64 {
		limit = 0
	}
	return &Guard{limit: limit, shed: cfg.Shed, read: readRuntime}
}

// outside is what a container's memory holds besides the runtime's: the pages of the program
// that are in use, and what the kernel keeps for its connections and files.
const outside = 64 << 20

// fitting is the runtime's limit in a container: a part of its memory, and in a small one
// what is left beside the program.
func fitting(memory int64, ratio float64) int64 {
	return min(int64(float64(memory)*ratio), max(memory-outside, memory/2))
}

// cgroupLimit returns the least memory limit of this process's control group and of those
// above it.
func cgroupLimit(root fs.FS) (bytes int64, ok bool) {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		// 0::/path in version 2, 4:memory:/path in version 1
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := "", ""
		switch {
		case parts[0] == "0" && parts[1] == "":
			mount, file = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+parts[1]+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			if n, found := readLimit(root, path.Join(mount, dir, file)); found && (!ok || n < bytes) {
				bytes, ok = n, true
			}
			if dir == "/" {
				break
			}
		}
	}
	return bytes, ok
}

// unlimited is above what any machine has: version 1 writes "no limit" as a huge number.
const unlimited = 1 << 50

func readLimit(root fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil && n > 0 && n < unlimited // "max" is no number
}

// Guard says when memory is short. The zero value never does. It is safe for concurrent
// use.
type Guard struct {
	limit int64
	shed  float64
	read  func() (live, total int64)

	mu struct {
		sync.Mutex
		at        time.Time
		short     error
		collected time.Time // when a collection was asked for
	}
}

const (
	// sampled is how long a reading counts.
	sampled = 20 * time.Millisecond
	// collectEvery is the pace of collections while memory is short. Only a collection finds out
	// that it no longer is, and while all work is refused nothing would lead to one.
	collectEvery = 2 * time.Second
)

// Limit is the runtime's memory limit in bytes, 0 when there is none.
func (g *Guard) Limit() int64 { return g.limit }

// Check returns an error of kind fault.Unavailable while what is alive on the heap, or what
// the process holds in all, leaves too little room.
func (g *Guard) Check() error {
	if g == nil || g.limit <= 0 || g.shed <= 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Sub(g.mu.at) < sampled {
		return g.mu.short
	}
	g.mu.at, g.mu.short = now, nil
	live, total := g.read()
	// The collector keeps the total at the limit while the rest is garbage. So the total
	// alone says something only when it is above.
	if float64(live) > g.shed*float64(g.limit) || total > g.limit+g.limit/20 {
		g.mu.short = fault.New(fault.Unavailable, "the server is short of memory: %s of %s are in use, try again later",
			humanize.IBytes(uint64(max(live, total))), humanize.IBytes(uint64(g.limit)))
		if now.Sub(g.mu.collected) > collectEvery {
			g.mu.collected = now
			go runtime.GC() // ends by itself
		}
	}
	return g.mu.short
}

// readRuntime returns the bytes that the last collection found alive, and what the runtime
// holds of the system's memory.
func readRuntime() (live, total int64) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64() - samples[2].Value.Uint64())
}
