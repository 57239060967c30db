package deliver

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

type counted struct{ held atomic.Int32 }

func (c *counted) Retain()  { c.held.Add(1) }
func (c *counted) Release() { c.held.Add(-1) }

type pushes chan int

func (p pushes) Push(_ context.Context, _ model.Tenant, streams []model.Stream) error {
	n := 0
	for i := range streams {
		n += len(streams[i].Entries)
	}
	p <- n
	return nil
}

// Whatever order sources and senders start in: what comes before Start is sent after it.
func TestCommitBeforeStart(t *testing.T) {
	server := make(pushes, 10)
	s := New(Config{BatchWait: 1}, server)
	var origin counted
	for range 2 {
		origin.Retain()
		var st Staging
		st.Add("", labels.FromStrings("job", "test"), 1, model.Entry{Timestamp: 1, Line: []byte("line")}, &origin, nil)
		s.Commit(&st)
		origin.Release()
	}
	if origin.held.Load() == 0 {
		t.Fatal("entries are acknowledged that nobody has sent")
	}
	s.Start(context.Background())
	n := 0
	for n < 2 {
		n += <-server
	}
	s.Stop()
	if held := origin.held.Load(); n != 2 || held != 0 {
		t.Errorf("%d entries sent, %d holds left; want 2 and 0", n, held)
	}
}
