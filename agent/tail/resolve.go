package tail

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/skaldlog/skald/agent/positions"
)

// resolve finds out which files the log consists of: at the first time from the stored
// positions, later from what has changed at the path.
func (l *tailLog) resolve(now int64) {
	first := !l.started
	if first {
		l.started = true
		l.restore(now)
	}
	fi, err := os.Stat(l.path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		l.fail("look at", err)
		return
	case err != nil || !fi.Mode().IsRegular():
		if l.missing == 0 {
			l.missing = now
		}
		l.replaceAll(now)
		l.catchUp(now)
		return
	}
	l.missing = 0
	st := statOf(fi)
	if n := len(l.gens); n > 0 && l.gens[n-1].id == st.id {
		l.gens[n-1].replaced = false
		l.gens[n-1].path = realPath(l.path)
		return
	}
	if g := l.takeBack(st.id); g != nil {
		return
	}
	l.rotated(now, first)
}

// takeBack handles a path that names a file again that was thought to be left behind.
func (l *tailLog) takeBack(id positions.ID) *generation {
	for i, g := range l.late {
		if g.id == id {
			l.late = slices.Delete(l.late, i, i+1)
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
			g.replaced = true
			if g.quiet == 0 {
				g.quiet = now
			}
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
	l.catchUp(now)
	if current == nil {
		return
	}
	g := l.add(current, now)
	if g == nil {
		return
	}
	g.replaced = false
	if first && unknown {
		l.takeOver(g)
	}
	if !unknown {
		l.t.Stats.Rotations.Add(1)
	}
}

// catchUp adds the files that the path has named since it was last looked at, and does not
// name any more. Only a log that has been followed before has such a past.
func (l *tailLog) catchUp(now int64) {
	if l.since == 0 {
		return
	}
	for range 5 {
		stable := true
		for _, s := range l.siblings() {
			c := l.openCandidate(s.path)
			if c == nil || c.st.id != s.id {
				stable = false // renamed meanwhile: list again
			}
			if c != nil {
				l.add(c, now)
			}
		}
		if stable {
			return
		}
	}
}

// candidate is an open file that may become a generation.
type candidate struct {
	f    *os.File
	st   stat
	head []byte
	path string
}

// openCandidate opens a file; nil when it cannot be read.
func (l *tailLog) openCandidate(path string) *candidate {
	f, st, err := openFile(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.fail("open", err)
		}
		return nil
	}
	var buf [headSize]byte
	head, err := readHead(f, &buf)
	if err != nil {
		_ = f.Close() // read only
		l.fail("read", err)
		return nil
	}
	return &candidate{f, st, head, realPath(path)}
}

// add makes a file the log's newest generation. Nothing is added when another log reads it,
// or when it was read to its end before.
func (l *tailLog) add(c *candidate, now int64) *generation {
	if l.known(c.st.id, c.head) || !l.t.own(l, c.st.id) {
		_ = c.f.Close() // read only
		return nil
	}
	l.problem.Store(nil)
	if l.since == 0 {
		l.since = c.st.mtime
	}
	g := &generation{
		f: c.f, id: c.st.id, fp: fingerprint(c.head), path: c.path, size: c.st.size, mtime: c.st.mtime, quiet: now, replaced: true,
	}
	g.ledger = l.t.store.Track(positions.Record{
		Key: l.key, ID: g.id, Real: g.path, Fingerprint: g.fp, Modified: g.mtime, Since: l.since,
	})
	l.gens = append(l.gens, g)
	l.t.Stats.OpenFiles.Add(1)
	l.t.limitOpen(l)
	return g
}

// known reports whether a file has been taken already, by this log or another one of the
// group. A record whose fingerprint differs is of a file that had the inode before.
func (l *tailLog) known(id positions.ID, head []byte) bool {
	for _, g := range append(slices.Clone(l.gens), l.late...) {
		if g.id == id {
			return true
		}
	}
	for _, r := range l.t.store.Find(l.key.Client, l.key.Job, id) {
		if fits(r.Fingerprint, head) && (r.Fingerprint.Len > 0 || r.Offset > 0) && r.Finished {
			return true
		}
	}
	return false
}

// restore finds the generations of an earlier run, wherever they are now.
func (l *tailLog) restore(now int64) {
	for _, ledger := range l.t.store.Claim(l.key) {
		rec := ledger.Record()
		if l.since == 0 || rec.Since < l.since {
			l.since = rec.Since
		}
		if rec.Finished {
			continue
		}
		c := l.find(rec)
		if c == nil {
			if rec.Offset > 0 {
				l.t.log.Warn("a file that was being read is gone; what it held after the position cannot be known",
					"path", rec.Real, "log", l.path, "position", rec.Offset)
			}
			ledger.Bury()
			continue
		}
		if !l.t.own(l, c.st.id) {
			_ = c.f.Close() // read only
			ledger.Forget() // the other log has its own ledger
			continue
		}
		l.t.Stats.OpenFiles.Add(1)
		g := &generation{
			f: c.f, id: c.st.id, fp: rec.Fingerprint, path: c.path, ledger: ledger, off: rec.Offset, scanned: rec.Offset,
			size: c.st.size, mtime: c.st.mtime, quiet: now, replaced: c.path != realPath(l.path), replay: rec.Stamps,
		}
		// A range read a second time may have been split: the whole comes before its parts.
		slices.SortFunc(g.replay, func(a, b positions.Stamp) int {
			return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To))
		})
		for _, s := range g.replay {
			g.base = max(g.base, s.Base+(s.To-s.From))
		}
		l.gens = append(l.gens, g)
	}
}

// find opens a recorded file: at its path, or wherever it is in the directory.
func (l *tailLog) find(rec positions.Record) *candidate {
	for _, p := range []string{realPath(l.path), rec.Real} {
		if c := l.openAs(p, rec.ID, rec.Fingerprint); c != nil {
			return c
		}
	}
	return l.search(rec.ID, rec.Fingerprint)
}

// openAs opens a file if it is the one that is meant; what is checked is what is returned,
// since the path may name another file a moment later.
func (l *tailLog) openAs(path string, id positions.ID, fp positions.Fingerprint) *candidate {
	c := l.openCandidate(path)
	if c != nil && (c.st.id != id || !fits(fp, c.head)) {
		_ = c.f.Close() // read only
		return nil
	}
	return c
}

// takeOver starts a new log where Promtail stopped.
func (l *tailLog) takeOver(g *generation) {
	s, ok := l.t.store.Imported(l.path)
	if !ok {
		return
	}
	off, err := strconv.ParseInt(s, 10, 64)
	if err != nil || off <= 0 || off > g.size {
		return
	}
	off = lineStart(g.f, off)
	span := g.ledger.Begin(0, 0, false)
	span.Seal(off, false)
	span.Release()
	g.off, g.scanned = off, off
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
func (l *tailLog) search(id positions.ID, fp positions.Fingerprint) *candidate {
	dirs := l.dirs()
	for _, r := range l.t.store.Find(l.key.Client, l.key.Job, id) {
		dirs = append(dirs, filepath.Dir(r.Real))
	}
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
				if err != nil || !fi.Mode().IsRegular() || statOf(fi).id != id {
					continue
				}
				if c := l.openAs(filepath.Join(dir, e.Name()), id, fp); c != nil {
					return c
				}
			}
		}
	}
	return nil
}

// sibling is a file beside the log that the path may have named.
type sibling struct {
	path  string
	id    positions.ID
	mtime int64
}

// siblings lists files with rotated names that were changed since the log has been followed,
// oldest first. Those that are known are among them.
func (l *tailLog) siblings() []sibling {
	var out []sibling
	base := filepath.Base(realPath(l.path))
	for _, dir := range l.dirs() {
		list, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range list {
			path := filepath.Join(dir, e.Name())
			if !rotatedName(base, e.Name()) || l.target.wants(path) {
				continue
			}
			fi, err := e.Info()
			if err != nil || !fi.Mode().IsRegular() {
				continue
			}
			if st := statOf(fi); st.mtime >= l.since && st.size > 0 {
				out = append(out, sibling{path, st.id, st.mtime})
			}
		}
	}
	slices.SortFunc(out, func(a, b sibling) int { return cmp.Compare(a.mtime, b.mtime) })
	return out
}

func statOrZero(path string) positions.ID {
	fi, err := os.Stat(path)
	if err != nil {
		return positions.ID{}
	}
	return statOf(fi).id
}

// compressed are the endings of files that are not text any more.
var compressed = []string{".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".z", ".tmp"}

// rotatedName reports whether a file called name can be what a rotation made of one called
// base: base.1, base-20060102, base.20060102-150405, stem-2006-01-02.ext.
func rotatedName(base, name string) bool {
	for _, c := range compressed {
		if strings.HasSuffix(name, c) {
			return false
		}
	}
	if rest, ok := strings.CutPrefix(name, base); ok {
		return rest != "" && strings.ContainsRune(".-_", rune(rest[0]))
	}
	ext := filepath.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	if ext == "" || stem == "" || !strings.HasSuffix(name, ext) {
		return false
	}
	rest, ok := strings.CutPrefix(strings.TrimSuffix(name, ext), stem)
	return ok && len(rest) > 1 && strings.ContainsRune(".-_", rune(rest[0])) && rest[1] >= '0' && rest[1] <= '9'
}
