package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// childEnv makes the test binary an agent: its value is the server's URL and the directory.
const childEnv = "SKALD_AGENT_TEST_CHILD"

// stepEnv names the place where such an agent kills itself; see Options.Step.
const stepEnv = "SKALD_AGENT_TEST_STEP"

// launch starts the test binary as an agent, which reads dir/agent.yaml.
func launch(t *testing.T, url, dir, step string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+url+" "+dir, stepEnv+"="+step)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestMain(m *testing.M) {
	if url, dir, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		child(url, dir)
		return
	}
	os.Exit(m.Run())
}

// child runs an agent until it is killed.
func child(url, dir string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	text, err := os.ReadFile(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		fail(err)
	}
	cfg, err := parseConfig([]byte(strings.ReplaceAll(string(text), "URL", url)))
	if err != nil {
		fail(err)
	}
	opts := Options{Tail: fastTail, Registerer: prometheus.NewRegistry()}
	if at := os.Getenv(stepEnv); at != "" {
		opts.Step = func(place string) {
			if place == at {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it does not return
			}
		}
	}
	a, err := New(cfg, opts)
	if err != nil {
		fail(err)
	}
	if err := a.Run(context.Background()); err != nil {
		fail(err)
	}
}

// TestKill kills the agent's process at random while lines are written and files rotated,
// and while the server fails now and then. Every line must be stored once: lines with a time
// of their own, and lines that get theirs from the agent.
func TestKill(t *testing.T) {
	kills := 12
	if testing.Short() {
		kills = 3
	}
	s, dir := newSink(t), t.TempDir()
	yaml := `
server: {disable: true}
positions: {filename: DIR/state/positions.yaml}
clients: [{url: URL/loki/api/v1/push, batchwait: 10ms, batchsize: 5000, backoff_config: {min_period: 5ms, max_period: 20ms}}]
scrape_configs:
  - job_name: plain
    static_configs: [{labels: {job: plain, __path__: "DIR/logs/*.log"}}]
  - job_name: cri
    static_configs: [{labels: {job: cri, __path__: "DIR/pods/*/*.log"}}]
    pipeline_stages: [{cri: {}}]
  - job_name: blocks
    static_configs: [{labels: {job: blocks, __path__: "DIR/blocks/*.log"}}]
    pipeline_stages: [{multiline: {firstline: "^block", max_wait_time: 20s}}]
`
	if err := os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(strings.ReplaceAll(yaml, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s.setJudge(func([]string) (int, time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mu.judged++
		switch s.mu.judged % 7 {
		case 0:
			return 503, 0
		case 2, 4:
			return -503, 0
		}
		return 0, 0
	})

	stop := make(chan struct{})
	written := make(chan int)
	var known atomic.Bool
	go writeUntil(t, dir, &known, stop, written)
	// What is rotated away before the agent has ever seen the path is not its business.
	first := launch(t, s.URL, dir, "")
	eventually(t, "all files are known", func() bool {
		return len(s.stream(`job="plain"`)) > 0 && len(s.stream(`job="cri"`)) > 0 && len(s.stream(`job="blocks"`)) > 0
	})
	known.Store(true)
	_ = first.Process.Kill() // as below
	_ = first.Wait()
	for range kills {
		cmd := launch(t, s.URL, dir, "")
		time.Sleep(time.Duration(50+rng.IntN(300)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	close(stop)
	n := <-written
	cmd := launch(t, s.URL, dir, "")
	defer func() {
		_ = cmd.Process.Kill() // it may have ended by itself, which the test has noticed
		_ = cmd.Wait()
	}()
	want := map[string]bool{}
	for i := 1; i <= n; i++ {
		want[fmt.Sprintf("plain line %d", i)], want[fmt.Sprintf("cri line %d", i)] = true, true
		want[fmt.Sprintf("block %d\n more\n end %d", i, i)] = true
	}
	last := fmt.Sprintf("block %d\n more\n end %d", n, n) // waits for more, unless its file was rotated
	t.Cleanup(func() {
		got := s.lines()
		for line := range want {
			if t.Failed() && got[line] == 0 && line != last {
				t.Logf("missing: %q", line)
			}
		}
		for line := range got {
			if !want[line] {
				t.Errorf("nobody wrote %q, at %v", line, s.times(line))
			}
		}
	})
	eventually(t, fmt.Sprintf("all %d lines of three jobs", n), func() bool {
		got := s.lines()
		delete(got, last)
		return len(got) == 3*n-1
	})
	for line, k := range s.lines() {
		if k != 1 {
			t.Fatalf("stored %d times: %q, at %v", k, line, s.times(line))
		}
	}
	_, repeats := s.counts()
	t.Logf("%d lines, %d sent again", 3*n-1, repeats)
}

// writeUntil writes the same number of lines, or blocks of lines, to three files, which are
// rotated once the agent knows them, and returns it.
func writeUntil(t *testing.T, dir string, known *atomic.Bool, stop <-chan struct{}, written chan<- int) {
	blocks := filepath.Join(dir, "blocks/app.log")
	plain, pod := filepath.Join(dir, "logs/app.log"), filepath.Join(dir, "pods/ns_pod_1/0.log")
	at := time.Now()
	for n, gen := 0, 0; ; {
		select {
		case <-stop:
			written <- n
			return
		default:
		}
		var a, b, c strings.Builder
		for range 20 {
			at = at.Add(time.Microsecond)
			n++
			stamp := at.UTC().Format(time.RFC3339Nano)
			fmt.Fprintf(&c, "block %d\n more\n end %d\n", n, n)
			fmt.Fprintf(&a, "plain line %d\n", n)
			if n%3 == 0 {
				fmt.Fprintf(&b, "%s stdout P cri\n%s stdout P  line \n", stamp, stamp)
				fmt.Fprintf(&b, "%s stdout F %d\n", stamp, n)
			} else {
				fmt.Fprintf(&b, "%s stdout F cri line %d\n", stamp, n)
			}
		}
		appendFile(t, plain, a.String())
		appendFile(t, pod, b.String())
		appendFile(t, blocks, c.String())
		time.Sleep(2 * time.Millisecond)
		if n%500 == 0 && known.Load() {
			gen++
			_ = os.Rename(plain, fmt.Sprintf("%s.%d", plain, gen))
			_ = os.Rename(blocks, fmt.Sprintf("%s.%d", blocks, gen))
			_ = os.Rename(pod, fmt.Sprintf("%s.20240501-%06d", pod, gen))
		}
	}
}
