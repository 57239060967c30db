package segment

import (
	"iter"
	"math/bits"
)

// needleSet collects the keys of one block.
//
// This is where ingestion spends more time than anywhere else: every byte of every line begins a
// gram. There are two ways to the minima of a line's windows, which find the same. Processors with
// AVX-512 compute eight windows with a few instructions (lineMinima); others look up first what they have
// computed already (pieceTable).
type needleSet struct {
	// words has a bit for each key, so that most of what is found, which is there already, costs least.
	words [1 << keyBits / 64]uint64
	// found holds hashes of minimizers that are not yet in words; n of them. keys is for those that are
	// about to be.
	found [foundHashes]uint64
	n     int
	keys  [foundHashes]uint32

	pieces *pieceTable // nil while vectors do
}

const (
	foundHashes = 1 << 11
	// vectorGrams is how many grams lineMinima takes at most, vectorSize how many at a time; it writes
	// so many hashes even if there are fewer.
	vectorGrams = 1 << 10
	vectorSize  = 8
)

// addLine adds the keys of a line.
func (s *needleSet) addLine(line []byte) {
	switch {
	case len(line) < windowSize:
	case haveVectors:
		s.addVectors(line)
	default:
		s.addPieces(line)
	}
}

// addVectors adds the keys of a line that has a window.
func (s *needleSet) addVectors(line []byte) {
	for {
		if s.n > foundHashes-vectorGrams-vectorSize {
			s.set()
		}
		grams := len(line) - (windowSize - gramWindow)
		some := min(grams, vectorGrams)
		s.n += lineMinima(&s.found[s.n], &line[0], len(line), some)
		if some == grams {
			return
		}
		line = line[some-(gramWindow-1):] // with these grams begins the next window
	}
}

// set sets the bits of what was found.
func (s *needleSet) set() {
	if haveVectors {
		mixKeys(&s.keys[0], &s.found[0], s.n)
	} else {
		for i, h := range s.found[:s.n] {
			s.keys[i] = gramKey(h)
		}
	}
	for _, key := range s.keys[:s.n] {
		s.words[key>>6%uint32(len(s.words))] |= 1 << (key & 63)
	}
	s.n = 0
}

// all goes through the keys in ascending order.
func (s *needleSet) all() iter.Seq[uint32] {
	s.set()
	return func(yield func(uint32) bool) {
		for i, w := range s.words {
			for ; w != 0; w &= w - 1 {
				if !yield(uint32(i<<6 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// count returns how many keys there are.
func (s *needleSet) count() (n int) {
	s.set()
	for i := 0; i < len(s.words); i += 4 {
		w := (*[4]uint64)(s.words[i:])
		n += bits.OnesCount64(w[0]) + bits.OnesCount64(w[1]) + bits.OnesCount64(w[2]) + bits.OnesCount64(w[3])
	}
	return n
}

// reset empties the set.
func (s *needleSet) reset() {
	clear(s.words[:])
	s.n = 0
	if s.pieces != nil {
		s.pieces.reset()
	}
}
