package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// minCompress is the payload size below which S2 has nothing to work with.
const minCompress = 256

// Encoder turns batches into records. It is reused to keep its buffers; the zero value
// is ready. It is not safe for concurrent use.
type Encoder struct {
	payload, packed, out []byte
	touched              []byte // a copy of labels, made to have read them
}

// Encode returns a batch as one or more records, ready for Log.Append. The result is
// valid until the next call. When the streams are most of an arrival, which may be empty,
// it is kept as it came. An entry above MaxEntry is fault.TooLarge.
func (e *Encoder) Encode(tenant model.Tenant, streams []model.Stream, a model.Arrival) ([]byte, error) {
	e.out = e.out[:0]
	if e.arrived(tenant, streams, a) {
		return e.out, nil
	}
	// Streams are gathered into payloads; one that overflows is cut between entries.
	e.begin(tenant)
	count, countAt := 0, e.openCount()
	for s := range streams {
		e.touch(streams, s)
		entries := streams[s].Entries
		for len(entries) > 0 {
			n, size := fit(entries, recordTarget-len(e.payload))
			if size += int(streams[s].Labels.ByteSize()); size > MaxEntry {
				return nil, fault.New(fault.TooLarge, "entry of %d bytes, labels included, is larger than the write-ahead log takes, %d", size, MaxEntry)
			}
			if n == 0 { // no room here; an empty record always has room for one
				e.closeCount(countAt, count)
				e.flush()
				e.begin(tenant)
				count, countAt = 0, e.openCount()
				n = 1
			}
			e.stream(streams[s].Labels, entries[:n])
			entries, count = entries[n:], count+1
		}
	}
	e.closeCount(countAt, count)
	if count > 0 || len(e.out) == 0 {
		e.flush()
	}
	return e.out, nil
}

// fit returns how many of the entries have room, and the size of the first one. At
// least one fits whenever half of the room of an empty record is left.
func fit(entries []model.Entry, room int) (n, first int) {
	for i := range entries {
		size := len(entries[i].Line) + int(entries[i].Metadata.ByteSize()) + 3*binary.MaxVarintLen64
		if i == 0 {
			first = size
		}
		if size > room && !(i == 0 && room > recordTarget/2) {
			return i, first
		}
		room -= size
	}
	return len(entries), first
}

func (e *Encoder) begin(tenant model.Tenant) {
	e.payload = appendString(e.payload[:0], string(tenant))
}

// openCount leaves a fixed place for the number of streams, because it is known last:
// a uvarint may be padded with continuation bytes.
const countWidth = 5

func (e *Encoder) openCount() int {
	at := len(e.payload)
	e.payload = append(e.payload, 0x80, 0x80, 0x80, 0x80, 0)
	return at
}

func (e *Encoder) closeCount(at, n int) {
	for i := 0; i < countWidth-1; i++ {
		e.payload[at+i] = byte(n) | 0x80
		n >>= 7
	}
	e.payload[at+countWidth-1] = byte(n)
}

func (e *Encoder) stream(ls labels.Labels, entries []model.Entry) {
	e.pairs(ls)
	e.payload = binary.AppendUvarint(e.payload, uint64(len(entries)))
	last := int64(0)
	for i := range entries {
		en := &entries[i]
		e.payload = binary.AppendVarint(e.payload, en.Timestamp-last)
		last = en.Timestamp
		e.payload = binary.AppendUvarint(e.payload, uint64(len(en.Line)))
		e.payload = append(e.payload, en.Line...)
		if en.Metadata.IsEmpty() {
			e.payload = append(e.payload, 0)
			continue
		}
		e.pairs(en.Metadata)
	}
}

// touchStreams is how many streams' labels are read together: they fit the processor's first cache.
const touchStreams = 64

// touch reads the labels of touchStreams streams, each time that so many were written. With a
// hundred thousand streams labels lie anywhere in memory, and pair after pair would wait for it:
// these waits overlap.
func (e *Encoder) touch(streams []model.Stream, at int) {
	if at%touchStreams != 0 {
		return
	}
	for s := range streams[at:min(at+touchStreams, len(streams))] {
		e.touched = streams[at+s].Labels.Bytes(e.touched)
	}
}

func (e *Encoder) pairs(ls labels.Labels) {
	at, n := len(e.payload), 0
	e.payload = append(e.payload, 0) // the number, which to count beforehand would be to read them twice
	ls.Range(func(l labels.Label) {
		e.payload = appendString(e.payload, l.Name)
		e.payload = appendString(e.payload, l.Value)
		n++
	})
	if n < 0x80 {
		e.payload[at] = byte(n)
		return
	}
	e.payload = slices.Replace(e.payload, at, at+1, binary.AppendUvarint(nil, uint64(n))...)
}

// flush appends the payload to the output as a record, packed when that saves an eighth.
func (e *Encoder) flush() {
	if len(e.payload) >= minCompress {
		if need := s2.MaxEncodedLen(len(e.payload)); cap(e.packed) < need {
			e.packed = make([]byte, need)
		}
		if packed := s2.Encode(e.packed[:cap(e.packed)], e.payload); len(packed) < len(e.payload)-len(e.payload)/8 {
			e.record(encodingS2, packed)
			return
		}
	}
	e.record(encodingRaw, e.payload)
}

func (e *Encoder) record(encoding byte, payload []byte) {
	e.out = append(e.out, encoding)
	e.out = binary.AppendUvarint(e.out, uint64(len(payload)))
	e.out = append(e.out, payload...)
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// Trim gives back buffers that one large batch has blown up, so that a pool of encoders
// stays small.
func (e *Encoder) Trim(limit int) {
	if cap(e.payload)+cap(e.packed)+cap(e.out)+cap(e.touched) > limit {
		*e = Encoder{}
	}
}

// Batch is one record read back. Lines alias the decoder's buffer.
type Batch struct {
	Tenant  model.Tenant
	Streams []model.Stream
}

// decoder reads payloads as lists of fields; it remembers the first error, so that
// callers check once.
type decoder struct {
	b   []byte
	err error

	unpacked []byte
	sets     []labels.Labels // of a record that holds a push as it came
	builder  labels.ScratchBuilder
	interned map[string]labels.Labels
}

// maxInterned bounds the label sets that a decoder remembers between records.
const maxInterned = 1 << 16

var errShort = errors.New("record ends inside a field")

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail(errShort)
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

// count reads a number of items of at least size bytes each, so that no claimed count
// allocates more than the record could hold.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail(fmt.Errorf("record claims %d items, and has room for %d", n, len(d.b)/size))
		return 0
	}
	return int(n)
}

func (d *decoder) labels() labels.Labels {
	n := d.count(2)
	if n == 0 {
		return labels.EmptyLabels()
	}
	d.builder.Reset()
	for range n {
		name, value := d.bytes(), d.bytes()
		d.builder.Add(string(name), string(value))
	}
	if d.err != nil {
		return labels.EmptyLabels()
	}
	d.builder.Sort()
	return d.builder.Labels()
}

// streamLabels reads a label set that is likely to come again.
func (d *decoder) streamLabels() labels.Labels {
	start := d.b
	for range 2 * d.count(2) {
		d.bytes()
	}
	if d.err != nil {
		return labels.EmptyLabels()
	}
	key := start[:len(start)-len(d.b)]
	if ls, ok := d.interned[string(key)]; ok {
		return ls
	}
	rest := d.b
	d.b = key
	ls := d.labels()
	d.b = rest
	if d.interned == nil || len(d.interned) >= maxInterned {
		d.interned = make(map[string]labels.Labels)
	}
	d.interned[string(key)] = ls
	return ls
}

// record reads the record at the start of body and returns what follows it.
func (d *decoder) record(body []byte) (batch Batch, rest []byte, err error) {
	d.b, d.err = body, nil
	if len(body) == 0 {
		return batch, nil, errShort
	}
	encoding := d.b[0]
	d.b = d.b[1:]
	payload := d.bytes()
	rest = d.b
	if d.err != nil {
		return batch, nil, d.err
	}
	switch encoding {
	case encodingRaw:
		batch, err = d.payload(payload)
	case encodingS2:
		if payload, err = d.unpack(payload); err == nil {
			batch, err = d.payload(payload)
		}
	case encodingArrived:
		batch, err = d.arrived(payload)
	default:
		err = fmt.Errorf("record has encoding %d, want %d to %d", encoding, encodingRaw, encodingArrived)
	}
	return batch, rest, err
}

// room returns a buffer of n bytes, which the next record overwrites.
func (d *decoder) room(n int) []byte {
	if cap(d.unpacked) < n {
		d.unpacked = make([]byte, n)
	}
	return d.unpacked[:n]
}

func (d *decoder) unpack(packed []byte) ([]byte, error) {
	n, err := s2.DecodedLen(packed)
	if err != nil {
		return nil, fmt.Errorf("unpacking a record: %w", err)
	}
	if n > maxRecord {
		return nil, fmt.Errorf("record claims %d bytes, more than the largest, %d", n, maxRecord)
	}
	out, err := s2.Decode(d.room(n), packed)
	if err != nil {
		return nil, fmt.Errorf("unpacking a record: %w", err)
	}
	return out, nil
}

func (d *decoder) payload(p []byte) (batch Batch, err error) {
	d.b, d.err = p, nil
	return d.batch(func() model.Entry {
		ts, line := d.varint(), d.bytes()
		return model.Entry{Timestamp: ts, Line: line, Metadata: d.labels()}
	})
}

// minEntry is the least that an entry takes: time, line and metadata.
const minEntry = 3

// batch reads tenant and streams. entry reads an entry; its time counts from the one before.
func (d *decoder) batch(entry func() model.Entry) (batch Batch, err error) {
	tenant := string(d.bytes())
	streams := d.count(2)
	batch.Streams = make([]model.Stream, 0, min(streams, 1024))
	for range streams {
		s := model.Stream{Labels: d.streamLabels()}
		n := d.count(minEntry)
		s.Entries = make([]model.Entry, 0, n)
		last := int64(0)
		for range n {
			en := entry()
			last += en.Timestamp
			en.Timestamp = last
			s.Entries = append(s.Entries, en)
		}
		if d.err != nil {
			return batch, d.err
		}
		batch.Streams = append(batch.Streams, s)
	}
	if d.err != nil {
		return batch, d.err
	}
	if len(d.b) > 0 {
		return batch, fmt.Errorf("record has %d bytes after its last stream", len(d.b))
	}
	if batch.Tenant, err = model.ParseTenant(tenant); err != nil {
		return batch, fmt.Errorf("record of a bad tenant: %w", err)
	}
	return batch, nil
}
