package pipeline

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// finder searches for a text, in either case when fold is set. It looks for the rarest
// byte of the text with the vectorised search for single bytes, and compares around
// each hit; where that byte is not rare, for two bytes at once. In log text both beat a
// search for the first byte by far.
type finder struct {
	needle []byte // lower case when fold is set
	fold   bool
	at     int // position of the rare byte
	lower  byte
	upper  byte // the same byte in the other case, or lower again
	pair   [2]pairByte
	// slow says that the text has letters that fold to others outside of ASCII, or is
	// not ASCII, so that lengths may differ.
	slow bool
	// verbatim says that the texts searched are packed lines, in which a hit may be part of
	// a token.
	verbatim bool
}

func newFinder(needle []byte, fold bool) finder {
	f := finder{needle: needle, fold: fold}
	best := 1000
	for i, c := range needle {
		if fold && foldsSlowly(c) {
			f.slow = true
			return f
		}
		if r := frequency(c); r < best {
			best, f.at, f.lower = r, i, c
		}
	}
	f.pair = rarePair(needle, fold, f.at)
	f.upper = f.lower
	if fold && 'a' <= f.lower && f.lower <= 'z' {
		f.upper -= 'a' - 'A'
	}
	return f
}

// pairByte is one of the two bytes that nextPair looks for.
type pairByte struct {
	at          int
	value, mask byte // the byte must have value when mask is set in it
}

// rarePair returns the byte at a position and the rarest besides, in the order in which they
// stand. In a text of one byte they are the same.
func rarePair(needle []byte, fold bool, at int) [2]pairByte {
	if len(needle) == 0 {
		return [2]pairByte{}
	}
	other, best := at, 1000
	for i, c := range needle {
		if r := frequency(c); i != at && r < best {
			other, best = i, r
		}
	}
	var out [2]pairByte
	for i, p := range []int{min(at, other), max(at, other)} {
		out[i] = pairByte{at: p, value: needle[p]}
		if fold && needle[p] >= 'a' && needle[p] <= 'z' {
			out[i].mask = 'a' - 'A'
		}
	}
	return out
}

// foldsSlowly reports whether a byte of a lowered text is, or belongs to, a letter that has
// other forms than the two cases of ASCII. The lower case of the Kelvin sign is k.
func foldsSlowly(c byte) bool { return c >= utf8.RuneSelf || c == 'k' }

// common are the bytes of log lines, rarest first, as far as it matters.
const common = "ZQXJKVWYGHFBUPMDCLRNSOIATEzqjxkwvy@#%&*+<>;?!~^|`$()[]{}ghbfpumdcl98765432'\\/rnsoiate10_-.,:=\" "

var frequencies = func() (t [256]int) {
	for i := range len(common) {
		t[common[i]] = i + 1
	}
	return t
}()

// frequency ranks a byte by how often it occurs in logs.
func frequency(c byte) int { return frequencies[c] }

// cursor is the state of a finder between hits in the same buffer: the next positions of
// the rare byte in both cases that are known, and whether it turned out not to be rare.
type cursor struct {
	lower, upper int
	dense        bool
}

// index returns the first position of the text in s, or -1.
func (f *finder) index(s []byte) int {
	c := cursor{lower: -1, upper: -1}
	return f.next(s, 0, &c)
}

// maxMisses is how many hits of the rare byte may be in vain before the search changes to
// one that does not depend on it; one more for each 32 bytes looked at.
const maxMisses = 16

// next returns the first position at or behind from, or -1. The cursor is {lower: -1, upper:
// -1} when a buffer is searched first.
func (f *finder) next(s []byte, from int, c *cursor) int {
	if f.slow {
		if i := indexFold(s[from:], f.needle); i >= 0 {
			return from + i
		}
		return -1
	}
	if c.dense {
		return f.nextPair(s, from)
	}
	pos, misses := from+f.at, 0
	for pos <= len(s)-(len(f.needle)-f.at) {
		if c.lower < pos {
			c.lower = nextByte(s, pos, f.lower)
		}
		hit := c.lower
		if f.upper != f.lower {
			if c.upper < pos {
				c.upper = nextByte(s, pos, f.upper)
			}
			hit = min(hit, c.upper)
		}
		if hit > len(s)-(len(f.needle)-f.at) {
			return -1
		}
		start := hit - f.at
		if f.matches(s[start:]) {
			return start
		}
		if misses++; misses > maxMisses+(pos-from)>>5 && len(f.needle) > 1 {
			c.dense = true
			return f.nextPair(s, start+1)
		}
		pos = hit + 1
	}
	return -1
}

// matches reports whether s, which is long enough, begins with the text.
func (f *finder) matches(s []byte) bool {
	if f.fold {
		return equalFoldASCII(s, f.needle)
	}
	return string(s[:len(f.needle)]) == string(f.needle)
}

const (
	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

// nextPair is next without a cursor: it looks for two bytes of the text at their distance,
// at sixteen positions at a time. That takes some nanoseconds whatever the bytes are.
func (f *finder) nextPair(s []byte, pos int) int {
	// With fold, letters are compared with the bit set that distinguishes the cases. Other
	// bytes may then seem equal; matches tells.
	a, b := lowBits*uint64(f.pair[0].value), lowBits*uint64(f.pair[1].value)
	maskA, maskB := lowBits*uint64(f.pair[0].mask), lowBits*uint64(f.pair[1].mask)
	first, second := f.pair[0].at, f.pair[1].at
	end := len(s) - len(f.needle) // the last position at which the text can begin
	for ; pos+16+second <= len(s); pos += 16 {
		p, q := s[pos+first:][:16], s[pos+second:][:16]
		z0 := (binary.LittleEndian.Uint64(p) | maskA) ^ a | (binary.LittleEndian.Uint64(q) | maskB) ^ b
		z1 := (binary.LittleEndian.Uint64(p[8:]) | maskA) ^ a | (binary.LittleEndian.Uint64(q[8:]) | maskB) ^ b
		// Bytes that are zero, and possibly some above such a byte.
		m0, m1 := (z0-lowBits)&^z0&highBits, (z1-lowBits)&^z1&highBits
		if m0|m1 == 0 {
			continue
		}
		for ; m0 != 0; m0 &= m0 - 1 {
			if at := pos + bits.TrailingZeros64(m0)>>3; at <= end && f.matches(s[at:]) {
				return at
			}
		}
		for ; m1 != 0; m1 &= m1 - 1 {
			if at := pos + 8 + bits.TrailingZeros64(m1)>>3; at <= end && f.matches(s[at:]) {
				return at
			}
		}
	}
	for ; pos <= end; pos++ {
		if f.matches(s[pos:]) {
			return pos
		}
	}
	return -1
}

func nextByte(s []byte, pos int, c byte) int {
	if i := bytes.IndexByte(s[pos:], c); i >= 0 {
		return pos + i
	}
	return len(s)
}

// equalFoldASCII reports whether s starts with an ASCII text in either case.
func equalFoldASCII(s, needle []byte) bool {
	if len(s) < len(needle) {
		return false
	}
	for i, n := range needle {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != n {
			return false
		}
	}
	return true
}
