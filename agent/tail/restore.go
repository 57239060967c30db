package tail

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/skaldlog/skald/agent/positions"
)

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
