package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc/mem"

	"github.com/skaldlog/skald/internal/gencache"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// Compression is how entries are packed on their way.
type Compression uint8

// The compressions, with their numbers in messages.
const (
	None Compression = iota
	Snappy
	Zstd
)

// ParseCompression reads a setting.
func ParseCompression(name string) (Compression, error) {
	switch name {
	case "none":
		return None, nil
	case "snappy":
		return Snappy, nil
	case "zstd":
		return Zstd, nil
	}
	return None, fmt.Errorf("compression %q: expected none, snappy or zstd", name)
}

// minCompress is the payload size below which there is nothing to gain.
const minCompress = 256

// Part is some streams in the form in which they travel. It is made once and sent to every
// replica, so it holds memory of its own, which goes back when every reference is freed.
type Part struct {
	refs        atomic.Int32
	compression Compression
	size        int        // of the payload when unpacked
	payload     mem.Buffer // packed
	plain       mem.Buffer // unpacked; nil unless kept for local
	local       []model.Stream
	streams     int
}

// NewPart encodes streams. Nothing of it aliases them; the labels are shared. With keep,
// Streams costs nothing, and the part more memory. The caller owns one reference.
func NewPart(streams []model.Stream, c Compression, keep bool) *Part {
	p := &Part{streams: len(streams)}
	p.refs.Store(1)
	most := 0
	for i := range streams {
		most += maxStreamSize(&streams[i])
	}
	buf := rpc.Buffers.Get(most)
	enc := partEncoder{out: (*buf)[:0]}
	if keep {
		enc.keep(streams)
	}
	for i := range streams {
		enc.stream(&streams[i])
	}
	*buf = enc.out
	p.size = len(enc.out)
	p.local = enc.kept
	plain := mem.NewBuffer(buf, rpc.Buffers)

	if c == None || p.size < minCompress {
		p.payload = plain
		return p
	}
	p.compression, p.payload = c, pack(enc.out, c)
	if keep {
		p.plain = plain
	} else {
		plain.Free()
	}
	return p
}

// Len is the number of streams.
func (p *Part) Len() int { return p.streams }

// Size is the length of the streams' encoding before compression.
func (p *Part) Size() int { return p.size }

// WireSize is the length of what crosses the network.
func (p *Part) WireSize() int { return p.payload.Len() }

// Memory is what the part holds.
func (p *Part) Memory() int {
	n := p.payload.Len()
	if p.plain != nil {
		n += p.plain.Len()
	}
	return n
}

// Streams returns the streams, valid until the reference is freed. If they were not kept,
// they are decoded again.
func (p *Part) Streams() ([]model.Stream, error) {
	if p.local != nil {
		return p.local, nil
	}
	d := pushDecoder{labels: gencache.New[string, labels.Labels](0), reserve: func(int64) error { return nil }}
	plain, err := d.unpack(p.payload.ReadOnlyData(), uint64(p.compression), uint64(p.size))
	if err != nil {
		return nil, err
	}
	if err := d.decodeStreams(plain); err != nil {
		return nil, err
	}
	d.finish()
	return d.streams, nil
}

// Arrival returns the packed form of the streams that were kept, if it is a snappy block.
func (p *Part) Arrival() model.Arrival {
	if p.plain == nil || p.compression != Snappy {
		return model.Arrival{}
	}
	return model.Arrival{Text: p.plain.ReadOnlyData(), Packed: p.payload.ReadOnlyData()}
}

// Ref takes another reference.
func (p *Part) Ref() { p.refs.Add(1) }

// Free gives a reference back.
func (p *Part) Free() {
	switch n := p.refs.Add(-1); {
	case n < 0:
		panic("remote: part freed more often than referenced")
	case n == 0:
		p.payload.Free()
		if p.plain != nil {
			p.plain.Free()
		}
		p.payload, p.plain, p.local = nil, nil, nil
	}
}

func pack(plain []byte, c Compression) mem.Buffer {
	if c == Snappy {
		buf := rpc.Buffers.Get(s2.MaxEncodedLen(len(plain)))
		*buf = s2.EncodeSnappy(*buf, plain)
		return mem.NewBuffer(buf, rpc.Buffers)
	}
	z := zstdWriters.Get().(*zstd.Encoder)
	defer zstdWriters.Put(z)
	buf := rpc.Buffers.Get(z.MaxEncodedSize(len(plain)))
	*buf = z.EncodeAll(plain, (*buf)[:0])
	return mem.NewBuffer(buf, rpc.Buffers)
}

var zstdWriters = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(fmt.Sprintf("remote: zstd refuses its options: %v", err))
	}
	return z
}}

// partEncoder appends streams to out, whose capacity is enough. kept are copies of the
// streams whose lines alias out.
type partEncoder struct {
	out  []byte
	kept []model.Stream
	next int // of kept
}

func (e *partEncoder) keep(streams []model.Stream) {
	n := 0
	for i := range streams {
		n += len(streams[i].Entries)
	}
	entries := make([]model.Entry, n)
	e.kept = make([]model.Stream, len(streams))
	for i := range streams {
		n = len(streams[i].Entries)
		e.kept[i] = model.Stream{Labels: streams[i].Labels, Entries: entries[:n:n]}
		entries = entries[n:]
	}
}

// Tags, of length-delimited fields unless they say otherwise.
const (
	tagStream   = 1<<3 | 2
	tagLabels   = 1<<3 | 2
	tagEntry    = 2<<3 | 2
	tagLabel    = 1<<3 | 2
	tagName     = 1<<3 | 2
	tagValue    = 2<<3 | 2
	tagTime     = 1 << 3 // varint
	tagLine     = 2<<3 | 2
	tagMetadata = 3<<3 | 2
)

// A stream's length is known last; its varint is padded to a fixed width.
const lengthWidth = 5

func (e *partEncoder) stream(s *model.Stream) {
	e.out = append(e.out, tagStream, 0x80, 0x80, 0x80, 0x80, 0)
	start := len(e.out)
	e.header(tagLabels, pairsSize(s.Labels))
	e.pairs(tagLabel, s.Labels)
	var kept []model.Entry
	if e.kept != nil {
		kept = e.kept[e.next].Entries
		e.next++
	}
	last := int64(0)
	for i := range s.Entries {
		en := &s.Entries[i]
		delta := zigzag(en.Timestamp - last)
		last = en.Timestamp
		e.header(tagEntry, 1+varintSize(delta)+fieldSize(len(en.Line))+metadataSize(en.Metadata))
		e.out = binary.AppendUvarint(append(e.out, tagTime), delta)
		e.header(tagLine, len(en.Line))
		at := len(e.out)
		e.out = append(e.out, en.Line...)
		if kept != nil {
			kept[i] = model.Entry{Timestamp: en.Timestamp, Line: e.out[at:len(e.out):len(e.out)], Metadata: en.Metadata}
		}
		if !en.Metadata.IsEmpty() {
			e.pairs(tagMetadata, en.Metadata)
		}
	}
	putLength(e.out[start-lengthWidth:start], len(e.out)-start)
}

func (e *partEncoder) header(tag byte, size int) {
	e.out = binary.AppendUvarint(append(e.out, tag), uint64(size))
}

func (e *partEncoder) pairs(tag byte, ls labels.Labels) {
	ls.Range(func(l labels.Label) {
		e.header(tag, fieldSize(len(l.Name))+fieldSize(len(l.Value)))
		e.header(tagName, len(l.Name))
		e.out = append(e.out, l.Name...)
		e.header(tagValue, len(l.Value))
		e.out = append(e.out, l.Value...)
	})
}

func putLength(at []byte, n int) {
	for i := range at[:lengthWidth-1] {
		at[i] = byte(n) | 0x80
		n >>= 7
	}
	at[lengthWidth-1] = byte(n)
}

// maxStreamSize is at least what a stream's encoding takes.
func maxStreamSize(s *model.Stream) int {
	size := 1 + lengthWidth + 1 + binary.MaxVarintLen32 + maxPairsSize(s.Labels)
	for i := range s.Entries {
		size += MaxEntrySize(&s.Entries[i])
	}
	return size
}

// MaxEntrySize is at least what an entry's encoding takes, before compression.
func MaxEntrySize(e *model.Entry) int {
	const fixed = 1 + binary.MaxVarintLen32 + 1 + binary.MaxVarintLen64 + 1 + binary.MaxVarintLen32
	if e.Metadata.IsEmpty() {
		return fixed + len(e.Line)
	}
	return fixed + len(e.Line) + maxPairsSize(e.Metadata)
}

func maxPairsSize(ls labels.Labels) int {
	return int(ls.ByteSize()) + ls.Len()*3*(1+binary.MaxVarintLen32)
}

func metadataSize(ls labels.Labels) int {
	if ls.IsEmpty() {
		return 0
	}
	return pairsSize(ls)
}

func pairsSize(ls labels.Labels) (size int) {
	ls.Range(func(l labels.Label) {
		size += fieldSize(fieldSize(len(l.Name)) + fieldSize(len(l.Value)))
	})
	return size
}

// fieldSize is the size of a length-delimited field with a one-byte tag.
func fieldSize(n int) int { return 1 + varintSize(uint64(n)) + n }

func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// request puts a tenant and parts together as a message.
func request(tenant model.Tenant, parts []*Part) (rpc.Gather, error) {
	const (
		tagTenant      = 1<<3 | 2
		tagPart        = 2<<3 | 2
		tagCompression = 1 << 3
		tagSize        = 2 << 3
		tagPayload     = 3<<3 | 2
		headMost       = 4 + 4*binary.MaxVarintLen64
	)
	heads := make([]byte, 0, 2+binary.MaxVarintLen64+len(tenant)+len(parts)*headMost)
	heads = append(binary.AppendUvarint(append(heads, tagTenant), uint64(len(tenant))), tenant...)
	out := make(rpc.Gather, 0, 2*len(parts)+1)
	start := 0
	for _, p := range parts {
		n := p.payload.Len()
		inner := 1 + varintSize(uint64(p.compression)) + 1 + varintSize(uint64(p.size)) + fieldSize(n)
		heads = binary.AppendUvarint(append(heads, tagPart), uint64(inner))
		heads = binary.AppendUvarint(append(heads, tagCompression), uint64(p.compression))
		heads = binary.AppendUvarint(append(heads, tagSize), uint64(p.size))
		heads = binary.AppendUvarint(append(heads, tagPayload), uint64(n))
		out = append(out, mem.SliceBuffer(heads[start:len(heads):len(heads)]), p.payload)
		start = len(heads)
	}
	if len(parts) == 0 {
		return nil, errors.New("a push without parts")
	}
	return out, nil
}
