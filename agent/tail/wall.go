package tail

import "github.com/skaldlog/skald/agent/clock"

// Two clocks: deadlines and pauses are in the time of package clock; the wall clock, which
// may jump, gives times to lines that bring none and is compared with times of files.

// wall is what the wall clock says. It notes how far that has gone back.
func (t *Tailer) wall() int64 {
	w := t.cfg.Now()
	for {
		back, was := clock.Now()-w-t.wallOffset.Load(), t.wentBack.Load()
		if back <= was || t.wentBack.CompareAndSwap(was, back) {
			return w
		}
	}
}

// startWall makes the wall clock's present state the one that it goes back from.
func (t *Tailer) startWall() int64 {
	w := t.cfg.Now()
	t.wallOffset.Store(clock.Now() - w)
	return w
}

// older reports whether a file that was changed at mtime has not been changed since a time
// that the wall clock showed, wherever it has been in between. When it has been set back, a
// later change may have an earlier time.
func (t *Tailer) older(mtime, since int64) bool {
	t.wall()
	return mtime < since-t.wentBack.Load()
}

// maxAhead is how far the times given to a file's lines may be ahead of the wall clock before
// they follow it back: servers refuse lines that are further in their future.
const maxAhead = int64(10 * 60 * 1e9)

// times returns the time of the first of the next lines. Times do not go back within a file,
// unless the wall clock has gone back further than servers bear.
func (g *generation) times(wall int64) int64 {
	if len(g.replay) > 0 && g.replay[0].From == g.off {
		return g.replay[0].Base
	}
	if g.base > wall+maxAhead {
		g.base = 0
	}
	return max(wall, g.base+1)
}
