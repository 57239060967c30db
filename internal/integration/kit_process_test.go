package integration

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stopWithin is the promise about SIGTERM.
const stopWithin = 30 * time.Second

// process is one run of the binary.
type process struct {
	t       testing.TB
	name    string
	logPath string
	cmd     *exec.Cmd
	exited  chan struct{} // closed when err is set
	err     error
}

// startProcess runs the binary until it is killed or stopped, at the latest when the test
// ends. What it prints is appended to logPath, and shown when the test fails.
func startProcess(t testing.TB, name, logPath string, args ...string) *process {
	t.Helper()
	return startCommand(t, name, logPath, exec.Command(program, args...))
}

// startCommand is startProcess for a command that becomes the binary.
func startCommand(t testing.TB, name, logPath string, cmd *exec.Cmd) *process {
	t.Helper()
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &process{t: t, name: name, logPath: logPath, cmd: cmd, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// stop is SIGTERM; the process must end by itself, in time and with status 0.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("%s: SIGTERM: %v", p.name, err)
	}
	select {
	case <-p.exited:
		if p.err != nil {
			p.t.Errorf("%s: after SIGTERM: %v, want status 0", p.name, p.err)
		}
	case <-time.After(stopWithin):
		p.t.Errorf("%s: still there %s after SIGTERM", p.name, stopWithin)
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its stacks go to the log
		time.Sleep(time.Second)
		p.kill()
	}
}

// run runs a client command to its end and returns what it printed.
func run(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

var crash = regexp.MustCompile(`(?m)^(panic: |fatal error: |WARNING: DATA RACE|unexpected fault address)`)

// watchLog fails the test when the log holds a crash, and shows the log's end when the test
// has failed for whatever reason. It is registered once per log file, before its first process.
func watchLog(t testing.TB, name, logPath string) {
	t.Cleanup(func() {
		text, err := os.ReadFile(logPath)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		if at := crash.FindIndex(text); at != nil {
			t.Errorf("%s crashed:\n%s", name, firstLines(string(text[at[0]:]), 60))
		} else if t.Failed() {
			t.Logf("the end of what %s wrote:\n%s", name, lastLines(string(text), 25))
		}
	})
}

func firstLines(text string, n int) string {
	lines := strings.SplitAfterN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "")
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// memory returns the resident set of the process in bytes, now and at its highest, and how
// much of it are pages of its program file, which the kernel can take back at any time.
func (p *process) memory() (now, peak, program int64) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		p.t.Skipf("this system does not say how much memory a process has: %v", err)
	}
	field := func(name string) int64 {
		_, after, _ := strings.Cut(string(text), name+":")
		kb, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
		if err != nil {
			p.t.Fatalf("%s in /proc: %v", name, err)
		}
		return kb << 10
	}
	return field("VmRSS"), field("VmHWM"), field("RssFile")
}
