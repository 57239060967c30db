package packed

import "encoding/hex"

// ID is what a line must have that contains some id: one of Bytes in its packed digits, that
// is, in what its Hex and UUID tokens stand for, two digits a byte; or else Text in its packed
// text.
type ID struct {
	Bytes [][]byte
	Text  []byte
}

const (
	minIDBytes = 3 // fewer are found everywhere
	maxIDBytes = 8
	minIDText  = 4
	// yearDigits is how many digits of a timestamp can follow right behind other digits.
	yearDigits = 4
)

// FindID looks for an id in a needle: a run of digits 0-9a-f so long that a line which
// contains it is recognised by the digits that were taken out of it. It holds for a needle in
// lower case that matches in either case, too.
//
// A line that contains the run has what the ID says, because no token of digits begins inside
// of the run, where it would follow a digit. So a token that takes some of the run's digits
// takes the first ones. When these are at least 2n+1, n pairs of them are bytes of the token,
// from the first digit on or from the second. When they are fewer, or are a timestamp's
// fraction, or there is no token, the rest stands in the text, up to the digits at the end
// that may be a timestamp's year.
//
// When a dash is in front of the run, then a token's digits, or the last group of a UUID's,
// begin where the run does, if a token takes any of it, and they are at least twelve.
func FindID(needle []byte) (id ID, ok bool) {
	run, dashed := longestRun(needle[:min(len(needle), MaxNeedle)])
	fraction, year := 0, 0
	for fraction < min(maxFraction, len(run)) && run[fraction] <= '9' {
		fraction++
	}
	for year < min(yearDigits, len(run)) && run[len(run)-1-year] <= '9' {
		year++
	}
	end := len(run) - year
	if dashed && len(run) >= MinHex {
		return ID{Bytes: [][]byte{pairs(run[:MinHex])}, Text: run[:end]}, true
	}
	n := min(maxIDBytes, (end-1-minIDText)/2)
	from := max(2*n+1, fraction)
	if n < minIDBytes || end-from < minIDText {
		return ID{}, false
	}
	return ID{Bytes: [][]byte{pairs(run[:2*n]), pairs(run[1 : 2*n+1])}, Text: run[from:end]}, true
}

// longestRun returns the longest run of digits, and whether a dash stands in front of it.
func longestRun(needle []byte) (run []byte, dashed bool) {
	for i := 0; i < len(needle); i++ {
		start := i
		for i < len(needle) && IsHex(needle[i]) {
			i++
		}
		if i-start > len(run) {
			run, dashed = needle[start:i], start > 0 && needle[start-1] == '-'
		}
	}
	return run, dashed
}

// pairs is two digits a byte.
func pairs(run []byte) []byte {
	out := make([]byte, len(run)/2)
	_, _ = hex.Decode(out, run) // they are digits
	return out
}
