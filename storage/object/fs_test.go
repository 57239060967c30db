package object

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFSIgnoresHalfWrittenFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := NewFS(dir)
	must(t, err)
	put(t, s, "a/b", "x")
	must(t, os.WriteFile(filepath.Join(dir, "a", tempPrefix+"123"), []byte("half"), 0o600))
	if d := cmp.Diff([]Key{"a/b"}, keys(t, s, "")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	n, err := s.RemoveTemporary(t.Context())
	if n != 1 || err != nil {
		t.Errorf("removed %d, %v, want 1", n, err)
	}
	if d := cmp.Diff([]Key{"a/b"}, keys(t, s, "")); d != "" {
		t.Errorf("after cleaning (-want +got):\n%s", d)
	}
}

func TestFSLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	s, err := NewFS(dir)
	must(t, err)
	put(t, s, "a/b/c/d", "x")
	if err := s.Put(t.Context(), "a/b/e", strings.NewReader("xy"), 1); err == nil {
		t.Fatal("a body that is too long was stored")
	}
	must(t, s.Delete(t.Context(), "a/b/c/d"))
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("%v is left, want the empty folders to go", entries)
	}
}

func TestFSFollowsLinks(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	s, err := NewFS(dir)
	must(t, err)
	must(t, os.Symlink(elsewhere, filepath.Join(dir, "a")))
	put(t, s, "a/b", "x")
	if d := cmp.Diff([]Key{"a/b"}, keys(t, s, "")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"a/"}, collect(t, s.ListPrefixes(t.Context(), ""))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
