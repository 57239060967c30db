package querier

import (
	"context"
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

// overlapTime is how long after history was read an entry of it may still arrive live.
const overlapTime = 10 * time.Second

// liveTail runs the pipeline over live entries, drops those that history has sent, and
// holds entries back for delay_for, so that late ones come out in order of time.
type liveTail struct {
	req  tailRequest
	pipe *pipeline.Pipeline
	// sent counts history's entries by what they look like; a live entry that looks the
	// same is the same one until the overlap is over.
	sent    map[uint64]int
	overlap time.Time
	seed    maphash.Seed
	held    []heldEntry
}

type heldEntry struct {
	arrived time.Time
	tailEntry
}

func newLiveTail(req tailRequest, history []scan.Stream) (*liveTail, error) {
	p, err := pipeline.New(req.expr.Stages, pipeline.Options{})
	if err != nil {
		return nil, err
	}
	l := &liveTail{req: req, pipe: p, sent: map[uint64]int{}, overlap: time.Now().Add(overlapTime), seed: maphash.MakeSeed()}
	for _, e := range historyEntries(history, req.categorize) {
		l.sent[l.look(e)]++
	}
	return l, nil
}

// look is a hash of everything of an entry that the client sees.
func (l *liveTail) look(e tailEntry) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	maphash.WriteComparable(&h, e.Timestamp)
	maphash.WriteComparable(&h, [3]uint64{e.labels.Hash(), e.Metadata.Hash(), e.Parsed.Hash()})
	_, _ = h.Write(e.Line)
	return h.Sum64()
}

// add takes acknowledged entries.
func (l *liveTail) add(streams []model.Stream) {
	now := time.Now()
	if l.sent != nil && now.After(l.overlap) {
		l.sent = nil
	}
	for _, s := range streams {
		sp := l.pipe.ForStream(s.Labels, s.Labels.Hash())
		for _, e := range s.Entries {
			line, ls, ok := sp.Process(e.Timestamp, e.Line, pairs(e.Metadata))
			if !ok {
				continue
			}
			te := tailEntry{scan.Entry{Timestamp: e.Timestamp, Line: slices.Clone(line)}, ls.Labels()}
			if l.req.categorize {
				te.labels, te.Metadata, te.Parsed = ls.Stream(), ls.Metadata(), ls.Parsed()
			}
			if l.sent != nil {
				if k := l.look(te); l.sent[k] > 0 {
					l.sent[k]--
					continue
				}
			}
			l.held = append(l.held, heldEntry{now, te})
		}
	}
}

func pairs(ls labels.Labels) []labels.Label {
	var out []labels.Label
	ls.Range(func(l labels.Label) { out = append(out, l) })
	return out
}

// due says how long to wait until held entries may go.
func (l *liveTail) due(now time.Time) (time.Duration, bool) {
	if len(l.held) == 0 {
		return 0, false
	}
	return max(0, l.held[0].arrived.Add(l.req.delay).Sub(now)), true
}

// take returns the entries that have been held long enough, in order of time.
func (l *liveTail) take(now time.Time) []tailEntry {
	n := sort.Search(len(l.held), func(i int) bool { return l.held[i].arrived.Add(l.req.delay).After(now) })
	out := make([]tailEntry, n)
	for i := range out {
		out[i] = l.held[i].tailEntry
	}
	l.held = slices.Delete(l.held, 0, n)
	sort.SliceStable(out, func(i, j int) bool { return out[i].Timestamp < out[j].Timestamp })
	return out
}

// tailWriter sends frames of at most maxFrameEntries entries.
type tailWriter struct {
	conn *websocket.Conn
	req  tailRequest
	buf  []byte
}

func (t *tailWriter) send(ctx context.Context, entries []tailEntry, dropped []Dropped) error {
	for len(entries) > 0 || len(dropped) > 0 {
		n := min(len(entries), maxFrameEntries)
		d := min(len(dropped), maxFrameEntries)
		t.buf = t.appendFrame(t.buf[:0], entries[:n], dropped[:d])
		entries, dropped = entries[n:], dropped[d:]
		wait, cancel := context.WithTimeout(ctx, tailWriteWait)
		err := t.conn.Write(wait, websocket.MessageText, t.buf)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tailWriter) appendFrame(b []byte, entries []tailEntry, dropped []Dropped) []byte {
	b = append(b, `{"streams":[`...)
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
	if len(t.req.flags) > 0 {
		b = append(b, `,"encodingFlags":`...)
		b = appendStringList(b, t.req.flags)
	}
	return append(b, '}')
}
