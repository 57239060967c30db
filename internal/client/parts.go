package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Job is a piece of a download: [Start, End) in nanoseconds.
type Job struct{ Start, End int64 }

// maxJobs bounds the pieces of one download.
const maxJobs = 100_000

// Jobs cuts [start, end) into pieces of the length, from the start on when forward and from
// the end backwards otherwise; only the last piece may be shorter.
func Jobs(start, end int64, length time.Duration, forward bool) ([]Job, error) {
	if length < time.Second {
		return nil, fmt.Errorf("parts of %s: expected a second or more, because their names have whole seconds", length)
	}
	if end <= start {
		return nil, nil
	}
	n := (end-start-1)/int64(length) + 1
	if n > maxJobs {
		return nil, fmt.Errorf("%d parts of %s: expected at most %d; choose longer ones", n, length, maxJobs)
	}
	jobs := make([]Job, n)
	for i := range jobs {
		if forward {
			from := start + int64(i)*int64(length)
			jobs[i] = Job{from, min(from+int64(length), end)}
		} else {
			to := end - int64(i)*int64(length)
			jobs[i] = Job{max(to-int64(length), start), to}
		}
	}
	return jobs, nil
}

// Parts downloads jobs side by side. With a Prefix each job becomes a file
// PREFIX_<start>_<end>.part (UTC, 20060102T150405), which stands there only when it is
// complete: it is written as .part.tmp, synced and renamed. A download that was interrupted
// goes on where it was when it is started again with the same range.
type Parts struct {
	Workers   int
	Prefix    string // empty: the jobs write to Out, whole lines, mixed
	Overwrite bool   // download again what is complete
	Merge     bool   // copy the parts to Out, in the order of the jobs, as they complete
	Keep      bool   // do not remove parts that were merged
	Out       io.Writer
	// Fetch writes a job's result.
	Fetch func(ctx context.Context, job Job, w io.Writer) error
	// Skipped and Done are told of jobs that need no download and of finished ones, from
	// several goroutines; they may be nil.
	Skipped, Done func(job Job)
}

const partTimeLayout = "20060102T150405"

// Name is the file of a job.
func (p *Parts) Name(job Job) string {
	format := func(ns int64) string { return time.Unix(0, ns).UTC().Format(partTimeLayout) }
	return fmt.Sprintf("%s_%s_%s.part", p.Prefix, format(job.Start), format(job.End))
}

// Run works until everything is done or something fails; the first failure is returned.
func (p *Parts) Run(ctx context.Context, jobs []Job) error {
	if p.Prefix == "" && p.Merge {
		return errors.New("merging parts needs a prefix for their names")
	}
	g, ctx := errgroup.WithContext(ctx)
	complete := make([]chan struct{}, len(jobs))
	for i := range complete {
		complete[i] = make(chan struct{})
	}
	next := make(chan int)
	g.Go(func() error {
		defer close(next)
		for i := range jobs {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	var out sync.Mutex
	for range max(p.Workers, 1) {
		g.Go(func() error {
			for i := range next {
				if err := p.one(ctx, jobs[i], &out); err != nil {
					return err
				}
				close(complete[i])
				call(p.Done, jobs[i])
			}
			return nil
		})
	}
	if p.Merge {
		g.Go(func() error { return p.merge(ctx, jobs, complete) })
	}
	return g.Wait()
}

func (p *Parts) one(ctx context.Context, job Job, out *sync.Mutex) error {
	if p.Prefix == "" {
		w := &wholeLines{out: p.Out, mu: out}
		if err := p.Fetch(ctx, job, w); err != nil {
			return err
		}
		return w.flush(len(w.held))
	}
	name := p.Name(job)
	if _, err := os.Stat(name); err == nil && !p.Overwrite {
		call(p.Skipped, job)
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writePart(name, func(w io.Writer) error { return p.Fetch(ctx, job, w) })
}

func call(f func(Job), job Job) {
	if f != nil {
		f(job)
	}
}

// writePart makes the file appear only when it is complete.
func writePart(name string, fetch func(io.Writer) error) (err error) {
	tmp := name + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	err = fetch(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		// Without this a crash could leave a name that says complete on a file that is not.
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// merge copies parts in the order of the jobs, each when it is complete.
func (p *Parts) merge(ctx context.Context, jobs []Job, complete []chan struct{}) error {
	for i, job := range jobs {
		select {
		case <-complete[i]:
		case <-ctx.Done():
			return ctx.Err()
		}
		name := p.Name(job)
		if err := copyFile(p.Out, name); err != nil {
			return err
		}
		if p.Keep {
			continue
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

// wholeLines passes on what it is given up to the last line feed, so that the lines of
// several writers mix but do not tear.
type wholeLines struct {
	out  io.Writer
	mu   *sync.Mutex
	held []byte
}

// Write keeps an unfinished line for later.
func (w *wholeLines) Write(p []byte) (int, error) {
	w.held = append(w.held, p...)
	for i := len(w.held) - 1; i >= 0; i-- {
		if w.held[i] == '\n' {
			return len(p), w.flush(i + 1)
		}
	}
	return len(p), nil
}

func (w *wholeLines) flush(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.out.Write(w.held[:n])
	w.held = append(w.held[:0], w.held[n:]...)
	return err
}
