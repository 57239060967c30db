package tail

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/positions"
)

// SetTargets replaces the targets, while the tailer runs or before. A log that a new target wants
// under other labels gets a new consumer and goes on where it is. A log that no target wants
// any more is read to its end, and left when it has been quiet for Grace; its position is
// kept for the day it is wanted again. An invalid pattern is an error, and changes nothing.
func (t *Tailer) SetTargets(targets []Target) error {
	fresh, err := compile(targets)
	if err != nil {
		return err
	}
	t.mu.Lock()
	have := t.mu.targets
	for i, tg := range fresh {
		for _, old := range have {
			if old.same(tg) {
				fresh[i] = old
				break
			}
		}
	}
	t.mu.targets = fresh
	for _, l := range t.mu.logs {
		t.retarget(l, fresh)
	}
	t.mu.Unlock()
	if t.running.Load() {
		t.adopt()
		t.askScan()
	}
	return nil
}

// compile makes targets of descriptions.
func compile(targets []Target) ([]*target, error) {
	groups := newGrouper()
	out := make([]*target, len(targets))
	for i, tg := range targets {
		p, err := Compile(tg.Path)
		if err != nil {
			return nil, err
		}
		c := &target{Target: tg, pattern: p, group: groups.name(tg)}
		if tg.Exclude != "" {
			if c.exclude, err = Compile(tg.Exclude); err != nil {
				return nil, err
			}
		}
		out[i] = c
	}
	return out, nil
}

func (tg *target) same(o *target) bool {
	return tg.group == o.group && tg.Path == o.Path && tg.Exclude == o.Exclude && labels.Equal(tg.Labels, o.Labels)
}

// retarget notes which of the targets wants a log from now on; mu is held.
func (t *Tailer) retarget(l *tailLog, targets []*target) {
	l.next = wanting(targets, l.key)
	if l.next != l.target {
		t.wakeLocked(l, true)
	}
}

// wanting returns the first target that wants a log, nil when none does.
func wanting(targets []*target, key positions.Key) *target {
	for _, tg := range targets {
		if tg.group == key.Job && tg.wants(key.Path) {
			return tg
		}
	}
	return nil
}

// relabelWait bounds how long a change of labels waits for a line that has not come whole yet.
const relabelWait = 5 * time.Second

// follow brings the log in line with the last SetTargets. It reports when it must be called
// again, 0 when it need not.
func (l *tailLog) follow(now int64) (again int64) {
	l.t.mu.Lock()
	next := l.next
	l.t.mu.Unlock()
	l.orphan = next == nil
	if next == nil || next == l.target {
		l.relabel = 0
		return 0
	}
	if l.consumer != nil && l.consumer.Pending() && !labels.Equal(next.Labels, l.target.Labels) {
		if l.relabel == 0 {
			l.relabel = now
		}
		if due := l.relabel + int64(relabelWait); now < due {
			return due
		}
	}
	l.relabel = 0
	l.dropConsumer(now)
	l.t.mu.Lock()
	l.target = next
	l.t.mu.Unlock()
	return 0
}

// dropConsumer emits what the consumer keeps back, and lets it go.
func (l *tailLog) dropConsumer(now int64) {
	if l.consumer != nil {
		l.consumer.Flush(now, true)
		l.consumer.Commit()
		l.consumer = nil
	}
}

// leave ends a log that nobody wants and that has been read to its end. Its ledgers can be
// claimed again.
func (l *tailLog) leave(now int64) outcome {
	l.dropConsumer(now)
	l.closeFiles()
	for _, g := range l.gens {
		l.t.disown(l, g)
	}
	l.gens = nil
	l.t.store.Unclaim(positions.Key{Client: l.key.Client, Job: l.key.Job, Path: l.path})
	return outcome{remove: true}
}

// targetList returns the present targets.
func (t *Tailer) targetList() []*target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.targets
}
