package tail

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skaldlog/skald/agent/positions"
)

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

// dirs are the directories where files of the log may be after a rotation.
func (l *tailLog) dirs() []string {
	out := []string{filepath.Dir(realPath(l.path))}
	for _, g := range append(slices.Clone(l.gens), l.late...) {
		out = append(out, filepath.Dir(g.path))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func statOrZero(path string) positions.ID {
	fi, err := os.Stat(path)
	if err != nil {
		return positions.ID{}
	}
	return statOf(fi).id
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
	if c == nil {
		return false
	}
	defer c.close()
	return c.st.id == s.id && l.knownContent(c)
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

// taken reports whether a file belongs to another log, or is a copy that has been read.
func (l *tailLog) taken(c *candidate) bool {
	l.t.mu.Lock()
	owner := l.t.mu.owners[fileKey{l.target.group, c.st.id}]
	l.t.mu.Unlock()
	return owner != nil && owner != l || l.knownContent(c)
}
