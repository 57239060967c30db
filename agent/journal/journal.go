// Package journal follows the systemd journal of this machine and pushes its entries. It
// reads through journalctl, which every machine with a journal has, rather than through
// libsystemd, which would need cgo.
//
// It promises what the agent promises for files: the cursor, saved atomically, is that of
// the last entry that was acknowledged, so a kill repeats at most one batch, and a
// repetition carries the same timestamp, so that a store of sets shows it once. `skald up`
// runs it beside the agent when the machine keeps a journal.
package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// Pusher takes entries for good when it returns nil.
type Pusher interface {
	Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error
}

// Config says what to follow, and where the cursor is kept.
type Config struct {
	// Command is the program to run, "journalctl" when empty.
	Command string
	// CursorFile remembers the last acknowledged entry.
	CursorFile string
	// Labels are added to every entry, besides unit for entries of a service.
	Labels map[string]string
	Tenant model.Tenant
	Push   Pusher
	Logger *slog.Logger
}

const (
	// firstLookback bounds what is read when there is no cursor yet.
	firstLookback = "-24h"
	maxEntryBytes = 4 << 20
	batchBytes    = 1 << 20
	batchWait     = 250 * time.Millisecond
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

// Run follows the journal until ctx ends. When journalctl ends by itself, it is started
// again from the cursor.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Command == "" {
		cfg.Command = "journalctl"
	}
	wait := firstRetry
	for {
		began := time.Now()
		err := follow(ctx, cfg)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > lastRetry {
			wait = firstRetry
		}
		cfg.Logger.Warn("journalctl ended, will start it again", "err", err, "in", wait)
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, lastRetry)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// entry is what of a journal entry matters.
type entry struct {
	model.Entry
	cursor, unit string
}

func follow(ctx context.Context, cfg Config) error {
	args := []string{"--output=json", "--follow", "--no-pager", "--lines=all"}
	cursor, err := os.ReadFile(cfg.CursorFile)
	switch {
	case err == nil && len(bytes.TrimSpace(cursor)) > 0:
		args = append(args, "--after-cursor="+string(bytes.TrimSpace(cursor)))
	case err == nil || errors.Is(err, os.ErrNotExist):
		args = append(args, "--since="+firstLookback)
	default:
		return fmt.Errorf("reading the journal's cursor: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, cfg.Command, args...)
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
	entries := make(chan entry, 256)
	read := make(chan error, 1)
	go func() {
		defer close(entries)
		read <- readEntries(ctx, out, entries, cfg.Logger)
	}()
	sent := send(ctx, cfg, entries)
	stop()
	_ = out.Close()     // ends the reader, also when a child of the command still holds the pipe
	for range entries { // lets the reader end
	}
	if err = <-read; errors.Is(err, os.ErrClosed) {
		err = nil
	}
	err = errors.Join(sent, err)
	if waited := cmd.Wait(); err == nil {
		err = waited
	}
	if text := strings.TrimSpace(complaint.String()); text != "" {
		err = fmt.Errorf("%w: %s", orEnded(err), text)
	}
	return err
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("journalctl ended")
	}
	return err
}

func readEntries(ctx context.Context, r io.Reader, to chan<- entry, logger *slog.Logger) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxEntryBytes)
	for sc.Scan() {
		e, err := parse(sc.Bytes())
		if err != nil {
			logger.Warn("skipping an entry of the journal", "err", err)
			continue
		}
		select {
		case to <- e:
		case <-ctx.Done():
			return nil
		}
	}
	return sc.Err()
}

// parse reads one line of journalctl's JSON. MESSAGE is a string, a list of bytes when it
// is not text, or null when it is too large to be shown.
func parse(line []byte) (entry, error) {
	var f struct {
		Cursor   string          `json:"__CURSOR"`
		Realtime string          `json:"__REALTIME_TIMESTAMP"`
		Message  json.RawMessage `json:"MESSAGE"`
		Unit     any             `json:"_SYSTEMD_UNIT"`
		Ident    any             `json:"SYSLOG_IDENTIFIER"`
		Priority any             `json:"PRIORITY"`
	}
	if err := json.Unmarshal(line, &f); err != nil {
		return entry{}, err
	}
	us, err := strconv.ParseInt(f.Realtime, 10, 64)
	if err != nil || f.Cursor == "" {
		return entry{}, fmt.Errorf("no cursor or no time in %.100q", line)
	}
	e := entry{cursor: f.Cursor, Entry: model.Entry{Timestamp: us * int64(time.Microsecond)}}
	var text string
	var raw []byte
	switch {
	case json.Unmarshal(f.Message, &text) == nil:
		e.Line = []byte(text)
	case json.Unmarshal(f.Message, (*byteList)(&raw)) == nil:
		e.Line = raw
	default:
		return entry{}, fmt.Errorf("MESSAGE is neither text nor bytes in %.100q", line)
	}
	if unit, _ := f.Unit.(string); strings.HasSuffix(unit, ".service") {
		e.unit = unit // scopes and slices have names of their own by the thousand
	}
	meta := map[string]string{}
	if level := levels[fmt.Sprint(f.Priority)]; level != "" {
		meta["detected_level"] = level
	}
	if ident, _ := f.Ident.(string); ident != "" {
		meta["syslog_identifier"] = ident
	}
	e.Metadata = labels.FromMap(meta)
	return e, nil
}

// levels are syslog's priorities in Loki's words.
var levels = map[string]string{
	"0": "critical", "1": "critical", "2": "critical", "3": "error", "4": "warn", "5": "info", "6": "info", "7": "debug",
}

// byteList is a JSON list of numbers from 0 to 255.
type byteList []byte

func (b *byteList) UnmarshalJSON(text []byte) error {
	var list []uint8Number
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*b = make([]byte, len(list))
	for i, n := range list {
		(*b)[i] = byte(n)
	}
	return nil
}

// uint8Number is a number; a plain uint8 would make the list a base64 string.
type uint8Number uint8

// send gathers entries into batches, pushes each until it is taken, and then moves the
// cursor.
func send(ctx context.Context, cfg Config, entries <-chan entry) error {
	for {
		first, ok := <-entries
		if !ok {
			return nil
		}
		batch, last := gather(first, entries, cfg.Labels)
		if err := push(ctx, cfg, batch); err != nil {
			return err
		}
		if err := saveCursor(cfg.CursorFile, last); err != nil {
			return err
		}
	}
}

func gather(first entry, entries <-chan entry, base map[string]string) (batch []model.Stream, cursor string) {
	at := map[string]int{}
	size := 0
	add := func(e entry) {
		i, ok := at[e.unit]
		if !ok {
			b := labels.NewBuilder(labels.FromMap(base))
			if e.unit != "" {
				b.Set("unit", e.unit)
			}
			i = len(batch)
			at[e.unit] = i
			batch = append(batch, model.Stream{Labels: b.Labels()})
		}
		batch[i].Entries = append(batch[i].Entries, e.Entry)
		size += len(e.Line)
		cursor = e.cursor
	}
	add(first)
	deadline := time.After(batchWait)
	for size < batchBytes {
		select {
		case e, ok := <-entries:
			if !ok {
				return batch, cursor
			}
			add(e)
		case <-deadline:
			return batch, cursor
		}
	}
	return batch, cursor
}

// push tries until the batch is taken. What can never be stored, because it is too old or
// too long, was left out by the server and is not worth a retry.
func push(ctx context.Context, cfg Config, batch []model.Stream) error {
	wait := firstRetry
	for {
		err := cfg.Push.Push(ctx, cfg.Tenant, batch)
		switch fault.Of(err) {
		case fault.Invalid, fault.TooLarge, fault.Unprocessable:
			cfg.Logger.Warn("some entries of the journal were refused", "err", err)
			return nil
		}
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		cfg.Logger.Warn("cannot push entries of the journal, will try again", "err", err, "in", wait)
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, lastRetry)
	}
}

// saveCursor replaces the file in one step, so that a crash leaves the old one or the new.
func saveCursor(path, cursor string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-")
	if err != nil {
		return fmt.Errorf("saving the journal's cursor: %w", err)
	}
	_, err = f.WriteString(cursor + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("saving the journal's cursor: %w", err)
	}
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
