package turns

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// threads are goroutines with a thread of their own, which has a lower priority than the process.
// That can't be taken back without permission, so the thread ends with the goroutine. There are
// as many as have worked at once, and one that has had nothing to do for a while ends. The zero
// value has none yet.
type threads struct {
	mu struct {
		sync.Mutex
		idle []chan *task // of each that waits, with room for one; the last one worked last
	}
}

type task struct {
	work func()
	done chan struct{}
}

// lingers is how long a thread waits for work.
const lingers = 10 * time.Second

// run has a thread do the work and returns when it has.
func (t *threads) run(work func()) {
	job := &task{work, make(chan struct{})}
	t.mu.Lock()
	if n := len(t.mu.idle); n > 0 {
		t.mu.idle[n-1] <- job
		t.mu.idle = t.mu.idle[:n-1]
		t.mu.Unlock()
	} else {
		t.mu.Unlock()
		go t.serve(job)
	}
	<-job.done
}

// serve is a thread's life.
func (t *threads) serve(job *task) {
	runtime.LockOSThread() // and never unlock
	lowerPriority()
	next := make(chan *task, 1)
	timer := time.NewTimer(lingers)
	defer timer.Stop()
	for job != nil {
		job.work()
		t.mu.Lock()
		t.mu.idle = append(t.mu.idle, next)
		t.mu.Unlock()
		close(job.done)
		timer.Reset(lingers)
		select {
		case job = <-next:
		case <-timer.C:
			job = t.leave(next)
		}
	}
}

// leave takes a thread out of those that are idle, or returns what it was given meanwhile.
func (t *threads) leave(next chan *task) *task {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.mu.idle, next)
	if i < 0 {
		return <-next
	}
	t.mu.idle = slices.Delete(t.mu.idle, i, i+1)
	return nil
}
