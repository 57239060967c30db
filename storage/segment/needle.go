package segment

import (
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
	// windowSize is how many bytes a window takes when its grams are short.
	windowSize = 4 + gramWindow - 1
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
