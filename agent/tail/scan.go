package tail

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
)

// scanDelay is how long after an event that may have brought new files the patterns are
// expanded; what happens together is found together.
const scanDelay = 20 * time.Millisecond

// runScans expands the patterns now, periodically, and when the watcher asks.
func (t *Tailer) runScans(ctx context.Context) {
	purge := time.Now()
	var last int64 // start of the scan before
	for {
		start := time.Now()
		if last != 0 && t.allStarted() {
			t.store.SetScanned(t.cfg.Client, last-int64(clockTick))
		}
		last = t.wall()
		t.scan()
		if time.Since(purge) > 6*t.cfg.Scan {
			purge = time.Now()
			t.purge()
		}
		took := time.Since(start)
		period := t.cfg.Scan
		t.polling.Store(t.Stats.WatchErrors.Load() > 0 || t.cfg.NoWatch)
		if t.polling.Load() {
			period = t.cfg.Poll
		}
		timer := time.NewTimer(max(period, 20*took))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-t.rescan:
			// A directory that changes all the time must not make the agent do nothing else.
			sleep(ctx, max(scanDelay, 5*took))
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// allStarted reports whether each log that the scans found has had a turn, so that the
// positions tell of its files.
func (t *Tailer) allStarted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.mu.logs {
		if l.seen.at.Load() == 0 {
			return false
		}
	}
	return true
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// askScan makes a scan happen soon.
func (t *Tailer) askScan() {
	select {
	case t.rescan <- struct{}{}:
	default: // one is due already
	}
}

// scan looks for new files, and at all known ones.
func (t *Tailer) scan() {
	found := map[*target]map[string]bool{}
	dirs := map[string]bool{}
	listed := map[string][]os.DirEntry{}
	targets := t.allTargets()
	t.adopt(targets)
	for _, tg := range targets {
		found[tg] = t.expand(tg, dirs, listed)
	}
	t.lookAround(listed, found, targets)
	t.mu.Lock()
	logs := make([]*tailLog, 0, len(t.mu.logs))
	there := make([]bool, 0, len(t.mu.logs))
	for _, l := range t.mu.logs {
		logs = append(logs, l)
		tg := l.target
		if l.heir != nil {
			tg = l.heir
		}
		there = append(there, found[tg][l.path])
	}
	t.mu.Unlock()
	for i, l := range logs {
		t.compare(l, there[i])
		if len(l.names) > 1 {
			t.relink(l)
		}
		for _, name := range l.names {
			dirs[parent(name)] = true
		}
	}
	t.limitHeld()
	t.watch.set(dirs)
}

// expand finds the files of a target and starts the logs of those that are new.
func (t *Tailer) expand(tg *target, dirs map[string]bool, listed map[string][]os.DirEntry) map[string]bool {
	w := &walk{found: map[string]bool{}, dirs: dirs, listed: listed}
	var problem string
	w.problem = func(err error) { problem = err.Error() }
	tg.pattern.walk(w)
	n := int64(0)
	for path := range w.found {
		if tg.exclude != nil && tg.exclude.Match(path) {
			delete(w.found, path)
			continue
		}
		n++
		t.discover(tg, path)
	}
	if problem != "" && tg.problem.Swap(&problem) == nil {
		t.log.Warn("some files cannot be found", "job", tg.Job, "pattern", tg.Path, "err", problem)
	} else if problem == "" {
		tg.problem.Store(nil)
	}
	if tg.matches.Swap(n) != n && n == 0 {
		level := slog.LevelWarn
		if tg.Passing {
			level = slog.LevelDebug
		}
		t.log.Log(context.Background(), level, "a pattern matches no files any more", "job", tg.Job, "pattern", tg.Path)
	}
	return w.found
}

// lookAround looks for files that no pattern matches and that are new since the last scan:
// what a rotation made of a log's file.
func (t *Tailer) lookAround(listed map[string][]os.DirEntry, found map[*target]map[string]bool, targets []*target) {
	familiar := map[string]map[string]bool{}
	for dir, entries := range listed {
		before, names := t.familiar[dir], map[string]bool{}
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			path := filepath.Join(dir, e.Name())
			wanted := false
			for _, paths := range found {
				wanted = wanted || paths[path]
			}
			if wanted {
				continue
			}
			names[e.Name()] = true
			if !before[e.Name()] {
				t.stranger(path, targets)
			}
		}
		if len(names) > 0 {
			familiar[dir] = names
		}
	}
	t.familiar = familiar
}

// stranger handles a new file that no pattern matches. If a log can have had it, the log
// looks. If there is no such log, but somebody would want it, the file was rotated away
// before anybody saw it under its first name.
func (t *Tailer) stranger(path string, targets []*target) {
	unrotated(path, func(base string) bool {
		t.mu.Lock()
		logs := t.mu.names[base]
		for _, l := range logs {
			t.wakeLocked(l, true)
		}
		t.mu.Unlock()
		if len(logs) > 0 {
			return true
		}
		for _, tg := range targets {
			if !tg.wants(base) {
				continue
			}
			fi, err := os.Stat(path)
			if err == nil && fi.Mode().IsRegular() && !t.older(fi.ModTime().UnixNano(), t.began) {
				t.start(tg, positions.Key{Client: t.cfg.Client, Job: tg.group, Path: base})
			}
			return true
		}
		return false
	})
}

// born starts the log of a file that was there a moment ago under a name that is wanted.
func (t *Tailer) born(path string) {
	for _, tg := range t.allTargets() {
		if tg.wants(path) {
			t.start(tg, positions.Key{Client: t.cfg.Client, Job: tg.group, Path: path})
		}
	}
}

// compare wakes a log when its file is not as its last turn left it.
func (t *Tailer) compare(l *tailLog, there bool) {
	if !there {
		t.wake(l, true)
		return
	}
	fi, err := os.Stat(l.path)
	if err != nil {
		t.wake(l, true)
		return
	}
	st := statOf(fi)
	if ino := l.seen.ino.Load(); int64(st.id.Ino) != ino {
		t.wake(l, true)
	} else if st.size != l.seen.last.Load() {
		t.wake(l, false)
	}
}

// relink follows a change of the symbolic links that lead to a log's file.
func (t *Tailer) relink(l *tailLog) {
	r := realPath(l.path)
	if r == l.names[1] || r == l.path {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unname(l)
	l.names[1] = r
	for _, n := range l.names {
		t.mu.names[n] = append(t.mu.names[n], l)
	}
}

// discover makes a log for a path that has none.
func (t *Tailer) discover(tg *target, path string) {
	key := positions.Key{Client: t.cfg.Client, Job: tg.group, Path: path}
	t.mu.Lock()
	_, have := t.mu.logs[key]
	t.mu.Unlock()
	if have {
		return
	}
	id := statOrZero(path)
	if id == (positions.ID{}) {
		return
	}
	t.mu.Lock()
	owner := t.mu.owners[fileKey{tg.group, id}]
	t.mu.Unlock()
	if owner != nil {
		return // renamed, and followed under its old name
	}
	c, err := t.openCandidate(tg, path)
	if err != nil {
		t.start(tg, key) // which says what is wrong
		return
	}
	defer c.close()
	for _, rec := range t.store.Find(key.Client, key.Job, c.st.id) {
		if rec.Path != path && (rec.Fingerprint.Len > 0 || rec.Offset > 0) && c.holds(rec) {
			// Renamed while the agent was stopped: its log is the one of the old name.
			if !rec.Finished {
				t.start(tg, rec.Key)
			}
			return
		}
	}
	if base, what := t.copied(tg, path, c); what != noCopy {
		t.start(tg, base)
		t.mu.Lock()
		if l := t.mu.logs[base]; l != nil {
			t.wakeLocked(l, true)
		}
		t.mu.Unlock()
		return
	}
	t.start(tg, key)
}

// copied reports whether a file that a pattern matches is a copy of what another log of the
// target reads, and of which.
func (t *Tailer) copied(tg *target, path string, c *candidate) (base positions.Key, what likeness) {
	unrotated(path, func(p string) bool {
		if !tg.wants(p) {
			return false
		}
		base = positions.Key{Client: t.cfg.Client, Job: tg.group, Path: p}
		what = t.copyOf(base, c)
		return what != noCopy
	})
	return base, what
}

// copyOf compares a file with what a log has read, while nobody else can change that: the
// log's turn is the caller's. When it cannot be had, or when the log has not begun, nobody
// can tell yet.
func (t *Tailer) copyOf(base positions.Key, c *candidate) likeness {
	l, busy := t.borrow(base)
	if busy {
		return copyInUse
	}
	if l != nil {
		defer t.giveBack(l)
	}
	if l == nil || !l.started {
		if fi, err := os.Stat(base.Path); err == nil && fi.Mode().IsRegular() {
			t.askScan()
			return copyInUse
		}
	}
	switch {
	case len(t.store.Ledgers(base)) == 0:
		return noCopy
	case c.st.size == 0:
		return copyInUse
	case l != nil && l.recheck():
		return copyInUse // the log looks at it in its own turn, which comes now
	}
	_, what := t.match(base, c, presentIn(parent(c.path)))
	if what == noCopy && l != nil && l.recheck() {
		return copyInUse
	}
	return what
}

// presentIn gives the paths of the files in a directory; it reads it when first asked.
func presentIn(dir string) func(positions.ID) string {
	var paths map[positions.ID]string
	return func(id positions.ID) string {
		if paths == nil {
			paths = pathsIn(dir)
		}
		return paths[id]
	}
}

func pathsIn(dir string) map[positions.ID]string {
	paths := map[positions.ID]string{}
	list, err := os.ReadDir(dir)
	if err != nil {
		return paths
	}
	for _, e := range list {
		path := filepath.Join(dir, e.Name())
		if id := statOrZero(path); id != (positions.ID{}) {
			paths[id] = path
		}
	}
	return paths
}

// start begins to follow a log.
func (t *Tailer) start(tg *target, key positions.Key) {
	names := []string{key.Path}
	if r := realPath(key.Path); r != key.Path {
		names = append(names, r)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.logs[key] != nil || tg.retired.Load() != 0 { // retired: the targets were replaced since the scan began
		return
	}
	l := &tailLog{t: t, target: tg, key: key, path: key.Path, names: names}
	l.active = clock.Now()
	t.mu.logs[key] = l
	for _, n := range names {
		t.mu.names[n] = append(t.mu.names[n], l)
	}
	t.enqueue(l)
}

func (t *Tailer) removeLocked(l *tailLog) {
	t.store.Unclaim(l.key)
	delete(t.mu.logs, l.key)
	t.at(l, 0)
	t.unname(l)
}

// unname takes a log out of Tailer.names.
func (t *Tailer) unname(l *tailLog) {
	for _, n := range l.names {
		list := t.mu.names[n]
		for i, o := range list {
			if o == l {
				list = slices.Delete(slices.Clone(list), i, i+1)
				break
			}
		}
		if len(list) == 0 {
			delete(t.mu.names, n)
		} else {
			t.mu.names[n] = list
		}
	}
}

// What is remembered of files that are gone: the last rememberFiles of a path, for
// rememberFor. It tells which files beside the path belong to it, and which of them, copied
// or compressed, hold what has been read.
const (
	rememberFor   = 24 * time.Hour
	rememberFiles = 16
)

// purge forgets the records of files that were read to their end and are gone.
func (t *Tailer) purge() {
	newer := map[positions.Key]int{} // records after the present one
	keep := map[uint64]bool{}
	recent := t.wall() - int64(rememberFor)
	present := map[string]map[positions.ID]string{} // by directory
	records := t.store.Records(t.cfg.Client)
	for _, r := range slices.Backward(records) {
		dir := filepath.Dir(r.Real)
		paths, ok := present[dir]
		if !ok {
			paths = pathsIn(dir)
			present[dir] = paths
		}
		remembered := newer[r.Key] < rememberFiles && r.Modified > recent && isDir(dir)
		keep[r.N] = remembered || paths[r.ID] != ""
		newer[r.Key]++
	}
	t.store.Purge(t.cfg.Client, func(r positions.Record) bool {
		kept, known := keep[r.N]
		return kept || !known
	})
}
