package agent

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/skaldlog/skald/agent/positions"
)

// The directory of the positions becomes read-only while the agent runs, as a disk with
// errors does: the agent goes on, says so, and stores its positions when it can again.
func TestStateBecomesReadOnly(t *testing.T) {
	r := newFaultRun(t)
	reg := prometheus.NewRegistry()
	var said syncBuffer
	r.opts.Registerer, r.opts.Logger = reg, slog.New(slog.NewTextHandler(&said, nil))
	r.cfg.Positions.SyncPeriod = time.Second
	failures := func() float64 {
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.GetName() == "skald_agent_positions_write_failures_total" {
				return m.GetMetric()[0].GetCounter().GetValue()
			}
		}
		t.Fatal("the metric of failed writes is missing")
		return 0
	}
	state := filepath.Join(r.dir, "state")
	r.start()
	r.write(100)
	r.settle()

	writable := r.makeReadOnly(state)
	r.write(1)
	eventually(t, "a snapshot fails", func() bool { return failures() > 0 })
	r.breakJournal(state) // nobody closes it any more
	for range 3 {
		r.write(100)
		r.rotate()
		r.write(100)
		r.settle()
	}
	before := failures()
	eventually(t, "several failures are counted", func() bool { return failures() >= before+2 })
	if n := strings.Count(said.String(), "positions cannot be written"); n != 1 {
		t.Errorf("the log says it %d times, want once:\n%s", n, said.String())
	}
	writable()

	fi, err := os.Stat(r.path)
	r.must(err)
	eventually(t, "the positions on the disk are those of now", func() bool {
		store, err := positions.Open(filepath.Join(state, "positions.yaml"), positions.Options{ReadOnly: true})
		return err == nil && slices.ContainsFunc(store.Records(""), func(rec positions.Record) bool {
			return rec.Ino == fi.Sys().(*syscall.Stat_t).Ino && rec.Offset == fi.Size() //nolint:forcetypeassert // on Linux it is one
		})
	})
	eventually(t, "the log says that it is over", func() bool { return strings.Contains(said.String(), "positions are written again") })
	r.end()
	r.opts.Registerer = nil
	r.write(100)
	r.finish()
	lost, twice := r.count()
	if _, repeats := r.sink.counts(); lost+twice+repeats > 0 {
		t.Errorf("%d lines lost, %d stored twice, %d sent twice", lost, twice, repeats)
	}
}

// makeReadOnly makes a directory read-only until the returned function is called.
func (r *faultRun) makeReadOnly(dir string) (writable func()) {
	r.Helper()
	if os.Getuid() == 0 { // whom permissions do not stop
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
			r.Skip("making a directory read-only needs the right to mount, or another user than root: ", err)
		}
		writable = func() { r.must(syscall.Unmount(dir, syscall.MNT_DETACH)) }
		r.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }) // if the test has failed before
	} else {
		r.must(os.Chmod(dir, 0o555))
		writable = func() { r.must(os.Chmod(dir, 0o755)) }
		r.Cleanup(writable)
	}
	return writable
}

// breakJournal makes writing fail to the journal of positions that this process has open.
func (r *faultRun) breakJournal(dir string) {
	r.Helper()
	null, err := os.Open(os.DevNull) // which takes no writes, opened like this
	r.must(err)
	defer null.Close()
	links, err := filepath.Glob("/proc/self/fd/*")
	r.must(err)
	replaced := 0
	for _, link := range links {
		name, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(name, dir+"/positions.skald.journal.") {
			continue
		}
		fd, err := strconv.Atoi(filepath.Base(link))
		r.must(err)
		r.must(unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC))
		replaced++
	}
	if replaced != 1 {
		r.Fatalf("%d journals are open, want 1", replaced)
	}
}

// syncBuffer is a bytes.Buffer for a logger and a reader.
type syncBuffer struct {
	mu struct {
		sync.Mutex
		bytes.Buffer
	}
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.Buffer.String()
}
