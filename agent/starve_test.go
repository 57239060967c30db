package agent

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skaldlog/skald/agent/positions"
)

// backlog is text of many budgets: what gigabytes are to an agent with its default budget.
func backlog(prefix string, size int) (text string, lines int) {
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, "%s %d %s\n", prefix, lines, strings.Repeat("x", 80))
		lines++
	}
	return b.String(), lines
}

// A line of another file does not wait for a backlog to drain: only what was read before it
// is sent before it.
func TestFreshLinesOvertakeBacklog(t *testing.T) {
	const budget = 64 << 10
	s, dir := newSink(t), t.TempDir()
	cfg := testConfig(t, s.URL, dir, "")
	cfg.Clients[0].Timeout = time.Minute
	open := make(chan struct{})
	release := sync.OnceFunc(func() { close(open) })
	t.Cleanup(release)
	var seen struct {
		sync.Mutex
		old, before int // bytes of the backlog, and those of them before the fresh line
	}
	s.setJudge(func(lines []string) (int, time.Duration) {
		<-open
		seen.Lock()
		defer seen.Unlock()
		for _, l := range lines {
			if l == "fresh" {
				seen.before = seen.old
			} else {
				seen.old += len(l)
			}
		}
		return 0, 0
	})
	text, n := backlog("old", 64*budget)
	appendFile(t, filepath.Join(dir, "logs/old.log"), text)
	tail := fastTail
	tail.Workers = 1 // so that turns are one after the other, and the bound is one of bytes, not of time
	a, stop := start(t, cfg, Options{Budget: budget, Tail: tail})
	eventually(t, "as much is read as may be", func() bool {
		waiting, _, _ := a.engine().lanes[0].sender.Status()
		return waiting >= budget
	})
	path := filepath.Join(dir, "logs/fresh.log")
	appendFile(t, path, "fresh\n")
	eventually(t, "the new file has had a turn", func() bool {
		return slices.ContainsFunc(a.engine().store.Records(""), func(r positions.Record) bool { return r.Path == path })
	})
	release()
	eventually(t, "all lines", func() bool { return len(s.lines()) == n+1 })
	stop()
	if seen.before > 3*budget {
		t.Errorf("%d bytes of the backlog's %d came before the new line, want at most %d", seen.before, seen.old, 3*budget)
	}
}

// A backlog drains although other files get new lines all the time.
func TestBacklogDrainsBesideBusyFiles(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	var busy struct {
		sync.Mutex
		n int
	}
	done := false
	more := func(file string) { // s's mutex is not held; appends of one file come one by one
		busy.Lock()
		defer busy.Unlock()
		if !done {
			busy.n++
			appendFile(t, filepath.Join(dir, "logs", file), fmt.Sprintf("%s %d\n", file, busy.n))
		}
	}
	s.setJudge(func(lines []string) (int, time.Duration) {
		for _, l := range lines {
			if file, _, _ := strings.Cut(l, " "); strings.HasPrefix(file, "busy") {
				more(file)
			}
		}
		return 0, 0
	})
	text, n := backlog("old", 1<<20)
	appendFile(t, filepath.Join(dir, "logs/old.log"), text)
	for i := range 8 {
		more(fmt.Sprintf("busy%d.log", i))
	}
	_, stop := start(t, testConfig(t, s.URL, dir, ""), Options{Budget: 64 << 10})
	eventually(t, "the backlog is gone", func() bool { return len(s.stream("old.log")) == n })
	busy.Lock()
	done = true
	busy.Unlock()
	eventually(t, "all lines of the busy files", func() bool { return len(s.lines()) == n+busy.n })
	stop()
	if busy.n <= 8 {
		t.Errorf("%d lines of the busy files arrived: they have starved", busy.n)
	}
}
