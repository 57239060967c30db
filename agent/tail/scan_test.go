package tail

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skaldlog/skald/agent/positions"
)

// A pattern whose files are all gone is worth a warning, but for the end of a pod.
func TestNoFilesAnyMore(t *testing.T) {
	dir := t.TempDir()
	store, err := positions.Open(filepath.Join(dir, "positions.yaml"), positions.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var said bytes.Buffer
	tl, err := New(Config{Logger: slog.New(slog.NewTextHandler(&said, nil))}, []Target{
		{Job: "files", Path: filepath.Join(dir, "app/*.log")},
		{Job: "pods", Path: filepath.Join(dir, "pod/*.log"), Passing: true},
	}, store)
	if err != nil {
		t.Fatal(err)
	}
	scan := func() {
		for _, tg := range tl.allTargets() {
			tl.expand(tg, map[string]bool{}, map[string][]os.DirEntry{})
		}
	}
	for _, sub := range []string{"app", "pod"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, sub, "0.log"), []byte("line\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	scan()
	for _, sub := range []string{"app", "pod"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			t.Fatal(err)
		}
	}
	scan()
	scan()
	if got := said.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "app/*.log") {
		t.Errorf("the log says %q, want one warning, about app/*.log", got)
	}
}

// A file that may be a copy of what another log reads is judged while that log's turn is in
// the judge's hand, and not before the log has begun.
func TestCopiesWaitForTheirLog(t *testing.T) {
	dir := t.TempDir()
	store, err := positions.Open(filepath.Join(dir, "positions.yaml"), positions.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	tl, err := New(Config{}, []Target{{Job: "files", Path: filepath.Join(dir, "app.log*")}}, store)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "app.log")
	for _, name := range []string{path, path + ".1"} {
		if err := os.WriteFile(name, []byte("one line\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tg := tl.allTargets()[0]
	c, err := tl.openCandidate(tg, path+".1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	base := positions.Key{Job: tg.group, Path: path}
	expect := func(when string, want likeness) {
		t.Helper()
		if got := tl.copyOf(base, c); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	expect("nobody follows the original", copyInUse)
	tl.start(tg, base)
	expect("the original is not looked at yet", copyInUse)
	l := tl.take()
	expect("a worker is at it", copyInUse)
	l.started = true
	tl.done(l, outcome{})
	expect("it has read nothing, and so can this be no copy", noCopy)
	if got := tl.take(); got != l {
		t.Errorf("the log has no turn after its turn was borrowed")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("the original is gone, and a worker is at the log", copyInUse)
	tl.done(l, outcome{remove: true})
	expect("there is no original", noCopy)
}

// A file that was renamed while its directory was read is left to the next look, and not left
// open.
func TestRenamedSiblingIsClosed(t *testing.T) {
	dir := t.TempDir()
	store, err := positions.Open(filepath.Join(dir, "positions.yaml"), positions.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	tl, err := New(Config{}, []Target{{Job: "files", Path: filepath.Join(dir, "app.log")}}, store)
	if err != nil {
		t.Fatal(err)
	}
	tg := tl.allTargets()[0]
	path := filepath.Join(dir, "app.log")
	tl.start(tg, positions.Key{Job: tg.group, Path: path})
	l := tl.take()
	if err := os.WriteFile(path+".1", []byte("one line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l.known(sibling{path: path + ".1", id: positions.ID{Dev: 1, Ino: 1}}) {
		t.Error("a file is known by the name that another one had")
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to == path+".1" {
			t.Error("the file is left open")
		}
	}
}
