package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDelivers(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	path := filepath.Join(dir, "logs/a/one.log")
	appendFile(t, path, "first\nsecond\nunfin")
	_, stop := start(t, testConfig(t, s.URL, dir, ""), Options{})
	eventually(t, "two lines", func() bool { return len(s.stream("one.log")) == 2 })
	appendFile(t, path, "ished\n")
	appendFile(t, filepath.Join(dir, "logs/b/c/two.log"), "other\n")
	eventually(t, "all lines", func() bool { return len(s.lines()) == 4 })
	stop()
	appendFile(t, path, "while stopped\n")
	_, stop = start(t, testConfig(t, s.URL, dir, ""), Options{})
	eventually(t, "the line written while stopped", func() bool { return len(s.lines()) == 5 })
	stop()
	want := []string{"first", "second", "unfinished", "while stopped"}
	if diff := cmp.Diff(want, s.stream(fmt.Sprintf("filename=%q", path))); diff != "" {
		t.Errorf("lines of %s (-want +got):\n%s", path, diff)
	}
	if _, n := s.counts(); n > 0 {
		t.Errorf("%d lines were sent twice", n)
	}
}

func TestRotationWhileStopped(t *testing.T) {
	for n := range 4 {
		t.Run(fmt.Sprintf("%d times", n), func(t *testing.T) {
			s, dir := newSink(t), t.TempDir()
			path := filepath.Join(dir, "logs/app.log")
			appendFile(t, path, "0 read\n")
			_, stop := start(t, testConfig(t, s.URL, dir, ""), Options{})
			eventually(t, "first line", func() bool { return len(s.lines()) == 1 })
			stop()
			want := []string{"0 read", "0 unread"}
			appendFile(t, path, "0 unread\n")
			for i := range n {
				for k := n; k >= 1; k-- {
					_ = os.Rename(fmt.Sprintf("%s.%d", path, k), fmt.Sprintf("%s.%d", path, k+1))
				}
				if err := os.Rename(path, path+".1"); err != nil {
					t.Fatal(err)
				}
				appendFile(t, path, fmt.Sprintf("%d new\n%d longer than what was before\n", i+1, i+1))
				want = append(want, fmt.Sprintf("%d new", i+1), fmt.Sprintf("%d longer than what was before", i+1))
			}
			_, stop = start(t, testConfig(t, s.URL, dir, ""), Options{})
			eventually(t, "all lines", func() bool { return len(s.lines()) == len(want) })
			stop()
			if diff := cmp.Diff(want, s.stream("app.log")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCRI(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	path := filepath.Join(dir, "logs/0.log")
	appendFile(t, path, strings.Join([]string{
		"2024-05-01T10:00:00.000000001Z stdout F hello",
		"2024-05-01T10:00:00.000000002Z stdout P long ",
		"2024-05-01T10:00:00.000000003Z stderr F other",
		"2024-05-01T10:00:00.000000004Z stdout P longer ",
		"",
	}, "\n"))
	cfg := testConfig(t, s.URL, dir, "[{cri: {}}]")
	_, stop := start(t, cfg, Options{})
	eventually(t, "two lines", func() bool { return len(s.lines()) == 2 })
	stop()
	// The rest of the line comes after a restart and in the next generation.
	if err := os.Rename(path, path+".20240501-100000"); err != nil {
		t.Fatal(err)
	}
	appendFile(t, path, "2024-05-01T10:00:00.000000005Z stdout F longest\n")
	_, stop = start(t, cfg, Options{})
	eventually(t, "the joined line", func() bool { return len(s.lines()) == 3 })
	stop()
	if diff := cmp.Diff([]string{"hello", "long longer longest"}, s.stream(`stream="stdout"`)); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"other"}, s.stream(`stream="stderr"`)); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
}

// A file that comes back, and one that gets the inode of a file that is gone, are read.
func TestFileComesBack(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	path, cfg := filepath.Join(dir, "logs/app.log"), testConfig(t, s.URL, dir, "")
	appendFile(t, path, "one\n")
	_, stop := start(t, cfg, Options{})
	eventually(t, "a line", func() bool { return len(s.lines()) == 1 })
	stop()
	appendFile(t, path, "two\n")
	away := filepath.Join(dir, "away")
	if err := os.Rename(path, away); err != nil {
		t.Fatal(err)
	}
	appendFile(t, path, "three\n")
	_, stop = start(t, cfg, Options{})
	eventually(t, "the new file", func() bool { return s.lines()["three"] > 0 })
	stop()
	if err := os.Rename(away, path); err != nil {
		t.Fatal(err)
	}
	_, stop = start(t, cfg, Options{})
	eventually(t, "the old file's rest", func() bool { return s.lines()["two"] > 0 })
	stop()
}
