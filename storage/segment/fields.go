package segment

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// fields reads a decoded section field by field. It remembers the first error, after
// which every read returns zero, so callers check err once at the end.
type fields struct {
	b   []byte
	err error
}

func (f *fields) fail(what string) {
	if f.err == nil {
		f.err = fmt.Errorf("%s: %w", what, errShort)
	}
	f.b = nil
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.fail("number")
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) varint() int64 {
	u := f.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// upTo reads a number that must not exceed most.
func (f *fields) upTo(most uint64, what string) uint64 {
	v := f.uvarint()
	if v > most && f.err == nil {
		f.err = fmt.Errorf("%s: got %d, want at most %d", what, v, most)
		f.b = nil
	}
	if f.err != nil {
		return 0
	}
	return v
}

// count reads a number of items that take at least size bytes each in what follows,
// so that a caller may allocate that many.
func (f *fields) count(size int, what string) int {
	return int(f.upTo(uint64(len(f.b)/size), what))
}

func (f *fields) bytes(n int) []byte {
	if n < 0 || n > len(f.b) {
		f.fail("bytes")
		return nil
	}
	p := f.b[:n:n]
	f.b = f.b[n:]
	return p
}

func (f *fields) byte() byte {
	if p := f.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

// string reads a length and that many bytes.
func (f *fields) string(most uint64, what string) string {
	return string(f.bytes(int(f.upTo(most, what))))
}

// strings reads n lengths, then all bytes, as appendStrings wrote them. The strings
// share one allocation.
func (f *fields) strings(n int, what string) []string {
	ends := make([]int, n)
	total := 0
	for i := range ends {
		total += int(f.upTo(uint64(len(f.b)), what))
		ends[i] = total
	}
	all := string(f.bytes(total))
	if f.err != nil {
		return nil
	}
	out := make([]string, n)
	start := 0
	for i, end := range ends {
		out[i] = all[start:end]
		start = end
	}
	return out
}

// done returns the first error, or one when bytes are left over.
func (f *fields) done() error {
	if f.err == nil && len(f.b) > 0 {
		f.err = fmt.Errorf("%d bytes too long", len(f.b))
	}
	return f.err
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, all []string) []byte {
	for _, s := range all {
		b = binary.AppendUvarint(b, uint64(len(s)))
	}
	for _, s := range all {
		b = append(b, s...)
	}
	return b
}

// view returns b's bytes as a string without copying; b must not change while it is used.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
