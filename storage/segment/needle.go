package segment

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/skaldlog/skald/internal/model"
)

// The needle index answers: which blocks may hold a line that contains this text?
//
// LogQL's |= is a substring test, so an index of words would be wrong at a needle's
// edges. Instead, every line, with ASCII letters lowered, is seen as a row of grams, one
// beginning at each byte, and of every four neighbouring grams the one with the
// smallest hash becomes a key of the line's block (a minimizer; Schleimer, Wilkerson,
// Aiken: Winnowing, 2003). Four neighbouring grams that lie wholly inside a needle also
// lie in every line that contains it, where they have the same minimum: so a block that
// lacks one of a needle's keys has no such line. That is the whole proof; whatever else
// goes into the index costs only space.
//
// A gram is four bytes long, but six when its first four bytes are all hexadecimal
// digits. Four hex digits have only 65 536 values, and a block of lines with trace ids
// holds nearly all of them, so that every trace id would seem to be in every block; six
// have 16 million. Whether a gram is four or six bytes long depends on its own bytes
// alone, so the proof stands; and words keep the short grams, so needles of seven
// letters are found too.
//
// Metadata pairs are keyed as wholes: metadataKeys hashes of name, 0, lowered value.
const (
	gramWindow   = 4 // neighbouring grams of which one becomes a key
	metadataKeys = 6 // one bit passes a third of all blocks, six pass one in a thousand
	// keyBits is the width of a key. More would only matter for blocks with millions.
	keyBits = 21
	// maxLookupKeys is how many keys of a needle are looked up. Sixteen already pass less
	// than one block in a million.
	maxLookupKeys = 16
)

// undefined is the hash of a gram whose end is not known.
const undefined = ^uint64(0)

// byteClass has for each byte its ASCII-lowered form, and bit 8 for hexadecimal digits.
var byteClass = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		t[i] = c
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'f' {
			t[i] |= 0x100
		}
	}
	return t
}()

// gramHash hashes six bytes, least significant first, or the four of them that count.
// The order of hashes must look random, else frequent grams become keys everywhere.
func gramHash(gram uint64) uint64 { return gram * 0x9fb21c651e98df25 }

// gramKey turns the hash of a minimizer, which is biased towards small values, into a key.
func gramKey(h uint64) uint32 { return uint32(((h ^ h>>32) * 0xd6e8feb86659fd93) >> (64 - keyBits)) }

const (
	shortGram = 1<<32 - 1
	longGram  = 1<<48 - 1
	hexFour   = 0x3c // which of the last six bytes are the first four
)

// needleSet collects the keys of one block.
type needleSet struct {
	words [1 << keyBits / 64]uint64
	found []uint64 // hashes of the lines' minimizers not yet in words
}

// addLine adds the keys of a line.
//
// Position i can be judged when byte i+5 is known, so the loop runs five bytes ahead; two
// more rounds at the end judge the last positions, where six bytes are no longer there:
// a gram of hex digits is undefined then, and windows with it need no key.
func (s *needleSet) addLine(line []byte) {
	if len(line) < 4+gramWindow-1 {
		return
	}
	// window holds the last eight bytes, the newest on top; hex one bit for each.
	var window, hex uint64
	for _, b := range line[:5] {
		c := uint64(byteClass[b])
		window = window>>8 | c<<56
		hex = hex<<1 | c>>8
	}
	if cap(s.found) < len(line) {
		s.found = make([]uint64, 0, 2*len(line))
	}
	found := s.found[:len(line)]
	n := 0
	before, pair1, pair2 := undefined, undefined, undefined
	last := undefined
	for i, b := range line[5:] {
		if i == gramWindow-1 {
			n, last = 0, undefined // forget what the first windows, not yet whole, gave
		}
		c := uint64(byteClass[b])
		window = window>>8 | c<<56
		hex = hex<<1 | c>>8
		mask := uint64(shortGram)
		if hex&hexFour == hexFour {
			mask = longGram
		}
		h := gramHash(window >> 16 & mask)
		pair := min(before, h)
		least := min(pair, pair2)
		before, pair1, pair2 = h, pair, pair1
		found[n] = least
		if least != last {
			n++
		}
		last = least
	}
	for range 2 {
		window >>= 8
		hex <<= 1
		h := undefined
		if hex&hexFour != hexFour {
			h = gramHash(window >> 16 & shortGram)
		}
		pair := min(before, h)
		least := min(pair, pair2)
		before, pair1, pair2 = h, pair, pair1
		if least != last && least != undefined {
			found[n] = least
			n++
		}
		last = least
	}
	for _, h := range found[:n] {
		key := gramKey(h)
		s.words[key>>6] |= 1 << (key & 63)
	}
}

// addMetadata adds the keys of a metadata pair.
func (s *needleSet) addMetadata(name string, value []byte) {
	for _, key := range pairKeys(name, value) {
		s.words[key>>6] |= 1 << (key & 63)
	}
}

func pairKeys(name string, value []byte) [metadataKeys]uint32 {
	var buf [128]byte
	b := append(buf[:0], name...)
	b = append(b, 0)
	for _, c := range value {
		b = append(b, byte(byteClass[c]))
	}
	h := xxhash.Sum64(b)
	step := h>>32 | 1
	var keys [metadataKeys]uint32
	for i := range keys {
		keys[i] = gramKey(h)
		h += step
	}
	return keys
}

// size returns the number of keys.
func (s *needleSet) size() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// each calls f with every key.
func (s *needleSet) each(f func(key uint32)) {
	for i, w := range s.words {
		for ; w != 0; w &= w - 1 {
			f(uint32(i<<6 + bits.TrailingZeros64(w)))
		}
	}
}

// lineKeys returns the keys that every line containing text has, at most maxLookupKeys
// different ones. No keys means that the index cannot tell.
func lineKeys(text string) []uint32 {
	var keys []uint32
	var hashes []uint64
	for i := 0; i+4 <= len(text); i++ {
		h := gramAt(text[i:])
		hashes = append(hashes, h)
	}
	for i := 0; i+gramWindow <= len(hashes) && len(keys) < maxLookupKeys; i++ {
		least, whole := undefined, true
		for _, h := range hashes[i : i+gramWindow] {
			least = min(least, h)
			whole = whole && h != undefined
		}
		if whole {
			keys = addKey(keys, gramKey(least))
		}
	}
	return keys
}

// gramAt returns the hash of the gram at the beginning of text, which has four bytes.
func gramAt(text string) uint64 {
	var gram uint64
	hex := true
	for i := range min(6, len(text)) {
		c := byteClass[text[i]]
		gram |= uint64(c&0xff) << (8 * i)
		if i < 4 {
			hex = hex && c >= 0x100
		}
	}
	if !hex {
		return gramHash(gram & shortGram)
	}
	if len(text) < 6 {
		return undefined
	}
	return gramHash(gram)
}

func addKey(keys []uint32, key uint32) []uint32 {
	for _, k := range keys {
		if k == key {
			return keys
		}
	}
	return append(keys, key)
}

// needleKeys returns the keys that every row matching the needle has; none when the
// index cannot tell.
func needleKeys(n model.Needle) []uint32 {
	switch {
	case n.Text == "":
		return nil // occurs everywhere; as metadata: an absent key
	case n.Name == "":
		return lineKeys(n.Text)
	}
	keys := pairKeys(n.Name, []byte(n.Text))
	return keys[:]
}
