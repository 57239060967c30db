package querier

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/scan"
)

// tailEntry is one entry as it is sent.
type tailEntry struct {
	scan.Entry               // metadata and parsed labels with categorize-labels only
	labels     labels.Labels // all of them, or those of the stream with categorize-labels
}

// historyEntries lists the entries of a query's streams in order of time.
func historyEntries(streams []scan.Stream, categorize bool) []tailEntry {
	var all []tailEntry
	for _, s := range streams {
		for _, e := range s.Entries {
			te := tailEntry{scan.Entry{Timestamp: e.Timestamp, Line: e.Line}, s.Labels}
			if categorize {
				te = tailEntry{e, s.StreamLabels}
			}
			all = append(all, te)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Timestamp < all[j].Timestamp })
	return all
}

// overlapTime is how long after history was sent an entry of it may still arrive live.
const overlapTime = 10 * time.Second

// Bounds of what one tail holds back for delay_for, and of the entries it remembers to
// tell repeated ones.
const (
	maxHeldEntries = 10_000
	maxHeldBytes   = 4 << 20
	recentEntries  = 2048
)

// settle is how long an entry waits in any case. A client that pushes an entry and tails
// it (loki-canary does) shall not see it before its push was answered; and a frame carries
// what a moment brought rather than a line.
const settle = 100 * time.Millisecond

// liveTail runs the pipeline over live entries, leaves out those that were sent already,
// and holds entries back for delay_for, so that late ones come out in order of time.
type liveTail struct {
	req  tailRequest
	pipe *pipeline.Pipeline
	seed maphash.Seed
	// sent counts history's entries by what they look like; a live entry that looks the
	// same is the same one until the overlap is over.
	sent    map[uint64]int
	overlap time.Time
	// recent are the last entries that came live, at least recentEntries of them: a shipper
	// that got no answer pushes its batch again. The older half is forgotten whole.
	recent, older map[uint64]struct{}

	held    []heldEntry
	bytes   int // of the lines held
	dropped []model.Dropped
	more    int // dropped without a name
}

type heldEntry struct {
	arrived time.Time
	tailEntry
}

func newLiveTail(req tailRequest, history []tailEntry) (*liveTail, error) {
	p, err := pipeline.New(req.expr.Stages, pipeline.Options{})
	if err != nil {
		return nil, err
	}
	l := &liveTail{
		req: req, pipe: p, seed: maphash.MakeSeed(), overlap: time.Now().Add(overlapTime),
		sent: make(map[uint64]int, len(history)), recent: map[uint64]struct{}{},
	}
	for _, e := range history {
		l.sent[l.hash(e.Timestamp, e.Line, e.labels, e.Metadata, e.Parsed)]++
	}
	return l, nil
}

func (l *liveTail) hash(ts int64, line []byte, sets ...labels.Labels) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	maphash.WriteComparable(&h, ts)
	for _, ls := range sets {
		maphash.WriteComparable(&h, ls.Hash())
	}
	_, _ = h.Write(line)
	return h.Sum64()
}

// repeated reports whether an entry came live before, as it was pushed, and remembers it.
func (l *liveTail) repeated(stream labels.Labels, e *model.Entry) bool {
	k := l.hash(e.Timestamp, e.Line, stream, e.Metadata)
	if _, known := l.recent[k]; known {
		return true
	}
	if _, known := l.older[k]; known {
		return true
	}
	if len(l.recent) == recentEntries {
		l.recent, l.older = map[uint64]struct{}{}, l.recent
	}
	l.recent[k] = struct{}{}
	return false
}

// inHistory reports whether an entry, as it is shown, was part of history.
func (l *liveTail) inHistory(e tailEntry) bool {
	if len(l.sent) == 0 {
		return false
	}
	k := l.hash(e.Timestamp, e.Line, e.labels, e.Metadata, e.Parsed)
	if l.sent[k] == 0 {
		return false
	}
	l.sent[k]--
	return true
}

// add takes acknowledged entries, and what the subscription has dropped.
func (l *liveTail) add(batch model.TailBatch, now time.Time) {
	l.dropped = append(l.dropped, batch.Dropped...)
	l.more += batch.DroppedMore
	if l.sent != nil && now.After(l.overlap) {
		l.sent = nil
	}
	for _, s := range batch.Streams {
		sp := l.pipe.ForStream(s.Labels, s.Labels.Hash())
		for i := range s.Entries {
			e := &s.Entries[i]
			line, ls, ok := sp.Process(e.Timestamp, e.Line, pairs(e.Metadata))
			if !ok || l.repeated(s.Labels, e) {
				continue
			}
			te := tailEntry{scan.Entry{Timestamp: e.Timestamp, Line: line}, ls.Labels()}
			if l.req.categorize {
				te.labels, te.Metadata, te.Parsed = ls.Stream(), ls.Metadata(), ls.Parsed()
			}
			if !l.inHistory(te) {
				l.hold(te, now)
			}
		}
	}
}

// hold keeps an entry until it is due. An entry that would be one too many is dropped.
func (l *liveTail) hold(e tailEntry, now time.Time) {
	// Without delay_for a burst leaves at once, and what comes in one batch is bounded already.
	if l.req.delay > 0 && (len(l.held) == maxHeldEntries || l.bytes+len(e.Line) > maxHeldBytes) {
		if len(l.dropped) >= maxFrameEntries { // more, when a subscription has dropped some as well
			l.more++
			return
		}
		l.dropped = append(l.dropped, model.Dropped{Timestamp: e.Timestamp, Labels: e.labels})
		return
	}
	e.Line = slices.Clone(e.Line) // it lies in the pipeline's buffer
	l.bytes += len(e.Line)
	l.held = append(l.held, heldEntry{now, e})
}

func pairs(ls labels.Labels) []labels.Label {
	var out []labels.Label
	ls.Range(func(l labels.Label) { out = append(out, l) })
	return out
}

// delay is how long entries are held back. A burst does not wait to settle.
func (l *liveTail) delay() time.Duration {
	if l.req.delay == 0 && (len(l.held) >= maxHeldEntries/2 || l.bytes >= maxHeldBytes/2) {
		return 0
	}
	return max(l.req.delay, settle)
}

// due says how long to wait until held entries may go.
func (l *liveTail) due(now time.Time) (time.Duration, bool) {
	if len(l.held) == 0 {
		return 0, false
	}
	return max(0, l.held[0].arrived.Add(l.delay()).Sub(now)), true
}

// take returns the entries that have been held long enough, in order of time, and what
// was dropped since the last call: those that are named, and how many more.
func (l *liveTail) take(now time.Time) (due []tailEntry, dropped []model.Dropped, more int) {
	delay := l.delay()
	n := sort.Search(len(l.held), func(i int) bool { return l.held[i].arrived.Add(delay).After(now) })
	due = make([]tailEntry, n)
	for i := range due {
		due[i] = l.held[i].tailEntry
		l.bytes -= len(due[i].Line)
	}
	l.held = slices.Delete(l.held, 0, n)
	sort.SliceStable(due, func(i, j int) bool { return due[i].Timestamp < due[j].Timestamp })
	dropped, more = l.dropped, l.more
	l.dropped, l.more = nil, 0
	return due, dropped, more
}

// tailWriter sends frames of at most maxFrameEntries entries.
type tailWriter struct {
	conn *websocket.Conn
	req  tailRequest
	buf  []byte
}

func (t *tailWriter) send(ctx context.Context, entries []tailEntry, dropped []model.Dropped, more int, warnings []string) error {
	for len(entries) > 0 || len(dropped) > 0 || more > 0 || len(warnings) > 0 {
		n := min(len(entries), maxFrameEntries)
		d := min(len(dropped), maxFrameEntries)
		if t.req.legacy {
			t.buf = appendLegacyFrame(t.buf[:0], entries[:n], dropped[:d], warnings)
		} else {
			t.buf = t.appendFrame(t.buf[:0], entries[:n], dropped[:d], more, warnings)
		}
		entries, dropped, more, warnings = entries[n:], dropped[d:], 0, nil
		wait, cancel := context.WithTimeout(ctx, tailWriteWait)
		err := t.conn.Write(wait, websocket.MessageText, t.buf)
		cancel()
		if err != nil {
			return fmt.Errorf("%w: %w", errTailBroken, err)
		}
	}
	return nil
}

// appendFrame appends a frame. Two members are not Loki's: dropped_more counts entries that
// were dropped besides those that dropped_entries names, and warnings say what is missing.
func (t *tailWriter) appendFrame(b []byte, entries []tailEntry, dropped []model.Dropped, more int, warned []string) []byte {
	b = appendWarnings(append(b, '{'), warned)
	b = append(b, `"streams":[`...)
	for i, e := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"stream":`...)
		b = appendLabels(b, e.labels)
		b = append(b, `,"values":[`...)
		b = appendEntry(b, &e.Entry, t.req.categorize)
		b = append(b, "]}"...)
	}
	b = append(b, ']')
	if len(dropped) > 0 {
		b = append(b, `,"dropped_entries":[`...)
		for i, d := range dropped {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"timestamp":"`...)
			b = strconv.AppendInt(b, d.Timestamp, 10)
			b = append(b, `","labels":`...)
			b = append(appendLabels(b, d.Labels), '}')
		}
		b = append(b, ']')
	}
	if more > 0 {
		b = append(b, `,"dropped_more":`...)
		b = strconv.AppendInt(b, int64(more), 10)
	}
	if len(t.req.flags) > 0 {
		b = append(b, `,"encodingFlags":`...)
		b = appendStringList(b, t.req.flags)
	}
	return append(b, '}')
}
