package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wallClock is a wall clock that can be set.
type wallClock struct{ ahead atomic.Int64 }

func (c *wallClock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

func (c *wallClock) now() int64 { return time.Now().UnixNano() + c.ahead.Load() }

const years = 365 * 24 * time.Hour

// jumps are what the wall clock is set to, one after the other, relative to the right time.
var jumps = []time.Duration{time.Hour, 0, -time.Hour, 0, 10 * years, 0, -10 * years, 0, time.Minute, 0}

// TestClockJumps sets the wall clock while files are read, rotated, and kept back by a
// multiline stage. Nothing may be lost or wait for the clock, lines arrive in order, and the
// times that the agent gives are those of the clock: never before the lines were written,
// never back, unless the clock has gone back further than a server bears.
func TestClockJumps(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	var arrived struct {
		sync.Mutex
		lines []string
	}
	s.setJudge(func(lines []string) (int, time.Duration) {
		arrived.Lock()
		defer arrived.Unlock()
		for _, l := range lines {
			if strings.HasPrefix(l, "line") {
				arrived.lines = append(arrived.lines, l)
			}
		}
		return 0, 0
	})
	cfg, err := parseConfig([]byte(strings.NewReplacer("DIR", dir, "URL", s.URL).Replace(`
server: {disable: true}
positions: {filename: DIR/state/positions.yaml}
clients: [{url: URL/loki/api/v1/push, batchwait: 20ms}]
scrape_configs:
  - job_name: plain
    static_configs: [{labels: {job: plain, __path__: "DIR/logs/*.log"}}]
  - job_name: blocks
    static_configs: [{labels: {job: blocks, __path__: "DIR/blocks/*.log"}}]
    pipeline_stages: [{multiline: {firstline: "^block", max_wait_time: 50ms}}]
`)))
	if err != nil {
		t.Fatal(err)
	}
	var clock wallClock
	path := filepath.Join(dir, "logs/app.log")
	var want []string
	blocks, gens := 0, 0
	write := func() {
		t.Helper()
		var b strings.Builder
		for range 20 {
			want = append(want, fmt.Sprintf("line %d", len(want)))
			b.WriteString(want[len(want)-1] + "\n")
		}
		appendFile(t, path, b.String())
		blocks++
		appendFile(t, filepath.Join(dir, "blocks/app.log"), fmt.Sprintf("block %d\nmore\n", blocks))
		eventually(t, fmt.Sprintf("%d lines and %d blocks", len(want), blocks), func() bool {
			return len(s.stream(`job="plain"`)) == len(want) && len(s.stream(`job="blocks"`)) == blocks
		})
	}
	agent, stop := start(t, cfg, Options{Now: clock.now})
	waitRunning(t, agent)
	write()
	was := time.Duration(0)
	for i, jump := range jumps {
		before := s.ofLine(want[len(want)-1])
		clock.set(jump)
		from := clock.now()
		write()
		first, last := s.ofLine(want[len(want)-20]), s.ofLine(want[len(want)-1])
		if first < from || last < first {
			t.Errorf("jump %d by %v: lines written at %d have times from %d to %d", i, jump-was, from, first, last)
		}
		if small := jump < was && was-jump < 10*time.Minute; small && first <= before {
			t.Errorf("jump %d by %v: times went back from %d to %d", i, jump-was, before, first)
		} else if !small && last > clock.now() {
			t.Errorf("jump %d by %v: lines have times up to %d, and it is %d", i, jump-was, last, clock.now())
		}
		gens++
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, gens)); err != nil {
			t.Fatal(err)
		}
		write()
		if i%3 == 2 {
			stop()
			agent, stop = start(t, cfg, Options{Now: clock.now})
			waitRunning(t, agent)
			write()
		}
		was = jump
	}
	stop()
	arrived.Lock()
	defer arrived.Unlock()
	if !slices.Equal(arrived.lines, want) {
		t.Errorf("lines arrived out of order, or twice: %d, want %d", len(arrived.lines), len(want))
	}
}

// A file that comes and is rotated away between two looks is read, although its time lies
// before the agent's start by a clock that was wrong.
func TestClockSetBackAndRotated(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	var clock wallClock
	clock.set(time.Hour)
	appendFile(t, filepath.Join(dir, "logs/other.log"), "other\n")
	_, stop := start(t, testConfig(t, s.URL, dir, ""), Options{Now: clock.now})
	eventually(t, "the agent reads", func() bool { return s.lines()["other"] > 0 })
	clock.set(0)
	for i := range 10 {
		path := filepath.Join(dir, fmt.Sprintf("logs/pod-%d/0.log", i))
		appendFile(t, path, fmt.Sprintf("of %d\n", i))
		if err := os.Rename(path, path+".20260101-000001"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all ten files are read", func() bool { return len(s.lines()) == 11 })
	stop()
}

// ofLine returns the time of a line, 0 when it is not stored.
func (s *sink) ofLine(line string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.mu.entries {
		for e := range set {
			if e.line == line {
				return e.ts
			}
		}
	}
	return 0
}
