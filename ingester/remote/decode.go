package remote

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/gencache"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// fields walks the fields of a message and remembers the first error. Fields that nobody
// asks for are skipped.
type fields struct {
	buf   []byte
	err   error
	num   protowire.Number
	typ   protowire.Type
	value []byte // of a length-delimited field
	n     uint64 // of a varint
}

// next reads a field; false at the end and after an error.
func (f *fields) next() bool {
	if len(f.buf) == 0 || f.err != nil {
		return false
	}
	var n int
	if f.buf[0] < 0x80 {
		f.num, f.typ, n = protowire.Number(f.buf[0]>>3), protowire.Type(f.buf[0]&7), 1
	} else if f.num, f.typ, n = protowire.ConsumeTag(f.buf); n < 0 {
		return f.fail(n)
	}
	if f.num < protowire.MinValidNumber {
		f.err = errors.New("field number 0")
		return false
	}
	f.buf = f.buf[n:]
	switch f.typ {
	case protowire.BytesType:
		size, n := uvarint(f.buf)
		if n < 0 {
			return f.fail(n)
		}
		if size > uint64(len(f.buf)-n) {
			f.err = errors.New("message ends inside a field")
			return false
		}
		end := n + int(size)
		f.value, f.buf = f.buf[n:end:end], f.buf[end:]
		return true
	case protowire.VarintType:
		f.n, n = uvarint(f.buf)
	default:
		n = protowire.ConsumeFieldValue(f.num, f.typ, f.buf)
	}
	if n < 0 {
		return f.fail(n)
	}
	f.buf = f.buf[n:]
	return true
}

func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return protowire.ConsumeVarint(b)
}

func (f *fields) fail(code int) bool {
	f.err = protowire.ParseError(code)
	return false
}

func (f *fields) is(num protowire.Number, typ protowire.Type) bool {
	return f.num == num && f.typ == typ
}

// pushDecoder turns a PushRequest into streams. Lines alias the message, or the decoder's
// own buffers when it was packed; both must live until the streams are no longer used.
type pushDecoder struct {
	// reserve is asked before memory is taken; its error ends decoding.
	reserve func(bytes int64) error
	// labels remembers label sets of streams by their encoding.
	labels *gencache.Cache[string, labels.Labels]

	tenant  model.Tenant
	streams []model.Stream
	entries []model.Entry // of all streams, end to end
	spans   []int         // ends of the streams' entries
	buffers []*[]byte     // what was unpacked
	parts   int
	snappy  model.Arrival // the last part, if it is packed with snappy

	builder labels.ScratchBuilder
	pairs   []labels.Label
	lastRaw []byte // the metadata of the entry before, encoded
	last    labels.Labels
}

// keptMemory is the most that a pooled decoder holds on to.
const keptMemory = 8 << 20

const (
	entrySize  = int64(unsafe.Sizeof(model.Entry{}))
	streamSize = int64(unsafe.Sizeof(model.Stream{}))
	// maxValue is the longest name or value that labels.Labels can hold.
	maxValue = 1<<24 - 1
)

var pushDecoders = sync.Pool{New: func() any { return new(pushDecoder) }}

// release forgets the streams and gives the buffers back.
func (d *pushDecoder) release() {
	for _, b := range d.buffers {
		rpc.Buffers.Put(b)
	}
	if d.memory() > keptMemory {
		return
	}
	clear(d.streams)
	clear(d.entries)
	clear(d.buffers)
	clear(d.pairs[:cap(d.pairs)])
	*d = pushDecoder{
		streams: d.streams[:0], entries: d.entries[:0], spans: d.spans[:0], buffers: d.buffers[:0],
		builder: d.builder, pairs: d.pairs[:0],
	}
	d.builder.Reset()
	pushDecoders.Put(d)
}

// memory is what the slices of entries and streams hold.
func (d *pushDecoder) memory() int64 {
	return int64(cap(d.entries))*entrySize + int64(cap(d.streams))*streamSize
}

// request decodes a PushRequest.
func (d *pushDecoder) request(msg []byte) error {
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(1, protowire.BytesType):
			tenant, err := model.ParseTenant(string(f.value))
			if err != nil {
				return bad(err)
			}
			d.tenant = tenant
		case f.is(2, protowire.BytesType):
			if err := d.part(f.value); err != nil {
				return err
			}
		}
	}
	if f.err != nil {
		return bad(f.err)
	}
	if d.tenant == "" {
		return bad(errors.New("no tenant"))
	}
	d.finish()
	return nil
}

// finish cuts the entries into streams; before it they may still move.
func (d *pushDecoder) finish() {
	start := 0
	for i, end := range d.spans {
		d.streams[i].Entries = d.entries[start:end:end]
		start = end
	}
}

// bad says that a message makes no sense. Peers are of the same make, so it is a bug, or
// something else that talks to this port. A nil err stays nil.
func bad(err error) error {
	if err == nil {
		return nil
	}
	if fault.Of(err) != fault.Internal {
		return err
	}
	return fault.New(fault.Corrupt, "malformed push from a distributor: %w", err)
}

func (d *pushDecoder) part(msg []byte) error {
	var compression, size uint64
	var payload []byte
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(1, protowire.VarintType):
			compression = f.n
		case f.is(2, protowire.VarintType):
			size = f.n
		case f.is(3, protowire.BytesType):
			payload = f.value
		}
	}
	if f.err != nil {
		return bad(f.err)
	}
	plain, err := d.unpack(payload, compression, size)
	if err != nil {
		return bad(err)
	}
	d.parts++
	d.snappy = model.Arrival{}
	if Compression(compression) == Snappy {
		d.snappy = model.Arrival{Text: plain, Packed: payload}
	}
	return bad(d.decodeStreams(plain))
}

// arrival returns the packed form of all streams, if they came as one snappy block, which
// spares the ingester to pack them for its log.
func (d *pushDecoder) arrival() model.Arrival {
	if d.parts != 1 {
		return model.Arrival{}
	}
	return d.snappy
}

// decodeStreams decodes a Streams message.
func (d *pushDecoder) decodeStreams(plain []byte) error {
	f := fields{buf: plain}
	for f.next() {
		if f.is(1, protowire.BytesType) {
			if err := d.stream(f.value); err != nil {
				return err
			}
		}
	}
	return f.err
}

// unpack undoes the compression. Memory is reserved by the size that the part declares,
// which is then held to.
func (d *pushDecoder) unpack(payload []byte, compression, size uint64) ([]byte, error) {
	if compression == uint64(None) {
		return payload, nil
	}
	if size > 1<<32 {
		return nil, fmt.Errorf("part of %d bytes", size)
	}
	if err := d.reserve(int64(size)); err != nil {
		return nil, err
	}
	switch Compression(compression) {
	case Snappy:
		n, err := s2.DecodedLen(payload)
		if err != nil || uint64(n) != size {
			return nil, fmt.Errorf("part declares %d bytes and its snappy block %d, %w", size, n, orMismatch(err))
		}
		// The densest element makes 64 bytes of 3.
		if n/22 > len(payload) {
			return nil, fmt.Errorf("snappy block of %d bytes cannot hold %d", len(payload), n)
		}
		buf := d.buffer(n)
		return s2.Decode(buf, payload)
	case Zstd:
		var h zstd.Header
		if err := h.Decode(payload); err != nil || !h.HasFCS || h.FrameContentSize != size {
			return nil, fmt.Errorf("part declares %d bytes and its zstd frame %d, %w", size, h.FrameContentSize, orMismatch(err))
		}
		z := zstdReaders.Get().(*zstd.Decoder)
		defer zstdReaders.Put(z)
		// Room for one byte more: a frame that grows past it is reallocated, and noticed.
		out, err := z.DecodeAll(payload, d.buffer(int(size) + 1)[:0])
		if err != nil {
			return nil, fmt.Errorf("unpacking a part: %w", err)
		}
		if uint64(len(out)) != size {
			return nil, fmt.Errorf("part declares %d bytes and has %d", size, len(out))
		}
		return out, nil
	}
	return nil, fmt.Errorf("part has compression %d, want at most %d", compression, Zstd)
}

func orMismatch(err error) error {
	if err == nil {
		return errors.New("want equal sizes")
	}
	return err
}

func (d *pushDecoder) buffer(n int) []byte {
	b := rpc.Buffers.Get(n)
	d.buffers = append(d.buffers, b)
	return *b
}

var zstdReaders = sync.Pool{New: func() any {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(fmt.Sprintf("remote: zstd refuses its options: %v", err))
	}
	return z
}}

func (d *pushDecoder) stream(msg []byte) error {
	var err error
	s := model.Stream{Labels: labels.EmptyLabels()}
	last := int64(0)
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(2, protowire.BytesType):
			if last, err = d.entry(f.value, last); err != nil {
				return err
			}
		case f.is(1, protowire.BytesType):
			if s.Labels, err = d.streamLabels(f.value); err != nil {
				return err
			}
		}
	}
	if f.err != nil {
		return f.err
	}
	if d.streams, err = grow(d, d.streams, streamSize); err != nil {
		return err
	}
	d.streams = append(d.streams, s)
	d.spans = append(d.spans, len(d.entries))
	return nil
}

// grow makes room for one more element, doubling the capacity after having reserved it.
func grow[T any](d *pushDecoder, s []T, size int64) ([]T, error) {
	if len(s) < cap(s) {
		return s, nil
	}
	more := max(16, cap(s))
	if err := d.reserve(int64(more) * size); err != nil {
		return s, err
	}
	next := make([]T, len(s), len(s)+more)
	copy(next, s)
	return next, nil
}

func (d *pushDecoder) entry(msg []byte, last int64) (int64, error) {
	e := model.Entry{Timestamp: last}
	metadata := msg[:0] // the metadata's fields, which lie together at the end
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(1, protowire.VarintType):
			e.Timestamp = last + unzigzag(f.n)
		case f.is(2, protowire.BytesType):
			e.Line = f.value
			metadata = f.buf
		}
		if f.num == 2 { // what follows is looked at as a whole
			break
		}
	}
	if f.err != nil {
		return 0, f.err
	}
	var err error
	if len(metadata) > 0 {
		if e.Metadata, err = d.metadata(metadata); err != nil {
			return 0, err
		}
	}
	if d.entries, err = grow(d, d.entries, entrySize); err != nil {
		return 0, err
	}
	d.entries = append(d.entries, e)
	return e.Timestamp, nil
}

// metadata decodes what follows an entry's line. Entries in a row often have the same.
func (d *pushDecoder) metadata(raw []byte) (labels.Labels, error) {
	if len(d.lastRaw) > 0 && string(raw) == string(d.lastRaw) {
		return d.last, nil
	}
	const small = 64 // one level, one code: such metadata comes again and again
	if len(raw) <= small {
		if ls, ok := d.labels.Get(alias(raw)); ok {
			d.lastRaw, d.last = raw, ls
			return ls, nil
		}
	}
	ls, err := d.decodePairs(raw, 3)
	if err != nil {
		return ls, err
	}
	if len(raw) <= small && ls.Len() == 1 {
		d.labels.Put(string(raw), ls, len(raw)+cacheOverhead)
	}
	d.lastRaw, d.last = raw, ls
	return ls, nil
}

// cacheOverhead is about what a remembered label set costs besides its bytes.
const cacheOverhead = 200

// cachedLabels is the longest label set that is remembered.
const cachedLabels = 16 << 10

func (d *pushDecoder) streamLabels(raw []byte) (labels.Labels, error) {
	if ls, ok := d.labels.Get(alias(raw)); ok {
		return ls, nil
	}
	ls, err := d.decodePairs(raw, 1)
	if err == nil && len(raw) <= cachedLabels {
		d.labels.Put(string(raw), ls, 2*len(raw)+cacheOverhead)
	}
	return ls, err
}

// decodePairs reads the Label messages with a field number. What it returns shares no
// memory with raw.
func (d *pushDecoder) decodePairs(raw []byte, num protowire.Number) (labels.Labels, error) {
	d.builder.Reset()
	last := ""
	f := fields{buf: raw}
	for f.next() {
		if !f.is(num, protowire.BytesType) {
			continue
		}
		var name, value string
		pair := fields{buf: f.value}
		for pair.next() {
			switch {
			case pair.is(1, protowire.BytesType):
				name = alias(pair.value)
			case pair.is(2, protowire.BytesType):
				value = alias(pair.value)
			}
		}
		switch {
		case pair.err != nil:
			return labels.EmptyLabels(), pair.err
		case name <= last:
			return labels.EmptyLabels(), fmt.Errorf("label %q after %q: want names in order, each once", name, last)
		case len(name) > maxValue || len(value) > maxValue:
			return labels.EmptyLabels(), fmt.Errorf("label of %d and %d bytes, at most %d are possible", len(name), len(value), maxValue)
		}
		last = name
		d.builder.Add(name, value)
	}
	if f.err != nil {
		return labels.EmptyLabels(), f.err
	}
	return d.builder.Labels(), nil
}

// alias returns p as a string without copying. It is valid as long as p is unchanged.
func alias(p []byte) string { return unsafe.String(unsafe.SliceData(p), len(p)) }
