package turns

import (
	"runtime"
	"sync"
	"time"
)

// threads run work at a lower priority than the process has. There are as many as have worked
// at once, and one that has had nothing to do for a while ends. The zero value has none yet.
type threads struct {
	mu struct {
		sync.Mutex
		idle []*thread // the last one worked last
	}
}

// thread is a goroutine with a thread of its own: a lower priority can't be taken back without
// permission, so the thread ends with the goroutine.
type thread struct{ next chan *task }

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
		t.mu.idle[n-1].next <- job // has room for the one task of an idle thread
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
	self := &thread{make(chan *task, 1)}
	timer := time.NewTimer(lingers)
	defer timer.Stop()
	for job != nil {
		job.work()
		t.mu.Lock()
		t.mu.idle = append(t.mu.idle, self)
		t.mu.Unlock()
		close(job.done)
		timer.Reset(lingers)
		select {
		case job = <-self.next:
		case <-timer.C:
			job = t.leave(self)
		}
	}
}

// leave takes a thread out of those that are idle, or returns what it was given meanwhile.
func (t *threads) leave(self *thread) *task {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.mu.idle {
		if other == self {
			t.mu.idle = append(t.mu.idle[:i], t.mu.idle[i+1:]...)
			return nil
		}
	}
	return <-self.next
}
