package tail

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
)

// resolve finds out which files the log consists of: at the first time from the stored
// positions, later from what has changed at the path.
func (l *tailLog) resolve(now int64) {
	first := !l.started
	l.lookAgain = 0
	if first {
		if l.started = l.restore(now); !l.started {
			return
		}
	}
	fi, err := os.Stat(l.path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		l.fail("look at", err)
		if isTrouble(err) {
			l.await()
		}
		return
	case err != nil || !fi.Mode().IsRegular():
		if l.missing == 0 {
			l.missing = now
		}
		l.replaceAll(now)
		l.catchUp(nil, now)
		return
	}
	l.missing = 0
	st := statOf(fi)
	if i := slices.IndexFunc(l.gens, func(g *generation) bool { return g.id == st.id }); i >= 0 {
		g := l.gens[i]
		if g.replaced {
			l.replaceAll(now) // it was read before it got the path's name: what had that is left behind
		}
		l.gens = append(slices.Delete(slices.Clone(l.gens), i, i+1), g) // what stands at the path is the newest
		g.replaced, g.path = false, realPath(l.path)
		current := l.openCandidate(l.path) // it may have been truncated and written anew
		l.catchUp(current, now)
		if current != nil {
			current.close()
		}
		return
	}
	if g := l.takeBack(st.id, now); g != nil {
		return
	}
	l.rotated(now, first)
}

// takeBack handles a path that names a file again that was thought to be left behind.
func (l *tailLog) takeBack(id positions.ID, now int64) *generation {
	for i, g := range l.late {
		if g.id == id {
			l.late = slices.Delete(l.late, i, i+1)
			l.replaceAll(now)
			l.gens = append(l.gens, g)
			g.replaced = false
			return g
		}
	}
	return nil
}

// replaceAll notes that the path names none of the generations any more.
func (l *tailLog) replaceAll(now int64) {
	for _, g := range l.gens {
		if !g.replaced {
			// The writer has Config.Grace from now on, however quiet it was before.
			g.replaced, g.quiet = true, now
		}
	}
}

// rotated takes the new file at the path, and any that came and went before it.
func (l *tailLog) rotated(now int64, first bool) {
	unknown := l.since == 0
	// The file is opened before the directory is listed: whatever is renamed in between is
	// then either in hand or in the list.
	current := l.openCandidate(l.path)
	l.replaceAll(now)
	l.catchUp(current, now)
	if current == nil {
		return
	}
	if base, what := l.t.copied(l.target, l.path, current); what != noCopy && base != l.key {
		current.close() // the other log has it, or will
		l.lookAgain = now + int64(time.Second)
		return
	}
	g := l.resume(current, now)
	if g == nil {
		if l.generationOf(current.st.id) == nil {
			l.lookAgain = now + int64(time.Second) // it is still being delivered, or another log's
		}
		return
	}
	g.replaced = false
	if first && unknown {
		l.takeOver()
	}
	if !unknown {
		l.t.Stats.Rotations.Add(1)
	}
}

// catchUp adds the files that the path has named since it was last looked at, and does not
// name any more, and finds out what became of those that were read.
func (l *tailLog) catchUp(current *candidate, now int64) {
	fresh := l.since == 0
	if fresh {
		l.since = l.t.began
	}
	for _, g := range slices.Concat(l.gens, l.late) {
		if g.f != nil && g.fp.Len < headSize {
			_, _ = g.look() // for what it begins with; reading sees what is wrong
		}
	}
	if l.since > l.t.wall()+int64(time.Minute) {
		l.since = 1 // the clock went back: better too many files than too few
	}
	for range 5 {
		stable := true
		list := l.siblings()
		b := beside{fresh: fresh, current: current, present: func(id positions.ID) string { return l.where(id, list) }}
		for _, s := range list {
			if !l.sibling(s, b, now) {
				stable = false // renamed meanwhile: list again
			}
			if l.outrun {
				l.outrun, l.lookAgain = false, now // the next turn begins with the new file
				current.refresh()
				return
			}
		}
		if stable {
			current.refresh()
			return
		}
	}
	current.refresh()
	l.lookAgain = now + int64(100*time.Millisecond)
}

// recheck finds out whether what the log's files hold is still what is known of them. It
// reports true when one was truncated, and perhaps written anew: then a file that looked
// like no copy of anything may be one after all.
func (l *tailLog) recheck() (changed bool) {
	for _, g := range slices.Concat(l.gens, l.late) {
		if g.f == nil && l.reopen(g) != nil {
			continue // reading it says what is wrong
		}
		same, err := g.look()
		if err != nil || same && (g.z != nil || tailFits(g.f, g.off, g.tail)) {
			continue
		}
		l.truncated(g)
		changed = true
	}
	return changed
}

// beside is what is known while the files beside a log are looked at.
type beside struct {
	fresh   bool       // the log has never been followed before
	current *candidate // the new file at the path, nil when there is none
	present func(positions.ID) string
}

// where returns the path of a file of the log's directory, "" when it is not there.
func (l *tailLog) where(id positions.ID, list []sibling) string {
	if id == (positions.ID{}) {
		return ""
	}
	if id == statOrZero(l.path) {
		return l.path
	}
	for _, s := range list {
		if s.id == id {
			return s.path
		}
	}
	return ""
}

// sibling takes a file beside the log if it is one of the log's. It reports false when the
// name leads to another file now.
func (l *tailLog) sibling(s sibling, b beside, now int64) bool {
	if l.knownID(s.id) && l.known(s) {
		return true
	}
	c := l.openCandidate(s.path)
	if c == nil {
		return l.unfinishedCopy(s, now)
	}
	if c.st.id != s.id {
		c.close()
		return false
	}
	if b.fresh && l.t.older(s.mtime, l.since) {
		// It was rotated away before anybody asked for it; remember that it is none of ours.
		l.t.store.Track(c.record(l, s.mtime)).Finish()
		c.close()
		return true
	}
	// c is open: whatever it was copied from was there before. What is known of the other
	// files must not be older than that, or a copy of something newer would pass for new.
	if l.recheck() {
		c.close()
		return false
	}
	b.current.refresh()
	match, what := l.t.match(l.key, c, b.present)
	if what == noCopy && b.current != nil && c.st.id != b.current.st.id && c.copies(b.current) {
		what = copyInUse
	}
	if what == noCopy && (l.recheck() || b.current.rewritten()) {
		c.close() // what it was copied from may have been truncated while the two were compared
		return false
	}
	if what == copyOfPart && l.t.wall() < s.mtime+int64(time.Minute) {
		what = copyInUse // it may be growing
	}
	l.t.log.Debug("a file beside the log", "path", s.path, "log", l.path, "is", what, "inode", s.id.Ino)
	switch what {
	case copyInUse:
		l.lookLater(s, now)
		c.close()
	case copyOfPart:
		l.t.store.Track(c.record(l, s.mtime)).Finish()
		c.close()
	case copyOfRead:
		match.Move(c.st.id, c.path, c.st.mtime)
		c.close()
	case copyWithRest:
		l.goOn(c, match.Record(), now)
		match.Detach()
	default:
		if s.wanted || l.t.older(s.mtime, l.since) {
			c.close() // wanted: it is a log of its own
			return true
		}
		if l.overtaken(b.current) {
			l.outrun = true
			c.close()
			return true
		}
		l.add(c, now)
	}
	return true
}

// overtaken reports whether the path names a file that nobody has looked at yet: one beside
// the log may be a copy of it.
func (l *tailLog) overtaken(current *candidate) bool {
	id := statOrZero(l.path)
	return id != (positions.ID{}) && (current == nil || current.st.id != id) && l.generationOf(id) == nil
}

// lookLater makes the log look again at a file that seems to be a copy in the making; the
// longer it has been there, the less often.
func (l *tailLog) lookLater(s sibling, now int64) {
	at := now + min(max((l.t.wall()-s.mtime)/4, int64(time.Second)), int64(10*time.Minute))
	if l.lookAgain == 0 || at < l.lookAgain {
		l.lookAgain = at
	}
}

// unfinishedCopy handles a file that cannot be read: a compressed one may not be complete.
func (l *tailLog) unfinishedCopy(s sibling, now int64) bool {
	if packedName(s.path) && l.t.wall() < s.mtime+int64(time.Minute) {
		l.lookLater(s, now)
		return true
	}
	_, err := os.Stat(s.path)
	return err == nil
}

// candidate is an open file that may become a generation.
type candidate struct {
	f    *os.File
	z    *unpacked
	st   stat
	head []byte
	path string
}

// ReadAt implements io.ReaderAt for the content.
func (c *candidate) ReadAt(p []byte, off int64) (int, error) {
	if c.z != nil {
		return c.z.ReadAt(p, off)
	}
	return c.f.ReadAt(p, off)
}

// refresh brings what is known of a file at a log's path up to date; c may be nil.
func (c *candidate) refresh() {
	if c == nil || c.z != nil {
		return
	}
	fi, err := c.f.Stat()
	if err != nil {
		return
	}
	var buf [headSize]byte
	if head, err := readHead(c.f, &buf); err == nil {
		c.st, c.head = statOf(fi), bytes.Clone(head)
	}
}

// rewritten reports whether a file at a log's path is not what it was when it was last
// refreshed; c may be nil.
func (c *candidate) rewritten() bool {
	if c == nil || c.z != nil {
		return false
	}
	var buf [headSize]byte
	fi, err := c.f.Stat()
	if err != nil || fi.Size() < c.st.size {
		return true
	}
	head, err := readHead(c.f, &buf)
	return err != nil || !bytes.HasPrefix(head, c.head)
}

func (c *candidate) close() {
	if c.z != nil {
		c.z.stop()
	}
	_ = c.f.Close() // read only
}

// record describes a file that is read to its end.
func (c *candidate) record(l *tailLog, modified int64) positions.Record {
	r := positions.Record{Key: l.key, ID: c.st.id, Real: c.path, Fingerprint: fingerprint(c.head), Modified: modified, Since: l.since}
	if c.z == nil {
		var buf [maxTail]byte
		b := buf[:min(c.st.size, maxTail)]
		r.Offset = c.st.size
		if n, _ := c.f.ReadAt(b, r.Offset-int64(len(b))); n == len(b) { // without a tail the head must do
			r.Tail = positions.TailOf(b)
		}
	}
	return r
}

// openCandidate opens a file; nil when it cannot be read.
func (l *tailLog) openCandidate(path string) *candidate {
	c, err := l.t.openCandidate(l.target, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.fail("open", err)
	}
	if isTrouble(err) {
		l.await()
	}
	return c
}

func (t *Tailer) openCandidate(tg *target, path string) (*candidate, error) {
	if err := t.fault("open", path); err != nil {
		return nil, err
	}
	f, st, err := openFile(path)
	if err != nil {
		return nil, err
	}
	c := &candidate{f: f, st: st, path: realPath(path)}
	if format := packedFormat(tg, f, path); format != "" {
		c.z = newUnpacked(f, format)
	}
	var buf [headSize]byte
	if c.head, err = readHead(c, &buf); err != nil {
		c.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// add makes a file the log's newest generation. Nothing is added when another log reads it,
// or when it was read to its end before.
func (l *tailLog) add(c *candidate, now int64) *generation {
	if l.knownContent(c) || !l.t.own(l, c.st.id) {
		c.close()
		return nil
	}
	if l.since == 0 {
		l.since = l.t.began
	}
	g := l.generation(c, now)
	g.ledger = l.t.store.Track(positions.Record{
		Key: l.key, ID: g.id, Real: g.path, Fingerprint: g.fp, Modified: g.mtime, Since: l.since,
	})
	l.append(g)
	l.t.limitOpen(l)
	return g
}

// append makes a generation the newest, but for one that stands at the path.
func (l *tailLog) append(g *generation) {
	if n := len(l.gens); n > 0 && !l.gens[n-1].replaced {
		l.gens = slices.Insert(slices.Clone(l.gens), n-1, g)
		return
	}
	l.gens = append(l.gens, g)
}

// resume goes on with a file that was read to its end, and has got the log's name again.
func (l *tailLog) resume(c *candidate, now int64) *generation {
	if l.generationOf(c.st.id) != nil {
		c.close()
		return nil
	}
	for _, ledger := range l.t.store.Ledgers(l.key) {
		r := ledger.Record()
		if r.ID != c.st.id || !r.Finished || !c.holds(r) {
			continue
		}
		ledger.Forget()
		l.goOn(c, r, now)
		return l.generationOf(r.ID)
	}
	return l.add(c, now)
}

// generation makes a generation of a file, to be read from its start.
func (l *tailLog) generation(c *candidate, now int64) *generation {
	l.problem.Store(nil)
	l.t.log.Debug("reading a file", "path", c.path, "log", l.path, "inode", c.st.id.Ino, "compressed", c.z != nil)
	g := &generation{
		f: c.f, z: c.z, id: c.st.id, fp: fingerprint(c.head), path: c.path, size: c.st.size, mtime: c.st.mtime, quiet: now, replaced: true,
		text: newCharset(l.target.Encoding).ordered(c.head),
	}
	if g.z != nil {
		g.size, g.packed = 0, c.st.size
	}
	l.t.Stats.OpenFiles.Add(1)
	return g
}

// goOn makes a copy of what was read of a file, which is gone, the log's newest generation;
// it is read from where the other ended.
func (l *tailLog) goOn(c *candidate, of positions.Record, now int64) {
	if !l.t.own(l, c.st.id) {
		c.close()
		return
	}
	g := l.generation(c, now)
	g.off, g.scanned, g.tail = of.Offset, of.Offset, of.Tail
	g.replayFrom(of.Stamps)
	rec := of
	rec.ID, rec.Real, rec.Fingerprint, rec.Modified, rec.Since, rec.Finished = g.id, g.path, g.fp, g.mtime, l.since, false
	g.ledger = l.t.store.Track(rec)
	l.append(g)
	l.t.limitOpen(l)
}

// moved makes the generation that goes on reading in c what g was.
func (l *tailLog) moved(g *generation, c *candidate) *generation {
	n := l.generation(c, clock.Now())
	n.fp, n.ledger, n.off, n.tail, n.scanned, n.base, n.replay = g.fp, g.ledger, g.off, g.tail, g.off, g.base, g.replay
	l.t.log.Debug("going on in a copy", "path", n.path, "log", l.path, "offset", n.off)
	n.ledger.Move(n.id, n.path, n.mtime)
	l.t.own(l, n.id)
	return n
}

// knownID reports whether there is a generation or a record with a file's identity.
func (l *tailLog) knownID(id positions.ID) bool {
	return l.generationOf(id) != nil || len(l.t.store.Find(l.key.Client, l.key.Job, id)) > 0
}

func (l *tailLog) generationOf(id positions.ID) *generation {
	for _, list := range [][]*generation{l.gens, l.late} {
		for _, g := range list {
			if g.id == id {
				return g
			}
		}
	}
	return nil
}

// known reports whether a file beside the log has been taken already.
func (l *tailLog) known(s sibling) bool {
	if l.generationOf(s.id) != nil {
		return true
	}
	for _, r := range l.t.store.Find(l.key.Client, l.key.Job, s.id) {
		if r.Finished && r.Modified == s.mtime {
			return true
		}
	}
	c := l.openCandidate(s.path)
	if c == nil || c.st.id != s.id {
		return false
	}
	defer c.close()
	return l.knownContent(c)
}

// knownContent reports whether a file has been taken already, by this log or another one of
// the group. A record whose content differs is of a file that had the inode before.
func (l *tailLog) knownContent(c *candidate) bool {
	if l.generationOf(c.st.id) != nil {
		return true
	}
	for _, r := range l.t.store.Find(l.key.Client, l.key.Job, c.st.id) {
		if r.Finished && (r.Fingerprint.Len > 0 || r.Offset > 0) && c.holds(r) {
			return true
		}
	}
	return false
}

// holds reports whether a file's content may be what a record is about.
func (c *candidate) holds(r positions.Record) bool {
	return fits(r.Fingerprint, c.head) && (c.z != nil || c.st.size >= r.Offset) && tailFits(c, r.Offset, r.Tail)
}

// restore finds the generations of an earlier run, wherever they are now. It reports false
// when trouble has kept it from that; nothing is restored then.
func (l *tailLog) restore(now int64) bool {
	for _, ledger := range l.t.store.Claim(l.key) {
		rec := ledger.Record()
		if l.since == 0 || rec.Since < l.since {
			l.since = rec.Since
		}
		if rec.Finished {
			continue
		}
		if rec.Fingerprint.Len == 0 && rec.Offset == 0 {
			ledger.Forget() // it was empty: another file may have its inode now, and if not it is a new one
			continue
		}
		l.trouble = false
		c := l.find(rec)
		if c == nil && l.trouble {
			for _, g := range l.gens {
				l.t.closeFile(g)
				l.t.disown(l, g)
			}
			l.gens = nil
			l.t.store.Unclaim(l.key)
			return false
		}
		if c == nil {
			l.t.lost(lostUnknown)
			l.t.log.Warn("a file that was being read is gone; what it held after the position cannot be known",
				"path", rec.Real, "log", l.path, "position", rec.Offset, "inode", rec.Ino, "began_with_bytes", rec.Fingerprint.Len)
			ledger.Detach()
			continue
		}
		if !l.t.own(l, c.st.id) {
			c.close()
			ledger.Forget() // the other log has its own ledger
			continue
		}
		if c.st.id != rec.ID {
			ledger.Move(c.st.id, c.path, c.st.mtime)
		}
		g := l.generation(c, now)
		g.fp, g.ledger, g.off, g.tail, g.scanned = rec.Fingerprint, ledger, rec.Offset, rec.Tail, rec.Offset
		g.replayFrom(rec.Stamps)
		g.replaced = c.path != realPath(l.path)
		l.gens = append(l.gens, g)
	}
	return true
}

// find opens a recorded file: at its path, or wherever it is in the directory, or a copy of
// it there.
func (l *tailLog) find(rec positions.Record) *candidate {
	if rec.ID != (positions.ID{}) {
		for _, p := range []string{realPath(l.path), rec.Real} {
			if c := l.openAs(p, rec); c != nil {
				return c
			}
		}
		if c := l.search(rec); c != nil {
			return c
		}
	}
	if c := l.remounted(rec); c != nil {
		return c
	}
	return l.searchContent(rec.Fingerprint, rec.Offset, rec.Tail)
}

// remounted finds the file at the log's path when its file system got another number.
func (l *tailLog) remounted(rec positions.Record) *candidate {
	c := l.openCandidate(l.path)
	if c == nil || c.st.id.Ino == rec.Ino && rec.Fingerprint.Len > 0 && c.holds(rec) {
		return c
	}
	c.close()
	return nil
}

// openAs opens a file if it is the one that is meant; what is checked is what is returned,
// since the path may name another file a moment later.
func (l *tailLog) openAs(path string, rec positions.Record) *candidate {
	c := l.openCandidate(path)
	if c != nil && (c.st.id != rec.ID || !c.holds(rec)) {
		c.close()
		return nil
	}
	return c
}

// takeOver starts a new log where Promtail stopped: in the first of its files, which may have
// been rotated since.
func (l *tailLog) takeOver() {
	s, ok := l.t.store.Imported(l.path)
	if !ok || len(l.gens) == 0 {
		return
	}
	g := l.gens[0]
	off, err := strconv.ParseInt(s, 10, 64)
	if err != nil || off <= 0 || g.z == nil && off > g.size {
		return
	}
	if g.z != nil {
		off = g.afterLines(off) // for compressed files Promtail counts lines
	} else {
		off = lineStart(g.f, off)
	}
	span := g.ledger.Begin(0, 0, false)
	g.tail = g.tailAt(off)
	span.Seal(off, g.tail, false)
	span.Release()
	g.off, g.scanned = off, off
}

// afterLines returns the offset after n lines.
func (g *generation) afterLines(n int64) (off int64) {
	buf := make([]byte, unpackStep)
	for at := int64(0); n > 0; {
		k, err := g.readAt(buf, at)
		for i := 0; i < k && n > 0; i++ {
			if buf[i] == '\n' {
				n--
				off = at + int64(i) + 1
			}
		}
		if at += int64(k); err != nil {
			break
		}
	}
	return off
}

// dirs are the directories where files of the log may be after a rotation.
func (l *tailLog) dirs() []string {
	out := []string{filepath.Dir(realPath(l.path))}
	for _, g := range append(slices.Clone(l.gens), l.late...) {
		out = append(out, filepath.Dir(g.path))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// search opens a file known by identity, wherever it is beside the log. It looks more than
// once, since names change while it looks.
func (l *tailLog) search(rec positions.Record) *candidate {
	dirs := append(l.dirs(), filepath.Dir(rec.Real))
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for range 3 {
		for _, dir := range dirs {
			list, err := os.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, e := range list {
				fi, err := e.Info()
				if err != nil || !fi.Mode().IsRegular() || statOf(fi).id != rec.ID {
					continue
				}
				if c := l.openAs(filepath.Join(dir, e.Name()), rec); c != nil {
					return c
				}
			}
		}
	}
	return nil
}

// searchContent opens a copy, compressed or not, of a file that is gone: one beside the log
// that begins as the file did, and holds the same before the position.
func (l *tailLog) searchContent(fp positions.Fingerprint, off int64, tail positions.Tail) *candidate {
	if fp.Len == 0 {
		return nil
	}
	for range 3 {
		stable := true
		for _, s := range l.siblings() {
			if l.generationOf(s.id) != nil {
				continue
			}
			c := l.openCandidate(s.path)
			if c == nil {
				continue
			}
			stable = stable && c.st.id == s.id // otherwise it was renamed meanwhile
			if c.holds(positions.Record{Fingerprint: fp, Offset: off, Tail: tail}) && !l.taken(c) {
				return c
			}
			c.close()
		}
		if stable {
			break
		}
	}
	return nil
}

// taken reports whether a file belongs to another log, or is a copy that has been read.
func (l *tailLog) taken(c *candidate) bool {
	l.t.mu.Lock()
	owner := l.t.mu.owners[fileKey{l.target.group, c.st.id}]
	l.t.mu.Unlock()
	return owner != nil && owner != l || l.knownContent(c)
}

// sibling is a file beside the log that the path may have named.
type sibling struct {
	path   string
	id     positions.ID
	mtime  int64
	wanted bool // a target's pattern matches it
}

// siblings lists files with rotated names, oldest first. Those that are known are among them.
func (l *tailLog) siblings() []sibling {
	var out []sibling
	base := filepath.Base(realPath(l.path))
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	if stem == "" {
		stem = base
	}
	now := l.t.wall()
	for _, dir := range l.dirs() {
		names, err := l.t.listings.withPrefix(dir, stem, now)
		if err != nil {
			continue
		}
		for _, name := range names {
			if !rotatedName(base, name) {
				continue
			}
			path := filepath.Join(dir, name)
			fi, err := os.Lstat(path)
			if err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
				continue
			}
			st := statOf(fi)
			out = append(out, sibling{path, st.id, st.mtime, l.target.wants(path)})
		}
	}
	slices.SortStableFunc(out, func(a, b sibling) int { return cmp.Compare(a.mtime, b.mtime) })
	return out
}

func statOrZero(path string) positions.ID {
	fi, err := os.Stat(path)
	if err != nil {
		return positions.ID{}
	}
	return statOf(fi).id
}
