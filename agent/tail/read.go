package tail

import (
	"errors"
	"io"
	"slices"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
)

// read takes what fits into buf from a generation and reports whether that was anything.
//
// The order of steps makes copytruncate safe: first the bytes, with some that were read
// before them, then the head of the file. If head and tail are still the same when the bytes
// are in hand, they belong to what was read before; otherwise they are thrown away and the
// file is read anew.
func (l *tailLog) read(g *generation, buf []byte) (bool, error) {
	if err := l.t.fault("read", g.path); err != nil {
		return false, err
	}
	limit, back := l.limit(g, len(buf)-positions.MaxTail), g.tail.Len
	n, err := g.readAt(buf[:back+limit], g.off-int64(back))
	ended := errors.Is(err, io.EOF)
	if err != nil && !ended && (g.z == nil || n <= back) {
		return false, err
	}
	same, err := g.look()
	if err != nil {
		return false, err
	}
	if !same || !g.tail.Fits(buf[:min(n, back)]) {
		l.truncated(g)
		return true, nil
	}
	data := buf[back:n]
	if g.z != nil {
		g.done, g.size = ended, max(g.size, g.off+int64(len(data)))
	}
	end := g.text.last(data)
	switch {
	case end > 0:
		l.hand(g, buf[:back+end], back, g.off+int64(end))
		return true, nil
	case n == back+limit && limit > 0:
		return l.readLong(g, buf)
	}
	g.scanned = g.off + int64(len(data))
	return false, nil
}

// limit is how much to read, at most size: a range that was read by an earlier run of the
// agent is read again as it was, so that its lines get the times they had.
func (l *tailLog) limit(g *generation, size int) int {
	for len(g.replay) > 0 && (g.replay[0].To <= g.off || g.replay[0].From < g.off) {
		g.replay = g.replay[1:]
	}
	if w := g.text.width(); w > 1 {
		size -= size % w
	}
	if len(g.replay) == 0 {
		return size
	}
	next := g.replay[0].To
	if g.off < g.replay[0].From {
		next = g.replay[0].From
	}
	return int(min(int64(size), next-g.off))
}

// hand gives lines that end at file offset to to the consumer. The lines are what raw holds
// after its first back bytes, which stand before them in the file.
func (l *tailLog) hand(g *generation, raw []byte, back int, to int64) {
	base := g.times(l.t.wall())
	continued := l.consumer.Pending()
	span := g.ledger.Begin(g.off, base, continued)
	if continued && l.last != nil && l.last != g.ledger && !slices.Contains(l.late, g) {
		span.After(l.last)
	}
	l.last = g.ledger
	got := l.consumer.Lines(g.text.utf8(raw[back:]), base, span)
	if g.text.enc != nil {
		got.Clean = g.text.offset(raw[back:], got.CleanLines)
	}
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
		span.Seal(at, positions.TailOf(raw[:back+got.Clean]), got.Stamped)
		spans = append(spans, rest)
	}
	g.tail = positions.TailOf(raw)
	if back+int(to-g.off) != len(raw) {
		g.tail = g.tailAt(to) // a line of which some was left out
	}
	spans[len(spans)-1].Seal(to, g.tail, got.Stamped)
	l.t.step("read")
	l.consumer.Commit()
	for _, s := range spans {
		s.Release()
	}
	size := to - g.off
	g.off, g.scanned = to, to
	l.t.step("committed")
	l.t.Stats.BytesRead.Add(size)
	l.t.Stats.LinesRead.Add(int64(lines))
	l.seen.lines.Add(int64(lines))
}

// readLong reads a line that is longer than buf. What exceeds the longest line is cut off
// and never held in memory.
func (l *tailLog) readLong(g *generation, buf []byte) (bool, error) {
	pos := max(g.scanned, g.off)
	buf = buf[:len(buf)-positions.MaxTail]
	for {
		n, err := g.readAt(buf, pos)
		if w := int64(g.text.width()); w > 1 {
			n -= n % int(w)
		}
		if i := g.text.index(buf[:n]); i >= 0 {
			return true, l.handLong(g, pos+int64(i), int64(g.text.width()))
		}
		pos += int64(n)
		if errors.Is(err, io.EOF) || n == 0 {
			g.scanned = pos
			if g.z != nil {
				g.done, g.size = true, pos
			}
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
	line := make([]byte, size, size+4)
	for n := 0; n < len(line); {
		k, err := g.readAt(line[n:], g.off+int64(n))
		if n += k; n < len(line) && err != nil {
			return err
		}
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
	if g.text.wide() {
		line = append(line, g.text.feed...)
	} else {
		line = append(line, '\n')
	}
	l.hand(g, line, 0, end+feed)
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

// truncated begins a new generation in the same file. If somebody made a copy first, as
// copytruncate does, the copy goes on where the file ended.
func (l *tailLog) truncated(g *generation) {
	l.t.Stats.Truncations.Add(1)
	l.t.log.Info("a file was truncated; reading it from its start", "path", g.path, "was_at", g.off)
	if c := l.searchContent(g.fp, g.off, g.tail); c != nil {
		l.insertBefore(g, l.moved(g, c))
	} else {
		if g.size > g.off {
			l.lost(g, lostTruncated)
		}
		// What was kept back of the old content will never be complete.
		if l.consumer != nil {
			l.consumer.Flush(clock.Now(), true)
			l.consumer.Commit()
		}
		g.ledger.Detach()
	}
	g.off, g.scanned, g.size, g.replay, g.tail = 0, 0, 0, nil, positions.Tail{}
	g.fp = positions.Fingerprint{}
	var buf [headSize]byte
	if head, err := readHead(g.f, &buf); err == nil {
		g.fp = fingerprint(head)
		g.text = newCharset(l.target.Encoding).ordered(head)
	}
	g.ledger = l.t.store.Track(positions.Record{Key: l.key, ID: g.id, Real: g.path, Fingerprint: g.fp, Modified: g.mtime, Since: l.since})
}

// insertBefore makes a generation the one that is read before g.
func (l *tailLog) insertBefore(g, older *generation) {
	if i := slices.Index(l.gens, g); i >= 0 {
		l.gens = slices.Insert(l.gens, i, older)
		return
	}
	// g was left behind, and is now read again from its start, after the older one.
	l.late = slices.DeleteFunc(slices.Clone(l.late), func(o *generation) bool { return o == g })
	l.gens = append([]*generation{older, g}, l.gens...)
}

// lineStart returns the offset of the beginning of the line that holds off.
func lineStart(f io.ReaderAt, off int64) int64 {
	var buf [4096]byte
	for off > 0 {
		n := min(off, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], off-n); err != nil && !errors.Is(err, io.EOF) {
			return off
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] == '\n' {
				return off - n + i + 1
			}
		}
		off -= n
	}
	return 0
}
