package segment

import (
	"math/bits"

	"github.com/skaldlog/skald/internal/packed"
)

// lineClasses says of all lines of a block, end to end, where long stretches of digits are, which are rare:
// ids to take out, and ids to index.
type lineClasses struct {
	hex   []span // of minHex bytes and more of 0-9a-f
	long  []span // of idDigits bytes and more of 0-9a-fA-F-
	plain bool   // no byte begins a token

	digits, ids []uint64 // with vectors: a bit for each byte that is of the one class or the other
}

// span is a stretch of the lines of a block; it may reach from one line into the next.
type span struct{ from, to int }

func (c *lineClasses) find(lines []byte) {
	if !haveVectors || len(lines) == 0 {
		c.hex = probeSpans(c.hex[:0], lines, &inHex, minHex)
		c.long = probeSpans(c.long[:0], lines, &inLong, idDigits)
		c.plain = tokenIn(lines) == len(lines)
		return
	}
	words := (len(lines) + 63) / 64
	if cap(c.digits) < words {
		c.digits, c.ids = make([]uint64, words), make([]uint64, words)
	}
	c.digits, c.ids = c.digits[:words], c.ids[:words]
	c.plain = classify(&c.digits[0], &c.ids[0], &lines[0], len(lines)) == 0
	c.hex = appendSpans(c.hex[:0], c.digits, minHex)
	c.long = appendSpans(c.long[:0], c.ids, idDigits)
}

// inHex and inLong have a one for each byte of the class.
var inHex, inLong = func() (hex, long [256]uint8) {
	for b := range hex {
		if packed.IsHex(byte(b)) {
			hex[b] = 1
		}
		if idClass[b] != noDigit {
			long[b] = 1
		}
	}
	return hex, long
}()

// probeSpans appends the stretches of n bytes and more of a class, in order. Each covers two neighbouring
// places of those that are n/2 apart, and what lies between them.
func probeSpans(dst []span, lines []byte, class *[256]uint8, n int) []span {
	end, step := 0, n/2
	for i := step - 1; i+step < len(lines); i += step {
		if class[lines[i]]&class[lines[i+step/2]]&class[lines[i+step]] == 0 {
			continue
		}
		from, to := i, i+1
		for to < len(lines) && class[lines[to]] != 0 {
			to++
		}
		if to <= i+step {
			continue
		}
		for from > end && class[lines[from-1]] != 0 {
			from--
		}
		if end = to; to-from >= n {
			dst = append(dst, span{from, to})
		}
		i = to - 1
	}
	return dst
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
