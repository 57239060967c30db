package object

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func newCache(t *testing.T, next Store, cfg CacheConfig) *Cache {
	t.Helper()
	c, err := NewCache(next, cfg, nil, nil)
	must(t, err)
	return c
}

// cacheFiles returns the paths of the files in a cache directory.
func cacheFiles(t *testing.T, dir string) (files []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}))
	return files
}

func TestCache(t *testing.T) {
	f := faulty(t, NewMem())
	put(t, f, "a.seg", strings.Repeat("0123456789", 100))
	dir := t.TempDir()
	cfg := CacheConfig{MemoryBytes: 1 << 20, Dir: dir, DiskBytes: 1 << 20}
	c := newCache(t, f, cfg)
	hits := 0
	read := func(c *Cache, off int64, n, wantCalls int) {
		t.Helper()
		f.SetFaults()
		p := make([]byte, n)
		hit, err := c.ReadCached(t.Context(), "a.seg", p, off)
		must(t, err)
		if hit {
			hits++
		}
		if want := strings.Repeat("0123456789", 100)[off:][:n]; string(p) != want {
			t.Errorf("got %q, want %q", p, want)
		}
		if f.Calls() != wantCalls {
			t.Errorf("%d requests, want %d", f.Calls(), wantCalls)
		}
	}
	read(c, 3, 20, 1)
	read(c, 3, 20, 0)
	read(c, 3, 21, 1)
	read(c, 4, 20, 1)
	if hits != 1 {
		t.Errorf("%d hits, want 1", hits)
	}
	// A new process finds what is on disk.
	c = newCache(t, f, cfg)
	read(c, 3, 20, 0)
	read(c, 3, 20, 0)
	if got := testutil.ToFloat64(c.metrics.requests.WithLabelValues("disk")); got != 1 {
		t.Errorf("%v reads from disk, want 1", got)
	}
	// What the caller does to its bytes is no matter.
	p := make([]byte, 20)
	must(t, c.ReadAt(t.Context(), "a.seg", p, 3))
	clear(p)
	read(c, 3, 20, 0)
	// Errors are not remembered.
	f.SetFaults(Fault{Op: "read"})
	if err := c.ReadAt(t.Context(), "a.seg", p, 77); !errors.Is(err, ErrInjected) {
		t.Errorf("got %v", err)
	}
	read(c, 77, 20, 1)
}

// Whatever happens to a file, the answer is right, and the file is replaced.
func TestCacheSurvivesDamage(t *testing.T) {
	mem := NewMem()
	data := make([]byte, 1000)
	rand.NewChaCha8([32]byte{3}).Read(data)
	put(t, mem, "a.seg", string(data))
	for name, damage := range map[string]func([]byte) []byte{
		"bit in data":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"bit in key":     func(b []byte) []byte { b[diskHeader] ^= 1; return b },
		"bit in offset":  func(b []byte) []byte { b[12] ^= 1; return b },
		"magic":          func(b []byte) []byte { b[0] = 'X'; return b },
		"cut":            func(b []byte) []byte { return b[:len(b)-1] },
		"longer":         func(b []byte) []byte { return append(b, 0) },
		"empty":          func([]byte) []byte { return nil },
		"zeroed":         func(b []byte) []byte { return make([]byte, len(b)) },
		"half overwrite": func(b []byte) []byte { clear(b[len(b)/2:]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := CacheConfig{Dir: t.TempDir(), DiskBytes: 1 << 20}
			p := make([]byte, 500)
			must(t, newCache(t, mem, cfg).ReadAt(t.Context(), "a.seg", p, 100))
			files := cacheFiles(t, cfg.Dir)
			if len(files) != 1 {
				t.Fatalf("got files %v, want one", files)
			}
			b, err := os.ReadFile(files[0])
			must(t, err)
			must(t, os.WriteFile(files[0], damage(b), 0o600))
			c := newCache(t, mem, cfg)
			for _, want := range []string{"miss", "disk"} {
				clear(p)
				must(t, c.ReadAt(t.Context(), "a.seg", p, 100))
				if !bytes.Equal(p, data[100:600]) {
					t.Fatal("wrong bytes")
				}
				if got := testutil.ToFloat64(c.metrics.requests.WithLabelValues(want)); got != 1 {
					t.Errorf("%v results %q, want 1", got, want)
				}
			}
			if got := testutil.ToFloat64(c.metrics.corrupt); got != 1 {
				t.Errorf("counted %v corrupt ranges, want 1", got)
			}
		})
	}
}

// Another range with the same hash must not answer: the file says whose it is.
func TestCacheChecksWhoseFileItIs(t *testing.T) {
	mem := NewMem()
	put(t, mem, "a.seg", "aaaa")
	put(t, mem, "b.seg", "bbbb")
	cfg := CacheConfig{Dir: t.TempDir(), DiskBytes: 1 << 20}
	p := make([]byte, 4)
	must(t, newCache(t, mem, cfg).ReadAt(t.Context(), "a.seg", p, 0))
	d := newCache(t, mem, cfg).disk
	target := d.path(rangeKey{"b.seg", 0, 4}.hash())
	must(t, os.MkdirAll(filepath.Dir(target), 0o700))
	must(t, os.Rename(cacheFiles(t, cfg.Dir)[0], target))
	must(t, newCache(t, mem, cfg).ReadAt(t.Context(), "b.seg", p, 0))
	if string(p) != "bbbb" {
		t.Errorf("got %q", p)
	}
}

func TestCacheStaysInItsBounds(t *testing.T) {
	mem := NewMem()
	put(t, mem, "a.seg", strings.Repeat("x", 100_000))
	cfg := CacheConfig{MemoryBytes: 10_000, Dir: t.TempDir(), DiskBytes: 10 * diskBlock}
	c := newCache(t, mem, cfg)
	for i := range 50 {
		must(t, c.ReadAt(t.Context(), "a.seg", make([]byte, 1000), int64(i)))
	}
	if got := c.mu.memory.Cost(); got > 10_000 || got < 8_000 {
		t.Errorf("%d bytes in memory, want at most 10000", got)
	}
	if got := len(cacheFiles(t, cfg.Dir)); got != 10 {
		t.Errorf("%d files, want 10", got)
	}
	cfg.DiskBytes = 3 * diskBlock
	newCache(t, mem, cfg)
	if got := len(cacheFiles(t, cfg.Dir)); got != 3 {
		t.Errorf("%d files after a restart with less room, want 3", got)
	}
}

func TestCacheWithoutRoomOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMem()
		put(t, mem, "a.seg", "0123456789")
		dir := filepath.Join(t.TempDir(), "cache")
		c := newCache(t, mem, CacheConfig{Dir: dir, DiskBytes: 1 << 20})
		must(t, os.Remove(dir)) // as good as full: no file can be made
		must(t, os.WriteFile(dir, nil, 0o600))
		read := func() {
			t.Helper()
			p := make([]byte, 4)
			must(t, c.ReadAt(t.Context(), "a.seg", p, 2))
			if string(p) != "2345" {
				t.Errorf("got %q", p)
			}
		}
		failures := func(want float64) {
			t.Helper()
			if got := testutil.ToFloat64(c.metrics.failures); got != want {
				t.Errorf("%v failures, want %v", got, want)
			}
		}
		read()
		read()
		failures(1) // the second read did not try
		must(t, os.Remove(dir))
		must(t, os.Mkdir(dir, 0o700))
		read()
		if got := len(cacheFiles(t, dir)); got != 0 {
			t.Errorf("%d files during the pause", got)
		}
		time.Sleep(diskPause)
		read()
		failures(1)
		if got := len(cacheFiles(t, dir)); got != 1 {
			t.Errorf("%d files after the pause, want 1", got)
		}
	})
}

// While Run is at work, reads leave files to it; what waits is found, and written in the end.
func TestCacheWritesBehindReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faulty(t, NewMem())
		put(t, f, "a.seg", strings.Repeat("0123456789", maxUnwritten/10+10))
		dir := t.TempDir()
		c := newCache(t, f, CacheConfig{Dir: dir, DiskBytes: 1 << 30})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { must(t, c.Run(ctx)) })
		synctest.Wait()
		read := func(n, wantCalls, wantFiles int) {
			t.Helper()
			f.SetFaults()
			p := make([]byte, n)
			must(t, c.ReadAt(t.Context(), "a.seg", p, 3))
			if string(p[:4]) != "3456" {
				t.Errorf("got %q", p[:4])
			}
			if f.Calls() != wantCalls {
				t.Errorf("%d requests, want %d", f.Calls(), wantCalls)
			}
			if got := len(cacheFiles(t, dir)); got != wantFiles {
				t.Errorf("%d files, want %d", got, wantFiles)
			}
		}
		read(4, 1, 0)
		read(4, 0, 0)
		read(maxUnwritten-3, 1, 1) // there is no room for it to wait
		time.Sleep(2 * writeDelay)
		read(4, 0, 2)
		read(5, 1, 2)
		cancel()
		running.Wait()
		read(5, 0, 3)
		read(6, 1, 4)
		if c.disk.mu.unwrittenBytes != 0 || len(c.disk.mu.unwritten) != 0 {
			t.Errorf("%d ranges still wait, %d bytes", len(c.disk.mu.unwritten), c.disk.mu.unwrittenBytes)
		}
	})
}

func TestCacheJoinsReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faulty(t, NewMem())
		put(t, f, "a.seg", "0123456789")
		c := newCache(t, f, CacheConfig{MemoryBytes: 1 << 20})
		release := make(chan struct{})
		f.SetFaults()
		f.Intercept(func(string, string) { <-release })
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				p := make([]byte, 3)
				if err := c.ReadAt(t.Context(), "a.seg", p, 5); err != nil || string(p) != "567" {
					t.Errorf("got %q, %v", p, err)
				}
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := c.ReadAt(ctx, "a.seg", make([]byte, 3), 5); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want canceled", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		if f.Calls() != 1 {
			t.Errorf("%d requests, want 1", f.Calls())
		}
	})
}

func TestCacheLeavesMutableObjectsAlone(t *testing.T) {
	mem := NewMem()
	c := newCache(t, mem, CacheConfig{MemoryBytes: 1 << 20, Cacheable: func(k Key) bool { return strings.HasSuffix(string(k), ".seg") }})
	p := make([]byte, 1)
	for _, want := range []string{"1", "2"} {
		put(t, c, "deletes.json", want)
		must(t, c.ReadAt(t.Context(), "deletes.json", p, 0))
		if string(p) != want {
			t.Errorf("got %q, want %q", p, want)
		}
	}
}

func BenchmarkCacheMemory(b *testing.B) {
	mem := NewMem()
	put(b, mem, "a.seg", strings.Repeat("x", 100_000))
	c, err := NewCache(mem, CacheConfig{MemoryBytes: 1 << 20}, nil, nil)
	must(b, err)
	p := make([]byte, 100_000)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		must(b, c.ReadAt(b.Context(), "a.seg", p, 0))
	}
}
