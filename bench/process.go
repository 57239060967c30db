package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what the kernel says about a process.
type usage struct {
	cpu     time.Duration
	peakRSS int64
	written int64 // bytes sent to the disk
}

// usageOf reads /proc/PID.
func usageOf(pid int) (usage, error) {
	var u usage
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// The command's name may hold spaces; fields are counted from behind its parenthesis.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const utime, stime, ticksPerSecond = 11, 12, 100
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s/stat: %w", dir, err)
		}
		u.cpu += time.Duration(n) * time.Second / ticksPerSecond
	}
	if u.peakRSS, err = procField(filepath.Join(dir, "status"), "VmHWM:"); err != nil {
		return u, err
	}
	u.peakRSS *= 1024
	// Without the right to read it, the figure is missing.
	u.written, err = procField(filepath.Join(dir, "io"), "write_bytes:")
	if errors.Is(err, os.ErrPermission) {
		err = nil
	}
	return u, err
}

func procField(path, name string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), name); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no line %s", path, name)
}

// cpuOf returns the CPU time of a process with the precision of the scheduler, or less
// precisely where the kernel doesn't keep it.
func cpuOf(pid int) (time.Duration, error) {
	cpu, _, err := schedOf(pid)
	return cpu, err
}

// schedOf returns the CPU time of a process's threads and how long these waited for a core while
// they could have run. Both together, over the time that passed, are the cores that the process
// would use on a machine of its own; without the kernel's help there is no waiting.
func schedOf(pid int) (cpu, waited time.Duration, err error) {
	threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "schedstat"))
	if err != nil {
		return 0, 0, err
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		var ran, ready int64
		if _, err := fmt.Sscan(string(text), &ran, &ready); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", path, err)
		}
		cpu, waited = cpu+time.Duration(ran), waited+time.Duration(ready)
	}
	if cpu > 0 {
		return cpu, waited, nil
	}
	u, err := usageOf(pid)
	return u.cpu, 0, err
}

// process is a server that this program started.
type process struct {
	cmd  *exec.Cmd
	addr string
	done chan error
}

func (p *process) target() target { return target{p.addr, p.cmd.Process.Pid} }

// startServer starts skald on a free port and waits until it is ready. Limits that would
// slow a benchmark down are lifted; everything else is as a user has it.
func startServer(ctx context.Context, o options) (*process, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	args := append([]string{
		"serve", "-data.dir=" + o.dir, "-http.listen=" + addr, "-grpc.listen=127.0.0.1:0", "-log.level=warn",
		"-limits.ingestion_rate_mb=100000", "-limits.ingestion_burst_size_mb=100000",
		"-limits.per_stream_rate_limit=100GB", "-limits.per_stream_rate_limit_burst=100GB",
		"-limits.max_global_streams_per_user=0", "-limits.reject_old_samples=false",
	}, o.serverFlags...)
	p := &process{cmd: exec.Command(o.skald, args...), addr: "http://" + addr, done: make(chan error, 1)}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	for {
		res, err := http.Get(p.addr + "/ready")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		select {
		case err := <-p.done:
			return nil, fmt.Errorf("%s ended before it was ready: %w", o.skald, err)
		case <-ctx.Done():
			p.kill()
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill ends the process at once; it may have ended already.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	select {
	case err := <-p.done:
		p.done <- err
	case <-time.After(10 * time.Second):
	}
}

// stop ends the process in order.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := <-p.done
	p.done <- err
	return err
}
