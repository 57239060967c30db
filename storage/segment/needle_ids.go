package segment

import "slices"

// A group's id table says which blocks hold a long id or a metadata pair: one small read
// answers for all blocks of a group, where the matrix needs one for each key.
//
// An item is a hash. Those of a line come from its runs of hexadecimal digits and dashes, the dashes left
// out, so that UUIDs are ids too. Each digit begins a gram of idGram digits, and of every
// idWindow neighbouring grams of a run the one with the smallest hash makes an item. So
// every idDigits digits have one, and a needle with so many shares it with each line that contains
// the needle; an id of that length costs one entry. Shorter ids have none: for them, and for
// words, there is the matrix. A metadata pair is one item.
//
// needle_table.go has the table.
const (
	idGram   = 16
	idDigits = 32
	idWindow = idDigits - idGram + 1
	// maxLookupItems is how many items of a needle are looked up.
	maxLookupItems = 4
)

// noDigit and dash are what idClass has for bytes that are no hexadecimal digits.
const (
	dash    = 0x10
	noDigit = 0xff
)

// idClass has the value of each hexadecimal digit.
var idClass = func() (t [256]byte) {
	for i := range t {
		switch c := byteClass[i]; {
		case c >= 0x100|'a':
			t[i] = byte(c) - 'a' + 10
		case c >= 0x100:
			t[i] = byte(c) - '0'
		case c == '-':
			t[i] = dash
		default:
			t[i] = noDigit
		}
	}
	return t
}()

// idHash is the hash of sixteen digits. Those that begin with four zeros come last, for many
// tracers pad their ids with zeros, and grams of little else would be the same in many ids.
func idHash(digits uint64) uint64 {
	h := gramHash(digits)
	if digits>>48 == 0 {
		return h | 1<<63
	}
	return h >> 1
}

// itemOf makes an item of a hash.
func itemOf(h uint64) uint32 { return uint32(((h ^ h>>32) * 0xd6e8feb86659fd93) >> 32) }

// appendIDs appends the items of lines, end to end, of which the long stretches of ids are known. Some may
// be there twice.
func appendIDs(dst []uint32, lines []byte, offsets []uint32, long []span) []uint32 {
	row := 0
	for _, s := range long {
		for int(offsets[row+1]) <= s.from {
			row++
		}
		// A stretch of one line may go on in the next, but ids do not.
		for from := s.from; from < s.to; row++ {
			to := min(s.to, int(offsets[row+1]))
			if to-from >= idDigits {
				dst = appendRun(dst, lines[from:to])
			}
			if from = to; from < int(offsets[row+1]) {
				break
			}
		}
	}
	return dst
}

// appendRun appends the items of a run of digits and dashes.
func appendRun(dst []uint32, run []byte) []uint32 {
	var (
		digits uint64           // the last sixteen
		hashes [idWindow]uint64 // of the last grams, the next one's at next
		next   int
		least  = ^uint64(0) // of them
		n      int          // digits so far
	)
	for _, c := range run {
		d := idClass[c]
		if d == dash {
			continue
		}
		digits = digits<<4 | uint64(d)
		if n++; n < idGram {
			continue
		}
		h, gone, before := idHash(digits), hashes[next], least
		hashes[next] = h
		if next++; next == idWindow {
			next = 0
		}
		if least = min(least, h); n < idDigits {
			continue
		}
		if n > idDigits && gone == before && h > before {
			least = slices.Min(hashes[:])
		}
		if n == idDigits || least != before {
			dst = append(dst, itemOf(least))
		}
	}
	return dst
}

// needleIDs returns items that every line containing text has: one of each run of digits that is
// long enough, at most maxLookupItems.
func needleIDs(text string) (items []uint32) {
	for len(text) > 0 && len(items) < maxLookupItems {
		n := 0
		for n < len(text) && idClass[text[n]] != noDigit {
			n++
		}
		if found := appendRun(nil, []byte(text[:n])); len(found) > 0 && !slices.Contains(items, found[0]) {
			items = append(items, found[0])
		}
		text = text[min(n+1, len(text)):]
	}
	return items
}
