package segment

import (
	"encoding/binary"
	"math/bits"
)

// lineClasses says of all lines of a block, end to end, where digits are: what is looked for in them, ids to
// take out and ids to index, are long stretches of digits, and rare.
type lineClasses struct {
	digits []uint64 // a bit for each byte that is one of 0-9a-f
	ids    []uint64 // … of 0-9a-fA-F-
	plain  bool     // no byte begins a token

	hex, long []span // stretches of minHex digits and more, and of idDigits ids and more
}

// span is a stretch of the lines of a block; it may reach from one line into the next.
type span struct{ from, to int }

func (c *lineClasses) find(lines []byte) {
	words := (len(lines) + 63) / 64
	if cap(c.digits) < words {
		c.digits, c.ids = make([]uint64, words), make([]uint64, words)
	}
	c.digits, c.ids = c.digits[:words], c.ids[:words]
	switch {
	case words == 0:
		c.plain = true
	case haveVectors:
		c.plain = classify(&c.digits[0], &c.ids[0], &lines[0], len(lines)) == 0
	default:
		c.plain = c.classify(lines)
	}
	c.hex = appendSpans(c.hex[:0], c.digits, minHex)
	c.long = appendSpans(c.long[:0], c.ids, idDigits)
}

// classify does what the function of this name does with vectors.
func (c *lineClasses) classify(lines []byte) (plain bool) {
	tokens := uint64(0)
	for i := range c.digits {
		var digits, ids uint64
		for k := range 8 {
			var eight [8]byte
			x := uint64(0)
			if at := 64*i + 8*k; at+8 <= len(lines) {
				x = binary.LittleEndian.Uint64(lines[at:])
			} else if at < len(lines) {
				copy(eight[:], lines[at:])
				x = binary.LittleEndian.Uint64(eight[:])
			}
			digits |= uint64(digitBits(x)) << (8 * k)
			ids |= uint64(digitBits(lowered(x))|byteBits(x, '-')) << (8 * k)
			tokens |= fieldBytes(x)
		}
		c.digits[i], c.ids[i] = digits, ids
	}
	return tokens == 0
}

// byteBits returns a bit for each of eight bytes that is c.
func byteBits(x uint64, c byte) uint32 {
	x ^= uint64(c) * everyByte
	return uint32((^(x&lowSeven + lowSeven | x) & highBits >> 7) * 0x0102040810204080 >> 56)
}

// appendSpans appends the stretches of n set bits and more, in order. n is minHex or idDigits.
func appendSpans(dst []span, set []uint64, n int) []span {
	end := 0 // of the last stretch that was looked at
	for i, w := range set {
		// A stretch has at least half of its bits in one of two words.
		halves := w & (w >> 1)
		halves &= halves >> 2
		if n == minHex {
			halves &= halves >> 2
		} else {
			halves &= halves >> 4
			halves &= halves >> 8
		}
		for halves != 0 {
			if at := i<<6 + bits.TrailingZeros64(halves); at >= end {
				from := startOfOnes(set, at)
				if end = endOfOnes(set, at); end-from >= n {
					dst = append(dst, span{from, end})
				}
			}
			if end >= (i+1)<<6 {
				break
			}
			halves &= ^uint64(0) << (end & 63)
		}
	}
	return dst
}

// startOfOnes returns where the set bits begin of which one is at a position.
func startOfOnes(set []uint64, at int) int {
	i := at >> 6
	if zeros := ^set[i] << (63 - at&63); zeros != 0 {
		return at + 1 - bits.LeadingZeros64(zeros)
	}
	for i--; i >= 0; i-- {
		if set[i] != ^uint64(0) {
			return (i+1)<<6 - bits.LeadingZeros64(^set[i])
		}
	}
	return 0
}

// endOfOnes returns where they end.
func endOfOnes(set []uint64, at int) int {
	i := at >> 6
	if zeros := ^set[i] >> (at & 63); zeros != 0 {
		return at + bits.TrailingZeros64(zeros)
	}
	for i++; i < len(set); i++ {
		if set[i] != ^uint64(0) {
			return i<<6 + bits.TrailingZeros64(^set[i])
		}
	}
	return len(set) << 6
}
