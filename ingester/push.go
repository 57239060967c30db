package ingester

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/ingester/wal"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// Entries come here from the distributor, validated, in process or over gRPC. When Push
// returns nil they are in the synced write-ahead log and visible to Select; from there
// flush.go moves them into local segments and upload.go into the object store.

// scratch is what a push needs besides its batch; scratches are pooled.
type scratch struct {
	streams []model.Stream
	hashes  []uint64
	encoder wal.Encoder
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// keptBuffers bounds what a pooled scratch holds on to.
const keptBuffers = 4 << 20

func (s *scratch) release() {
	clear(s.streams) // they point into a request
	s.streams, s.hashes = s.streams[:0], s.hashes[:0]
	s.encoder.Trim(keptBuffers)
	scratches.Put(s)
}

// Push stores entries, and keeps the streams' labels. Entries are durable and visible when it returns nil. Otherwise the
// error's kind says what happened:
//
//   - fault.RateLimited, and a *RefusedError: streams over a limit of the tenant were
//     refused, the rest of the batch is stored;
//   - fault.Unavailable: nothing was stored for sure (no memory, no disk, stopping), and a
//     retry is safe, because an entry is stored once however often it is pushed;
//   - fault.TooLarge, fault.Invalid: the batch or an entry can never be stored; nothing was.
func (i *Ingester) Push(ctx context.Context, name model.Tenant, streams []model.Stream) error {
	if err := i.open(); err != nil {
		return err
	}
	sc := scratches.Get().(*scratch)
	defer sc.release()

	// 1. Limits that need to know what came before.
	t := i.lockTenant(name)
	refusal := t.admit(streams, i.limits.For(name), i.cfg.Share(name), time.Now().UnixNano(), sc, i.metrics)
	t.mu.Unlock()
	if len(sc.streams) == 0 {
		return refusal
	}
	// 2. Room in memory, before anything is written that could not be kept.
	need, entries, lineBytes, err := measure(sc.streams)
	if err != nil {
		return err
	}
	if err := i.reserve(ctx, need); err != nil {
		return err
	}
	defer i.memory.reserved.Add(-need)
	// 3. To the log, synced with whatever else waits.
	records, err := sc.encoder.Encode(name, sc.streams, model.ArrivalOf(ctx))
	if err != nil {
		return err
	}
	g, err := i.enter()
	if err != nil {
		return err
	}
	if err := g.log.Append(records); err != nil {
		g.writers.Done()
		i.metrics.refused.WithLabelValues("wal").Inc()
		if errors.Is(err, wal.ErrBroken) {
			i.wakeFreeze() // a new generation has a new log
		}
		return err
	}
	// 4. To memory, where queries see it.
	i.appendTo(g, t, sc.streams, sc.hashes)
	if g.entries.Add(int64(entries)) == int64(entries) {
		g.born.Store(time.Now().UnixNano())
	}
	g.writers.Done()
	// 5. To whoever watches.
	t.deliver(sc.streams, sc.hashes)

	i.metrics.entries.Add(float64(entries))
	i.metrics.bytes.Add(float64(lineBytes))
	if g.bytes.Load() >= i.cfg.FreezeBytes {
		i.wakeFreeze()
	}
	return refusal
}

// RefusedError says which streams of a push were refused because of a limit of the tenant,
// while all others are stored. Text and kind are those of the last refusal.
type RefusedError struct {
	streams []int
	cause   error
}

func (e *RefusedError) Error() string { return e.cause.Error() }

// Unwrap returns the last refusal.
func (e *RefusedError) Unwrap() error { return e.cause }

// RefusedStreams returns the numbers of the refused streams in the push, rising.
func (e *RefusedError) RefusedStreams() []int { return e.streams }

// enter returns the current generation with the caller counted as a writer.
func (i *Ingester) enter() (*generation, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.mu.current == nil {
		return nil, errStopped
	}
	if i.mu.readOnly {
		return nil, errReadOnly
	}
	i.mu.current.writers.Add(1)
	return i.mu.current, nil
}

// What a segment cannot store must not get into the log. Tenants' limits are far below.
const (
	maxLabels      = 4 << 10
	maxPairs       = 8 << 10
	maxEntryColumn = 16 << 20 // bytes of a line, and of an entry's metadata
)

// measure checks that the entries can be stored at all, and returns about what they take
// in a memtable, their number, and the bytes of their lines.
func measure(streams []model.Stream) (bytes int64, entries, lines int, err error) {
	for s := range streams {
		if ls := streams[s].Labels; more(ls, maxLabels) {
			return 0, 0, 0, fault.New(fault.Invalid, "stream with %d labels, at most %d can be stored", ls.Len(), maxLabels)
		}
		bytes += streamBytes
		entries += len(streams[s].Entries)
		for e := range streams[s].Entries {
			en := &streams[s].Entries[e]
			if len(en.Line) > maxEntryColumn {
				return 0, 0, 0, fault.New(fault.Invalid, "line of %d bytes, at most %d can be stored", len(en.Line), maxEntryColumn)
			}
			lines += len(en.Line)
			if en.Metadata.IsEmpty() {
				continue
			}
			size := int(en.Metadata.ByteSize())
			if size > maxEntryColumn || more(en.Metadata, maxPairs) {
				return 0, 0, 0, fault.New(fault.Invalid, "entry with %d pairs of structured metadata in %d bytes, at most %d and %d can be stored", en.Metadata.Len(), size, maxPairs, maxEntryColumn)
			}
			bytes += int64(size)
		}
	}
	return bytes + int64(lines) + int64(entries)*rowBytes, entries, lines, nil
}

// more reports whether there are more than so many pairs. To count them is to read them all, but
// each takes two bytes at least.
func more(ls labels.Labels, most int) bool {
	return ls.ByteSize() > uint64(2*most) && ls.Len() > most
}

// reserve waits until the batch fits the memtables' memory, at most Config.PushWait.
// Slabs are allocated a little ahead of what is in them, so the budget may be passed by a
// slab for each push under way.
func (i *Ingester) reserve(ctx context.Context, need int64) error {
	if need > i.cfg.MemtableBytes/2 {
		return fault.New(fault.TooLarge, "push needs %d bytes of memory, more than half of ingester.memtable-bytes (%d); send smaller batches", need, i.cfg.MemtableBytes)
	}
	var deadline <-chan time.Time
	for {
		freed := i.memory.wait()
		if i.memory.take(need, i.cfg.MemtableBytes) {
			return nil
		}
		i.wakeFreeze()
		if deadline == nil {
			timer := time.NewTimer(i.cfg.PushWait)
			defer timer.Stop()
			deadline = timer.C
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			i.metrics.refused.WithLabelValues("memory").Inc()
			if i.memory.excess(i.cfg.MemtableBytes) > 0 && i.memory.endLargest() {
				return fault.New(fault.Unavailable, "ingester is out of memory for entries: queries still read %d bytes that are written already, and one of them is ended; retry later", i.memory.held.Load())
			}
			return fault.New(fault.Unavailable, "ingester is out of memory for entries: %d of %d bytes wait to be written to disk, retry later", i.memory.used.Load(), i.cfg.MemtableBytes)
		}
	}
}
