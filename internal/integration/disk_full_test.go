package integration

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a file system of its own; without the right to, the test is skipped.
func smallDisk(t testing.TB, bytes string) string {
	t.Helper()
	dir := tempDir(t, "disk")
	if runtime.GOOS != "linux" {
		t.Skip("small disks are made on Linux only")
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes); err != nil {
		t.Skipf("no small disk for this test, it takes root: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// ballast fills a disk to the last byte.
type ballast struct {
	t    testing.TB
	path string
}

func (b ballast) fill() {
	b.t.Helper()
	f, err := os.OpenFile(b.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		switch _, err := f.Write(block); {
		case errors.Is(err, syscall.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			b.t.Fatal(err)
		}
	}
}

func (b ballast) remove() {
	if err := os.Remove(b.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
}

// TestDiskFull: the disk of the data directory is full when the log is written, when a
// memtable is, when segments are merged for the upload, and when a query fills the cache.
// Pushes are refused with 503, queries go on, what can still go to the store goes, and with
// room again everything is as if nothing had been; also over a kill -9.
func TestDiskFull(t *testing.T) {
	disk, objects := smallDisk(t, "48m"), tempDir(t, "objects")
	full := ballast{t, filepath.Join(disk, "ballast")}
	s := startServer(t, append([]string{"-data.dir=" + filepath.Join(disk, "data"), "-storage.url=file://" + objects,
		"-ingester.freeze-age=300ms", "-ingester.upload-age=600ms", "-catalog.ttl=100ms", "-ingester.keep-after-upload=300ms",
		"-compact.interval=200ms", "-compact.delete-delay=2s", "-limits.query_timeout=1800ms", "-cache.memory-bytes=100000"}, roomy...)...)
	s.dir = filepath.Join(disk, "data")
	s.args = append(s.args, "-data.dir="+s.dir)
	rng := newRand(t)
	start, end := time.Now().Add(-time.Hour), time.Now().Add(time.Minute)
	acked, refused := 0, 0
	// push sends a batch until it is acknowledged or a deadline is over; a refused one is sent again later.
	push := func(lines int) bool {
		t.Helper()
		status, answer, err := s.push(numbered("a", start.UnixNano(), acked, acked+lines))
		switch {
		case err == nil && status == http.StatusNoContent:
			acked += lines
			return true
		case err != nil || status != http.StatusServiceUnavailable:
			t.Fatalf("push: %d %s %v, want 204 or 503", status, answer, err)
		}
		refused++
		if !strings.Contains(string(answer), "no space left") && !strings.Contains(string(answer), "retry later") && !strings.Contains(string(answer), "out of use") {
			t.Errorf("a refusal does not say why: %s", answer)
		}
		return false
	}
	check := func(when string) {
		t.Helper()
		// A batch that was refused may be there; it is sent again.
		if n, err := s.count(countNumbers, end); err != nil || n < acked {
			t.Errorf("%s: %d lines and error %v, want %d", when, n, err, acked)
		}
	}
	for range size(4, 8, 60) {
		push(2000)
		before := segments(t, s, objects).objects
		full.fill() // whatever is under way: log, memtable, merge, cache
		deadline := time.Now().Add(time.Duration(300+rng.IntN(1500)) * time.Millisecond)
		for time.Now().Before(deadline) {
			push(1 + rng.IntN(3000))
			check("while the disk is full")
			full.fill() // what was freed meanwhile
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("%d acknowledged, %d refused; %d objects before, %d after a time without room", acked, refused, before, segments(t, s, objects).objects)
		if rng.IntN(2) == 0 {
			s.kill()
			full.remove()
			s.start()
		} else {
			full.remove()
		}
		eventually(t, "pushes are taken again", func() bool { return push(100) })
		check("with room again")
	}
	if refused == 0 {
		t.Error("nothing was refused, which proves nothing")
	}
	eventually(t, "everything is in the store", func() bool {
		return segments(t, s, objects).local == 0 && s.metric("skald_ingester_memtable_bytes", "") == 0
	})
	s.settled(countNumbers, end, acked)
	s.verifyNumbers(map[string]int{"a": acked}, start, end)
	if _, stderr, status := run(t, "verify", "-q", objects); status != 0 {
		t.Errorf("skald verify: %s", stderr)
	}
	s.stop()
}
