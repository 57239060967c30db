package pipeline

import (
	"bytes"
	"unicode/utf8"
)

// finder searches for a text, in either case when fold is set. It looks for the rarest
// byte of the text with the vectorised search for single bytes, and compares around
// each hit. In log text this beats a search for the first byte by far.
type finder struct {
	needle []byte // lower case when fold is set
	fold   bool
	at     int // position of the rare byte
	lower  byte
	upper  byte // the same byte in the other case, or lower again
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
	f.upper = f.lower
	if fold && 'a' <= f.lower && f.lower <= 'z' {
		f.upper -= 'a' - 'A'
	}
	return f
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
// the rare byte in both cases that are known.
type cursor struct{ lower, upper int }

// index returns the first position of the text in s, or -1.
func (f *finder) index(s []byte) int {
	c := cursor{-1, -1}
	return f.next(s, 0, &c)
}

// maxMisses is how many hits of the rare byte may be in vain before the search changes to
// one that does not depend on rare bytes; one more for each 32 bytes looked at.
const maxMisses = 16

// next returns the first position at or behind from, or -1. The cursor is {-1, -1} when a
// buffer is searched first.
func (f *finder) next(s []byte, from int, c *cursor) int {
	if f.slow {
		if i := indexFold(s[from:], f.needle); i >= 0 {
			return from + i
		}
		return -1
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
		switch {
		case !f.fold:
			if string(s[start:start+len(f.needle)]) == string(f.needle) {
				return start
			}
			if misses++; misses > maxMisses+(pos-from)>>5 {
				if i := bytes.Index(s[start+1:], f.needle); i >= 0 {
					return start + 1 + i
				}
				return -1
			}
		case equalFoldASCII(s[start:], f.needle):
			return start
		}
		pos = hit + 1
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
