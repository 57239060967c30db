package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protowire"
)

// Messages between processes of Skald are protobuf, written by hand: fields that a reader
// does not know are skipped, so that processes of neighbouring versions understand each
// other. Zero values are left out. Lists of many small things are packed in one field and
// read with a Buf.

// Number is the number of a field.
type Number = protowire.Number

// AppendUint appends a varint field unless v is zero.
func AppendUint(b []byte, num Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// AppendInt appends a zigzag varint field unless v is zero.
func AppendInt(b []byte, num Number, v int64) []byte {
	return AppendUint(b, num, protowire.EncodeZigZag(v))
}

// AppendBool appends a varint field when v is true.
func AppendBool(b []byte, num Number, v bool) []byte {
	if !v {
		return b
	}
	return AppendUint(b, num, 1)
}

// AppendString appends a field of bytes unless v is empty.
func AppendString[T string | []byte](b []byte, num Number, v T) []byte {
	if len(v) == 0 {
		return b
	}
	return AppendElement(b, num, v)
}

// AppendElement appends a field of bytes, also an empty one: an element of a list counts.
func AppendElement[T string | []byte](b []byte, num Number, v T) []byte {
	b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(len(v)))
	return append(b, v...)
}

// Fields walks the fields of one protobuf message. It remembers the first error, so that
// a loop over Next reads as the message's definition. A field of another wire type than
// the one asked for is an error.
type Fields struct {
	buf   []byte
	num   protowire.Number
	typ   protowire.Type
	value []byte
	n     uint64
	err   error
}

// Read returns the fields of a message. Values alias it.
func Read(msg []byte) *Fields { return &Fields{buf: msg} }

// Next moves to the next field; false at the end and after an error.
func (f *Fields) Next() bool {
	if len(f.buf) == 0 || f.err != nil {
		return false
	}
	num, typ, n := protowire.ConsumeTag(f.buf)
	if n < 0 {
		f.err = protowire.ParseError(n)
		return false
	}
	f.num, f.typ, f.buf = num, typ, f.buf[n:]
	switch typ {
	case protowire.BytesType:
		f.value, n = protowire.ConsumeBytes(f.buf)
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(f.buf)
	case protowire.Fixed64Type:
		f.n, n = protowire.ConsumeFixed64(f.buf)
	default:
		n = protowire.ConsumeFieldValue(num, typ, f.buf)
	}
	if n < 0 {
		f.err = protowire.ParseError(n)
		return false
	}
	f.buf = f.buf[n:]
	return true
}

// Num is the number of the field.
func (f *Fields) Num() Number { return f.num }

// Err is the first error.
func (f *Fields) Err() error { return f.err }

// Fail records an error of the message's meaning.
func (f *Fields) Fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *Fields) is(typ protowire.Type) bool {
	if f.typ != typ {
		f.Fail(fmt.Errorf("field %d has wire type %d, want %d", f.num, f.typ, typ))
	}
	return f.err == nil
}

// Bytes is the value of a field of bytes.
func (f *Fields) Bytes() []byte {
	if !f.is(protowire.BytesType) {
		return nil
	}
	return f.value
}

// Text is Bytes as a string of its own.
func (f *Fields) Text() string { return string(f.Bytes()) }

// Uint is the value of a varint field.
func (f *Fields) Uint() uint64 {
	if !f.is(protowire.VarintType) {
		return 0
	}
	return f.n
}

// Count is Uint within [0, most]; anything else is an error.
func (f *Fields) Count(most int) int {
	n := f.Uint()
	if n > uint64(most) {
		f.Fail(fmt.Errorf("field %d is %d, at most %d makes sense", f.num, n, most))
		return 0
	}
	return int(n)
}

// Int is the value of a zigzag varint field.
func (f *Fields) Int() int64 { return protowire.DecodeZigZag(f.Uint()) }

// Bool is the value of a varint field.
func (f *Fields) Bool() bool { return f.Uint() != 0 }

var errTruncated = errors.New("the message ends too early")

// Buf reads packed values one after the other and remembers the first error; after it,
// everything is zero.
type Buf struct {
	b   []byte
	err error
}

// Unpack returns a reader of packed values. What it returns aliases b unless said otherwise.
func Unpack(b []byte) *Buf { return &Buf{b: b} }

// Len is the number of bytes that are left.
func (d *Buf) Len() int { return len(d.b) }

// Err is the first error.
func (d *Buf) Err() error { return d.err }

// Fail records an error of the values' meaning.
func (d *Buf) Fail(err error) {
	if d.err == nil {
		d.err, d.b = err, nil
	}
}

// End fails when something is left.
func (d *Buf) End() error {
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	return d.err
}

// Uvarint reads an unsigned number.
func (d *Buf) Uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.Fail(errTruncated)
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Varint reads a zigzag number.
func (d *Buf) Varint() int64 { return protowire.DecodeZigZag(d.Uvarint()) }

// Count reads a number of things that take at least size bytes each, so that nothing is
// allocated for things that cannot be there.
func (d *Buf) Count(size int) int {
	n := d.Uvarint()
	if n > uint64(len(d.b)/max(size, 1)) {
		d.Fail(errTruncated)
		return 0
	}
	return int(n)
}

// Take reads n bytes.
func (d *Buf) Take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.Fail(errTruncated)
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// Bytes reads a length and so many bytes.
func (d *Buf) Bytes() []byte { return d.Take(d.Count(1)) }

// Text is Bytes as a string of its own.
func (d *Buf) Text() string { return string(d.Bytes()) }

// Float reads eight bytes, bit by bit as they were.
func (d *Buf) Float() float64 {
	v := d.Take(8)
	if v == nil {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(v))
}

// Labels reads what AppendLabels has written. The names must be sorted and distinct.
func (d *Buf) Labels(scratch *labels.ScratchBuilder) labels.Labels {
	scratch.Reset()
	last := ""
	for i := range d.Count(2) {
		name := d.Text()
		value := d.Text()
		if i > 0 && name <= last {
			d.Fail(fmt.Errorf("label %q follows %q", name, last))
			return labels.EmptyLabels()
		}
		last = name
		scratch.Add(name, value)
	}
	if d.err != nil {
		return labels.EmptyLabels()
	}
	return scratch.Labels()
}

// AppendText packs a length and the bytes.
func AppendText[T string | []byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// AppendFloat packs a float bit by bit.
func AppendFloat(b []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
}

// AppendVarint packs a zigzag number.
func AppendVarint(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, protowire.EncodeZigZag(v))
}

// AppendLabels packs labels: their number, then name and value of each.
func AppendLabels(b []byte, ls labels.Labels) []byte {
	b = binary.AppendUvarint(b, uint64(ls.Len()))
	ls.Range(func(l labels.Label) { b = AppendText(AppendText(b, l.Name), l.Value) })
	return b
}

// AppendCounters packs the counters that are not zero: number and value of each. With
// drain they start again at zero.
func AppendCounters(b []byte, counters []*atomic.Int64, drain bool) []byte {
	for i, c := range counters {
		v := c.Load()
		if drain {
			v = c.Swap(0)
		}
		if v > 0 {
			b = binary.AppendUvarint(b, uint64(i))
			b = binary.AppendUvarint(b, uint64(v))
		}
	}
	return b
}

// AddCounters adds packed counters. Those of a later version are left out.
func AddCounters(counters []*atomic.Int64, packed []byte) error {
	d := Unpack(packed)
	for d.Len() > 0 {
		i, v := d.Uvarint(), d.Uvarint()
		if d.Err() == nil && i < uint64(len(counters)) && v <= math.MaxInt64 {
			counters[i].Add(int64(v))
		}
	}
	return d.Err()
}
