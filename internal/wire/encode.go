package wire

import (
	"encoding/binary"
	"math/bits"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// ContentTypeProto is the media type of what Encoder makes.
const ContentTypeProto = "application/x-protobuf"

// Encoder builds the bodies of pushes, using its buffers again. One goroutine uses it at
// a time; the zero value is ready.
type Encoder struct {
	proto, packed []byte
}

// Push returns streams as a snappy-compressed PushRequest. The result is valid until the
// next call.
func (e *Encoder) Push(streams []model.Stream) []byte {
	e.proto = AppendPush(e.proto[:0], streams)
	if n := snappy.MaxEncodedLen(len(e.proto)); n > cap(e.packed) {
		e.packed = make([]byte, n+n/4)
	}
	e.packed = snappy.Encode(e.packed[:cap(e.packed)], e.proto)
	return e.packed
}

// ProtoSize is the length of the last push before compression.
func (e *Encoder) ProtoSize() int { return len(e.proto) }

// AppendPush appends streams as an uncompressed PushRequest.
func AppendPush(dst []byte, streams []model.Stream) []byte {
	for i := range streams {
		s := &streams[i]
		text := s.Labels.String()
		size := fieldSize(len(text))
		for j := range s.Entries {
			size += fieldSize(entrySizeProto(&s.Entries[j]))
		}
		dst = appendHeader(dst, 1, size)
		dst = appendString(dst, 1, text)
		for j := range s.Entries {
			dst = appendEntry(dst, &s.Entries[j])
		}
	}
	return dst
}

func appendEntry(dst []byte, e *model.Entry) []byte {
	sec, nanos := seconds(e.Timestamp)
	dst = appendHeader(dst, 2, entrySizeProto(e))
	dst = appendHeader(dst, 1, timestampSize(sec, nanos))
	if sec != 0 {
		dst = binary.AppendUvarint(append(dst, 1<<3), uint64(sec))
	}
	if nanos != 0 {
		dst = binary.AppendUvarint(append(dst, 2<<3), uint64(nanos))
	}
	if len(e.Line) > 0 {
		dst = append(appendHeader(dst, 2, len(e.Line)), e.Line...)
	}
	if !e.Metadata.IsEmpty() {
		e.Metadata.Range(func(l labels.Label) {
			dst = appendHeader(dst, 3, fieldSize(len(l.Name))+fieldSize(len(l.Value)))
			dst = appendString(appendString(dst, 1, l.Name), 2, l.Value)
		})
	}
	return dst
}

func entrySizeProto(e *model.Entry) int {
	size := fieldSize(timestampSize(seconds(e.Timestamp)))
	if len(e.Line) > 0 {
		size += fieldSize(len(e.Line))
	}
	if !e.Metadata.IsEmpty() {
		e.Metadata.Range(func(l labels.Label) {
			size += fieldSize(fieldSize(len(l.Name)) + fieldSize(len(l.Value)))
		})
	}
	return size
}

// seconds splits a timestamp the way protobuf wants it: 0 <= nanos < 1e9, also before 1970.
func seconds(ts int64) (sec, nanos int64) {
	sec, nanos = ts/1e9, ts%1e9
	if nanos < 0 {
		sec, nanos = sec-1, nanos+1e9
	}
	return sec, nanos
}

func timestampSize(sec, nanos int64) int {
	n := 0
	if sec != 0 {
		n += 1 + varintSize(uint64(sec))
	}
	if nanos != 0 {
		n += 1 + varintSize(uint64(nanos))
	}
	return n
}

// fieldSize is the size of a length-delimited field with a one-byte tag.
func fieldSize(n int) int { return 1 + varintSize(uint64(n)) + n }

func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func appendHeader(dst []byte, field byte, size int) []byte {
	return binary.AppendUvarint(append(dst, field<<3|2), uint64(size))
}

func appendString(dst []byte, field byte, s string) []byte {
	return append(appendHeader(dst, field, len(s)), s...)
}
