package agent

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/internal/model"
)

// A server refuses every push that holds a certain line: only that line is given up.
func TestPoison(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	s.setJudge(func(lines []string) (int, time.Duration) {
		for _, l := range lines {
			if strings.Contains(l, "poison") {
				return http.StatusBadRequest, 0
			}
		}
		return 0, 0
	})
	var text strings.Builder
	var want []string
	for i := range 1000 {
		line := fmt.Sprintf("line %04d", i)
		if i == 17 || i == 500 {
			line += " poison"
		} else {
			want = append(want, line)
		}
		text.WriteString(line + "\n")
	}
	appendFile(t, filepath.Join(dir, "logs/a.log"), text.String())
	reg := prometheus.NewRegistry()
	letters := filepath.Join(dir, "refused.jsonl")
	dead, err := deliver.OpenDeadLetter(letters, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	_, stop := start(t, testConfig(t, s.URL, dir, ""), Options{Registerer: reg, DeadLetter: dead})
	eventually(t, "all good lines", func() bool { return len(s.lines()) == len(want) })
	stop()
	if diff := cmp.Diff(want, s.stream("a.log")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := dead.Close(); err != nil {
		t.Error(err)
	}
	checkLetters(t, letters, "line 0017 poison", "line 0500 poison")
	err = testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP skald_agent_dropped_entries_total Entries that the server refused for good, by reason.
# TYPE skald_agent_dropped_entries_total counter
skald_agent_dropped_entries_total{client=%[1]q,reason="rate_limited"} 0
skald_agent_dropped_entries_total{client=%[1]q,reason="refused"} 2
skald_agent_dropped_entries_total{client=%[1]q,reason="too_large"} 0
# HELP skald_agent_dropped_bytes_total Bytes of lines that the server refused for good, by reason.
# TYPE skald_agent_dropped_bytes_total counter
skald_agent_dropped_bytes_total{client=%[1]q,reason="rate_limited"} 0
skald_agent_dropped_bytes_total{client=%[1]q,reason="refused"} 32
skald_agent_dropped_bytes_total{client=%[1]q,reason="too_large"} 0
`, s.Listener.Addr())), "skald_agent_dropped_entries_total", "skald_agent_dropped_bytes_total")
	if err != nil {
		t.Error(err)
	}
	// Skipped means done: nothing of it is tried again after a restart.
	before, _ := s.counts()
	_, stop = start(t, testConfig(t, s.URL, dir, ""), Options{})
	appendFile(t, filepath.Join(dir, "logs/a.log"), "after\n")
	eventually(t, "the next line", func() bool { return len(s.lines()) == len(want)+1 })
	stop()
	if after, _ := s.counts(); after != before+1 {
		t.Errorf("%d pushes after the restart, want 1", after-before)
	}
}

// checkLetters demands that a file of dead letters has these lines, with the server's reason.
func checkLetters(t *testing.T, path string, want ...string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, text := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var e deliver.DeadEntry
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if !strings.Contains(e.Reason, "refused for the test") || !strings.Contains(e.Labels, `job="test"`) || e.Timestamp == 0 {
			t.Errorf("dead letter %+v", e)
		}
		got = append(got, e.Line)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
}

// The file of dead letters stays within its bound.
func TestDeadLetterIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead")
	d, err := deliver.OpenDeadLetter(path, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		line := []byte(fmt.Sprintf("line %d \xff", i))
		if err := d.Write("c", "t", labels.FromStrings("a", "b"), model.Entry{Timestamp: 1, Line: line}, "too old"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".1"} {
		if fi, err := os.Stat(name); err != nil || fi.Size() == 0 || fi.Size() > 10_000 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), base64.StdEncoding.EncodeToString([]byte("line 999 \xff"))) {
		t.Errorf("the last entry is not there: %v", err)
	}
}

// A body that is too large is sent in parts; a line that is too large by itself is given up.
func TestTooLarge(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	s.setJudge(func(lines []string) (int, time.Duration) {
		if len(strings.Join(lines, "")) > 1000 {
			return http.StatusRequestEntityTooLarge, 0
		}
		return 0, 0
	})
	appendFile(t, filepath.Join(dir, "logs/a.log"), strings.Repeat(strings.Repeat("x", 90)+"\n", 100)+strings.Repeat("y", 2000)+"\nend\n")
	_, stop := start(t, testConfig(t, s.URL, dir, ""), Options{})
	eventually(t, "all but one line", func() bool { return len(s.stream("a.log")) == 101 })
	stop()
	if n := s.lines()[strings.Repeat("y", 2000)]; n != 0 {
		t.Errorf("the large line is there %d times", n)
	}
}

// The agent stops in time although the server hangs, and delivers after the next start.
func TestStopsWhileServerHangs(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	s.setJudge(func([]string) (int, time.Duration) { return 500, time.Minute })
	appendFile(t, filepath.Join(dir, "logs/a.log"), strings.Repeat("x\n", 5000))
	cfg := testConfig(t, s.URL, dir, "")
	cfg.Clients[0].Timeout = time.Minute
	a, stop := start(t, cfg, Options{StopTimeout: 50 * time.Millisecond})
	eventually(t, "lines are read", func() bool { return a.engine().lanes[0].tailer.Stats.LinesRead.Load() > 0 })
	stop()
	s.setJudge(nil)
	_, stop = start(t, cfg, Options{})
	eventually(t, "all lines", func() bool { return len(s.stream("a.log")) == 5000 })
	stop()
}

// A client whose server is away does not hold up another, and catches up by itself.
func TestClientsAreIndependent(t *testing.T) {
	good, bad, dir := newSink(t), newSink(t), t.TempDir()
	bad.setJudge(func([]string) (int, time.Duration) { return 500, 0 })
	cfg := testConfig(t, good.URL, dir, "")
	other := testConfig(t, bad.URL, dir, "")
	cfg.Clients = append(cfg.Clients, other.Clients[0])
	path := filepath.Join(dir, "logs/a.log")
	_, stop := start(t, cfg, Options{Budget: 10 << 10})
	n := 0
	for gen := range 5 {
		for range 500 {
			n++
			appendFile(t, path, fmt.Sprintf("generation %d line %d\n", gen, n))
		}
		eventually(t, "the good server has all", func() bool { return len(good.lines()) == n })
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, gen)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	bad.setJudge(nil)
	_, stop = start(t, cfg, Options{})
	eventually(t, "the bad server has all", func() bool { return len(bad.lines()) == n })
	stop()
	if _, n := good.counts(); n > 0 {
		t.Errorf("%d lines were sent to the good server twice", n)
	}
}

// Damaged state: the agent starts, says so, and nothing is lost; with the previous snapshot
// and the journal intact nothing is stored twice either.
func TestDamagedPositions(t *testing.T) {
	damage := map[string]func(b []byte) []byte{
		"empty":         func([]byte) []byte { return nil },
		"half":          func(b []byte) []byte { return b[:len(b)/2] },
		"flipped bit":   func(b []byte) []byte { b[len(b)-20] ^= 4; return b },
		"other version": func(b []byte) []byte { return []byte(strings.Replace(string(b), "positions 1", "positions 9", 1)) },
		"garbage":       func([]byte) []byte { return []byte("\x00\xffgarbage") },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			s, dir := newSink(t), t.TempDir()
			path, cfg := filepath.Join(dir, "logs/a.log"), testConfig(t, s.URL, dir, "")
			for i := range 3 {
				appendFile(t, path, fmt.Sprintf("line %d\n", i))
				_, stop := start(t, cfg, Options{})
				eventually(t, "a line", func() bool { return len(s.lines()) == i+1 })
				stop()
			}
			file := filepath.Join(dir, "state/positions.skald")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, f(b), 0o600); err != nil {
				t.Fatal(err)
			}
			appendFile(t, path, "last\n")
			_, stop := start(t, cfg, Options{})
			eventually(t, "the last line", func() bool { return len(s.lines()) == 4 })
			stop()
			if diff := cmp.Diff([]string{"line 0", "line 1", "line 2", "last"}, s.stream("a.log")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Promtail's positions are taken over once; its file stays.
func TestTakesOverPromtail(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	path := filepath.Join(dir, "logs/a.log")
	appendFile(t, path, "sent by promtail\nnot sent\n")
	promtail := fmt.Sprintf("positions:\n  %s: \"17\"\n  cursor-journal: s=0f;i=1\n", path)
	appendFile(t, filepath.Join(dir, "state/positions.yaml"), promtail)
	cfg := testConfig(t, s.URL, dir, "")
	for range 2 {
		a, stop := start(t, cfg, Options{})
		eventually(t, "the line", func() bool { return len(s.lines()) == 1 })
		if c := a.engine().store.Cursor("cursor-journal"); c != "s=0f;i=1" {
			t.Errorf("cursor is %q", c)
		}
		stop()
	}
	if diff := cmp.Diff([]string{"not sent"}, s.stream("a.log")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "state/positions.yaml")); err != nil || string(b) != promtail {
		t.Errorf("Promtail's file is now %q, %v", b, err)
	}
}

func TestLongLines(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	opts := Options{Tail: fastTail}
	opts.Tail.MaxLine = 10_000
	lines := []string{strings.Repeat("a", 9_999), strings.Repeat("b", 10_000), strings.Repeat("c", 10_001), strings.Repeat("d", 100_000), "end"}
	path := filepath.Join(dir, "logs/a.log")
	_, stop := start(t, testConfig(t, s.URL, dir, ""), opts)
	for _, l := range lines {
		appendFile(t, path, l[:len(l)/2])
		time.Sleep(10 * time.Millisecond)
		appendFile(t, path, l[len(l)/2:]+"\n")
	}
	eventually(t, "five lines", func() bool { return len(s.stream("a.log")) == 5 })
	stop()
	for i, l := range lines {
		lines[i] = l[:min(len(l), 10_000)]
	}
	if !slices.Equal(lines, s.stream("a.log")) {
		t.Error("lines are not cut as they should be")
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	appendFile(t, filepath.Join(dir, "logs/a.log"), "2024-05-01T10:00:00Z stdout F hello\n")
	out, w := io.Pipe()
	_, stop := start(t, testConfig(t, s.URL, dir, "[{cri: {}}]"), Options{DryRun: w})
	buf := make([]byte, 1000)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	stop()
	if got := string(buf[:n]); !strings.Contains(got, "\thello\n") || !strings.Contains(got, `stream="stdout"`) {
		t.Errorf("got %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); !os.IsNotExist(err) {
		t.Errorf("the state directory exists: %v", err)
	}
	if n := len(s.lines()); n > 0 {
		t.Errorf("%d lines were sent", n)
	}
}

func TestPages(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	a, _ := start(t, testConfig(t, s.URL, dir, ""), Options{})
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + a.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, body := get("/ready"); code != 500 || !strings.Contains(body, "matches no file") {
		t.Errorf("/ready without files: %d %s", code, body)
	}
	path := filepath.Join(dir, "logs/a.log")
	appendFile(t, path, "hello\n")
	eventually(t, "ready", func() bool { code, _ := get("/ready"); return code == 200 })
	eventually(t, "the line", func() bool { return len(s.lines()) == 1 })
	for page, want := range map[string]string{
		"/targets": path + "  read 6 of 6  lag 0 bytes", "/metrics": "skald_agent_read_lines_total{client=",
	} {
		eventually(t, want, func() bool { _, body := get(page); return strings.Contains(body, want) })
	}
}
