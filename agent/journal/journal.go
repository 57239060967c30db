// Package journal reads the systemd journal of this machine. It reads through journalctl,
// which every machine with a journal has, rather than through libsystemd, which would need
// cgo; journalctl also goes on by itself over rotated and damaged journal files.
//
// It promises to hand over every entry after a cursor, in order, and to start journalctl again
// whenever it ends. What has been delivered, and so which cursor to begin with after a restart
// of the agent, is the caller's to remember.
package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Config says what to read.
type Config struct {
	// Command is the program to run, "journalctl" when empty.
	Command string
	// Cursor is where to begin; when it is empty, entries not older than MaxAge are read.
	Cursor string
	// MaxAge bounds how far back reading begins without a cursor.
	MaxAge time.Duration
	// Path is a directory of journal files, "" for this machine's journal.
	Path string
	// Matches are FIELD=value. Those of different fields must all hold.
	Matches []string
	Logger  *slog.Logger
}

const (
	// maxEntryBytes bounds an entry as journalctl prints it. What is larger is skipped.
	maxEntryBytes = 16 << 20
	maxBatch      = 512
	firstRetry    = 500 * time.Millisecond
	lastRetry     = 30 * time.Second
)

// Present reports whether this machine keeps a journal that can be read.
func Present() bool {
	if _, err := exec.LookPath("journalctl"); err != nil {
		return false
	}
	for _, dir := range []string{"/var/log/journal", "/run/log/journal"} {
		if files, err := filepath.Glob(filepath.Join(dir, "*", "*.journal")); err == nil && len(files) > 0 {
			return true
		}
	}
	return false
}

// Run reads the journal until ctx ends. It calls emit with entries, valid during the call,
// which may wait; an error of emit ends Run. status is told what is wrong, nil when all is well.
func Run(ctx context.Context, cfg Config, emit func([]Entry) error, status func(error)) error {
	if cfg.Command == "" {
		cfg.Command = "journalctl"
	}
	wait := firstRetry
	for {
		r := &reader{cfg: cfg, emit: emit, status: status}
		began := time.Now()
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if r.refused != nil {
			return r.refused
		}
		cfg.Cursor = r.cfg.Cursor
		if r.count == 0 && cfg.Cursor != "" && strings.Contains(err.Error(), "cursor") {
			cfg.Logger.Error("journalctl does not take the cursor; reading begins anew, and repeats entries", "cursor", cfg.Cursor, "max_age", cfg.MaxAge)
			cfg.Cursor = ""
		}
		if time.Since(began) > lastRetry {
			wait = firstRetry
		}
		status(err)
		cfg.Logger.Warn("journalctl ended, will start it again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
	}
}

// reader is one run of journalctl.
type reader struct {
	cfg     Config
	emit    func([]Entry) error
	status  func(error)
	count   int
	refused error // by emit
	batch   []Entry
	line    []byte
	skip    bool // the rest of an entry that is too large
}

func (r *reader) args() []string {
	args := []string{"--output=json", "--all", "--follow", "--no-pager", "--lines=all", "--quiet"}
	if r.cfg.Path != "" {
		args = append(args, "--directory="+r.cfg.Path)
	}
	if r.cfg.Cursor != "" {
		args = append(args, "--after-cursor="+r.cfg.Cursor)
	} else {
		args = append(args, fmt.Sprintf("--since=-%ds", max(int64(r.cfg.MaxAge/time.Second), 1)))
	}
	return append(args, r.cfg.Matches...)
}

func (r *reader) follow(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, r.cfg.Command, r.args()...)
	cmd.WaitDelay = time.Second // for a child that still holds its output
	var complaint bytes.Buffer
	cmd.Stderr = &limitWriter{w: &complaint, left: 4 << 10}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	unblock := context.AfterFunc(ctx, func() { _ = out.Close() }) // also when a child of the command still holds the pipe
	defer unblock()
	err = r.read(out)
	stop()
	if waited := cmd.Wait(); err == nil {
		err = waited
	}
	if err == nil {
		err = errors.New("journalctl ended")
	}
	if text := strings.TrimSpace(complaint.String()); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// read takes lines until the end. What has come together is emitted together.
func (r *reader) read(out io.Reader) error {
	br := bufio.NewReaderSize(out, 256<<10)
	for {
		part, err := br.ReadSlice('\n')
		r.add(part)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, r.flush())
		}
		r.entry()
		if len(r.batch) >= maxBatch || br.Buffered() == 0 {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
}

func (r *reader) add(part []byte) {
	if r.skip = r.skip || len(r.line)+len(part) > maxEntryBytes; r.skip {
		r.line = r.line[:0]
		return
	}
	r.line = append(r.line, part...)
}

func (r *reader) entry() {
	defer func() { r.line, r.skip = r.line[:0], false }()
	if r.skip {
		r.cfg.Logger.Warn("skipping an entry of the journal", "err", "it is larger than allowed", "bytes", maxEntryBytes)
		return
	}
	e, err := parse(r.line)
	if err != nil {
		r.cfg.Logger.Warn("skipping an entry of the journal", "err", err)
		return
	}
	r.count++
	r.batch = append(r.batch, e)
}

func (r *reader) flush() error {
	if len(r.batch) == 0 {
		return nil
	}
	r.status(nil)
	if err := r.emit(r.batch); err != nil {
		r.refused = err
		return err
	}
	r.cfg.Cursor = r.batch[len(r.batch)-1].Cursor
	clear(r.batch)
	r.batch = r.batch[:0]
	return nil
}

// limitWriter keeps the beginning of what it is given.
type limitWriter struct {
	w    io.Writer
	left int
}

func (l *limitWriter) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
