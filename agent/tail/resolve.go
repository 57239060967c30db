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

// rotated takes the new file at the path, and any that came and went in between.
func (l *tailLog) rotated(now int64, first bool) {
	unknown := len(l.gens)+len(l.late) == 0 && l.since == 0
	l.replaceAll(now)
	l.catchUp(now)
	g := l.add(l.path, now)
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
	if len(l.gens)+len(l.late) == 0 && l.since == 0 {
		return
	}
	for _, path := range l.between() {
		l.add(path, now)
	}
}

// add opens a file as the log's newest generation. Nothing is added when another log reads
// it, or when it was read to its end before.
func (l *tailLog) add(path string, now int64) *generation {
	f, st, err := openFile(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.fail("open", err)
		}
		return nil
	}
	var buf [headSize]byte
	head, err := readHead(f, &buf)
	if err != nil || l.known(st.id, head) || !l.t.own(l, st.id) {
		_ = f.Close() // read only
		if err != nil {
			l.fail("read", err)
		}
		return nil
	}
	l.problem.Store(nil)
	g := &generation{f: f, id: st.id, fp: fingerprint(head), path: realPath(path), size: st.size, mtime: st.mtime, quiet: now, replaced: true}
	g.ledger = l.t.store.Track(positions.Record{Key: l.key, ID: st.id, Real: g.path, Fingerprint: g.fp, Modified: st.mtime})
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
		l.since = max(l.since, rec.Modified)
		if rec.Finished {
			continue
		}
		where, ok := l.find(rec)
		if !ok {
			if rec.Offset > 0 {
				l.t.log.Warn("a file that was being read is gone; what it held after the position cannot be known",
					"path", rec.Real, "log", l.path, "position", rec.Offset)
			}
			ledger.Forget()
			continue
		}
		f, st, err := openFile(where)
		if err != nil || !l.t.own(l, st.id) {
			if err != nil {
				l.fail("open", err)
			} else {
				_ = f.Close() // read only
			}
			continue
		}
		l.t.Stats.OpenFiles.Add(1)
		g := &generation{
			f: f, id: st.id, fp: rec.Fingerprint, path: where, ledger: ledger, off: rec.Offset, scanned: rec.Offset,
			size: st.size, mtime: st.mtime, quiet: now, replaced: where != realPath(l.path), replay: rec.Stamps,
		}
		slices.SortFunc(g.replay, func(a, b positions.Stamp) int { return cmp.Compare(a.From, b.From) })
		for _, s := range g.replay {
			g.base = max(g.base, s.Base+(s.To-s.From))
		}
		l.gens = append(l.gens, g)
	}
}

// find looks for a recorded file: at its path, then in the directory.
func (l *tailLog) find(rec positions.Record) (string, bool) {
	for _, p := range []string{realPath(l.path), rec.Real} {
		f, st, err := openFile(p)
		if err != nil {
			continue
		}
		var buf [headSize]byte
		head, err := readHead(f, &buf)
		_ = f.Close() // read only
		if err == nil && st.id == rec.ID && fits(rec.Fingerprint, head) {
			return p, true
		}
	}
	return l.search(rec.ID, rec.Fingerprint)
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
	span := g.ledger.Begin(0, 0)
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

// search looks for a file by identity among the files beside the log.
func (l *tailLog) search(id positions.ID, fp positions.Fingerprint) (string, bool) {
	dirs := l.dirs()
	for _, r := range l.t.store.Find(l.key.Client, l.key.Job, id) {
		dirs = append(dirs, filepath.Dir(r.Real))
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		list, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range list {
			fi, err := e.Info()
			if err != nil || !fi.Mode().IsRegular() || statOf(fi).id != id {
				continue
			}
			path := filepath.Join(dir, e.Name())
			f, st, err := openFile(path)
			if err != nil {
				continue
			}
			var buf [headSize]byte
			head, err := readHead(f, &buf)
			_ = f.Close() // read only
			if err == nil && st.id == id && fits(fp, head) {
				return path, true
			}
		}
	}
	return "", false
}

// between lists files that the path has named after the newest known generation and before
// the present one: rotated names that are newer than it and that nobody has read, oldest
// first.
func (l *tailLog) between() []string {
	since := l.since
	for _, g := range append(slices.Clone(l.late), l.gens...) {
		since = max(since, g.mtime)
	}
	current := statOrZero(l.path)
	type sibling struct {
		path  string
		mtime int64
	}
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
			if st := statOf(fi); st.id != current && st.mtime >= since && st.size > 0 {
				out = append(out, sibling{path, st.mtime})
			}
		}
	}
	slices.SortFunc(out, func(a, b sibling) int { return cmp.Compare(a.mtime, b.mtime) })
	paths := make([]string, len(out))
	for i, s := range out {
		paths[i] = s.path
	}
	return paths
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
