package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/agent/positions"
	"github.com/skaldlog/skald/agent/tail"
	"github.com/skaldlog/skald/internal/wire"
)

// sink is a server that stores as Skald does: a stream is a set of entries.
type sink struct {
	*httptest.Server
	dec *wire.Decoder
	mu  struct {
		sync.Mutex
		entries map[string]map[sunk]bool // by tenant and stream
		repeats int
		pushes  int
		judged  int
		// judge, when set, may refuse a push: status 0 takes it, a negative one stores the
		// entries and then answers as if it had not.
		judge func(lines []string) (status int, wait time.Duration)
	}
}

type sunk struct {
	ts   int64
	line string
}

func newSink(tb testing.TB) *sink {
	s := &sink{dec: wire.NewDecoder(64<<20, 256<<20, 1<<20)}
	s.mu.entries = map[string]map[sunk]bool{}
	s.Server = httptest.NewServer(http.HandlerFunc(s.push))
	tb.Cleanup(s.Close)
	return s
}

func (s *sink) setJudge(f func([]string) (int, time.Duration)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.judge = f
}

func (s *sink) push(w http.ResponseWriter, r *http.Request) {
	b, err := s.dec.Push(wire.Body{ContentType: r.Header.Get("Content-Type"), Length: r.ContentLength, Reader: r.Body})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer b.Release()
	var lines []string
	for _, st := range b.Streams {
		for _, e := range st.Entries {
			lines = append(lines, string(e.Line))
		}
	}
	s.mu.Lock()
	judge := s.mu.judge
	s.mu.Unlock()
	status := 0
	if judge != nil {
		var wait time.Duration
		status, wait = judge(lines)
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return
		}
		if status > 0 {
			http.Error(w, "refused for the test", status)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.pushes++
	for _, st := range b.Streams {
		key := r.Header.Get("X-Scope-OrgID") + st.Labels.String()
		set := s.mu.entries[key]
		if set == nil {
			set = map[sunk]bool{}
			s.mu.entries[key] = set
		}
		for _, e := range st.Entries {
			k := sunk{e.Timestamp, string(e.Line)}
			if set[k] {
				s.mu.repeats++
			}
			set[k] = true
		}
	}
	if status < 0 {
		http.Error(w, "stored, but not acknowledged", -status)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// lines returns all stored lines with their counts, whatever stream they are in.
func (s *sink) lines() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for _, set := range s.mu.entries {
		for e := range set {
			out[e.line]++
		}
	}
	return out
}

// forget removes a line that is stored in many copies on purpose.
func (s *sink) forget(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.mu.entries {
		for e := range set {
			if e.line == line {
				delete(set, e)
			}
		}
	}
}

// counts returns how many pushes were stored, and how many entries were stored before.
func (s *sink) counts() (pushes, repeats int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.pushes, s.mu.repeats
}

// times returns where and when a line is stored.
func (s *sink) times(line string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for key, set := range s.mu.entries {
		for e := range set {
			if e.line == line {
				out = append(out, fmt.Sprintf("%s %s", key, time.Unix(0, e.ts).Format("15:04:05.000000000")))
			}
		}
	}
	return out
}

// stream returns the lines of the streams whose labels contain a text, in order of time.
func (s *sink) stream(contains string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []sunk
	for key, set := range s.mu.entries {
		if strings.Contains(key, contains) {
			for e := range set {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b sunk) int { return cmp.Or(cmp.Compare(a.ts, b.ts), cmp.Compare(a.line, b.line)) })
	out := make([]string, len(all))
	for i, e := range all {
		out[i] = e.line
	}
	return out
}

// fastTail makes the tailer react quickly, so that tests are short.
var fastTail = tail.Config{
	Scan: 100 * time.Millisecond, Poll: 50 * time.Millisecond, Grace: 300 * time.Millisecond,
	Interval: 5 * time.Millisecond, Quiet: 300 * time.Millisecond, Buffer: 4096,
}

// testConfig is a configuration for files in dir/logs with state in dir/state.
func testConfig(tb testing.TB, url, dir, stages string) *Config {
	tb.Helper()
	if stages == "" {
		stages = "[]"
	}
	text := fmt.Sprintf(`
server: {http_listen_address: 127.0.0.1, http_listen_port: 0}
positions: {filename: %s/state/positions.yaml}
clients:
  - url: %s/loki/api/v1/push
    batchwait: 20ms
    batchsize: 20000
    timeout: 2s
    backoff_config: {min_period: 5ms, max_period: 50ms}
scrape_configs:
  - job_name: test
    static_configs: [{labels: {job: test, __path__: "%s/logs/**/*.log"}}]
    pipeline_stages: %s
`, dir, url, dir, stages)
	cfg, err := parseConfig([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// start runs an agent until the returned function is called.
func start(tb testing.TB, cfg *Config, opts Options) (a *Agent, stop func()) {
	tb.Helper()
	if opts.Tail.Scan == 0 {
		opts.Tail = fastTail
	}
	if opts.Registerer == nil {
		opts.Registerer = prometheus.NewRegistry()
	}
	if opts.Logger == nil {
		opts.Logger = testLogger(tb)
	}
	a, err := New(cfg, opts)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	}
	tb.Cleanup(stop)
	return a, stop
}

// waitRunning waits until an agent follows files: what was rotated away before an agent has
// ever looked is none of its business.
func waitRunning(tb testing.TB, a *Agent) {
	tb.Helper()
	eventually(tb, "the agent looks for files", func() bool { return a.engine().store.Scanned("") != 0 })
}

// waitOpened waits until an agent in this process has the file at a path open, or has read it
// and closed it.
func waitOpened(tb testing.TB, a *Agent, path string) {
	tb.Helper()
	want, err := os.Stat(path)
	if err != nil {
		tb.Fatal(err)
	}
	if want.Size() == 0 {
		return // there is nothing to lose
	}
	eventually(tb, "the agent has opened "+path, func() bool {
		for _, l := range a.engine().lanes[0].tailer.Logs() {
			if l.Path == path && l.Size == want.Size() && l.Size == l.Read && l.Size > 0 {
				return true
			}
		}
		names, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			tb.Fatal(err)
		}
		if !slices.ContainsFunc(names, func(name string) bool {
			fi, err := os.Stat(name) // it may be closed by now
			return err == nil && os.SameFile(fi, want)
		}) {
			return false
		}
		// Some looks open a file for a moment; a record, even of its content before a
		// truncation, says that a log follows it.
		return slices.ContainsFunc(a.engine().store.Records(""), func(r positions.Record) bool {
			st, ok := want.Sys().(*syscall.Stat_t)
			return ok && r.Path == path && r.Ino == st.Ino && !r.Finished
		})
	})
}

func testLogger(tb testing.TB) *slog.Logger {
	if os.Getenv("SKALD_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits until ok holds.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	tb.Fatalf("never happened: %s", what)
}

func appendFile(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}
