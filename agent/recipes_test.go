package agent

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The thirteen recipes by which Promtail 3.6.15 loses or repeats lines, each in a few lines:
// go test ./agent -run TestRecipes -v. Here nothing is missing.
func TestRecipes(t *testing.T) {
	for _, recipe := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"B1 rotated to a longer file while the server answers 500", lossless(func(r *faultRun) {
			r.write(50)
			r.start()
			r.settle()
			r.sink.setJudge(always(500))
			r.write(20_000)
			time.Sleep(50 * time.Millisecond) // some of it is read
			r.rotate()
			r.write(30_000)
			time.Sleep(50 * time.Millisecond)
		})},
		{"B2 killed after reading what the server had not taken", lossless(func(r *faultRun) {
			r.child("[]")
			r.write(1)
			r.runUntilSeen()
			r.sink.setJudge(always(500))
			r.write(500)
			r.runFor(1500*time.Millisecond, "") // longer than sync_period
		})},
		{"B3 killed in steady flow", lossless((*faultRun).randomKills)},
		{"B4 rotated to a longer file while stopped", lossless(func(r *faultRun) {
			r.write(17)
			r.start()
			r.settle()
			r.end()
			r.write(3)
			r.rotate()
			r.write(40)
		})},
		{"B5 copytruncate regrowing within one look", lossless((*faultRun).regrown)},
		{"B6 one 400 then well", recipeRefusedOnce},
		{"B7 more streams than max_streams", recipeMaxStreams},
		{"B8 told to stop while connections are refused", recipeStopRefused},
		{"B9 reload with a bad expression", TestReload},
		{"B10 check of a bad expression", TestCheck},
		{"B11 max_partial_lines 1", recipePartialLines},
		{"B12 truncate partial lines without a size", recipePartialSize},
		{"B13 the metric of a refused connection", recipeRefusedMetric},
	} {
		t.Run(recipe.name, recipe.run)
	}
}

// lossless runs a fault as TestFaults runs its rows.
func lossless(fault func(*faultRun)) func(*testing.T) {
	return func(t *testing.T) { t.Log(faultRow{t.Name(), fault}.prove(t)) }
}

// always is a server with one answer.
func always(status int) func([]string) (int, time.Duration) {
	return func([]string) (int, time.Duration) { return status, 0 }
}

func recipeRefusedOnce(t *testing.T) {
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
}

func recipeMaxStreams(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	cfg := testConfig(t, s.URL, dir, "[{regex: {expression: '(?P<n>.+)'}}, {labels: {n: }}]")
	cfg.Limits.MaxStreams = 2
	_, stop := start(t, cfg, Options{})
	appendFile(t, filepath.Join(dir, "logs/a.log"), "1\n2\n3\n4\n5\n")
	eventually(t, "all five", func() bool { return len(s.lines()) == 5 })
	appendFile(t, filepath.Join(dir, "logs/a.log"), "6\n")
	eventually(t, "the one after", func() bool { return len(s.lines()) == 6 })
	stop()
}

func recipePartialLines(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	appendFile(t, filepath.Join(dir, "logs/a.log"), criRecords("P aa", "P bb", "F cc"))
	_, stop := start(t, testConfig(t, s.URL, dir, "[{cri: {max_partial_lines: 1}}]"), Options{})
	eventually(t, "the line", func() bool { return len(s.lines()) == 1 })
	stop()
	if diff := cmp.Diff(map[string]int{"aabbcc": 1}, s.lines()); diff != "" {
		t.Error(diff)
	}
}

func recipePartialSize(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	appendFile(t, filepath.Join(dir, "logs/a.log"), criRecords("P aa", "F bb"))
	_, stop := start(t, testConfig(t, s.URL, dir, "[{cri: {max_partial_line_size_truncate: true}}]"), Options{})
	eventually(t, "the line", func() bool { return s.lines()["aabb"] == 1 })
	stop()
}

// refusing returns an address at which connections are refused.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func recipeStopRefused(t *testing.T) {
	dir := t.TempDir()
	appendFile(t, filepath.Join(dir, "logs/a.log"), "one\ntwo\n")
	a, stop := start(t, testConfig(t, refusing(t), dir, ""), Options{StopTimeout: 50 * time.Millisecond})
	eventually(t, "lines are read", func() bool { return a.engine().lanes[0].tailer.Stats.LinesRead.Load() == 2 })
	stop() // it returns, which is the point
	s := newSink(t)
	_, stop = start(t, testConfig(t, s.URL, dir, ""), Options{})
	eventually(t, "both lines", func() bool { return len(s.lines()) == 2 })
	stop()
}

func recipeRefusedMetric(t *testing.T) {
	dir := t.TempDir()
	appendFile(t, filepath.Join(dir, "logs/a.log"), "one\n")
	a, stop := start(t, testConfig(t, refusing(t), dir, ""), Options{StopTimeout: 50 * time.Millisecond})
	defer stop()
	eventually(t, "what stock alerts match", func() bool {
		for line := range strings.Lines(get(t, "http://"+a.Addr()+"/metrics")) {
			if strings.HasPrefix(line, "promtail_request_duration_seconds_count{") && strings.Contains(line, `status_code="failed"`) {
				return true
			}
		}
		return false
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
		eventually(t, "the file is open, and all before it are held or given up", func() bool {
			held, lost := stats()
			return held+lost == int64(i) && a.engine().lanes[0].tailer.Stats.OpenFiles.Load() == held+1
		})
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
