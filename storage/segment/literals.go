package segment

import (
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/huff0"
)

// Small columns are mostly noise of low entropy: classes of differences, lengths, numbers of values. The
// matches that an encoder of zstd finds there are there by chance, and cost more than the bytes they stand
// for. As literals alone, coded by Huffman, lengths take three fifths, and classes nine tenths, in half of
// the time. It is zstd all the same: a frame of one block that has no sequences (RFC 8878).
const (
	minLiterals = 64
	maxLiterals = 1 << 17 // what a block may hold
)

// repeatBits is the size of the table in which repeats looks.
const repeatBits = 10

// repeats reports whether a quarter of raw stands in it twice, which is no coincidence: then matches are worth
// their cost.
func repeats(raw []byte) bool {
	var seen [1 << repeatBits]uint64
	n := 0
	for i := 0; i+8 <= len(raw); i++ {
		text := binary.LittleEndian.Uint64(raw[i:])
		at := &seen[text*0x9fb21c651e98df25>>(64-repeatBits)]
		if *at == text {
			n++
		}
		*at = text
	}
	return n > len(raw)/4
}

var literalCoders = sync.Pool{New: func() any { return &huff0.Scratch{Reuse: huff0.ReusePolicyNone} }}

// appendLiterals appends raw as a frame of zstd that has literals only. It reports false, and appends
// nothing, when another encoder is to be used.
func appendLiterals(dst, raw []byte) ([]byte, bool) {
	if len(raw) < minLiterals || len(raw) > maxLiterals || repeats(raw) {
		return dst, false
	}
	s := literalCoders.Get().(*huff0.Scratch)
	defer literalCoders.Put(s)
	encode, format, sizeBits := huff0.Compress4X, 1, 10
	switch {
	case len(raw) >= 1<<14:
		format, sizeBits = 3, 18
	case len(raw) >= 1<<10:
		format, sizeBits = 2, 14
	default:
		encode, format = huff0.Compress1X, 0
	}
	out, _, err := encode(raw, s)
	header := (4 + 2*sizeBits) / 8
	if err != nil || header+len(out) >= len(raw) { // it is all the same byte, or does not shrink
		return dst, false
	}
	const singleSegment = 0x20 // without a window: its content is as long as the frame's
	dst = append(dst, 0x28, 0xb5, 0x2f, 0xfd)
	switch {
	case len(raw) < 1<<8:
		dst = append(dst, singleSegment, byte(len(raw)))
	case len(raw) < 1<<16+1<<8:
		dst = binary.LittleEndian.AppendUint16(append(dst, singleSegment|1<<6), uint16(len(raw)-1<<8))
	default:
		dst = binary.LittleEndian.AppendUint32(append(dst, singleSegment|2<<6), uint32(len(raw)))
	}
	const lastBlock, compressed = 1, 2 << 1
	block := uint32(header + len(out) + 1)
	dst = append(dst, byte(lastBlock|compressed|block<<3), byte(block>>5), byte(block>>13))
	const huffman = 2
	sizes := uint64(huffman|format<<2) | uint64(len(raw))<<4 | uint64(len(out))<<(4+sizeBits)
	for range header {
		dst = append(dst, byte(sizes))
		sizes >>= 8
	}
	return append(append(dst, out...), 0), true // no sequences
}
