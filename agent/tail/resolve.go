package tail

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

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
		l.stays(i, now)
	} else if !l.takeBack(st.id, now) {
		l.rotated(now, first)
	}
}

// stays handles a path that names generation i, still or again.
func (l *tailLog) stays(i int, now int64) {
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
}

// takeBack handles a path that names a file again that was thought to be left behind; false
// when it names another one.
func (l *tailLog) takeBack(id positions.ID, now int64) bool {
	for i, g := range l.late {
		if g.id == id {
			l.late = slices.Delete(l.late, i, i+1)
			l.replaceAll(now)
			l.gens = append(l.gens, g)
			g.replaced = false
			return true
		}
	}
	return false
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
