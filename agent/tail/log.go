package tail

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
)

// tailLog is one path that is followed. See state for who may touch what.
type tailLog struct {
	t      *Tailer
	target *target
	key    positions.Key
	path   string
	names  []string // under which it stands in Tailer.names

	sched  schedule // guarded by Tailer.mu
	isOpen bool     // guarded by Tailer.mu
	heir   *target  // replaces target at the next turn; guarded by Tailer.mu

	// Owned by the running turn, or by the holder of Tailer.mu when there is none.
	consumer  Consumer
	gens      []*generation     // oldest first; the first is being read
	late      []*generation     // read to the end, but perhaps not written to the end
	last      *positions.Ledger // of the generation read last
	checkPath bool
	started   bool
	outdated  bool  // the consumer is another target's
	trouble   bool  // see await; for whoever has just reset it
	outrun    bool  // the path changed while the files beside it were looked at
	lookAgain int64 // when the files beside the log are to be looked at again, 0 for never
	missing   int64 // since when the path names nothing, 0 when it does
	active    int64
	since     int64 // see positions.Record.Since; 0 for a path that was never followed

	seen struct { // what a scan compares with, written by turns
		ino, last  atomic.Int64 // of the newest generation: inode and size
		size, read atomic.Int64 // of all
		at, behind atomic.Int64 // behind: since when there are unread bytes
		lines      atomic.Int64
	}
	problem atomic.Pointer[string]
}

// turn does a bit of work: it looks at the path if something happened to it, then reads one
// buffer of the oldest unread generation.
func (l *tailLog) turn(buf []byte) outcome {
	now := clock.Now()
	if l.checkPath || !l.started || l.lookAgain != 0 && now >= l.lookAgain {
		l.resolve(now)
		l.t.store.Flush() // a kill must not forget which files there were
	}
	if l.asleep() {
		l.publish(now)
		return outcome{due: math.MaxInt64}
	}
	if l.outdated && (l.consumer == nil || !l.consumer.Pending()) {
		l.consumer, l.outdated = nil, false
	}
	if l.consumer == nil && len(l.gens)+len(l.late) > 0 {
		l.consumer = l.target.Consumer(l.path)
	}
	l.openAll()
	defer l.publish(now)
	if len(l.gens)+len(l.late) == 0 {
		return l.rest(now, l.again())
	}
	l.shed()
	if wait := l.tooYoung(now); wait > 0 {
		return outcome{due: min(wait, l.again())}
	}
	if !l.consumer.Ready() {
		return outcome{starve: true, due: l.again()} // what is there is opened all the same
	}
	due := min(l.consumer.Flush(now, false), l.again())
	due = min(due, l.readLate(buf, now))
	more := l.readFirst(buf, now, &due)
	l.consumer.Commit()
	if more {
		return outcome{more: true}
	}
	return l.rest(now, due)
}

// again is when the files beside the log are to be looked at once more.
func (l *tailLog) again() int64 {
	if l.lookAgain == 0 {
		return math.MaxInt64
	}
	return l.lookAgain
}

// tooYoung returns when a compressed file may be read that its writer may not have finished;
// 0 says that it may be read.
func (l *tailLog) tooYoung(now int64) int64 {
	d := l.target.Decompress
	if d == nil || d.InitialDelay == 0 || len(l.gens) == 0 || l.gens[0].off > 0 || l.gens[0].replaced {
		return 0
	}
	wait := l.gens[0].mtime + int64(d.InitialDelay) - l.t.wall()
	if wait > 0 && wait < int64(d.InitialDelay) {
		return now + wait
	}
	return 0
}

// asleep reports whether the log's only file is closed and has not changed since.
func (l *tailLog) asleep() bool {
	if len(l.late) > 0 || len(l.gens) != 1 || l.gens[0].f != nil || l.gens[0].replaced || l.consumer != nil {
		return false
	}
	g := l.gens[0]
	fi, err := os.Stat(l.path)
	if err != nil {
		return false
	}
	st := statOf(fi)
	return st.id == g.id && st.size == g.size && st.mtime == g.mtime && !g.unread()
}

// readFirst reads from the oldest generation and moves to the next when it has come to its
// end. It reports whether there is more to do at once.
func (l *tailLog) readFirst(buf []byte, now int64, due *int64) (more bool) {
	if len(l.gens) == 0 {
		return false
	}
	g := l.gens[0]
	if g.f == nil {
		if g.trouble {
			*due = min(*due, now+int64(time.Second))
			return false
		}
		return l.skipLost(g)
	}
	read, err := l.read(g, buf)
	if err != nil {
		l.fail("read", err)
		if errors.Is(err, syscall.ESTALE) {
			l.t.closeFile(g) // a network file system wants it opened anew
		}
		if g.replaced && g.z != nil && now > g.quiet+int64(time.Minute) {
			l.lost(g, lostDamaged)
			l.gens = l.gens[1:]
			l.finish(g, nil)
			return true
		}
		*due = min(*due, now+int64(time.Second))
		return false
	}
	if read || g.quiet == 0 {
		g.quiet, l.active = now, now
	}
	if read || g.unread() {
		return true
	}
	if !g.replaced {
		if g.z != nil && g.size > g.off && now >= g.quiet+int64(l.t.cfg.Grace) {
			if err := l.readRest(g, buf); err != nil { // its last line has no end, and will get none
				l.fail("read", err)
			}
		} else if g.z != nil && g.size > g.off {
			*due = min(*due, g.quiet+int64(l.t.cfg.Grace))
		}
		return false
	}
	// The writer goes to the new file when it notices the rotation. Content there, or
	// silence here, shows that it has.
	followed := len(l.gens) > 1 && (len(l.gens) > 2 || l.gens[1].written())
	if !followed && now < g.quiet+int64(l.t.cfg.Grace) {
		*due = min(*due, now+int64(l.t.cfg.Interval))
		return false
	}
	l.gens = l.gens[1:]
	l.late = append(l.late, g)
	*due = min(*due, g.quiet+int64(l.t.cfg.Grace))
	return true
}

// written reports whether anything has been written to a generation that waits.
func (g *generation) written() bool {
	if g.f == nil {
		return g.size > 0
	}
	fi, err := g.f.Stat()
	return err == nil && fi.Size() > 0
}

// readLate reads what writers still added to generations that were left, and gives those up
// that have been quiet for long.
func (l *tailLog) readLate(buf []byte, now int64) (due int64) {
	due = math.MaxInt64
	for _, g := range slices.Clone(l.late) {
		if g.trouble && errors.Is(l.reopen(g), errTrouble) {
			due = min(due, now+int64(time.Second))
			continue
		}
		read := true
		g.trouble = false
		for read && g.f != nil && l.consumer.Ready() {
			var err error
			if read, err = l.read(g, buf); err != nil {
				l.fail("read", err)
				read = false
				if g.trouble = isTrouble(err); g.trouble {
					l.t.closeFile(g)
				}
			}
			if read {
				g.quiet = now
			}
			if !slices.Contains(l.late, g) {
				return now // it was truncated, and is read with the others
			}
		}
		if g.trouble {
			due = min(due, now+int64(time.Second))
			continue
		}
		if g.f != nil && (read || now < g.quiet+int64(l.t.cfg.Grace)) {
			due = min(due, g.quiet+int64(l.t.cfg.Grace))
			continue
		}
		l.late = slices.DeleteFunc(l.late, func(o *generation) bool { return o == g })
		l.finish(g, buf)
	}
	return due
}

// finish takes the last, unterminated line of a generation and closes it.
func (l *tailLog) finish(g *generation, buf []byte) {
	if g.f != nil && buf != nil {
		if err := l.readRest(g, buf); err != nil {
			l.fail("read", err)
		}
	}
	l.t.closeFile(g)
	l.t.disown(l, g)
	g.ledger.Update(g.fp, g.path, g.mtime)
	g.ledger.Finish()
}

// rest is the outcome of a turn after which there is nothing to read.
func (l *tailLog) rest(now, due int64) outcome {
	if since := l.target.retired.Load(); since != 0 && due == math.MaxInt64 && len(l.late) == 0 && len(l.gens) <= 1 {
		return l.retire(now, since)
	}
	if len(l.gens)+len(l.late) == 0 && l.missing != 0 {
		l.flushAll(now)
		// The path may name a file again, even one that is renamed before it is seen.
		wait := forgetAfter
		if l.last == nil {
			wait = l.t.cfg.Grace // nothing was ever found
		}
		over := now > l.missing+int64(wait) || !isDir(filepath.Dir(l.path))
		if l.last == nil {
			due = min(due, l.missing+int64(wait)+1)
		}
		return outcome{remove: over && l.lookAgain == 0, due: due}
	}
	quiet := l.active + int64(l.t.cfg.Quiet)
	idleNow := due == math.MaxInt64 && len(l.late) == 0 && len(l.gens) <= 1
	switch {
	case idleNow && now >= quiet:
		l.closeFiles()
		if l.consumer != nil && !l.consumer.Pending() {
			l.consumer = nil
		}
	case l.open():
		due = min(due, max(quiet, now+int64(l.t.cfg.Interval)))
		if l.t.polling.Load() {
			due = min(due, now+int64(l.t.cfg.HotPoll))
		}
	}
	return outcome{due: due}
}

// retire ends a log that nobody wants any more, once what was read is delivered.
func (l *tailLog) retire(now, since int64) outcome {
	if now < since+int64(l.t.cfg.Grace) {
		return outcome{due: since + int64(l.t.cfg.Grace)}
	}
	l.flushAll(now)
	for _, g := range l.gens {
		if !g.ledger.Settled() {
			return outcome{due: now + int64(time.Second)}
		}
	}
	for _, g := range l.gens {
		l.t.disown(l, g)
	}
	l.closeFiles()
	return outcome{remove: true, due: math.MaxInt64}
}

// flushAll emits what the consumer keeps back, and lets it go.
func (l *tailLog) flushAll(now int64) {
	if l.consumer != nil {
		l.consumer.Flush(now, true)
		l.consumer.Commit()
		l.consumer = nil
	}
}

// forgetAfter is how long a log is kept whose path names nothing.
const forgetAfter = 10 * time.Minute

// open reports whether the log holds a descriptor.
func (l *tailLog) open() bool {
	for _, g := range l.gens {
		if g.f != nil {
			return true
		}
	}
	return len(l.late) > 0
}

// closeFiles closes the descriptors of generations that can be found again.
func (l *tailLog) closeFiles() {
	for _, g := range l.gens {
		l.t.closeFile(g)
	}
}

func (t *Tailer) closeFile(g *generation) {
	if g.f != nil {
		if g.z != nil {
			g.z.stop()
		}
		_ = g.f.Close() // read only
		g.f, g.z = nil, nil
		t.unhold(g)
		t.Stats.OpenFiles.Add(-1)
	}
}

// publish shows the log's state to scans and to the status page.
func (l *tailLog) publish(now int64) {
	var ino, last, size, read int64
	for _, g := range l.gens {
		ino, last, size, read = int64(g.id.Ino), g.size, size+g.size, read+g.off
	}
	l.seen.ino.Store(ino)
	l.seen.last.Store(last)
	l.seen.size.Store(size)
	l.seen.read.Store(read)
	l.seen.at.Store(now)
	if read >= size {
		l.seen.behind.Store(0)
	} else {
		l.seen.behind.CompareAndSwap(0, now)
	}
}

// fail remembers and logs what went wrong with a log, once while it stays the same.
func (l *tailLog) fail(what string, err error) {
	s := what + ": " + err.Error()
	if old := l.problem.Swap(&s); old == nil || *old != s {
		l.t.log.Warn("cannot follow a file", "path", l.path, "doing", what, "err", err)
	}
}

// skipLost gives up a generation whose descriptor is closed and which cannot be found.
func (l *tailLog) skipLost(g *generation) (more bool) {
	if len(l.gens) > 1 || l.missing != 0 {
		l.lose(g)
		l.gens = l.gens[1:]
		l.lookAgain = clock.Now() // its inode may be that of a file that nobody has looked at
		return len(l.gens) > 0
	}
	return false
}

// lose gives up a generation that vanished; unread bytes, if it had any, cannot be known.
func (l *tailLog) lose(g *generation) {
	if g.unread() || g.size > g.off {
		l.lost(g, lostVanished)
	}
	l.t.closeFile(g)
	l.t.disown(l, g)
	g.ledger.Detach()
}

// openAll opens the generations to be read and those that may vanish.
func (l *tailLog) openAll() {
	for i, g := range l.gens {
		if g.f != nil || i > 8 && !g.replaced {
			continue
		}
		err := l.reopen(g)
		g.trouble = errors.Is(err, errTrouble)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.fail("open", err)
		} else if err == nil {
			l.problem.Store(nil)
		}
	}
}

// reopen opens a generation that was closed, wherever it is now.
func (l *tailLog) reopen(g *generation) error {
	// Whether its content is what was read before is seen when it is read.
	anything := positions.Record{ID: g.id, Real: g.path}
	l.trouble = false
	c := l.openAs(g.path, anything)
	if c == nil {
		if c = l.search(positions.Record{ID: g.id, Real: g.path, Fingerprint: g.fp, Offset: g.off, Tail: g.tail}); c == nil {
			// Perhaps it was truncated and written anew before it was renamed.
			c = l.search(anything)
			if c != nil && !l.mayBe(g, c) {
				c.close()
				c = nil
			}
		}
		if c == nil && l.trouble {
			return errTrouble
		}
		if c == nil {
			if c = l.searchContent(g.fp, g.off, g.tail); c == nil {
				return fs.ErrNotExist
			}
			l.t.disown(l, g)
			g.id = c.st.id
			g.ledger.Move(g.id, c.path, c.st.mtime)
			l.t.own(l, g.id)
		}
		g.path = c.path
		g.replaced = g.replaced || c.path != realPath(l.path)
	}
	g.f, g.z, g.done, g.packed = c.f, c.z, false, c.st.size
	l.t.Stats.OpenFiles.Add(1)
	l.t.limitOpen(l)
	return nil
}

// mayBe reports whether a file beside the log that has a generation's inode can be that
// generation, renamed. Else its file is gone, and the inode is another's: a copy's, perhaps.
func (l *tailLog) mayBe(g *generation, c *candidate) bool {
	if g.fp.Len == 0 || c.z != nil || !rotatedName(filepath.Base(g.path), filepath.Base(c.path)) {
		return false // an empty file is nothing to lose; whatever this is will be looked at as a new one
	}
	_, what := l.t.match(l.key, c, presentIn(filepath.Dir(c.path)))
	return what == noCopy
}

func (t *Tailer) disown(l *tailLog, g *generation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := fileKey{l.target.group, g.id}
	if t.mu.owners[k] == l {
		delete(t.mu.owners, k)
	}
}

// own makes a log the reader of a file; false when another log reads it already.
func (t *Tailer) own(l *tailLog, id positions.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := fileKey{l.target.group, id}
	if o := t.mu.owners[k]; o != nil && o != l {
		return false
	}
	t.mu.owners[k] = l
	return true
}
