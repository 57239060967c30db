package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The recipes by which Promtail loses or repeats lines, as far as they are not rows of
// TestFaults; docs/agent-promises.md lists all thirteen.
func TestRecipes(t *testing.T) {
	t.Run("B6 one 400 then well", func(t *testing.T) {
		s, dir := newSink(t), t.TempDir()
		refused := 0
		s.setJudge(func([]string) (int, time.Duration) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if refused++; refused == 1 {
				return http.StatusBadRequest, 0
			}
			return 0, 0
		})
		// Two lines: the server refuses their batch, and takes each by itself.
		appendFile(t, filepath.Join(dir, "logs/a.log"), "one\ntwo\n")
		_, stop := start(t, testConfig(t, s.URL, dir, ""), Options{})
		eventually(t, "both lines", func() bool { return len(s.lines()) == 2 })
		stop()
	})
	t.Run("B7 more streams than max_streams", func(t *testing.T) {
		s, dir := newSink(t), t.TempDir()
		cfg := testConfig(t, s.URL, dir, "[{regex: {expression: '(?P<n>.+)'}}, {labels: {n: }}]")
		cfg.Limits.MaxStreams = 2
		_, stop := start(t, cfg, Options{})
		appendFile(t, filepath.Join(dir, "logs/a.log"), "1\n2\n3\n4\n5\n")
		eventually(t, "all five", func() bool { return len(s.lines()) == 5 })
		appendFile(t, filepath.Join(dir, "logs/a.log"), "6\n")
		eventually(t, "the one after", func() bool { return len(s.lines()) == 6 })
		stop()
	})
	t.Run("B11 max_partial_lines 1", func(t *testing.T) {
		s, dir := newSink(t), t.TempDir()
		appendFile(t, filepath.Join(dir, "logs/a.log"), criRecords("P aa", "P bb", "F cc"))
		_, stop := start(t, testConfig(t, s.URL, dir, "[{cri: {max_partial_lines: 1}}]"), Options{})
		eventually(t, "the line", func() bool { return len(s.lines()) == 1 })
		stop()
		if diff := cmp.Diff(map[string]int{"aabbcc": 1}, s.lines()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("B12 truncate partial lines without a size", func(t *testing.T) {
		s, dir := newSink(t), t.TempDir()
		appendFile(t, filepath.Join(dir, "logs/a.log"), criRecords("P aa", "F bb"))
		_, stop := start(t, testConfig(t, s.URL, dir, "[{cri: {max_partial_line_size_truncate: true}}]"), Options{})
		eventually(t, "the line", func() bool { return s.lines()["aabb"] == 1 })
		stop()
	})
}

func criRecords(records ...string) string {
	var b strings.Builder
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, r := range records {
		at = at.Add(time.Millisecond)
		b.WriteString(at.Format(time.RFC3339Nano) + " stdout " + r + "\n")
	}
	return b.String()
}

// What keeps deleted files on the disk is bounded: beyond it they are given up, and counted.
func TestHeldFilesAreBounded(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	s.setJudge(func([]string) (int, time.Duration) { return 503, 0 })
	opts := Options{Tail: fastTail, Budget: 4 << 10, StopTimeout: 50 * time.Millisecond}
	opts.Tail.HoldFiles = 2
	a, stop := start(t, testConfig(t, s.URL, dir, ""), opts)
	path := filepath.Join(dir, "logs/a.log")
	stats := func() (held, lost int64) {
		st := &a.engine().lanes[0].tailer.Stats
		return st.HeldFiles.Load(), st.Lost.Load()
	}
	for i := range 5 {
		appendFile(t, path, strings.Repeat("a line of some length\n", 1000))
		eventually(t, "the file is open", func() bool { return a.engine().lanes[0].tailer.Stats.OpenFiles.Load() >= int64(min(i+1, 2)) })
		time.Sleep(50 * time.Millisecond)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "three of five files are given up, and two held", func() bool {
		held, lost := stats()
		return held == 2 && lost == 3
	})
	s.setJudge(nil)
	stop()
}
