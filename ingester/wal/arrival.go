package wal

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// A push usually arrives packed. Packing its lines again for the log would cost as much as
// everything else that is done to them before they are acknowledged, so a record can hold
// the body as it came, and beside it where in it each line lies and what became of it.

const (
	// maxSets is how many sets of metadata a record numbers.
	maxSets = 8
	// Numbers of metadata: none, a set that follows, and the sets before it, from 2 on.
	setNone = 0
	setNew  = 1
	setOld  = 2
)

// arrived appends the streams to the output as one record that holds the push as it came.
// It reports false, and appends nothing, when that would not be smaller or simpler.
func (e *Encoder) arrived(tenant model.Tenant, streams []model.Stream, a model.Arrival) bool {
	if len(a.Packed) == 0 || len(a.Text) < minCompress || len(a.Text) > recordTarget || len(a.Packed) > len(a.Text) {
		return false
	}
	e.payload = slices.Grow(e.payload[:0], payloadSize(tenant, streams))
	e.begin(tenant)
	e.payload = binary.AppendUvarint(e.payload, uint64(len(streams)))
	at, inside := 0, 0 // the end of the line before; the bytes of all lines
	var sets [maxSets]labels.Labels
	known := 0
	for s := range streams {
		e.touch(streams, s)
		e.pairs(streams[s].Labels)
		entries := streams[s].Entries
		e.payload = binary.AppendUvarint(e.payload, uint64(len(entries)))
		last := int64(0)
		for i := range entries {
			en := &entries[i]
			from, ok := offsetIn(a.Text, en.Line, at)
			if !ok {
				return false
			}
			e.payload = binary.AppendVarint(e.payload, en.Timestamp-last)
			e.payload = binary.AppendVarint(e.payload, int64(from-at))
			e.payload = binary.AppendUvarint(e.payload, uint64(len(en.Line)))
			last, at = en.Timestamp, from+len(en.Line)
			inside += len(en.Line)
			known = e.set(&sets, known, en.Metadata)
		}
	}
	if inside < len(a.Text)/4 || len(e.payload) > recordTarget {
		return false // a replica of a few of the push's streams, say
	}
	e.out = slices.Grow(e.out, 1+2*binary.MaxVarintLen64+len(a.Packed)+len(e.payload))
	e.out = append(e.out, encodingArrived)
	e.out = binary.AppendUvarint(e.out, uint64(uvarintLen(len(a.Packed))+len(a.Packed)+len(e.payload)))
	e.out = binary.AppendUvarint(e.out, uint64(len(a.Packed)))
	e.out = append(e.out, a.Packed...)
	e.out = append(e.out, e.payload...)
	return true
}

// payloadSize is about what such a record has besides the push. A payload that grew as it is
// written would be copied a dozen times.
func payloadSize(tenant model.Tenant, streams []model.Stream) int {
	const perStream, perEntry = 16, 12
	n := len(tenant) + perStream
	for s := range streams {
		n += int(streams[s].Labels.ByteSize()) + perStream + perEntry*len(streams[s].Entries)
	}
	return n
}

// set appends an entry's metadata, by number when it has been there before.
func (e *Encoder) set(sets *[maxSets]labels.Labels, known int, md labels.Labels) int {
	if md.IsEmpty() {
		e.payload = append(e.payload, setNone)
		return known
	}
	for n := range sets[:known] {
		if labels.Equal(sets[n], md) {
			e.payload = append(e.payload, byte(setOld+n))
			return known
		}
	}
	e.payload = append(e.payload, setNew)
	e.pairs(md)
	if known < maxSets {
		sets[known] = md
		known++
	}
	return known
}

// offsetIn returns where in text the line lies, if it is a part of it in memory. An empty
// line lies at the hint.
func offsetIn(text, line []byte, hint int) (offset int, ok bool) {
	if len(line) == 0 {
		return hint, true
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(text)))
	from := uintptr(unsafe.Pointer(unsafe.SliceData(line)))
	if from < start || from-start > uintptr(len(text)) || len(line) > len(text)-int(from-start) {
		return 0, false
	}
	return int(from - start), true
}

func uvarintLen(n int) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(n))
}

// arrived reads the payload of a record that holds a push as it came.
func (d *decoder) arrived(p []byte) (batch Batch, err error) {
	d.b, d.err = p, nil
	packed := d.bytes()
	rest := d.b
	if d.err != nil {
		return batch, d.err
	}
	text, err := d.unpackArrival(packed)
	if err != nil {
		return batch, err
	}
	d.b = rest
	at := 0
	d.sets = d.sets[:0]
	return d.batch(func() model.Entry {
		var en model.Entry
		en.Timestamp = d.varint()
		from, n := int64(at)+d.varint(), d.uvarint()
		if d.err == nil && (from < 0 || from > int64(len(text)) || n > uint64(len(text))-uint64(from)) {
			d.fail(fmt.Errorf("record has a line of %d bytes at %d of a push of %d bytes", n, from, len(text)))
		}
		if d.err != nil {
			return en
		}
		at = int(from) + int(n)
		en.Line = text[from:at:at]
		en.Metadata = d.set()
		return en
	})
}

// set reads an entry's metadata.
func (d *decoder) set() labels.Labels {
	switch n := d.uvarint(); {
	case n == setNone || d.err != nil:
		return labels.EmptyLabels()
	case n == setNew:
		ls := d.labels()
		if len(d.sets) < maxSets {
			d.sets = append(d.sets, ls)
		}
		return ls
	case n-setOld < uint64(len(d.sets)):
		return d.sets[n-setOld]
	default:
		d.fail(fmt.Errorf("record has metadata set %d of %d", n-setOld, len(d.sets)))
		return labels.EmptyLabels()
	}
}

// unpackArrival uses the decoder that has unpacked the push when it came.
func (d *decoder) unpackArrival(packed []byte) ([]byte, error) {
	n, err := snappy.DecodedLen(packed)
	if err != nil {
		return nil, fmt.Errorf("unpacking a push: %w", err)
	}
	if n > recordTarget {
		return nil, fmt.Errorf("push claims %d bytes, more than the largest, %d", n, recordTarget)
	}
	out, err := snappy.Decode(d.room(n), packed)
	if err != nil {
		return nil, fmt.Errorf("unpacking a push: %w", err)
	}
	return out, nil
}
