package tail

import (
	"github.com/skaldlog/skald/agent/clock"
)

// Reasons for which a generation is lost.
const (
	lostVanished  = "vanished"   // it was gone, with bytes that are known to be unread
	lostTruncated = "truncated"  // it was truncated, with bytes that are known to be unread
	lostHeld      = "held_limit" // deleted and unread for longer, or larger, than is allowed
	lostDamaged   = "damaged"    // a compressed file cannot be read to its end
	lostUnknown   = "unknown"    // gone while the agent was stopped: what it held cannot be known
)

// lost counts and tells that a generation cannot be read to its end.
func (l *tailLog) lost(g *generation, reason string) {
	l.t.lost(reason)
	l.t.log.Error("a file could not be read to its end", "reason", reason, "path", g.path, "log", l.path, "read", g.off, "size", g.size)
}

func (t *Tailer) lost(reason string) {
	t.Stats.Lost.Add(1)
	t.cfg.Lost(reason)
}

// held is what is known about a file that only its descriptor keeps.
type held struct {
	log   *tailLog
	since int64
	bytes int64
}

// shed looks which generations have been deleted. Their content exists as long as they are
// open, which takes space on the disk that nobody sees; it is bounded.
func (l *tailLog) shed() {
	for _, g := range append(append([]*generation(nil), l.gens...), l.late...) {
		if g.f == nil || !g.replaced {
			continue
		}
		if fi, err := g.f.Stat(); err == nil {
			if st := statOf(fi); st.links == 0 {
				l.t.hold(l, g, st.held)
			}
		}
	}
	l.t.held.Lock()
	var over []*generation
	for _, g := range l.gens {
		if g.shed {
			over = append(over, g)
		}
	}
	l.t.held.Unlock()
	for _, g := range over {
		if g.unread() || g.size > g.off {
			l.lost(g, lostHeld)
		}
		l.gens = remove(l.gens, g)
		l.t.closeFile(g)
		l.t.disown(l, g)
		g.ledger.Detach()
	}
}

func remove(list []*generation, g *generation) []*generation {
	out := make([]*generation, 0, len(list))
	for _, o := range list {
		if o != g {
			out = append(out, o)
		}
	}
	return out
}

// hold notes that a generation is deleted and still open.
func (t *Tailer) hold(l *tailLog, g *generation, bytes int64) {
	t.held.Lock()
	defer t.held.Unlock()
	h := t.held.files[g]
	if h == nil {
		h = &held{log: l, since: clock.Now()}
		t.held.files[g] = h
	}
	t.Stats.HeldBytes.Add(bytes - h.bytes)
	h.bytes = bytes
	t.Stats.HeldFiles.Store(int64(len(t.held.files)))
}

// unhold forgets a generation that is not open any more.
func (t *Tailer) unhold(g *generation) {
	t.held.Lock()
	defer t.held.Unlock()
	if h := t.held.files[g]; h != nil {
		delete(t.held.files, g)
		t.Stats.HeldBytes.Add(-h.bytes)
		t.Stats.HeldFiles.Store(int64(len(t.held.files)))
	}
}

// limitHeld gives up deleted files, the oldest first, while they exceed what is allowed. It
// runs with every scan.
func (t *Tailer) limitHeld() {
	now := clock.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held.Lock()
	defer t.held.Unlock()
	files, bytes := len(t.held.files), t.Stats.HeldBytes.Load()
	for files > 0 {
		var oldest *generation
		for g, h := range t.held.files {
			if !g.shed && (oldest == nil || h.since < t.held.files[oldest].since) {
				oldest = g
			}
		}
		if oldest == nil {
			return
		}
		h := t.held.files[oldest]
		if files <= t.cfg.HoldFiles && bytes <= t.cfg.HoldBytes && now < h.since+int64(t.cfg.HoldAge) {
			return
		}
		oldest.shed = true
		files--
		bytes -= h.bytes
		t.wakeLocked(h.log, true)
	}
}

// limitOpen closes descriptors of other logs while there are too many. First go those that
// lie idle; a file that waits to be read can be opened again as long as its path stays.
func (t *Tailer) limitOpen(self *tailLog) {
	if t.Stats.OpenFiles.Load() <= int64(t.cfg.MaxOpen) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for pass := range 2 {
		probes := 0
		for _, l := range t.mu.logs {
			if t.Stats.OpenFiles.Load() <= int64(t.cfg.MaxOpen) || probes > 256 {
				break
			}
			probes++
			s := l.sched.state
			if l == self || s == running || !l.isOpen || pass == 0 && s != idle || len(l.gens) != 1 || l.gens[0].replaced {
				continue
			}
			l.closeFiles()
			l.isOpen = len(l.late) > 0
			if l.consumer != nil && !l.consumer.Pending() {
				l.consumer = nil
			}
		}
	}
}
