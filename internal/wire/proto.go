package wire

import (
	"errors"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields walks the fields of one protobuf message. It remembers the first error, so that
// a loop over next reads as the message's definition:
//
//	for f := (fields{buf: body}); f.next(); {
//		switch f.num {
//		case 1: name = f.bytes()
//		}
//	}
//
// Fields of an unexpected wire type, and those nobody asks for, are skipped.
type fields struct {
	buf []byte
	num protowire.Number
	err error

	typ   protowire.Type
	value []byte // of a length-delimited field
	n     uint64 // of a varint or fixed field
}

var errTruncated = errors.New("unexpected EOF")

// next reads a field; false at the end and after an error.
func (f *fields) next() bool {
	if len(f.buf) == 0 || f.err != nil {
		return false
	}
	tag, n := uint64(f.buf[0]), 1
	if tag >= 0x80 {
		if tag, n = protowire.ConsumeVarint(f.buf); n < 0 {
			return f.fail(n)
		}
	}
	f.num, f.typ = protowire.DecodeTag(tag)
	if f.num < protowire.MinValidNumber {
		f.err = errors.New("illegal tag 0")
		return false
	}
	f.buf = f.buf[n:]
	switch f.typ {
	case protowire.BytesType:
		return f.nextBytes()
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(f.buf)
	case protowire.Fixed64Type:
		f.n, n = protowire.ConsumeFixed64(f.buf)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(f.buf)
		f.n = uint64(v)
	default:
		n = protowire.ConsumeFieldValue(f.num, f.typ, f.buf)
	}
	if n < 0 {
		return f.fail(n)
	}
	f.buf = f.buf[n:]
	return true
}

func (f *fields) nextBytes() bool {
	var size uint64
	n := 1
	if len(f.buf) > 0 && f.buf[0] < 0x80 {
		size = uint64(f.buf[0])
	} else if size, n = protowire.ConsumeVarint(f.buf); n < 0 {
		return f.fail(n)
	}
	if size > uint64(len(f.buf)-n) {
		f.err = errTruncated
		return false
	}
	f.value = f.buf[n : n+int(size) : n+int(size)]
	f.buf = f.buf[n+int(size):]
	return true
}

func (f *fields) fail(code int) bool {
	f.err = protowire.ParseError(code)
	if errors.Is(f.err, protowire.ParseError(-1)) {
		f.err = errTruncated
	}
	return false
}

// is reports whether the field has the number and wire type.
func (f *fields) is(num protowire.Number, typ protowire.Type) bool {
	return f.num == num && f.typ == typ
}

// nanoseconds combines a protobuf Timestamp's fields, reporting whether the moment can be
// represented.
func nanoseconds(sec, nanos int64) (int64, bool) {
	const most = math.MaxInt64/1_000_000_000 - 1
	if nanos < 0 || nanos >= 1_000_000_000 || sec > most || sec < -most {
		return 0, false
	}
	return sec*1_000_000_000 + nanos, true
}
