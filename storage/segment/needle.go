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
// Long ids and metadata pairs are looked up in another way, see idTable.
const (
	gramWindow = 4 // neighbouring grams of which one becomes a key
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

	// found holds hashes of minimizers that are not yet in words; n of them.
	found [foundHashes]uint64
	n     int

	// pieces and ends are texts, some of those whose windows have been found already: pieces
	// of lines, and the last pieces of lines.
	pieces [1 << pieceBits]piece
	ends   [1 << endBits]piece
	filled bool // whether any of them is set
}

const (
	foundHashes = 1 << 10
	pieceBits   = 12 // more are found with 13 bits, but for longer
	endBits     = 8
)

// piece is a text of pieceSize bytes: eight windows lie in it that begin in its first half. At
// the end of a line it is ten.
type piece struct{ head, tail uint64 }

const (
	pieceSize = 16
	stride    = 8 // windows of a piece
	// A window takes windowSize bytes when its grams are short, and a line has so many fewer windows
	// than bytes.
	windowSize = 7
)

// slot returns the place of a piece in a table with 2^bits places, 0 for zeros.
func (p piece) slot(bits int) uint64 {
	return (p.head*0x9fb21c651e98df25 ^ p.tail) * 0xd6e8feb86659fd93 >> (64 - bits)
}

// fresh reports whether the windows of a piece may not have been found yet, and takes it that
// they now will be.
func (s *needleSet) fresh(head, tail uint64) bool {
	p := piece{head, tail}
	at := &s.pieces[p.slot(pieceBits)]
	if *at == p {
		return false
	}
	*at = p
	return true
}

// addLine adds the keys of a line.
//
// This is where ingestion spends more time than anywhere else. Half of what lines hold has
// stood in an earlier line of the block, so that a piece of it is looked up first; and eight windows
// are computed at a time, hardly ever branching on what the line holds.
func (s *needleSet) addLine(line []byte) {
	n := len(line)
	if n < pieceSize {
		s.addShort(line)
		return
	}
	s.open()
	at := 0
	for at+pieceSize <= n {
		head, tail := binary.LittleEndian.Uint64(line[at:]), binary.LittleEndian.Uint64(line[at+stride:])
		at += stride
		if !s.fresh(head, tail) {
			continue
		}
		// Here begins a run of fresh pieces: the three grams in front come from the piece itself,
		// later from the piece before.
		a, b := lowered(head), lowered(tail)
		hexB := digitBits(b)
		digits := fours(digitBits(a) | hexB<<8)
		h0, h1, h2 := gram(a, digits), gram(a>>8, digits>>1), gram(a>>16|b<<48, digits>>2)
		last := undefined
		for {
			h0, h1, h2, last = s.addPiece(a, b, digits, h0, h1, h2, last)
			if at+pieceSize > n {
				break
			}
			head, tail = tail, binary.LittleEndian.Uint64(line[at+stride:])
			at += stride
			if !s.fresh(head, tail) {
				break
			}
			hexA := hexB
			a, b = b, lowered(tail)
			hexB = digitBits(b)
			digits = fours(hexA | hexB<<8)
		}
	}
	// Two to nine windows are left.
	end := piece{binary.LittleEndian.Uint64(line[n-pieceSize:]), binary.LittleEndian.Uint64(line[n-stride:])}
	if known := &s.ends[end.slot(endBits)]; *known != end {
		*known = end
		s.addEnd(end, pieceSize)
	}
	s.set()
}

// addShort adds the keys of a line that is shorter than a piece.
func (s *needleSet) addShort(line []byte) {
	if len(line) < windowSize {
		return
	}
	var padded [pieceSize]byte
	copy(padded[:], line)
	s.addEnd(piece{binary.LittleEndian.Uint64(padded[:]), binary.LittleEndian.Uint64(padded[stride:])}, len(line))
	s.set()
}

// addEnd adds the windows of the last n bytes of a line, which are the first of p; zeros follow.
func (s *needleSet) addEnd(p piece, n int) {
	a, b := lowered(p.head), lowered(p.tail)
	digits := fours(digitBits(a) | digitBits(b)<<8)
	var h [pieceSize - 3]uint64
	for k := range n - 3 {
		h[k] = gram(a, digits>>k)
		if digits>>k&1 != 0 && k+6 > n { // six digits are not there
			h[k] = undefined
		}
		a, b = a>>8|b<<56, b>>8
	}
	last := undefined
	for k := range n - windowSize + 1 {
		l := min(h[k], h[k+1], h[k+2], h[k+3])
		s.found[s.n&(foundHashes-1)] = l
		s.n += differ(l, last)
		last = l
	}
}

// open sees to it that no place of the tables holds what is its own place: the text of zeros.
func (s *needleSet) open() {
	if !s.filled {
		s.filled = true
		s.pieces[0], s.ends[0] = piece{1, 1}, piece{1, 1}
	}
}

// addPiece adds the eight windows of a piece, a and b lowered. digits has a bit for each position
// where four hexadecimal digits begin, h0 to h2 are the hashes of the first three grams, and last is
// the minimizer of the window before. It returns the same for the piece that begins eight bytes on.
func (s *needleSet) addPiece(a, b uint64, digits uint32, h0, h1, h2, last uint64) (h8, h9, h10, least uint64) {
	ab := a>>32 | b<<32
	var h3, h4, h5, h6, h7 uint64
	if digits&0x7f8 == 0 {
		h3, h4 = gramHash(a>>24&shortGram), gramHash(ab&shortGram)
		h5, h6, h7 = gramHash(ab>>8&shortGram), gramHash(ab>>16&shortGram), gramHash(ab>>24&shortGram)
		h8, h9, h10 = gramHash(b&shortGram), gramHash(b>>8&shortGram), gramHash(b>>16&shortGram)
	} else {
		h3, h4 = gram(a>>24|b<<40, digits>>3), gram(ab, digits>>4)
		h5, h6, h7 = gram(ab>>8, digits>>5), gram(ab>>16, digits>>6), gram(a>>56|b<<8, digits>>7)
		h8, h9, h10 = gram(b, digits>>8), gram(b>>8, digits>>9), gram(b>>16, digits>>10)
	}
	// The least of each four is the lesser of two pairs'. Neighbours mostly have the same.
	n := s.n
	p0, p1, p2, p3, p4 := min(h0, h1), min(h1, h2), min(h2, h3), min(h3, h4), min(h4, h5)
	l := min(p0, p2)
	s.found[n&(foundHashes-1)] = l
	n += differ(l, last)
	last = min(p1, p3)
	s.found[n&(foundHashes-1)] = last
	n += differ(l, last)
	l = min(p2, p4)
	s.found[n&(foundHashes-1)] = l
	n += differ(l, last)
	p5, p6 := min(h5, h6), min(h6, h7)
	last = min(p3, p5)
	s.found[n&(foundHashes-1)] = last
	n += differ(l, last)
	l = min(p4, p6)
	s.found[n&(foundHashes-1)] = l
	n += differ(l, last)
	p7, p8 := min(h7, h8), min(h8, h9)
	last = min(p5, p7)
	s.found[n&(foundHashes-1)] = last
	n += differ(l, last)
	l = min(p6, p8)
	s.found[n&(foundHashes-1)] = l
	n += differ(l, last)
	last = min(p7, min(h9, h10))
	s.found[n&(foundHashes-1)] = last
	n += differ(l, last)
	if s.n = n; n > foundHashes-2*pieceSize {
		s.set()
	}
	return h8, h9, h10, last
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
	if s.filled {
		clear(s.pieces[:])
		clear(s.ends[:])
		s.filled = false
	}
}

const (
	everyByte = 0x0101010101010101
	highBits  = 0x80 * everyByte
	lowSeven  = 0x7f * everyByte
)

// lowered lowers the ASCII letters among eight bytes. Adding 0x80-c to seven bits sets the eighth
// when they are c or more.
func lowered(x uint64) uint64 {
	seven := x & lowSeven
	upper := (seven + (0x80-'A')*everyByte) &^ (seven + (0x80-'Z'-1)*everyByte) &^ x & highBits
	return x | upper>>2
}

// digitBits returns a bit for each of eight bytes, lowered, that is a hexadecimal digit.
func digitBits(x uint64) uint32 {
	seven := x & lowSeven
	digit := (seven+(0x80-'0')*everyByte)&^(seven+(0x80-'9'-1)*everyByte) |
		(seven+(0x80-'a')*everyByte)&^(seven+(0x80-'f'-1)*everyByte)
	// The product gathers the lowest bits of all bytes in its highest byte.
	return uint32((digit &^ x & highBits >> 7) * 0x0102040810204080 >> 56)
}

// fours returns a bit for each place where four bits begin that are set.
func fours(x uint32) uint32 {
	x &= x >> 1
	return x & (x >> 2)
}

var gramMasks = [2]uint64{shortGram, longGram}

// gram hashes the gram at the beginning of text, of which bit 0 of digits says whether it has six
// bytes.
func gram(text uint64, digits uint32) uint64 { return gramHash(text & gramMasks[digits&1]) }

// pairItem is the item of a metadata pair.
func pairItem(name string, value []byte) uint32 {
	var buf [128]byte
	b := append(buf[:0], name...)
	b = append(b, 0)
	for _, c := range value {
		b = append(b, byte(byteClass[c]))
	}
	return itemOf(xxhash.Sum64(b))
}

// lineKeys returns the keys that every line containing text has, at most maxLookupKeys
// different ones, those of digits first: fewer blocks have them than the grams of words. No
// keys means that the index cannot tell.
func lineKeys(text string) []uint32 {
	var digits, words []uint32
	type gram struct {
		hash uint64
		long bool
	}
	var grams []gram
	for i := 0; i+4 <= len(text); i++ {
		h, long := gramAt(text[i:])
		grams = append(grams, gram{h, long})
	}
	for i := 0; i+gramWindow <= len(grams) && len(digits) < maxLookupKeys; i++ {
		least, whole := grams[i], true
		for _, g := range grams[i : i+gramWindow] {
			if g.hash < least.hash {
				least = g
			}
			whole = whole && g.hash != undefined
		}
		switch {
		case !whole:
		case least.long:
			digits = addKey(digits, gramKey(least.hash))
		case len(words) < maxLookupKeys:
			words = addKey(words, gramKey(least.hash))
		}
	}
	for _, key := range words {
		if len(digits) < maxLookupKeys {
			digits = addKey(digits, key)
		}
	}
	return digits
}

// gramAt returns the hash of the gram at the beginning of text, which has four bytes, and
// whether it is a long one.
func gramAt(text string) (hash uint64, long bool) {
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
		return gramHash(gram & shortGram), false
	}
	if len(text) < 6 {
		return undefined, true
	}
	return gramHash(gram), true
}

func addKey(keys []uint32, key uint32) []uint32 {
	for _, k := range keys {
		if k == key {
			return keys
		}
	}
	return append(keys, key)
}

// needleKeys returns keys and items that every row matching the needle has. Without either the
// index cannot tell.
func needleKeys(n model.Needle) (keys, items []uint32) {
	switch {
	case n.Text == "":
		return nil, nil // occurs everywhere; as metadata: an absent key
	case n.Name != "":
		return nil, []uint32{pairItem(n.Name, []byte(n.Text))}
	}
	return lineKeys(n.Text), needleIDs(n.Text)
}
