// Package local answers LogQL over text at hand, such as standard input, without a server.
//
// Logs works as a filter in a pipe: it reads any amount in bounded memory, keeps the order
// of the lines, and passes on what matches as soon as the input pauses. Metric keeps the
// lines, up to a limit, and evaluates them at one time, as if all had arrived just now.
// The lines belong to one stream, Stream; the selector of the query is not looked at.
package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

// Stream are the labels of all lines.
var Stream = labels.FromStrings("source", "stdin")

// Parse parses a query whose selector may be missing: `|= "x" | json`.
func Parse(query string) (syntax.Expr, error) {
	text := strings.TrimSpace(query)
	if text == "" || text[0] == '|' || text[0] == '!' {
		query = Stream.String() + " " + text
	}
	return syntax.Parse(query)
}

// MaxLine is the longest line accepted, in bytes.
const MaxLine = 64 << 20

// batchBytes is how much text is filtered at a time when the input does not pause. More
// costs memory and cache misses; less costs calls.
const batchBytes = 256 << 10

// batch is some lines in the form that pipelines read: end to end, with their offsets.
type batch struct {
	lines   []byte
	offsets []uint32
	more    bool // the input had more at hand when the batch was made
}

func (b *batch) rows() int { return len(b.offsets) - 1 }

func (b *batch) add(line []byte) {
	b.lines = append(b.lines, line...)
	b.offsets = append(b.offsets, uint32(len(b.lines)))
}

// Entry is a line that passed. Its fields are valid until the callback returns; Set is
// shared by lines with equal labels and stays valid.
type Entry struct {
	Line []byte
	Set  *pipeline.Set
}

// Logs runs the stages over the lines of r at the time now, in nanoseconds. It calls emit
// for each line that passes, and idle when the input has nothing more at the moment. It
// returns at once when ctx ends, even while r blocks; the goroutine that reads r then ends
// with r's next byte, because a read from a terminal or a pipe cannot be taken back.
func Logs(ctx context.Context, r io.Reader, stages []syntax.Stage, now int64, emit func(Entry) error, idle func() error) error {
	p, err := pipeline.New(stages, pipeline.Options{})
	if err != nil {
		return err
	}
	s := p.ForStream(Stream, Stream.Hash())
	var sel []uint32
	return read(ctx, r, func(b *batch) error {
		sel = sel[:0]
		for i := range b.rows() {
			sel = append(sel, uint32(i))
		}
		for _, i := range p.FilterBatch(b.lines, b.offsets, sel) {
			line, lbs, ok := s.ProcessRest(now, b.lines[b.offsets[i]:b.offsets[i+1]], nil)
			if !ok {
				continue
			}
			if err := emit(Entry{Line: line, Set: lbs.Set()}); err != nil {
				return err
			}
		}
		if b.more {
			return nil
		}
		return idle()
	})
}

// read hands batches of lines to f. Two batches go round between the reading goroutine
// and f, so that reading and filtering overlap and memory stays bounded.
func read(ctx context.Context, r io.Reader, f func(*batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	full, empty := make(chan *batch), make(chan *batch, 2)
	empty <- &batch{}
	empty <- &batch{}
	failed := make(chan error, 1)
	go func() {
		defer close(full)
		failed <- split(ctx, r, full, empty)
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, ok := <-full:
			if !ok {
				return <-failed
			}
			if err := f(b); err != nil {
				return err
			}
			empty <- b
		}
	}
}

// split cuts r into lines. What one read returned is passed on before the next read, which
// may block.
func split(ctx context.Context, r io.Reader, full chan<- *batch, empty <-chan *batch) error {
	buf := make([]byte, 0, batchBytes)
	for {
		if len(buf) == cap(buf) {
			if len(buf) > MaxLine {
				return fmt.Errorf("a line is longer than %d bytes", MaxLine)
			}
			buf = append(buf, 0)[:len(buf)]
		}
		// What was there before this read holds no line feed.
		before, room := len(buf), cap(buf)-len(buf)
		n, err := r.Read(buf[before:cap(buf)])
		buf = buf[:before+n]
		end := 0
		if i := bytes.LastIndexByte(buf[before:], '\n'); i >= 0 {
			end = before + i + 1
		}
		last := errors.Is(err, io.EOF)
		if last && end < len(buf) {
			buf = append(buf, '\n')
			end = len(buf)
		}
		if end > 0 {
			if !send(ctx, buf[:end], n == room, full, empty) {
				return ctx.Err()
			}
			buf = append(buf[:0], buf[end:]...)
		}
		switch {
		case last:
			return nil
		case err != nil:
			return fmt.Errorf("read the input: %w", err)
		}
	}
}

func send(ctx context.Context, text []byte, more bool, full chan<- *batch, empty <-chan *batch) bool {
	var b *batch
	select {
	case b = <-empty:
	case <-ctx.Done():
		return false
	}
	b.lines, b.offsets, b.more = b.lines[:0], append(b.offsets[:0], 0), more
	for len(text) > 0 {
		i := bytes.IndexByte(text, '\n')
		b.add(text[:i])
		text = text[i+1:]
	}
	select {
	case full <- b:
		return true
	case <-ctx.Done():
		return false
	}
}
