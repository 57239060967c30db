package segment

import (
	"encoding/binary"
	"slices"

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
)

// needleSet collects the keys of one block.
type needleSet struct {
	words [1 << keyBits / 64]uint64
	// keys are those in words, in no order: going through all words for each block would cost
	// more than the keys do.
	keys []uint32

	// Of the line being added: its bytes lowered, and one bit for each, whether it is a
	// hexadecimal digit. Both end in padding.
	low, hex []byte
	// found holds hashes of minimizers that are not yet in words; n of them.
	found [foundHashes]uint64
	n     int
}

const (
	foundHashes = 1 << 10
	// step is how many positions the unrolled loop of addLine takes at once.
	step = 8
)

// addLine adds the keys of a line.
//
// This is where ingestion spends more time than anywhere else, so it goes in passes that
// the processor can run ahead in: bytes are lowered and classified eight at a time, then
// hashes and the least of each window are computed for eight positions at a time, hardly
// ever branching on what the line holds, and at last the keys' bits are set.
func (s *needleSet) addLine(line []byte) {
	positions := len(line) - 3 // where a gram may begin
	if positions < gramWindow {
		return
	}
	s.prepare(line)
	// Of the positions before: the last hash, the lesser of it and the one before, the same
	// for the position before, and the last minimizer.
	before, pair1, pair2, last := undefined, undefined, undefined, undefined
	for i := 0; i < positions; i += step {
		p := s.low[i : i+step+8 : i+step+8]
		a, b := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[4:])
		h := [step]uint64{
			gramHash(a & shortGram), gramHash(a >> 8 & shortGram), gramHash(a >> 16 & shortGram), gramHash(a >> 24 & shortGram),
			gramHash(b & shortGram), gramHash(b >> 8 & shortGram), gramHash(b >> 16 & shortGram), gramHash(b >> 24 & shortGram),
		}
		// Bit k says whether four digits begin at i+k.
		digits := uint32(s.hex[i>>3]) | uint32(s.hex[i>>3+1])<<8
		digits &= digits >> 1
		digits &= digits >> 2
		if digits &= 0xff; digits != 0 {
			for k := range h {
				mask := shortGram | -uint64(digits>>k&1)&(longGram-shortGram)
				h[k] = gramHash(binary.LittleEndian.Uint64(p[k:]) & mask)
			}
			for k := max(0, len(line)-5-i); k < step; k++ { // six digits are not there
				if digits>>k&1 != 0 {
					h[k] = undefined
				}
			}
		}
		p0, p1, p2, p3 := min(before, h[0]), min(h[0], h[1]), min(h[1], h[2]), min(h[2], h[3])
		p4, p5, p6, p7 := min(h[3], h[4]), min(h[4], h[5]), min(h[5], h[6]), min(h[6], h[7])
		l0, l1, l2, l3 := min(p0, pair2), min(p1, pair1), min(p2, p0), min(p3, p1)
		l4, l5, l6, l7 := min(p4, p2), min(p5, p3), min(p6, p4), min(p7, p5)
		before, pair1, pair2 = h[7], p7, p6
		n := s.n
		if i == 0 || positions-i < step {
			// The first three windows are not whole, nor are those that end behind the line.
			for k, l := range [step]uint64{l0, l1, l2, l3, l4, l5, l6, l7} {
				if i+k >= gramWindow-1 && i+k < positions {
					s.found[n&(foundHashes-1)] = l
					n += differ(l, last)
					last = l
				}
			}
		} else {
			s.found[n&(foundHashes-1)] = l0
			n += differ(l0, last)
			s.found[n&(foundHashes-1)] = l1
			n += differ(l1, l0)
			s.found[n&(foundHashes-1)] = l2
			n += differ(l2, l1)
			s.found[n&(foundHashes-1)] = l3
			n += differ(l3, l2)
			s.found[n&(foundHashes-1)] = l4
			n += differ(l4, l3)
			s.found[n&(foundHashes-1)] = l5
			n += differ(l5, l4)
			s.found[n&(foundHashes-1)] = l6
			n += differ(l6, l5)
			s.found[n&(foundHashes-1)] = l7
			n += differ(l7, l6)
			last = l7
		}
		if s.n = n; n > foundHashes-2*step {
			s.set()
		}
	}
	s.set()
}

// differ is 1 when a and b do, without a branch.
func differ(a, b uint64) (n int) {
	if a != b {
		n = 1
	}
	return n
}

// set sets the bits of what was found.
func (s *needleSet) set() {
	n := len(s.keys)
	s.keys = slices.Grow(s.keys, s.n)
	keys := s.keys[:n+s.n]
	for _, h := range s.found[:s.n] {
		// Without a branch: the key is written behind the others, and stays if it is new.
		key := gramKey(h)
		word := s.words[key>>6]
		keys[n] = key
		n += int(^word >> (key & 63) & 1)
		s.words[key>>6] = word | 1<<(key&63)
	}
	s.keys, s.n = keys[:n], 0
}

// add adds a key.
func (s *needleSet) add(key uint32) {
	if bit := uint64(1) << (key & 63); s.words[key>>6]&bit == 0 {
		s.words[key>>6] |= bit
		s.keys = append(s.keys, key)
	}
}

// reset empties the set.
func (s *needleSet) reset() {
	for _, key := range s.keys {
		s.words[key>>6] = 0
	}
	s.keys = s.keys[:0]
}

const (
	everyByte = 0x0101010101010101
	highBits  = 0x80 * everyByte
	lowSeven  = 0x7f * everyByte
)

// atLeast has the high bit of each byte set that is c or more; x has no high bits, and c
// is at most 0x80.
func atLeast(x, c uint64) uint64 { return x + (0x80-c)*everyByte }

// lowerEight lowers the ASCII letters of eight bytes, and returns a bit for each byte that is a
// hexadecimal digit.
func lowerEight(x uint64) (lowered uint64, hex byte) {
	ascii := ^x & highBits
	seven := x & lowSeven
	upper := (atLeast(seven, 'A') &^ atLeast(seven, 'Z'+1)) & ascii
	seven |= upper >> 2
	digit := atLeast(seven, '0')&^atLeast(seven, '9'+1) | atLeast(seven, 'a')&^atLeast(seven, 'f'+1)
	digit &= ascii
	// The product gathers the lowest bits of all bytes in its highest byte.
	return x | upper>>2, byte((digit >> 7) * 0x0102040810204080 >> 56)
}

// prepare fills low and hex for a line of at least seven bytes.
func (s *needleSet) prepare(line []byte) {
	n := len(line)
	if size := n + 4*step; cap(s.low) < size {
		s.low, s.hex = make([]byte, 2*size), make([]byte, 2*size/8)
	}
	low, hex := s.low, s.hex
	i := 0
	for ; i+8 <= n; i += 8 {
		x, h := lowerEight(binary.LittleEndian.Uint64(line[i:]))
		binary.LittleEndian.PutUint64(low[i:], x)
		hex[i>>3] = h
	}
	// What is behind the line is no digit.
	var tail uint64
	for k := n - 1; k >= i; k-- {
		tail = tail<<8 | uint64(line[k])
	}
	x, h := lowerEight(tail)
	binary.LittleEndian.PutUint64(low[i:], x)
	hex[i>>3], hex[i>>3+1] = h, 0
}

// addMetadata adds the keys of a metadata pair.
func (s *needleSet) addMetadata(name string, value []byte) {
	for _, key := range pairKeys(name, value) {
		s.add(key)
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
