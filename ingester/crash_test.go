package ingester

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
)

// childEnv makes the test binary the victim of TestKill: it holds the directory.
const childEnv = "SKALD_INGESTER_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := victim(dir, os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hectic moves everything on as fast as it can, so that a kill hits every transition.
func hectic(dir string) Config {
	c := DefaultConfig(filepath.Join(dir, "data"))
	c.FreezeAge, c.FreezeBytes = 15*time.Millisecond, 64<<10
	c.UploadAge, c.UploadSegments, c.KeepAfterUpload = 60*time.Millisecond, 4, 50*time.Millisecond
	return c
}

func bucket(dir string) (object.Store, error) {
	return object.Open(context.Background(), "file://"+filepath.Join(dir, "store"), object.Options{})
}

const killWriters = 4

// victim pushes numbered entries until it is killed, and reports each acknowledged batch.
func victim(dir, round string) error {
	store, err := bucket(dir)
	if err != nil {
		return err
	}
	i, err := New(hectic(dir), store, noLimits(), prometheus.NewRegistry(), quiet)
	if err != nil {
		return err
	}
	go func() {
		if err := i.Run(context.Background()); err != nil {
			panic(err)
		}
	}()
	var wg sync.WaitGroup
	for w := range killWriters {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				batch := killBatch(round, w, n)
				if err := i.Push(context.Background(), "t", batch); err == nil {
					fmt.Printf("%s %d %d\n", round, w, n)
				}
			}
		}()
	}
	wg.Wait()
	return nil
}

// killBatch has entries of two days.
func killBatch(round string, w, n int) []model.Stream {
	s := logs(fmt.Sprint("w", w))
	for k := range 3 {
		s.Entries = append(s.Entries, entry(day0+int64(n%7-3)*1000+int64(k), fmt.Sprintf("round %s writer %d batch %d entry %d", round, w, n, k), "trace_id", fmt.Sprint(n)))
	}
	return []model.Stream{s}
}

// Kill -9 at any moment: every acknowledged entry is there after the restart, and nothing
// is there twice, wherever its rows were on their way.
func TestKill(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	dir := t.TempDir()
	acked := make(map[string]bool)
	for round := range rounds {
		runVictim(t, dir, round, acked)
		store, err := bucket(dir)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, store: store, disk: &faultyDisk{}, cfg: hectic(dir), lim: noLimits()}
		r.start()
		checkKilled(t, r, round, acked)
		r.crash() // the next victim finds what this one found
	}
	if len(acked) < rounds*10 {
		t.Errorf("only %d entries were acknowledged in %d rounds", len(acked), rounds)
	}
}

func runVictim(t *testing.T, dir string, round int, acked map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], strconv.Itoa(round))
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Duration(20+rand.IntN(400))*time.Millisecond, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 {
			continue // cut by the kill: not acknowledged as far as we know
		}
		w, _ := strconv.Atoi(f[1])
		n, _ := strconv.Atoi(f[2])
		for _, row := range rendered(killBatch(f[0], w, n)...) {
			acked[row] = true
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == 1 {
		t.Fatalf("round %d: the victim ended by itself: %v", round, err)
	}
}

func checkKilled(t *testing.T, r *rig, round int, acked map[string]bool) {
	t.Helper()
	got := r.everywhere("t")
	for i := 1; i < len(got); i++ {
		if got[i] == got[i-1] {
			t.Fatalf("round %d: twice: %s\nfiles: %v", round, got[i], r.files())
		}
	}
	have := make(map[string]bool, len(got))
	for _, row := range got {
		have[row] = true
	}
	missing := 0
	for row := range acked {
		if !have[row] {
			if missing++; missing < 4 {
				t.Errorf("round %d: acknowledged and lost: %s", round, row)
			}
		}
	}
	if missing > 0 {
		t.Fatalf("round %d: %d of %d entries lost\nfiles: %v", round, missing, len(acked), r.files())
	}
}

// The same at every single step: a history is replayed again and again, and at its n-th
// operation on disk or store everything stops working, or that one operation fails, for
// each n.
func TestFailureAtEveryOperation(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 5
	}
	for _, once := range []bool{false, true} {
		steps := 0
		for n := 0; steps == 0; n += stride {
			if count := failAt(t, n, once); count <= n {
				steps = count
			}
		}
		if steps < 60 {
			t.Errorf("the history has %d operations, too few to mean anything", steps)
		}
	}
}

// failAt runs the history with a failure at operation n, checks, and returns how many
// operations there were.
func failAt(t *testing.T, n int, once bool) (count int) {
	t.Helper()
	errGone := errors.New("power is gone")
	what := ""
	r := newRig(t)
	healthy := r.store
	step := func(op, path string) error {
		if count++; count <= n || once && count > n+1 {
			return nil
		}
		if what == "" {
			what = fmt.Sprintf("failure at operation %d, %s %s, once: %v", n, op, filepath.Base(path), once)
		}
		return errGone
	}
	r.disk.set(step)
	r.Ingester.store = &faultyStore{Store: healthy, fail: func(op string) error { return step(op, "") }}
	acked := history(r)
	check := func(when string, got []string) {
		t.Helper()
		if diff := cmp.Diff(rendered(acked...), got); diff != "" {
			t.Fatalf("%s: %s: rows differ (-acknowledged +found):\n%s\nfiles: %v", what, when, diff, r.files())
		}
	}
	r.disk.set(nil)
	r.store = healthy
	check("before the restart", r.everywhere("t"))
	r.crash()
	r.start()
	check("after the restart", r.everywhere("t"))
	// And from there everything goes on.
	more := logs("after", entry(day0, "after"))
	r.push("t", more)
	acked = append(acked, more)
	r.must(r.Flush(context.Background()))
	check("flushed", r.stored("t"))
	r.must(r.Close())
	return count
}

// history takes entries through all that can happen to them, and returns those that were
// acknowledged. Errors are what it is for.
func history(r *rig) (acked []model.Stream) {
	ctx := context.Background()
	r.Ingester.cfg.KeepAfterUpload = 0
	push := func(n int) {
		s := logs(fmt.Sprint("app-", n%2), entry(day0+int64(n), fmt.Sprint("entry ", n)), entry(day0-int64(n)-1, fmt.Sprint("entry ", n, " of yesterday")))
		if r.Push(ctx, "t", []model.Stream{s}) == nil {
			acked = append(acked, s)
		}
	}
	for n := range 3 {
		push(2 * n)
		push(2*n + 1)
		_ = r.freeze()
		push(100 + n) // while the other waits to be flushed
		_ = r.flushFrozen(ctx)
	}
	_ = r.send(ctx, true) // merges and uploads
	push(200)
	_ = r.send(ctx, true) // removes what is uploaded
	_ = r.Flush(ctx)      // a single segment, as it is
	return acked
}

// faultyStore fails where a test says so; a failing Put may have stored the object.
type faultyStore struct {
	object.Store
	fail   func(op string) error
	stores bool // a Put that fails has stored the object all the same
}

func (s *faultyStore) Put(ctx context.Context, key object.Key, body io.ReadSeeker, size int64) error {
	err := s.fail("put")
	if err == nil || s.stores {
		err = errors.Join(err, s.Store.Put(ctx, key, body, size))
	}
	return err
}

func (s *faultyStore) Stat(ctx context.Context, key object.Key) (object.Info, error) {
	if err := s.fail("stat"); err != nil {
		return object.Info{}, err
	}
	return s.Store.Stat(ctx, key)
}

func TestDirectoryHasOneOwner(t *testing.T) {
	r := newRig(t)
	_, err := New(r.cfg, r.store, r.lim, prometheus.NewRegistry(), quiet)
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v, want a refusal that says why", err)
	}
}

// What names say is what is there; `ls` is enough to follow the life of an entry.
func TestNamesAreStates(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.KeepAfterUpload = 0 })
	ctx := context.Background()
	expect := func(want ...string) {
		t.Helper()
		got := r.files()
		for n := range got {
			got[n] = strings.Replace(got[n], "t/2026-01-15/", "", 1)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files differ (-want +got):\n%s", diff)
		}
	}
	expect("wal/0000000000000001.active")
	r.push("t", logs("a", entry(day0, "one")))
	r.must(r.freeze())
	expect("wal/0000000000000001.sealed", "wal/0000000000000002.active")
	r.must(r.flushFrozen(ctx))
	expect("segments/0000000000000001-….seg", "wal/0000000000000002.active")
	r.push("t", logs("a", entry(day0, "two")))
	r.must(r.freeze())
	r.must(r.flushFrozen(ctx))
	r.Ingester.store = &faultyStore{Store: r.store, fail: func(string) error { return syscall.ECONNREFUSED }}
	if err := r.send(ctx, true); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want the store's error", err)
	}
	expect("segments/1-….uploading", "wal/0000000000000003.active")
	r.Ingester.store = r.store
	r.must(r.send(ctx, true))
	expect("segments/1-….uploaded", "wal/0000000000000003.active")
	r.must(r.send(ctx, true))
	expect("wal/0000000000000003.active")
}

// A torn tail is cut once and for all: the file that it was cut from is replayed again
// when the next process dies before it is flushed.
func TestTornTail(t *testing.T) {
	r := newRig(t)
	s := logs("a", entry(day0, "acknowledged"))
	r.push("t", s)
	r.crash()
	f, err := os.OpenFile(r.walPath(1, extActive), os.O_APPEND|os.O_WRONLY, 0)
	r.must(err)
	_, err = f.WriteString("half a frame, in which the power went")
	r.must(errors.Join(err, f.Close()))
	for range 3 {
		r.start()
		if diff := cmp.Diff(rendered(s), r.rows("t")); diff != "" {
			t.Fatalf("rows differ (-acknowledged +found):\n%s", diff)
		}
		r.crash()
	}
	r.start()
}

// Damage stops the start, with a message that helps, and does not stop a start that was
// told to salvage.
func TestDamageAndSalvage(t *testing.T) {
	for name, where := range map[string]func(r *rig) string{
		"log":     func(r *rig) string { return r.walPath(1, extSealed) },
		"segment": func(r *rig) string { return glob(t, r, "segments/t/*/*.seg") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.push("t", logs("a", entry(day0, "in the damaged part")))
			r.push("t", logs("a", entry(day0+1, "behind it")))
			r.must(r.freeze())
			if name == "segment" {
				r.must(r.flushFrozen(context.Background()))
			}
			r.crash()
			path := where(r)
			data, err := os.ReadFile(path)
			r.must(err)
			if name == "log" {
				data[40] ^= 1
			} else {
				data[len(data)-30] ^= 1
			}
			r.must(os.WriteFile(path, data, 0o600))
			_, err = New(r.cfg, r.store, r.lim, prometheus.NewRegistry(), quiet)
			if fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "-ingester.salvage") {
				t.Errorf("got %v (kind %d)\nwant kind Corrupt, the path and what to do", err, fault.Of(err))
			}
			r.cfg.Salvage = true
			r.start()
			if got, want := len(r.rows("t")), map[string]int{"log": 1, "segment": 0}[name]; got != want {
				t.Errorf("salvaged %d rows, want %d", got, want)
			}
			if !slices.ContainsFunc(r.files(), func(f string) bool { return strings.HasSuffix(f, extDamaged) }) {
				t.Errorf("the damaged file was not kept: %v", r.files())
			}
			r.push("t", logs("a", entry(day0, "life goes on")))
			r.must(r.Close())
			r.cfg.Salvage = false
			r.start()
		})
	}
}

func glob(t *testing.T, r *rig, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(r.cfg.Dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: got %v, %v, want one file", pattern, found, err)
	}
	return found[0]
}
