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
