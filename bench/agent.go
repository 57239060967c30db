package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/internal/wire"
)

const (
	agentPods  = 10
	agentLine  = 310 // bytes, about
	fresh      = 250 // lines written one after the other, once the backlog is gone
	freshPause = 20 * time.Millisecond
)

// agentSink is a server that counts entries, and notes when those arrive that say when they
// were written.
type agentSink struct {
	dec *wire.Decoder
	mu  struct {
		sync.Mutex
		lines  int
		delays []time.Duration
	}
}

var freshMark = []byte(" written_at=")

func (s *agentSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := s.dec.Push(wire.Body{ContentType: r.Header.Get("Content-Type"), Length: r.ContentLength, Reader: r.Body})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer b.Release()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b.Streams {
		s.mu.lines += len(b.Streams[i].Entries)
		for _, e := range b.Streams[i].Entries {
			if at := bytes.LastIndex(e.Line, freshMark); at >= 0 {
				s.mu.delays = append(s.mu.delays, now.Sub(time.Unix(0, e.Timestamp)))
			}
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *agentSink) wait(ctx context.Context, lines int) error {
	for {
		s.mu.Lock()
		n := s.mu.lines
		s.mu.Unlock()
		if n >= lines {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// benchAgent measures `skald agent` on one core: a backlog of CRI lines in ten pods with static
// labels, sent as snappy and protobuf to a server in this process that only counts; then the
// delay of new lines, and the memory at a thousand active files.
func benchAgent(ctx context.Context, o options) error {
	if o.skald == "" {
		return errors.New("agent needs -skald")
	}
	dir, done, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer done()
	perPod := int(o.corpus.Bytes / agentLine / agentPods)
	size, err := writePods(dir, perPod)
	if err != nil {
		return err
	}
	sink := &agentSink{dec: wire.NewDecoder(64<<20, 256<<20, 1<<20)}
	srv := httptest.NewServer(sink)
	defer srv.Close()
	p, err := startAgent(o.skald, dir, srv.URL)
	if err != nil {
		return err
	}
	defer p.kill()
	pid := p.cmd.Process.Pid
	if err := sink.wait(ctx, agentPods*perPod); err != nil {
		return err
	}
	cpu, err := cpuOf(pid)
	if err != nil {
		return err
	}
	lines := float64(agentPods * perPod)
	fmt.Printf("backlog     %.0f lines of %d bytes, %.0f lines per CPU-second, start of the process included\n", lines, size/int64(lines), lines/cpu.Seconds())
	if err := writeFresh(dir); err != nil {
		return err
	}
	if err := sink.wait(ctx, agentPods*perPod+fresh); err != nil {
		return err
	}
	u, err := usageOf(pid)
	if err != nil {
		return err
	}
	slices.Sort(sink.mu.delays)
	n := len(sink.mu.delays)
	if n == 0 {
		return errors.New("no new line arrived")
	}
	fmt.Printf("new lines   p50 %v  p99 %v until the server has them\n", sink.mu.delays[n/2].Round(time.Millisecond), sink.mu.delays[n*99/100].Round(time.Millisecond))
	fmt.Printf("memory      %s at most\n", humanize.IBytes(uint64(u.peakRSS)))
	if err := p.stop(); err != nil {
		return err
	}
	return benchActive(ctx, o)
}

// benchActive measures the memory of an agent that follows many files, each of which gets
// lines all the time.
func benchActive(ctx context.Context, o options) error {
	dir, done, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer done()
	dir = filepath.Join(dir, "active")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	sink := &agentSink{dec: wire.NewDecoder(64<<20, 256<<20, 1<<20)}
	srv := httptest.NewServer(sink)
	defer srv.Close()
	p, err := startAgent(o.skald, dir, srv.URL)
	if err != nil {
		return err
	}
	defer p.kill()
	for i := range activeRounds {
		if err := writeRound(dir, i); err != nil {
			return err
		}
		time.Sleep(activePause)
	}
	lines := activeFiles * activeRounds
	if err := sink.wait(ctx, lines); err != nil {
		return err
	}
	u, err := usageOf(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("%d files %s at most, %v of CPU time for %d lines\n", activeFiles, humanize.IBytes(uint64(u.peakRSS)), u.cpu, lines)
	return p.stop()
}

const (
	activeFiles  = 1000
	activeRounds = 100
	activePause  = 100 * time.Millisecond
)

// writeRound appends a line to each of many files.
func writeRound(dir string, round int) error {
	for i := range activeFiles {
		path := podPath(dir, i)
		if round == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(criLine(nil, time.Now(), round, ""))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// criLine appends a line as a container runtime writes it.
func criLine(b []byte, at time.Time, i int, tail string) []byte {
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z")
	return fmt.Appendf(b, " stdout F level=info caller=handler.go:%d msg=\"request served\" method=GET path=/api/v1/items/%d status=200 duration=%dus "+
		"bytes=%d remote=10.0.%d.%d user_agent=\"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\" request_id=%016x-%08x trace=%016x%s\n",
		i%500, i%9973, i%20000, i*37%65536, i%256, i*7%256, i*2654435761, i, i*40503, tail)
}

func podPath(dir string, pod int) string {
	return filepath.Join(dir, fmt.Sprintf("pods/ns_pod-%d_uid/app/0.log", pod))
}

func writePods(dir string, perPod int) (size int64, err error) {
	var text []byte
	at := time.Now().Add(-time.Hour)
	for i := range perPod {
		text = criLine(text, at.Add(time.Duration(i)*137*time.Microsecond), i, "")
	}
	for pod := range agentPods {
		if err := os.MkdirAll(filepath.Dir(podPath(dir, pod)), 0o755); err != nil {
			return 0, err
		}
		if err := os.WriteFile(podPath(dir, pod), text, 0o644); err != nil {
			return 0, err
		}
	}
	return int64(len(text)) * agentPods, nil
}

// writeFresh writes lines one after the other, each with the time at which it was written.
func writeFresh(dir string) error {
	for i := range fresh {
		f, err := os.OpenFile(podPath(dir, i%agentPods), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(criLine(nil, time.Now(), i, string(freshMark)+"now"))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		time.Sleep(freshPause)
	}
	return nil
}

// startAgent starts the agent on one core.
func startAgent(skald, dir, url string) (*process, error) {
	config := filepath.Join(dir, "promtail.yaml")
	text := fmt.Sprintf(`
server: {disable: true}
positions: {filename: %[1]s/state/positions.yaml}
clients: [{url: %[2]s/loki/api/v1/push, batchwait: 250ms}]
scrape_configs:
  - job_name: pods
    static_configs: [{targets: [localhost], labels: {job: pods, __path__: "%[1]s/pods/*/*/*.log"}}]
    pipeline_stages: [{cri: {}}, {static_labels: {cluster: eu}}]
`, dir, url)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(skald, "agent", "-config.file="+config, "-log.level=warn"), done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}
