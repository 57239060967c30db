package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// The timestamp column. Differences between neighbours are random, and cost most of
// what a segment spends beside its lines: nanosecond clocks leave some thirty bits of
// noise per row that no codec removes. So noise is stored as it is, bit by bit, and only
// what has a pattern goes through an entropy coder. Raw bytes of the column:
//
//	scheme     u8        0 or 1, see below
//	unit       uvarint   all differences are multiples of it (1 000 000 for millisecond clocks)
//	first      varint    the first timestamp
//	packed               classes or varints, see appendPacked
//	mantissas            the rest, scheme 0 only: bits, least significant first
//
// Let d be the difference to the previous row and m = |d|/unit. In scheme 0 a row's class
// is one byte: the number of significant bits of m (0..64), plus 128 when d is negative
// (only where a stream begins). Its mantissa is m without the leading one: class-1 bits.
// In scheme 1 the zigzag varints of d/unit are packed, which wins for clocks that tick
// evenly. The column's frame is not compressed again.
const (
	schemeClasses = 0
	schemeVarints = 1
)

// negative marks the class of a row whose timestamp is before the previous row's.
const negative = 0x80

// timesEncoder encodes timestamp columns; its buffers are reused.
type timesEncoder struct {
	head, mantissas []byte
}

// append appends the raw column to dst. There is at least one row.
func (e *timesEncoder) append(dst []byte, times []int64, c compression) []byte {
	unit := commonUnit(times)
	scheme := byte(schemeClasses)
	if ticksEvenly(times, unit) {
		scheme = schemeVarints
	}
	dst = append(dst, scheme)
	dst = binary.AppendUvarint(dst, unit)
	dst = binary.AppendVarint(dst, times[0])
	e.mantissas = e.mantissas[:0]
	if scheme == schemeVarints {
		e.head = appendVarints(e.head[:0], times, unit)
	} else {
		e.encodeClasses(times, unit)
	}
	dst = appendPacked(dst, c, e.head)
	return append(dst, e.mantissas...)
}

func appendVarints(dst []byte, times []int64, unit uint64) []byte {
	for i := 1; i < len(times); i++ {
		m, neg := difference(times[i-1], times[i], unit)
		d := int64(m)
		if neg {
			d = -d
		}
		dst = binary.AppendVarint(dst, d)
	}
	return dst
}

func (e *timesEncoder) encodeClasses(times []int64, unit uint64) {
	e.head = e.head[:0]
	var acc uint64 // bits not written yet
	var have uint  // how many, below 64
	for i := 1; i < len(times); i++ {
		m, neg := difference(times[i-1], times[i], unit)
		class := uint(bits.Len64(m))
		if neg {
			e.head = append(e.head, byte(class)|negative)
		} else {
			e.head = append(e.head, byte(class))
		}
		if class < 2 {
			continue
		}
		width := class - 1
		m &^= 1 << width
		acc |= m << have
		if have += width; have >= 64 {
			e.mantissas = binary.LittleEndian.AppendUint64(e.mantissas, acc)
			have -= 64
			acc = m >> (width - have)
		}
	}
	for ; have > 0; have -= min(have, 8) {
		e.mantissas = append(e.mantissas, byte(acc))
		acc >>= 8
	}
}

// commonUnit returns the greatest common divisor of all differences, at least 1.
func commonUnit(times []int64) uint64 {
	var unit uint64
	for i := 1; i < len(times) && unit != 1; i++ {
		d, _ := difference(times[i-1], times[i], 1)
		if unit != 0 && d%unit == 0 {
			continue
		}
		for d != 0 {
			unit, d = d, unit%d
		}
	}
	return max(unit, 1)
}

// difference returns |b-a|/unit and whether b < a. It is right for all int64 values.
func difference(a, b int64, unit uint64) (uint64, bool) {
	if b < a {
		return (uint64(a) - uint64(b)) / unit, true
	}
	return (uint64(b) - uint64(a)) / unit, false
}

// ticksEvenly guesses from a sample whether the same few differences come again and
// again, and makes sure that all fit a varint.
func ticksEvenly(times []int64, unit uint64) bool {
	var seen [256]uint64
	n, again := 0, 0
	for i := 1; i < len(times); i += max(1, len(times)/1024) {
		m, _ := difference(times[i-1], times[i], unit)
		slot := &seen[(m*0x9e3779b97f4a7c15)>>56]
		if *slot == m+1 {
			again++
		}
		*slot = m + 1
		n++
	}
	if again*3 < n {
		return false
	}
	for i := 1; i < len(times); i++ {
		if m, _ := difference(times[i-1], times[i], unit); m > 1<<62 {
			return false
		}
	}
	return true
}

// decodeTimes decodes a raw column into times, whose length is the number of rows.
// scratch is used for the packed part and returned for reuse.
func decodeTimes(times []int64, raw, scratch []byte) ([]byte, error) {
	f := fields{b: raw}
	scheme := f.byte()
	unit := f.uvarint()
	times[0] = f.varint()
	most := len(times) - 1
	if scheme == schemeVarints {
		most *= binary.MaxVarintLen64
	}
	scratch = f.packed(scratch[:0], most)
	if f.err != nil {
		return scratch, f.err
	}
	switch scheme {
	case schemeClasses:
		if len(scratch) != len(times)-1 {
			return scratch, fmt.Errorf("%d classes, want %d", len(scratch), len(times)-1)
		}
		return scratch, decodeClasses(times, scratch, f.b, unit)
	case schemeVarints:
		if len(f.b) != 0 {
			return scratch, fmt.Errorf("%d bytes too long", len(f.b))
		}
		return scratch, decodeVarints(times, scratch, unit)
	}
	return scratch, fmt.Errorf("unknown scheme %d", scheme)
}

func decodeVarints(times []int64, packed []byte, unit uint64) error {
	ts := times[0]
	for i := 1; i < len(times); i++ {
		z, n := binary.Uvarint(packed)
		if n <= 0 {
			return fmt.Errorf("row %d: %w", i, errShort)
		}
		packed = packed[n:]
		ts += (int64(z>>1) ^ -int64(z&1)) * int64(unit)
		times[i] = ts
	}
	if len(packed) > 0 {
		return fmt.Errorf("%d bytes too long", len(packed))
	}
	return nil
}

func decodeClasses(times []int64, classes, mantissas []byte, unit uint64) error {
	ts := times[0]
	pos, end := uint(0), uint(len(mantissas))*8
	for i, c := range classes {
		class := uint(c &^ negative)
		var m uint64
		if class < 2 {
			m = uint64(class)
		} else {
			width := class - 1
			if class > 64 || pos+width > end {
				return fmt.Errorf("row %d: class %d with %d bits left", i+1, c, end-pos)
			}
			m = 1<<width | bitsAt(mantissas, pos, width)
			pos += width
		}
		d := int64(m * unit)
		if c >= negative {
			d = -d
		}
		ts += d
		times[i+1] = ts
	}
	if end-pos >= 8 {
		return errors.New("bytes too long")
	}
	return nil
}

// bitsAt returns width (below 64) bits of b from bit pos on, which b has.
func bitsAt(b []byte, pos, width uint) uint64 {
	i, shift := pos>>3, pos&7
	var v uint64
	if i+8 <= uint(len(b)) {
		v = binary.LittleEndian.Uint64(b[i:]) >> shift
		if shift+width > 64 {
			v |= uint64(b[i+8]) << (64 - shift)
		}
	} else {
		for k := len(b) - 1; k >= int(i); k-- {
			v = v<<8 | uint64(b[k])
		}
		v >>= shift
	}
	return v & (1<<width - 1)
}
