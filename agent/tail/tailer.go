package tail

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skaldlog/skald/agent/positions"
)

// Consumer receives the lines of one log. One goroutine calls it at a time.
type Consumer interface {
	// Lines takes whole lines, each with its line feed, except that the last line of a file
	// that will not grow any more may lack it. The i-th line's time, if it brings none, is
	// base+i. data is valid during the call.
	Lines(data []byte, base int64, span *positions.Span) Taken
	// Rehome moves all text that is kept back from one span to a later one, which it is in.
	Rehome(from, to *positions.Span)
	// Cut is called before Lines with a single line of which dropped bytes were cut off.
	Cut(dropped int64)
	// Flush emits what has been kept back for long enough, or everything, and returns when it
	// wants to be called again (a time of package clock, as now is; math.MaxInt64 for never).
	Flush(now int64, everything bool) (next int64)
	// Commit makes what came since the last Commit part of a batch.
	Commit()
	// Ready reports whether there is room for another turn.
	Ready() bool
	// Pending reports whether text is kept back that only exists in memory.
	Pending() bool
}

// Taken is what a consumer says about lines it was given.
type Taken struct {
	Lines   int
	Stamped bool // a time that the reader gave was, or may yet be, used
	// Clean is where in the data, after CleanLines lines, reading could begin anew: nothing
	// that was kept back there began before. 0 when there is no such place.
	Clean, CleanLines int
}

// Config configures a Tailer. The zero value of each field means the default.
type Config struct {
	// Client distinguishes the positions of several clients of one agent.
	Client string
	// Scan is how often patterns are expanded and all files looked at, for what inotify has
	// not told. Default 10 s.
	Scan time.Duration
	// Poll replaces Scan while a directory cannot be watched. Default 1 s.
	Poll time.Duration
	// Grace is how long a file that was renamed or deleted must be quiet before it is given
	// up; its writer may not have noticed yet. Default 5 s.
	Grace time.Duration
	// Quiet is how long a file without news keeps its descriptor and its pipeline. Default 60 s.
	Quiet time.Duration
	// Interval is the least time between two turns of a log that has caught up, so that a
	// writer of many small pieces is read in few large ones. Default 50 ms.
	Interval time.Duration
	// MaxOpen bounds the descriptors. Default: half of what the process may have, at most 1024.
	MaxOpen int
	// Buffer is what a turn reads at most, in bytes. Default 256 KiB.
	Buffer int
	// MaxLine is the longest line; longer ones are cut. Default 1 MiB.
	MaxLine int
	// Workers is the number of logs read at once. Default: the number of processors, at most 4.
	Workers int
	// NoWatch does without inotify.
	NoWatch bool
	// HotPoll is how often files that are being written are looked at while a directory cannot
	// be watched. Default 250 ms.
	HotPoll time.Duration
	// HoldFiles, HoldBytes and HoldAge bound the files that are deleted and not yet read to
	// their end, which the agent's descriptor keeps on the disk: their number, the space they
	// take, and the time since the deletion was seen. Beyond that the oldest is given up, and
	// counted. Default 1000, 10 GiB, 24 h.
	HoldFiles int
	HoldBytes int64
	HoldAge   time.Duration
	// Fault is asked before a file is opened ("open") or read ("read") for an error that its
	// file system might give; it is for tests. Nil ignores.
	Fault func(op, path string) error
	// Now is the wall clock, in ns since 1970: it gives times to lines that bring none, and is
	// compared with times of files. Nil means the real one.
	Now func() int64
	// Lost is told about each file that could not be read to its end, with the reason. Nil
	// ignores.
	Lost func(reason string)
	// Step is called at places where a kill would be worst, with a name for the place; it is
	// for tests. Nil ignores.
	Step   func(place string)
	Logger *slog.Logger
}

func (c *Config) defaults() {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&c.Scan, 10*time.Second)
	set(&c.Poll, time.Second)
	set(&c.Grace, 5*time.Second)
	set(&c.Quiet, time.Minute)
	set(&c.Interval, 50*time.Millisecond)
	set(&c.HotPoll, 250*time.Millisecond)
	set(&c.HoldAge, 24*time.Hour)
	if c.HoldFiles <= 0 {
		c.HoldFiles = 1000
	}
	if c.HoldBytes <= 0 {
		c.HoldBytes = 10 << 30
	}
	if c.Now == nil {
		c.Now = func() int64 { return time.Now().UnixNano() }
	}
	if c.Lost == nil {
		c.Lost = func(string) {}
	}
	if c.MaxOpen <= 0 {
		c.MaxOpen = 512
		var lim unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil {
			c.MaxOpen = int(min(lim.Cur/2, 1024))
		}
	}
	if c.Buffer <= 0 {
		c.Buffer = 256 << 10
	}
	if c.MaxLine <= 0 {
		c.MaxLine = 1 << 20
	}
	if c.Workers <= 0 {
		c.Workers = min(runtime.GOMAXPROCS(0), 4)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats count what a tailer did. They may be read at any time.
type Stats struct {
	BytesRead   atomic.Int64
	LinesRead   atomic.Int64
	Rotations   atomic.Int64 // a path named a new file
	Truncations atomic.Int64
	Lost        atomic.Int64 // generations that could not be read to their end
	HeldFiles   atomic.Int64 // deleted, and open because they are not read to their end
	HeldBytes   atomic.Int64 // what these take on the disk
	CutLines    atomic.Int64 // longer than MaxLine
	OpenFiles   atomic.Int64
	Watches     atomic.Int64
	WatchErrors atomic.Int64
}

// Tailer follows the files of some targets for one client.
type Tailer struct {
	cfg   Config
	store *positions.Store
	Stats Stats
	log   *slog.Logger
	watch *watcher
	began int64 // since when files are followed: what was changed later is news
	// wallOffset is how far the wall clock was behind package clock at the start, wentBack how
	// much further it has ever been since.
	wallOffset, wentBack atomic.Int64
	polling              atomic.Bool // some directory cannot be watched
	listings             listings
	// familiar are the files that the last scan saw and no pattern matches, by directory.
	familiar map[string]map[string]bool

	mu struct {
		sync.Mutex
		targets []*target
		logs    map[positions.Key]*tailLog
		names   map[string][]*tailLog // by path, and by path without links
		owners  map[fileKey]*tailLog  // who reads a file
		queue   []*tailLog            // waiting for a worker
		starved []*tailLog            // waiting for room
		timers  timerHeap
		closed  bool
	}
	// held are the files that only a descriptor keeps. Its mutex is taken after mu when both
	// are needed.
	held struct {
		sync.Mutex
		files map[*generation]*held
	}
	work   *sync.Cond // on mu: the queue may have something
	rescan chan struct{}
	sooner chan struct{} // the first deadline has changed
}

// fileKey is a file as far as one group of targets is concerned.
type fileKey struct {
	group string
	positions.ID
}

// New returns a tailer; an invalid pattern is an error. Nothing happens before Run.
func New(cfg Config, targets []Target, store *positions.Store) (*Tailer, error) {
	cfg.defaults()
	t := &Tailer{cfg: cfg, store: store, log: cfg.Logger, rescan: make(chan struct{}, 1), sooner: make(chan struct{}, 1)}
	t.work = sync.NewCond(&t.mu)
	t.mu.logs = map[positions.Key]*tailLog{}
	t.mu.names = map[string][]*tailLog{}
	t.mu.owners = map[fileKey]*tailLog{}
	t.held.files = map[*generation]*held{}
	return t, t.SetTargets(targets)
}

// Run follows the files until the context ends; then every turn is finished, and nothing
// more is read.
func (t *Tailer) Run(ctx context.Context) error {
	t.began = t.startWall()
	if at := t.store.Scanned(t.cfg.Client); at != 0 {
		t.began = min(t.began, at)
	}
	t.store.SetScanned(t.cfg.Client, t.began)
	t.began -= int64(clockTick)
	t.watch = newWatcher(t)
	var wg sync.WaitGroup
	for range t.cfg.Workers {
		wg.Go(t.worker)
	}
	wg.Go(func() { t.watch.run(ctx) })
	wg.Go(func() { t.runTimers(ctx) })
	t.runScans(ctx)
	t.mu.Lock()
	t.mu.closed = true
	t.work.Broadcast()
	t.mu.Unlock()
	wg.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.mu.logs {
		l.closeFiles()
	}
	return nil
}

// clockTick is how far the time of a file's last change may lie behind the clock.
const clockTick = 20 * time.Millisecond

func (t *Tailer) step(place string) {
	if t.cfg.Step != nil {
		t.cfg.Step(place)
	}
}

// worker gives turns to logs until the tailer is closed.
func (t *Tailer) worker() {
	buf := make([]byte, t.cfg.Buffer+positions.MaxTail)
	for {
		l := t.take()
		if l == nil {
			return
		}
		next := l.turn(buf)
		t.done(l, next)
	}
}

// Resume gives the logs that waited for room another chance.
func (t *Tailer) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.mu.starved {
		l.sched.state = queued
		t.mu.queue = append(t.mu.queue, l)
	}
	t.mu.starved = t.mu.starved[:0]
	t.work.Broadcast()
}
