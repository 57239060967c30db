package agent

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/skaldlog/skald/agent/tail"
)

// criLines makes n lines of about 310 bytes as a container runtime writes them.
func criLines(n int) []byte {
	var b bytes.Buffer
	at := time.Date(2024, 5, 1, 10, 0, 0, 0, time.UTC)
	for i := range n {
		at = at.Add(137 * time.Microsecond)
		fmt.Fprintf(&b, "%s stdout F level=info ts=%d caller=handler.go:%d msg=\"request served\" method=GET path=/api/v1/items/%d status=200 "+
			"duration=%dus bytes=%d remote=10.0.%d.%d user_agent=\"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\" request_id=%016x-%08x\n",
			at.Format("2006-01-02T15:04:05.000000000Z"), at.UnixNano(), i%500, i%9973, i%20000, i*37%65536, i%256, i*7%256, i*2654435761, i)
	}
	return b.Bytes()
}

// BenchmarkBacklog reads a backlog of CRI lines in ten files and pushes it to a server that
// throws it away. It reports lines per second of the process's CPU time, the discarding
// server's included; run it with GOMAXPROCS=1.
func BenchmarkBacklog(b *testing.B) {
	const files, perFile = 10, 100_000
	dir := b.TempDir()
	text := criLines(perFile)
	for i := range files {
		path := filepath.Join(dir, fmt.Sprintf("logs/ns_pod-%d_uid/app/0.log", i))
		appendFile(b, path, string(text))
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()
	b.SetBytes(int64(files * len(text)))
	b.ReportAllocs()
	var cpu time.Duration
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil {
			b.Fatal(err)
		}
		cfg := testConfig(b, srv.URL, dir, "[{cri: {}}, {static_labels: {cluster: eu}}]")
		cfg.Clients[0].BatchSize, cfg.Clients[0].BatchWait = 1<<20, 250*time.Millisecond
		startCPU := cpuTime(b)
		a, stop := start(b, cfg, Options{Tail: tail.Config{Interval: time.Millisecond}})
		for a.engine().lanes[0].tailer.Stats.LinesRead.Load() < files*perFile {
			time.Sleep(2 * time.Millisecond)
		}
		stop()
		cpu += cpuTime(b) - startCPU
	}
	runtime.ReadMemStats(&after)
	lines := float64(b.N * files * perFile)
	b.ReportMetric(lines/cpu.Seconds(), "lines/cpu-s")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/lines, "allocs/line")
}

func cpuTime(tb testing.TB) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
