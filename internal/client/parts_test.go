package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const second = int64(time.Second)

func TestJobs(t *testing.T) {
	for _, test := range []struct {
		start, end int64
		forward    bool
		want       []Job
	}{
		{0, 25 * second, true, []Job{{0, 10 * second}, {10 * second, 20 * second}, {20 * second, 25 * second}}},
		{0, 25 * second, false, []Job{{15 * second, 25 * second}, {5 * second, 15 * second}, {0, 5 * second}}},
		{5, 10*second + 5, true, []Job{{5, 10*second + 5}}},
		{5, 5, true, nil},
	} {
		got, err := Jobs(test.start, test.end, 10*time.Second, test.forward)
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%+v: error %v, %s", test, err, diff)
		}
	}
	if _, err := Jobs(0, 1<<62, time.Second, true); err == nil {
		t.Error("no error for billions of parts")
	}
	if _, err := Jobs(0, 1<<62, time.Millisecond, true); err == nil {
		t.Error("no error for parts below a second")
	}
}

// A download that fails leaves complete parts and nothing else; the next one fetches only
// what is missing, and the merged result is in order.
func TestPartsResume(t *testing.T) {
	dir := t.TempDir()
	jobs, err := Jobs(0, 60*second, 10*time.Second, true)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var fetched, skipped atomic.Int64
	broken := errors.New("the network is gone")
	p := Parts{Workers: 3, Prefix: filepath.Join(dir, "x"), Out: &out, Skipped: func(Job) { skipped.Add(1) }}
	p.Fetch = func(_ context.Context, job Job, w io.Writer) error {
		fmt.Fprintf(w, "half of %d\n", job.Start)
		if job.Start == 30*second {
			return broken
		}
		fetched.Add(1)
		return nil
	}
	if err := p.Run(t.Context(), jobs); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	first := int(fetched.Load())
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != first {
		t.Fatalf("%d files after %d complete parts: %q", len(files), first, files)
	}
	for _, f := range files {
		if !strings.HasSuffix(f, ".part") {
			t.Errorf("left behind: %s", f)
		}
	}

	p.Merge = true
	p.Fetch = func(_ context.Context, job Job, w io.Writer) error {
		fetched.Add(1)
		_, err := fmt.Fprintf(w, "half of %d\n", job.Start)
		return err
	}
	if err := p.Run(t.Context(), jobs); err != nil {
		t.Fatal(err)
	}
	if int(fetched.Load()) != len(jobs) || int(skipped.Load()) != first {
		t.Errorf("%d fetched in all, %d skipped; want %d and %d", fetched.Load(), skipped.Load(), len(jobs), first)
	}
	var want strings.Builder
	for _, j := range jobs {
		fmt.Fprintf(&want, "half of %d\n", j.Start)
	}
	if out.String() != want.String() {
		t.Errorf("merged:\n%s", out.String())
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) > 0 {
		t.Errorf("merged parts stay: %q", files)
	}
}

func TestPartsKeepAndOverwrite(t *testing.T) {
	dir := t.TempDir()
	job := Job{0, second}
	p := Parts{Prefix: filepath.Join(dir, "x"), Out: io.Discard, Merge: true, Keep: true, Overwrite: true}
	name := p.Name(job)
	if want := filepath.Join(dir, "x_19700101T000000_19700101T000001.part"); name != want {
		t.Errorf("name %s, want %s", name, want)
	}
	for _, text := range []string{"old\n", "new\n"} {
		p.Fetch = func(_ context.Context, _ Job, w io.Writer) error { _, err := io.WriteString(w, text); return err }
		if err := p.Run(t.Context(), []Job{job}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != text {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
}

// Without files the jobs' lines mix, but none is torn.
func TestPartsWithoutFiles(t *testing.T) {
	jobs, _ := Jobs(0, 8*second, time.Second, true)
	var out bytes.Buffer
	p := Parts{Workers: 4, Out: &out, Fetch: func(_ context.Context, job Job, w io.Writer) error {
		for i := range 100 {
			for _, piece := range []string{fmt.Sprint(job.Start), "/", fmt.Sprintf("%d\n", i)} {
				if _, err := io.WriteString(w, piece); err != nil {
					return err
				}
			}
		}
		_, err := io.WriteString(w, "end")
		return err
	}}
	if err := p.Run(t.Context(), jobs); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(strings.ReplaceAll(out.String(), "end", "")) {
		seen[line] = true
	}
	for _, j := range jobs {
		for i := range 100 {
			if line := fmt.Sprintf("%d/%d\n", j.Start, i); !seen[line] {
				t.Fatalf("missing %q", line)
			}
		}
	}
}
