package tail

import (
	"container/heap"
	"context"
	"math"
	"slices"
	"time"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
)

// state says where a log is. Only the worker that took a log out of the queue touches its
// files; everybody else holds Tailer.mu and finds it in another state than running.
//
//	idle ──wake──► queued ──take──► running ──done──► idle | queued | starved
//	                  ▲                                           │
//	                  └──────────────── Resume ───────────────────┘
type state uint8

const (
	idle state = iota
	queued
	running
	starved
)

// schedule is a log's part of the scheduler, guarded by Tailer.mu.
type schedule struct {
	state state
	again bool  // woken while running
	check bool  // the path may name another file
	due   int64 // wake then; 0 for never
	index int   // in the heap of timers, when due is set
	last  int64 // end of the last turn
}

// outcome is what a turn asks for.
type outcome struct {
	more   bool  // there is more to read
	starve bool  // there is no room
	remove bool  // the log is over
	due    int64 // wake then, math.MaxInt64 for never
}

// wake queues a log; check says that its path may name another file.
func (t *Tailer) wake(l *tailLog, check bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wakeLocked(l, check)
}

func (t *Tailer) wakeLocked(l *tailLog, check bool) {
	s := &l.sched
	s.check = s.check || check
	switch s.state {
	case running:
		s.again = true
	case starved:
		// The turn opens what is new even when it cannot read.
		if check || !l.isOpen {
			t.unstarve(l)
		}
	case idle:
		now := clock.Now()
		if at := s.last + int64(t.cfg.Interval); !check && at > now {
			t.at(l, at)
			return
		}
		t.enqueue(l)
	}
}

func (t *Tailer) unstarve(l *tailLog) {
	for i, o := range t.mu.starved {
		if o == l {
			t.mu.starved = append(t.mu.starved[:i], t.mu.starved[i+1:]...)
			break
		}
	}
	t.enqueue(l)
}

func (t *Tailer) enqueue(l *tailLog) {
	l.sched.state = queued
	t.mu.queue = append(t.mu.queue, l)
	t.work.Signal()
}

// take waits for a log to work on; nil when the tailer is closed.
func (t *Tailer) take() *tailLog {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.mu.queue) == 0 && !t.mu.closed {
		t.work.Wait()
	}
	if t.mu.closed {
		return nil
	}
	l := t.mu.queue[0]
	t.mu.queue = t.mu.queue[1:]
	s := &l.sched
	s.state, s.again = running, false
	l.checkPath, s.check = s.check, false
	if l.heir != nil {
		l.target, l.heir, l.outdated = l.heir, nil, true
	}
	t.at(l, 0)
	return l
}

// borrow takes a log's turn for somebody who is no worker, and must give it back; nil when
// there is no such log, busy when a worker has its turn.
func (t *Tailer) borrow(key positions.Key) (l *tailLog, busy bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l = t.mu.logs[key]; l == nil {
		return nil, false
	}
	is := func(o *tailLog) bool { return o == l }
	switch l.sched.state {
	case running:
		return nil, true
	case queued:
		t.mu.queue = slices.DeleteFunc(t.mu.queue, is)
	case starved:
		t.mu.starved = slices.DeleteFunc(t.mu.starved, is)
	}
	l.sched.state = running
	return l, false
}

// giveBack ends borrow. The log has a turn of its own, since anything may have come meanwhile.
func (t *Tailer) giveBack(l *tailLog) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.enqueue(l)
}

// done puts a log where its turn's outcome says.
func (t *Tailer) done(l *tailLog, o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &l.sched
	s.last = clock.Now()
	l.isOpen = l.open()
	switch {
	case o.remove && !s.again && !s.check:
		s.state = idle
		t.removeLocked(l)
	case o.starve:
		s.state = starved
		t.mu.starved = append(t.mu.starved, l)
		if l.heir != nil || s.check || l.consumer == nil || l.consumer.Ready() {
			t.unstarve(l) // something, or room, came between the turn and now; Resume may not come again
		} else if o.due != math.MaxInt64 {
			t.at(l, o.due)
		}
	case o.more:
		t.enqueue(l)
	default:
		s.state = idle
		if o.due != math.MaxInt64 {
			t.at(l, o.due)
		}
		if s.again || s.check {
			if s.check {
				t.enqueue(l)
			} else {
				t.at(l, min(max(s.last+int64(t.cfg.Interval), 0), o.due))
			}
		}
	}
}

// at sets when a log is woken, 0 for never; an earlier time that is set stays.
func (t *Tailer) at(l *tailLog, due int64) {
	s := &l.sched
	switch {
	case due == 0:
		if s.due != 0 {
			heap.Remove(&t.mu.timers, s.index)
			s.due = 0
		}
	case s.due == 0:
		s.due = due
		heap.Push(&t.mu.timers, l)
	case due < s.due:
		s.due = due
		heap.Fix(&t.mu.timers, s.index)
	}
	if due != 0 && s.due == due && s.index == 0 {
		select {
		case t.sooner <- struct{}{}:
		default: // runTimers will look anyway
		}
	}
}

// timerTick is how exactly deadlines are kept: those that are close together are met together.
const timerTick = 10 * time.Millisecond

// runTimers wakes the logs whose time has come. It sleeps until the next is due.
func (t *Tailer) runTimers(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.sooner:
		case <-timer.C:
		}
		if next := t.fire(clock.Now()); next > 0 {
			timer.Reset(max(clock.Until(next), timerTick))
		}
	}
}

// fire wakes the logs that are due and returns when the next one is, 0 when there is none.
func (t *Tailer) fire(now int64) (next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.mu.timers) > 0 && t.mu.timers[0].sched.due <= now {
		l := t.mu.timers[0]
		t.at(l, 0)
		switch l.sched.state {
		case idle:
			t.enqueue(l)
		case running:
			l.sched.again = true
		case starved:
			t.unstarve(l)
		}
	}
	if len(t.mu.timers) == 0 {
		return 0
	}
	return t.mu.timers[0].sched.due
}

// timerHeap orders logs by due time.
type timerHeap []*tailLog

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].sched.due < h[j].sched.due }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].sched.index, h[j].sched.index = i, j
}
func (h *timerHeap) Push(x any) {
	l := x.(*tailLog)
	l.sched.index = len(*h)
	*h = append(*h, l)
}
func (h *timerHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
