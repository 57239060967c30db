package wire

import (
	"sync"
	"unsafe"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// Batch is a decoded push.
//
// Structured metadata is kept beside the entries, as it came: names not normalised, pairs
// not sorted, strings aliasing the body. Entry.Metadata is empty until the receiver has
// built it, so that it is built once, in its final form.
type Batch struct {
	// Streams are in the order of the request; streams without entries are included, and
	// have no labels.
	Streams []model.Stream

	entries []model.Entry  // of all streams, end to end
	pairs   []labels.Label // metadata of all entries, end to end
	ends    []int          // ends[i] is the end of entry i's pairs; empty when no entry has any
	spans   []int          // spans[i] is the end of stream i's entries
	known   []*Known       // of each stream; nil when it has no entries
	texts   [][]byte       // labels of each stream, as protobuf has them; nil when it has no entries

	packed    []byte // as received, with a Content-Encoding
	raw, body []byte // without it, and decompressed
	snappy    bool   // body is what snappy makes of raw
	reserve   func(int64) error
}

// Metadata returns the metadata of the i-th entry of the batch, counted through all
// streams. The strings are valid until Release.
func (b *Batch) Metadata(i int) []labels.Label {
	if len(b.ends) == 0 {
		return nil
	}
	start := 0
	if i > 0 {
		start = b.ends[i-1]
	}
	return b.pairs[start:b.ends[i]:b.ends[i]]
}

// Known returns what is remembered with the labels of stream i, as Streams were decoded; nil
// when it has no entries.
func (b *Batch) Known(i int) *Known { return b.known[i] }

// Arrival returns the body of a push that came as a snappy block, valid until Release, and
// an empty one otherwise. Lines are parts of its text.
func (b *Batch) Arrival() model.Arrival {
	if !b.snappy {
		return model.Arrival{}
	}
	return model.Arrival{Text: b.body, Packed: b.raw}
}

// Size is the length of the decoded body.
func (b *Batch) Size() int { return max(len(b.body), len(b.raw)) }

// retained is the most memory that a Batch may hold to be used again: enough for the
// pushes of agents, while the rare huge one goes back to the collector.
const retained = 8 << 20

var batches = sync.Pool{New: func() any { return new(Batch) }}

// newBatch takes a Batch with empty buffers and reserves what they hold.
func newBatch(reserve func(int64) error) (*Batch, error) {
	b := batches.Get().(*Batch)
	if reserve == nil {
		reserve = func(int64) error { return nil }
	}
	b.reserve = reserve
	if err := reserve(b.memory()); err != nil {
		batches.Put(b)
		return nil, err
	}
	return b, nil
}

func (b *Batch) memory() int64 {
	return int64(cap(b.packed)+cap(b.raw)+cap(b.body)) + int64(cap(b.entries))*entrySize + int64(cap(b.pairs))*pairSize +
		int64(cap(b.ends)+cap(b.spans)+cap(b.known))*8 + int64(cap(b.texts))*textSize + int64(cap(b.Streams))*streamSize
}

const (
	entrySize  = int64(unsafe.Sizeof(model.Entry{}))
	pairSize   = int64(unsafe.Sizeof(labels.Label{}))
	streamSize = int64(unsafe.Sizeof(model.Stream{}))
	textSize   = int64(unsafe.Sizeof([]byte{}))
)

// Release gives the buffers back. Neither the batch nor anything that aliases it may be
// used afterwards.
func (b *Batch) Release() {
	if b.memory() > retained {
		return
	}
	clear(b.Streams)
	clear(b.entries)
	clear(b.pairs)
	clear(b.known)
	clear(b.texts)
	*b = Batch{
		Streams: b.Streams[:0], entries: b.entries[:0], pairs: b.pairs[:0], ends: b.ends[:0], spans: b.spans[:0], known: b.known[:0], texts: b.texts[:0],
		packed: b.packed[:0], raw: b.raw[:0], body: b.body[:0],
	}
	batches.Put(b)
}

// grow makes room for one more element, doubling the capacity after having reserved it.
func grow[T any](b *Batch, s []T) ([]T, error) {
	if len(s) < cap(s) {
		return s, nil
	}
	var zero T
	more := max(4, cap(s))
	if err := b.reserve(int64(more) * int64(unsafe.Sizeof(zero))); err != nil {
		return s, err
	}
	next := make([]T, len(s), len(s)+more)
	copy(next, s)
	return next, nil
}

func (b *Batch) addEntry(ts int64, line []byte) (err error) {
	if b.entries, err = grow(b, b.entries); err != nil {
		return err
	}
	b.entries = append(b.entries, model.Entry{Timestamp: ts, Line: line})
	return nil
}

func (b *Batch) addPair(name, value string) (err error) {
	if b.pairs, err = grow(b, b.pairs); err != nil {
		return err
	}
	b.pairs = append(b.pairs, labels.Label{Name: name, Value: value})
	return nil
}

// closePairs says that the pairs added since the last call belong to the entry added
// last. Entries before the first one with metadata get their (empty) ends then.
func (b *Batch) closePairs(before int) (err error) {
	if len(b.pairs) == before && len(b.ends) == 0 {
		return nil
	}
	for len(b.ends) < len(b.entries) {
		if b.ends, err = grow(b, b.ends); err != nil {
			return err
		}
		end := 0
		if len(b.ends) == len(b.entries)-1 {
			end = len(b.pairs)
		}
		b.ends = append(b.ends, end)
	}
	return nil
}

// closeStream says that the entries added since the last call belong to a stream, nil when
// there are none.
func (b *Batch) closeStream(k *Known) (err error) {
	if b.Streams, err = grow(b, b.Streams); err != nil {
		return err
	}
	if b.spans, err = grow(b, b.spans); err != nil {
		return err
	}
	if b.known, err = grow(b, b.known); err != nil {
		return err
	}
	var s model.Stream
	if k != nil {
		s.Labels = k.Labels
	}
	b.Streams = append(b.Streams, s)
	b.known = append(b.known, k)
	b.spans = append(b.spans, len(b.entries))
	return nil
}

// finish cuts the entries into streams; before it they may still move.
func (b *Batch) finish() {
	start := 0
	for i, end := range b.spans {
		b.Streams[i].Entries = b.entries[start:end:end]
		start = end
	}
}

// alias returns p as a string without copying. It is valid as long as p is unchanged.
func alias(p []byte) string { return unsafe.String(unsafe.SliceData(p), len(p)) }
