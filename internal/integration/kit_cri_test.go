package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fleet is a set of log files as a container runtime writes them: a folder per container,
// rotated by renaming 0.log. Every line names its file and its number in it.
type fleet struct {
	dir   string
	base  time.Time // of the first lines
	step  time.Duration
	files []*criFile
}

type criFile struct {
	*fleet
	id       int
	path     string
	lines    int // written so far, over all generations
	rotation int
	buf      bytes.Buffer
}

// span is how long the lines of a fleet pretend to have taken.
const span = 30 * time.Minute

// newFleet plans files that will get so many lines each.
func newFleet(t testing.TB, files, linesEach int) *fleet {
	f := &fleet{dir: tempDir(t, "pods"), base: time.Now().Add(-span - time.Minute).Truncate(time.Second), step: span / time.Duration(linesEach)}
	for id := range files {
		dir := filepath.Join(f.dir, fmt.Sprintf("app-%03d", id))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		f.files = append(f.files, &criFile{fleet: f, id: id, path: filepath.Join(dir, "0.log")})
	}
	return f
}

// at is the time of a line; pairs of lines share one, as they do when a program is quick.
func (f *criFile) at(seq int) time.Time {
	return f.base.Add(time.Duration(seq/2*2) * f.step).Add(time.Duration(f.id) * time.Microsecond)
}

// content is what the container printed.
func (f *criFile) content(seq int) string {
	return fmt.Sprintf("file=%03d seq=%07d level=%s msg=\"GET /api/v1/items/%d\" status=%d took=%dms",
		f.id, seq, [...]string{"info", "debug", "warn", "error"}[seq%4], seq*7919%100003, 200+seq%3*100, seq%1000)
}

// splitEvery is how often the runtime breaks a line in two records.
const splitEvery = 97

// write appends n lines. The file is not always written at the ends of lines.
func (f *criFile) write(rng *rand.Rand, n int) error {
	f.buf.Reset()
	for range n {
		ts, line := f.at(f.lines).Format(time.RFC3339Nano), f.content(f.lines)
		if f.lines%splitEvery == 0 {
			fmt.Fprintf(&f.buf, "%s stdout P %s\n", ts, line[:len(line)/2])
			line = line[len(line)/2:]
		}
		fmt.Fprintf(&f.buf, "%s stdout F %s\n", ts, line)
		f.lines++
	}
	out, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	cut := rng.IntN(f.buf.Len() + 1)
	_, err = out.Write(f.buf.Bytes()[:cut])
	if err == nil {
		_, err = out.Write(f.buf.Bytes()[cut:])
	}
	return errors.Join(err, out.Close())
}

// rotate renames the file as the kubelet does; the next write makes a new one.
func (f *criFile) rotate() error {
	f.rotation++
	return os.Rename(f.path, fmt.Sprintf("%s.20260101-%06d", f.path, f.rotation))
}

// total is the number of lines written.
func (f *fleet) total() int {
	n := 0
	for _, file := range f.files {
		n += file.lines
	}
	return n
}

// end is a time after every line.
func (f *fleet) end() time.Time { return f.base.Add(span + time.Minute) }

// verify demands that the server has every line once, in two ways: by counting per file,
// and by reading all of it back through the command line.
func (f *fleet) verify(t testing.TB, s *server) {
	t.Helper()
	f.verifyCounts(t, s)
	f.verifyLines(t, s)
}

const countWindow = "[1h]"

// countAll counts every line of the fleet.
const countAll = `sum(count_over_time({job="cri"}` + countWindow + `))`

func (f *fleet) verifyCounts(t testing.TB, s *server) {
	t.Helper()
	got, err := s.vector(`sum by (filename) (count_over_time({job="cri"}`+countWindow+`))`, f.end())
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, v := range got {
		if counts[v.Metric["filename"]], err = v.int(); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range f.files {
		if n := counts[file.path]; n != file.lines {
			t.Errorf("%s: count_over_time says %d lines, want %d", file.path, n, file.lines)
		}
		delete(counts, file.path)
	}
	for name, n := range counts {
		t.Errorf("%d lines of a file that nobody wrote: %s", n, name)
	}
}

func (f *fleet) verifyLines(t testing.TB, s *server) {
	t.Helper()
	cmd := exec.Command(program, "query", "--addr="+s.url, "--quiet", "--limit=0", "--batch=5000", "--forward", "--output=jsonl",
		"--from="+f.base.Add(-time.Second).Format(time.RFC3339Nano), "--to="+f.end().Format(time.RFC3339Nano), `{job="cri"}`)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := newCheck(t, f)
	err = c.readAll(out)
	if waitErr := cmd.Wait(); waitErr != nil || err != nil {
		t.Fatalf("skald query: %v, %v\n%s", err, waitErr, stderr.String())
	}
	c.finish()
}

// check compares lines as they come with what was written.
type check struct {
	t     testing.TB
	fleet *fleet
	seen  [][]uint8
	last  time.Time
	shown int
}

func newCheck(t testing.TB, f *fleet) *check {
	c := &check{t: t, fleet: f, seen: make([][]uint8, len(f.files))}
	for i, file := range f.files {
		c.seen[i] = make([]uint8, file.lines)
	}
	return c
}

// complain keeps a report of a thousand missing lines readable.
func (c *check) complain(format string, args ...any) {
	c.t.Helper()
	if c.shown++; c.shown <= 20 {
		c.t.Errorf(format, args...)
	}
}

func (c *check) readAll(r io.Reader) error {
	c.t.Helper()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e struct {
			Labels    map[string]string
			Line      string
			Timestamp time.Time
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%w in %q", err, lines.Text())
		}
		c.entry(e.Labels, e.Line, e.Timestamp)
	}
	return lines.Err()
}

func (c *check) entry(labels map[string]string, line string, ts time.Time) {
	c.t.Helper()
	if ts.Before(c.last) {
		c.complain("%q at %s comes after one at %s", line, ts, c.last)
	}
	c.last = ts
	var id, seq int
	if _, err := fmt.Sscanf(line, "file=%d seq=%d ", &id, &seq); err != nil || id >= len(c.fleet.files) || seq >= len(c.seen[id]) {
		c.complain("a line that nobody wrote: %q", line)
		return
	}
	file := c.fleet.files[id]
	if want := file.content(seq); line != want {
		c.complain("line %d of %s is %q, want %q", seq, file.path, line, want)
	}
	if labels["filename"] != file.path || labels["stream"] != "stdout" || labels["job"] != "cri" {
		c.complain("line %d of %s has the labels %v", seq, file.path, labels)
	}
	if want := file.at(seq); !ts.Equal(want) {
		c.complain("line %d of %s is at %s, want %s", seq, file.path, ts, want)
	}
	if c.seen[id][seq]++; c.seen[id][seq] == 2 {
		c.complain("line %d of %s is there twice", seq, file.path)
	}
}

// finish reports what is missing, by ranges.
func (c *check) finish() {
	c.t.Helper()
	for id, seen := range c.seen {
		for from := 0; from < len(seen); from++ {
			if seen[from] > 0 {
				continue
			}
			to := from
			for to+1 < len(seen) && seen[to+1] == 0 {
				to++
			}
			c.complain("lines %d to %d of %s are missing", from, to, c.fleet.files[id].path)
			from = to
		}
	}
	if c.shown > 20 {
		c.t.Errorf("and %d complaints more", c.shown-20)
	}
}

// listing shows the files of a container, for reports.
func (f *criFile) listing() string {
	var b strings.Builder
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return err.Error()
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			fmt.Fprintf(&b, "%s %d bytes\n", e.Name(), info.Size())
		}
	}
	return b.String()
}
