package tail

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/skaldlog/skald/agent/positions"
)

// read takes what fits into buf from a generation and reports whether that was anything.
//
// The order of steps makes copytruncate safe: first the bytes, then the fingerprint of the
// head. A head that is still the same when the bytes are in hand shows that they belong to
// what was read before; otherwise they are thrown away and the file is read anew.
func (l *tailLog) read(g *generation, buf []byte) (bool, error) {
	limit := l.limit(g, buf)
	n, err := g.f.ReadAt(buf[:limit], g.off)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	same, err := g.look()
	if err != nil {
		return false, err
	}
	if !same {
		l.truncated(g)
		return true, nil
	}
	data := buf[:n]
	end := bytes.LastIndexByte(data, '\n') + 1
	switch {
	case end > 0:
		l.hand(g, data[:end], g.off+int64(end))
		return true, nil
	case n == limit && n > 0:
		return l.readLong(g, buf)
	}
	g.scanned = g.off + int64(n)
	return false, nil
}

// limit is how much of buf to use: a range that was read by an earlier run of the agent is
// read again as it was, so that its lines get the times they had.
func (l *tailLog) limit(g *generation, buf []byte) int {
	for len(g.replay) > 0 && (g.replay[0].To <= g.off || g.replay[0].From < g.off) {
		g.replay = g.replay[1:]
	}
	if len(g.replay) == 0 {
		return len(buf)
	}
	next := g.replay[0].To
	if g.off < g.replay[0].From {
		next = g.replay[0].From
	}
	return int(min(int64(len(buf)), next-g.off))
}

// times returns the time of the first of the next lines.
func (g *generation) times() int64 {
	if len(g.replay) > 0 && g.replay[0].From == g.off {
		return g.replay[0].Base
	}
	return max(time.Now().UnixNano(), g.base+1)
}

// hand gives lines that end at file offset to to the consumer.
func (l *tailLog) hand(g *generation, data []byte, to int64) {
	base := g.times()
	continued := l.consumer.Pending()
	span := g.ledger.Begin(g.off, base, continued)
	if continued && l.last != nil && l.last != g.ledger && !slices.Contains(l.late, g) {
		span.After(l.last)
	}
	l.last = g.ledger
	got := l.consumer.Lines(data, base, span)
	lines := got.Lines
	if len(g.replay) > 0 && g.replay[0].From == g.off {
		// Perhaps only a part of what was read then; the rest follows with later times.
		g.replay[0].From, g.replay[0].Base = to, base+int64(lines)
	}
	g.base = max(g.base, base+int64(lines))
	spans := []*positions.Span{span}
	if at := g.off + int64(got.Clean); l.consumer.Pending() && got.Clean > 0 && at < to {
		rest := span.Split(at, base+int64(got.CleanLines))
		l.consumer.Rehome(span, rest)
		span.Seal(at, got.Stamped)
		spans = append(spans, rest)
	}
	spans[len(spans)-1].Seal(to, got.Stamped)
	l.consumer.Commit()
	for _, s := range spans {
		s.Release()
	}
	g.off, g.scanned = to, to
	l.t.Stats.BytesRead.Add(int64(len(data)))
	l.t.Stats.LinesRead.Add(int64(lines))
}

// readLong reads a line that is longer than buf. What exceeds the longest line is cut off
// and never held in memory.
func (l *tailLog) readLong(g *generation, buf []byte) (bool, error) {
	pos := max(g.scanned, g.off)
	for {
		n, err := g.f.ReadAt(buf, pos)
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			return true, l.handLong(g, pos+int64(i), 1)
		}
		pos += int64(n)
		if errors.Is(err, io.EOF) {
			g.scanned = pos
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// handLong hands over the line from g.off to end, after which feed bytes follow that belong
// to it.
func (l *tailLog) handLong(g *generation, end, feed int64) error {
	size := min(end-g.off, int64(l.t.cfg.MaxLine))
	line := make([]byte, size, size+1)
	if _, err := io.ReadFull(io.NewSectionReader(g.f, g.off, size), line); err != nil {
		return err
	}
	if same, err := g.look(); err != nil || !same {
		if err == nil {
			l.truncated(g)
		}
		return err
	}
	if cut := end - g.off - size; cut > 0 {
		l.t.Stats.CutLines.Add(1)
		l.consumer.Cut(cut)
	}
	l.hand(g, append(line, '\n'), end+feed)
	return nil
}

// readRest hands over the unterminated last line of a file that will not grow any more.
func (l *tailLog) readRest(g *generation, buf []byte) error {
	for {
		read, err := l.read(g, buf)
		if err != nil {
			return err
		}
		if !read {
			break
		}
	}
	if g.size > g.off {
		return l.handLong(g, g.size, 0)
	}
	return nil
}

// truncated begins a new generation in the same file.
func (l *tailLog) truncated(g *generation) {
	l.t.Stats.Truncations.Add(1)
	l.t.log.Info("a file was truncated; reading it from its start", "path", g.path, "was_at", g.off)
	// What was kept back of the old content will never be complete.
	l.consumer.Flush(time.Now().UnixNano(), true)
	l.consumer.Commit()
	old := g.ledger
	g.off, g.scanned, g.size, g.replay = 0, 0, 0, nil
	g.fp = positions.Fingerprint{}
	var buf [headSize]byte
	if head, err := readHead(g.f, &buf); err == nil {
		g.fp = fingerprint(head)
	}
	g.ledger = l.t.store.Track(positions.Record{Key: l.key, ID: g.id, Real: g.path, Fingerprint: g.fp, Modified: g.mtime, Since: l.since})
	old.Forget()
}

// lineStart returns the offset of the beginning of the line that holds off.
func lineStart(f io.ReaderAt, off int64) int64 {
	var buf [4096]byte
	for off > 0 {
		n := min(off, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], off-n); err != nil {
			return off
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return off - n + int64(i) + 1
		}
		off -= n
	}
	return 0
}
