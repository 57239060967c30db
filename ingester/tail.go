package ingester

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// Bounds of what a slow tail may leave unread. What does not fit is dropped and reported,
// because a push never waits for a reader.
const (
	tailEntries = 10_000
	tailBytes   = 4 << 20
	tailDropped = 1_000 // dropped entries that are named; further ones are counted
)

// ErrTailClosed is what Next returns after Close, and when the ingester stops.
var ErrTailClosed = errors.New("tail is closed")

// tail delivers acknowledged entries as they come in: a model.Tail.
type tail struct {
	owner    *tenant
	matchers []*labels.Matcher
	metrics  *metrics
	ready    chan struct{} // capacity 1: the buffer is not empty

	mu struct {
		sync.Mutex
		batch   model.TailBatch
		entries int
		bytes   int
		closed  bool
	}
}

// Tail subscribes to the entries that are acknowledged from now on, of the streams that
// all matchers select. The caller must Close it.
func (i *Ingester) Tail(_ context.Context, name model.Tenant, matchers []*labels.Matcher) (model.Tail, error) {
	if err := i.open(); err != nil {
		return nil, err
	}
	t := &tail{owner: i.lockTenant(name), matchers: matchers, ready: make(chan struct{}, 1), metrics: i.metrics}
	t.owner.mu.tails = append(slices.Clip(t.owner.mu.tails), t)
	t.owner.mu.tailSet++
	i.metrics.tails.Inc()
	t.owner.mu.Unlock()
	if err := i.open(); err != nil { // it stopped meanwhile, and may have missed this tail
		t.Close()
		return nil, err
	}
	return t, nil
}

// Next waits for entries and returns them. It returns the context's error when that
// ends first, and ErrTailClosed after Close.
func (t *tail) Next(ctx context.Context) (model.TailBatch, error) {
	for {
		t.mu.Lock()
		batch, closed := t.mu.batch, t.mu.closed
		t.mu.batch, t.mu.entries, t.mu.bytes = model.TailBatch{}, 0, 0
		t.mu.Unlock()
		if len(batch.Streams) > 0 || len(batch.Dropped) > 0 {
			return batch, nil
		}
		if closed {
			return model.TailBatch{}, ErrTailClosed
		}
		select {
		case <-t.ready:
		case <-ctx.Done():
			return model.TailBatch{}, ctx.Err()
		}
	}
}

// Close ends the subscription; it may be called more than once.
func (t *tail) Close() {
	t.owner.mu.Lock()
	if at := slices.Index(t.owner.mu.tails, t); at >= 0 {
		t.owner.mu.tails = slices.Delete(slices.Clone(t.owner.mu.tails), at, at+1)
		t.owner.mu.tailSet++
		t.metrics.tails.Dec()
	}
	t.owner.mu.Unlock()
	t.mu.Lock()
	t.mu.closed = true
	t.mu.Unlock()
	t.signal()
}

func (t *tail) signal() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// offer hands entries to the tail. The entries are shared with other tails.
func (t *tail) offer(ls labels.Labels, entries []model.Entry, bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return
	}
	if t.mu.entries+len(entries) <= tailEntries && t.mu.bytes+bytes <= tailBytes {
		t.mu.batch.Streams = append(t.mu.batch.Streams, model.Stream{Labels: ls, Entries: entries})
		t.mu.entries += len(entries)
		t.mu.bytes += bytes
	} else {
		t.metrics.tailDropped.Add(float64(len(entries)))
		for i := range entries {
			if len(t.mu.batch.Dropped) == tailDropped {
				t.mu.batch.DroppedMore += len(entries) - i
				break
			}
			t.mu.batch.Dropped = append(t.mu.batch.Dropped, model.Dropped{Timestamp: entries[i].Timestamp, Labels: ls})
		}
	}
	t.signal()
}

// deliver gives acknowledged streams to the tails that want them. A push to a tenant
// without tails pays for one lock; otherwise each stream remembers which tails match it.
func (t *tenant) deliver(batch []model.Stream, hashes []uint64) {
	for i := range batch {
		t.mu.Lock()
		if len(t.mu.tails) == 0 {
			t.mu.Unlock()
			return
		}
		s := t.find(batch[i].Labels, hashes[i])
		if s == nil { // expired since it was admitted
			s = &stream{labels: batch[i].Labels.Copy()}
		}
		if s.tailSet != t.mu.tailSet {
			s.tailSet, s.matching = t.mu.tailSet, nil
			for _, tail := range t.mu.tails {
				if matchLabels(tail.matchers, s.labels) {
					s.matching = append(s.matching, tail)
				}
			}
		}
		matching := s.matching
		t.mu.Unlock()
		if len(matching) == 0 {
			continue
		}
		entries, bytes := copyEntries(batch[i].Entries)
		for _, tail := range matching {
			tail.offer(s.labels, entries, bytes)
		}
	}
}

// copyEntries copies entries out of the push that brought them.
func copyEntries(entries []model.Entry) (copied []model.Entry, bytes int) {
	for i := range entries {
		bytes += len(entries[i].Line)
	}
	lines := make([]byte, 0, bytes)
	copied = make([]model.Entry, len(entries))
	for i, e := range entries {
		from := len(lines)
		lines = append(lines, e.Line...)
		copied[i] = model.Entry{Timestamp: e.Timestamp, Line: lines[from:len(lines):len(lines)], Metadata: e.Metadata.Copy()}
		bytes += int(e.Metadata.ByteSize())
	}
	return copied, bytes
}
