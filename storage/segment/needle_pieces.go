package segment

import "encoding/binary"

// piece is a text of pieceSize bytes: eight windows lie in it that begin in its first half. At
// the end of a line it is ten.
type piece struct{ head, tail uint64 }

const (
	pieceSize = 16
	stride    = 8 // windows of a piece

	pieceBits = 12 // more are found with 13 bits, but for longer
	endBits   = 8
)

// pieceTable holds texts, some of those whose windows have been found already: pieces of lines, and
// the last pieces of lines.
type pieceTable struct {
	pieces [1 << pieceBits]piece
	ends   [1 << endBits]piece
	filled bool // whether any of them is set
}

// slot returns the place of a piece in a table with 2^bits places, 0 for zeros.
func (p piece) slot(bits int) uint64 {
	return (p.head*0x9fb21c651e98df25 ^ p.tail) * 0xd6e8feb86659fd93 >> (64 - bits)
}

// fresh reports whether the windows of a piece may not have been found yet, and takes it that
// they now will be.
func (t *pieceTable) fresh(head, tail uint64) bool {
	p := piece{head, tail}
	at := &t.pieces[p.slot(pieceBits)]
	if *at == p {
		return false
	}
	*at = p
	return true
}

// freshEnd is the same for the last piece of a line.
func (t *pieceTable) freshEnd(p piece) bool {
	at := &t.ends[p.slot(endBits)]
	if *at == p {
		return false
	}
	*at = p
	return true
}

// open sees to it that no place of the tables holds what is its own place: the text of zeros.
func (t *pieceTable) open() {
	if !t.filled {
		t.filled = true
		t.pieces[0], t.ends[0] = piece{1, 1}, piece{1, 1}
	}
}

func (t *pieceTable) reset() {
	if t.filled {
		clear(t.pieces[:])
		clear(t.ends[:])
		t.filled = false
	}
}

// addPieces adds the keys of a line that has a window.
//
// Half of what lines hold has stood in an earlier line of the block, so that a piece of it is looked
// up first; and eight windows are computed at a time, hardly ever branching on what the line holds.
func (s *needleSet) addPieces(line []byte) {
	n := len(line)
	if n < pieceSize {
		s.addShort(line)
		return
	}
	if s.pieces == nil {
		s.pieces = new(pieceTable)
	}
	table := s.pieces
	table.open()
	at := 0
	for at+pieceSize <= n {
		head, tail := binary.LittleEndian.Uint64(line[at:]), binary.LittleEndian.Uint64(line[at+stride:])
		at += stride
		if !table.fresh(head, tail) {
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
			if !table.fresh(head, tail) {
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
	if table.freshEnd(end) {
		s.addEnd(end, pieceSize)
	}
}

// addShort adds the keys of a line that is shorter than a piece.
func (s *needleSet) addShort(line []byte) {
	var padded [pieceSize]byte
	copy(padded[:], line)
	s.addEnd(piece{binary.LittleEndian.Uint64(padded[:]), binary.LittleEndian.Uint64(padded[stride:])}, len(line))
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
	if s.n > foundHashes-pieceSize {
		s.set()
	}
	last := undefined
	for k := range n - windowSize + 1 {
		l := min(h[k], h[k+1], h[k+2], h[k+3])
		s.found[s.n&(foundHashes-1)] = l
		s.n += differ(l, last)
		last = l
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
	if s.n = n; n > foundHashes-pieceSize {
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
