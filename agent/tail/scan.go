package tail

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/skaldlog/skald/agent/positions"
)

func (tg *target) wants(path string) bool {
	return tg.pattern.Match(path) && (tg.exclude == nil || !tg.exclude.Match(path))
}

// scanDelay is how long after an event that may have brought new files the patterns are
// expanded; what happens together is found together.
const scanDelay = 20 * time.Millisecond

// runScans expands the patterns now, periodically, and when the watcher asks.
func (t *Tailer) runScans(ctx context.Context) {
	purge := time.Now()
	for {
		start := time.Now()
		t.scan()
		if time.Since(purge) > 6*t.cfg.Scan {
			purge = time.Now()
			t.purge()
		}
		took := time.Since(start)
		period := t.cfg.Scan
		if t.Stats.WatchErrors.Load() > 0 || t.cfg.NoWatch {
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
	for _, tg := range t.targetList() {
		w := &walk{found: map[string]bool{}, dirs: dirs}
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
			t.log.Warn("a pattern matches no files any more", "job", tg.Job, "pattern", tg.Path)
		}
		found[tg] = w.found
	}
	t.mu.Lock()
	logs := make([]*tailLog, 0, len(t.mu.logs))
	there := make([]bool, 0, len(t.mu.logs))
	for _, l := range t.mu.logs {
		logs = append(logs, l)
		there = append(there, found[l.target][l.path] || l.next == nil)
	}
	t.mu.Unlock()
	for i, l := range logs {
		t.compare(l, there[i])
		if len(l.names) > 1 {
			t.relink(l)
		}
		for _, name := range l.names {
			dirs[filepath.Dir(name)] = true
		}
	}
	t.watch.set(dirs)
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
	for _, rec := range t.store.Find(key.Client, key.Job, id) {
		if rec.Path != path && headFits(path, rec.Fingerprint) && (rec.Fingerprint.Len > 0 || rec.Offset > 0) {
			// Renamed while the agent was stopped: its log is the one of the old name.
			if !rec.Finished {
				t.start(tg, rec.Key)
			}
			return
		}
	}
	t.start(tg, key)
}

func headFits(path string, fp positions.Fingerprint) bool {
	f, _, err := openFile(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var buf [headSize]byte
	head, err := readHead(f, &buf)
	return err == nil && fits(fp, head)
}

// start begins to follow a log.
func (t *Tailer) start(tg *target, key positions.Key) {
	names := []string{key.Path}
	if r := realPath(key.Path); r != key.Path {
		names = append(names, r)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.logs[key] != nil {
		return
	}
	if !slices.Contains(t.mu.targets, tg) {
		// The targets were replaced since the scan began.
		if tg = wanting(t.mu.targets, key); tg == nil {
			return
		}
	}
	l := &tailLog{t: t, target: tg, next: tg, key: key, path: key.Path, names: names}
	l.active = time.Now().UnixNano()
	t.mu.logs[key] = l
	for _, n := range names {
		t.mu.names[n] = append(t.mu.names[n], l)
	}
	t.enqueue(l)
}

// adopt starts the logs of an earlier run: their path may name nothing now, while what it
// named lies beside it.
func (t *Tailer) adopt() {
	for _, rec := range t.store.Records(t.cfg.Client) {
		if rec.Finished && !isDir(filepath.Dir(rec.Path)) {
			continue
		}
		for _, tg := range t.targetList() {
			if tg.group == rec.Job && tg.wants(rec.Path) {
				t.start(tg, rec.Key)
				break
			}
		}
	}
}

func (t *Tailer) removeLocked(l *tailLog) {
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

// rememberFor is how long a path is known to have been followed after its last file is gone.
const rememberFor = 24 * time.Hour

// purge forgets the records of files that were read to their end and are gone. The newest
// one of a path stays for a while: it tells which files beside the path belong to it.
func (t *Tailer) purge() {
	newest := map[positions.Key]uint64{}
	for _, r := range t.store.Records(t.cfg.Client) {
		newest[r.Key] = max(newest[r.Key], r.N)
	}
	recent := time.Now().Add(-rememberFor).UnixNano()
	present := map[string]map[positions.ID]bool{} // by directory
	t.store.Purge(t.cfg.Client, func(r positions.Record) bool {
		dir := filepath.Dir(r.Real)
		ids, ok := present[dir]
		if !ok {
			ids = map[positions.ID]bool{}
			list, err := os.ReadDir(dir)
			if err != nil && !os.IsNotExist(err) {
				return true
			}
			for _, e := range list {
				if fi, err := e.Info(); err == nil {
					ids[statOf(fi).id] = true
				}
			}
			present[dir] = ids
		}
		return ids[r.ID] || r.N == newest[r.Key] && r.Modified > recent && len(ids) > 0
	})
}
