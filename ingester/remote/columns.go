package remote

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// # Columns on the wire
//
// A column is encoded, compressed as a whole, and cut into pieces.
//
//	times     for each row, zigzag: the distance to the row before (to the time that the
//	          column names for the first row)
//	lengths   for each row: the length of its line
//	lines     0, and all lines end to end; or 1, a bitmap of the rows whose lines follow
//	          (little-endian words of 64 rows), and those lines. A line that is left out
//	          reads as zero bytes of its length: the row is dead, or lacks a text without
//	          which the query cannot want it, and zero bytes lack it too.
//	hashes    for each row eight bytes, little-endian; never compressed
//	metadata  the number of values (0: no row has the key), the values after the first,
//	          which is "", and for each row the index of its value
type kind uint8

const (
	kindTimes kind = 1 + iota
	kindLengths
	kindLines
	kindHashes
	kindMetadata
)

var kindNames = [...]string{kindTimes: "times", kindLengths: "lengths", kindLines: "lines", kindHashes: "hashes", kindMetadata: "metadata"}

func (k kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("column of kind %d", uint8(k))
}

// maxMetadataRaw bounds an encoded metadata column: 64 KiB of metadata, the default limit of
// an entry, in each of a block's rows would be more, and a block of lines is cut far earlier.
const maxMetadataRaw = 256 << 20

// maxRaw bounds the encoded size of a column of a block.
func (k kind) maxRaw(rows int, raw int64) int {
	switch k {
	case kindTimes:
		return binary.MaxVarintLen64 * rows
	case kindLengths:
		return binary.MaxVarintLen32 * rows
	case kindLines:
		return 1 + rows/8 + 8 + int(raw)
	case kindHashes:
		return 8 * rows
	}
	return maxMetadataRaw
}

// Encoders and decoders of zstd are safe for concurrent use in this form; they start no
// goroutines at a concurrency of one.
var (
	columnEncoder = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20)))
	columnDecoder = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxMetadataRaw)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}

// packColumn compresses a column, unless that makes it no smaller. What pushes pack with
// snappy is packed with its successor s2 here.
func packColumn(raw []byte, c Compression) (Compression, []byte) {
	var out []byte
	switch c {
	case Snappy:
		out = s2.Encode(nil, raw)
	case Zstd:
		out = columnEncoder.EncodeAll(raw, nil)
	default:
		return None, raw
	}
	if len(out) >= len(raw) {
		return None, raw
	}
	return c, out
}

// unpackColumn is the inverse of packColumn, for a column of exactly size bytes.
func unpackColumn(packed []byte, c Compression, size int) ([]byte, error) {
	switch c {
	case None:
		if len(packed) != size {
			return nil, fmt.Errorf("%d bytes, want %d", len(packed), size)
		}
		return packed, nil
	case Snappy:
		n, err := s2.DecodedLen(packed)
		if err != nil || n != size {
			return nil, fmt.Errorf("s2 of %d bytes, want %d", n, size)
		}
		return s2.Decode(make([]byte, n), packed)
	case Zstd:
		var h zstd.Header
		if err := h.Decode(packed); err != nil || h.HasFCS && h.FrameContentSize != uint64(size) {
			return nil, fmt.Errorf("zstd of %d bytes, want %d", h.FrameContentSize, size)
		}
		out, err := columnDecoder.DecodeAll(packed, make([]byte, 0, size))
		if err == nil && len(out) != size {
			err = fmt.Errorf("zstd of %d bytes, want %d", len(out), size)
		}
		return out, err
	}
	return nil, fmt.Errorf("compression %d is not known", c)
}

// span is a range [start, end) of rows.
type span struct{ start, end int }

func appendTimes(b []byte, times []int64, kept []span, first int64) []byte {
	last := first
	for _, s := range kept {
		for _, t := range times[s.start:s.end] {
			b = rpc.AppendVarint(b, t-last)
			last = t
		}
	}
	return b
}

func readTimes(raw []byte, rows int, first int64) ([]int64, error) {
	if rows > len(raw) {
		return nil, fmt.Errorf("%d bytes for %d rows", len(raw), rows)
	}
	d := rpc.Unpack(raw)
	times := make([]int64, rows)
	last := first
	for i := range times {
		last += d.Varint()
		times[i] = last
	}
	return times, d.End()
}

func appendLengths(b []byte, offsets []uint32, kept []span) []byte {
	for _, s := range kept {
		for row := s.start; row < s.end; row++ {
			b = binary.AppendUvarint(b, uint64(offsets[row+1]-offsets[row]))
		}
	}
	return b
}

func readLengths(raw []byte, rows int, most int64) ([]uint32, error) {
	if rows > len(raw) {
		return nil, fmt.Errorf("%d bytes for %d rows", len(raw), rows)
	}
	d := rpc.Unpack(raw)
	offsets := make([]uint32, rows+1)
	at := uint64(0)
	for i := range rows {
		n := d.Uvarint()
		if at += n; n > maxBlockRaw || at > uint64(most) {
			return nil, fmt.Errorf("lines of more than %d bytes, the most there can be", most)
		}
		offsets[i+1] = uint32(at)
	}
	return offsets, d.End()
}

// appendLines appends the lines of the kept rows that wanted accepts; nil accepts all.
func appendLines(b, lines []byte, offsets []uint32, kept []span, wanted model.Bitmap) []byte {
	if wanted == nil {
		b = append(b, 0)
		for _, s := range kept {
			b = append(b, lines[offsets[s.start]:offsets[s.end]]...)
		}
		return b
	}
	b = append(b, 1)
	for _, w := range wanted {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	n := 0
	for _, s := range kept {
		for row := s.start; row < s.end; row++ {
			if wanted.Has(n) {
				b = append(b, lines[offsets[row]:offsets[row+1]]...)
			}
			n++
		}
	}
	return b
}

func readLines(raw []byte, offsets []uint32) ([]byte, error) {
	rows := len(offsets) - 1
	size := int(offsets[rows])
	d := rpc.Unpack(raw)
	switch form := d.Uvarint(); {
	case d.Err() != nil:
		return nil, d.Err()
	case form == 0:
		lines := d.Take(size)
		return lines, d.End()
	case form != 1:
		return nil, fmt.Errorf("lines of form %d", form)
	}
	words := d.Take((rows + 63) / 64 * 8)
	if d.Err() != nil {
		return nil, d.Err()
	}
	lines := make([]byte, size)
	for row := range rows {
		if words[row>>3]&(1<<(row&7)) != 0 {
			copy(lines[offsets[row]:], d.Take(int(offsets[row+1]-offsets[row])))
		}
	}
	return lines, d.End()
}

func appendHashes(b []byte, hashes []uint64, kept []span) []byte {
	for _, s := range kept {
		for _, h := range hashes[s.start:s.end] {
			b = binary.LittleEndian.AppendUint64(b, h)
		}
	}
	return b
}

func readHashes(raw []byte, rows int) ([]uint64, error) {
	if len(raw) != 8*rows {
		return nil, fmt.Errorf("%d bytes for %d rows", len(raw), rows)
	}
	hashes := make([]uint64, rows)
	for i := range hashes {
		hashes[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return hashes, nil
}

// appendMetadata appends a column with the values that kept rows have.
func appendMetadata(b []byte, c model.Column, kept []span) []byte {
	if c.Codes == nil {
		return append(b, 0)
	}
	again := make([]uint32, len(c.Values)) // the new code of each, 0 for none
	var values []uint32
	for _, s := range kept {
		for _, code := range c.Codes[s.start:s.end] {
			if code != 0 && again[code] == 0 {
				values = append(values, code)
				again[code] = uint32(len(values))
			}
		}
	}
	if len(values) == 0 {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(values)+1))
	for _, code := range values {
		b = rpc.AppendText(b, c.Values[code])
	}
	for _, s := range kept {
		for _, code := range c.Codes[s.start:s.end] {
			b = binary.AppendUvarint(b, uint64(again[code]))
		}
	}
	return b
}

func readMetadata(raw []byte, rows int) (model.Column, error) {
	d := rpc.Unpack(raw)
	n := d.Count(1)
	c := model.Column{Values: []string{""}}
	if n == 0 || d.Err() != nil {
		return c, d.End()
	}
	c.Values = make([]string, n)
	for i := 1; i < n; i++ {
		c.Values[i] = d.Text()
	}
	if d.Len() < rows {
		return model.Column{}, fmt.Errorf("%d bytes for %d rows", d.Len(), rows)
	}
	c.Codes = make([]uint32, rows)
	for i := range c.Codes {
		code := d.Uvarint()
		if code >= uint64(n) {
			return model.Column{}, fmt.Errorf("row %d has value %d of %d", i, code, n)
		}
		c.Codes[i] = uint32(code)
	}
	return c, d.End()
}
