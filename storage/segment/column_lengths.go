package segment

import (
	"encoding/binary"
	"fmt"
)

// The length column: how long each line is. Raw bytes:
//
//	scheme   u8
//	base     uvarint          the shortest length
//	planes                    one byte per row each: the length minus base
//
// Scheme n, from 1 to 4, has n planes: first the low bytes of all rows, then the next
// bytes, … Planes compress better than varints, because each byte value keeps one
// meaning, and decode without branches. Scheme 0 is a dictionary: base is the number of
// distinct lengths (at most 256), which follow as uvarints, then one code byte per row.
const schemeDictionary = 0

// lengthsEncoder encodes length columns; its table is reused.
type lengthsEncoder struct {
	codes map[uint32]uint8
	words []uint32
}

func (e *lengthsEncoder) append(dst []byte, offsets []uint32) []byte {
	rows := len(offsets) - 1
	least, most := ^uint32(0), uint32(0)
	for i := range rows {
		n := offsets[i+1] - offsets[i]
		least, most = min(least, n), max(most, n)
	}
	if most-least > 0xff && e.collect(offsets) {
		return e.appendDictionary(dst, offsets)
	}
	planes := 1
	for span := most - least; span > 0xff; span >>= 8 {
		planes++
	}
	dst = append(dst, byte(planes))
	dst = binary.AppendUvarint(dst, uint64(least))
	for p := range planes {
		for i := range rows {
			dst = append(dst, byte((offsets[i+1]-offsets[i]-least)>>(8*p)))
		}
	}
	return dst
}

// collect fills the dictionary and reports whether it suffices.
func (e *lengthsEncoder) collect(offsets []uint32) bool {
	if e.codes == nil {
		e.codes = make(map[uint32]uint8, 256)
	}
	clear(e.codes)
	e.words = e.words[:0]
	for i := range len(offsets) - 1 {
		n := offsets[i+1] - offsets[i]
		if _, ok := e.codes[n]; ok {
			continue
		}
		if len(e.words) == 256 {
			return false
		}
		e.codes[n] = uint8(len(e.words))
		e.words = append(e.words, n)
	}
	return true
}

func (e *lengthsEncoder) appendDictionary(dst []byte, offsets []uint32) []byte {
	dst = append(dst, schemeDictionary)
	dst = binary.AppendUvarint(dst, uint64(len(e.words)))
	for _, n := range e.words {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	for i := range len(offsets) - 1 {
		dst = append(dst, e.codes[offsets[i+1]-offsets[i]])
	}
	return dst
}

// decodeLengths turns a raw column into offsets, whose length is the number of rows
// plus one, and checks that the lengths add up to total.
func decodeLengths(offsets []uint32, raw []byte, total int64) error {
	f := fields{b: raw}
	rows := len(offsets) - 1
	scheme := f.byte()
	var err error
	switch {
	case scheme == schemeDictionary:
		err = decodeDictionaryLengths(offsets, &f, total)
	case scheme <= 4:
		base := f.upTo(uint64(total), "base")
		planes := f.bytes(rows * int(scheme))
		if err = f.done(); err == nil {
			err = decodePlanes(offsets, planes, base, int(scheme), total)
		}
	default:
		return fmt.Errorf("unknown scheme %d", scheme)
	}
	if err != nil {
		return err
	}
	if got := int64(offsets[rows]); got != total {
		return fmt.Errorf("lengths add up to %d bytes, want %d", got, total)
	}
	return nil
}

func decodePlanes(offsets []uint32, planes []byte, base uint64, n int, total int64) error {
	rows := len(offsets) - 1
	sum := uint64(0)
	offsets[0] = 0
	for i := range rows {
		length := uint64(planes[i])
		for p := 1; p < n; p++ {
			length |= uint64(planes[p*rows+i]) << (8 * p)
		}
		if sum += base + length; sum > uint64(total) {
			return fmt.Errorf("row %d ends at byte %d of %d", i, sum, total)
		}
		offsets[i+1] = uint32(sum)
	}
	return nil
}

func decodeDictionaryLengths(offsets []uint32, f *fields, total int64) error {
	var words [256]uint64
	n := int(f.upTo(256, "dictionary"))
	for i := range n {
		words[i] = f.upTo(uint64(total), "length")
	}
	codes := f.bytes(len(offsets) - 1)
	if err := f.done(); err != nil {
		return err
	}
	sum := uint64(0)
	offsets[0] = 0
	for i, c := range codes {
		if int(c) >= n {
			return fmt.Errorf("row %d: code %d of a dictionary of %d", i, c, n)
		}
		if sum += words[c]; sum > uint64(total) {
			return fmt.Errorf("row %d ends at byte %d of %d", i, sum, total)
		}
		offsets[i+1] = uint32(sum)
	}
	return nil
}

// maxLengthsBytes bounds a raw column: four planes, or a dictionary and a plane.
func maxLengthsBytes(rows int) int {
	return 4*rows + (2+256)*binary.MaxVarintLen64
}
