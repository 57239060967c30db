// Package packed says how lines look whose timestamps and ids have been taken out, and
// what can be decided about a line by looking at that.
//
// Package storage/segment writes and reads such text (docs/segment.md, codec "fields"),
// and logql/pipeline searches it: putting the fields back costs more than anything else
// that a scan does, and most lines of most queries are not wanted. Both know the rules
// from here; neither knows the other.
//
// # Rules
//
// A line is its bytes, in which some stretches have been replaced by tokens. A token is a
// byte of 0xf8 or more and what belongs to it; other bytes stand for themselves. What a
// token stands for, its output, lies within one line. Besides:
//
//   - The output of Hex is twelve or more digits 0-9a-f; that of UUID is 8-4-4-4-12 of them.
//     In front of either is the beginning of the line, an x, or a byte that is neither an
//     ASCII letter nor a digit. Behind either is the end of the line or such a byte, after,
//     possibly, more of these digits.
//   - The output of Time is a timestamp in one of Styles, with a fraction or without. In
//     the syslog style it begins the line.
package packed

// The tokens' first bytes.
const (
	Time   = 0xf8 // followed by a layout: style << 4 | digits of the fraction
	Hex    = 0xf9 // followed by the number of pairs of digits, MinHex/2 to 255
	UUID   = 0xfa
	Escape = 0xff // followed by the byte it stands for, which is First or more
	First  = 0xf8 // no byte below begins a token
)

// MinHex is the fewest digits that Hex stands for.
const MinHex = 12

// Styles of timestamps, by number: what their text looks like without a fraction. d is a
// digit, _ a digit or a space, J, a, n the first, second and third letter of a month's
// English name; the rest stands for itself.
var Styles = [...]string{
	StyleT:      "dddd-dd-ddTdd:dd:dd",
	StyleSpace:  "dddd-dd-dd dd:dd:dd",
	StyleAccess: "dd/Jan/dddd:dd:dd:dd",
	StyleKlog:   "dddd dd:dd:dd",
	StyleSyslog: "Jan _d dd:dd:dd",
	StyleSlash:  "dddd/dd/dd dd:dd:dd",
}

// The styles' numbers. All are in UTC.
const (
	StyleT      = 0 // 2006-01-02T15:04:05
	StyleSpace  = 1 // 2006-01-02 15:04:05
	StyleAccess = 2 // 02/Jan/2006:15:04:05
	StyleKlog   = 3 // 0102 15:04:05
	StyleSyslog = 4 // Jan _2 15:04:05
	StyleSlash  = 5 // 2006/01/02 15:04:05
)

const maxFraction = 9

const uuid = "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh"

// MaxNeedle is how many bytes of a needle Core looks at.
const MaxNeedle = 256

// Core returns the longest piece needle[from:to] that stands in the packed text of every
// line that contains the needle; it is empty when there is none. With fold, ASCII letters
// match in either case, and the needle is in lower case.
//
// It finds every stretch of the needle that some token's output could cover, wherever in a
// line the needle occurs; what no stretch covers is nowhere taken out, and bytes without a
// token between them are neighbours in the packed text too.
func Core(needle []byte, fold bool) (from, to int) {
	needle = needle[:min(len(needle), MaxNeedle)]
	hidden := make([]bool, len(needle))
	for i, b := range needle {
		hidden[i] = b >= First
	}
	hideHex(hidden, needle)
	hideTemplate(hidden, needle, uuid, fold, true, false)
	for style, text := range Styles {
		for digits := 0; digits <= maxFraction; digits++ {
			hideTemplate(hidden, needle, text, fold, false, style == StyleSyslog)
			if digits == 0 {
				text += "."
			}
			text += "d"
		}
	}
	for i := 0; i < len(needle); i++ {
		start := i
		for i < len(needle) && !hidden[i] {
			i++
		}
		if i-start > to-from {
			from, to = start, i
		}
	}
	return from, to
}

// hideHex covers the runs of digits that can belong to the output of Hex.
func hideHex(hidden []bool, needle []byte) {
	for i := 0; i < len(needle); i++ {
		start := i
		for i < len(needle) && IsHex(needle[i]) {
			i++
		}
		switch {
		case i == start, start > 0 && !before(needle[start-1]), i < len(needle) && word(needle[i]):
		case start > 0 && i < len(needle) && i-start < MinHex: // it would lie wholly inside
		default:
			hide(hidden, start, i)
		}
	}
}

// hideTemplate covers where a text of the template can overlap the needle. Bounded says
// that words must not touch it, first that it is at the beginning of the line.
func hideTemplate(hidden []bool, needle []byte, template string, fold, bounded, first bool) {
	for at := 1 - len(template); at < len(needle); at++ {
		from, to := max(at, 0), min(at+len(template), len(needle))
		switch {
		case first && at > 0:
			return
		case bounded && at > 0 && !before(needle[at-1]):
			continue
		case bounded && to < len(needle) && word(needle[to]) && !IsHex(needle[to]):
			continue
		}
		fits := true
		for i := from; i < to && fits; i++ {
			fits = fitsClass(needle[i], template[i-at], fold)
		}
		if fits {
			hide(hidden, from, to)
		}
	}
}

func hide(hidden []bool, from, to int) {
	for i := from; i < to; i++ {
		hidden[i] = true
	}
}

func fitsClass(b, class byte, fold bool) bool {
	digit := b >= '0' && b <= '9'
	upper := b
	if fold && b >= 'a' && b <= 'z' {
		upper -= 'a' - 'A'
	}
	switch class {
	case 'd':
		return digit
	case '_':
		return digit || b == ' '
	case 'h':
		return IsHex(b)
	case 'J':
		return in(upper, "JFMASOND")
	case 'a':
		return in(b, "aepuco")
	case 'n':
		return in(b, "nbrylgptvc")
	}
	return upper == class
}

func in(b byte, set string) bool {
	for i := range len(set) {
		if set[i] == b {
			return true
		}
	}
	return false
}

// IsHex reports whether b is one of 0-9a-f.
func IsHex(b byte) bool { return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' }

// word reports whether b is an ASCII letter or digit.
func word(b byte) bool {
	return b >= '0' && b <= '9' || b|0x20 >= 'a' && b|0x20 <= 'z'
}

// before reports whether the output of Hex or UUID may follow b.
func before(b byte) bool { return !word(b) || b == 'x' }

// MayStand reports whether line[from:to], which are digits, may become Hex or UUID as far
// as its neighbours are concerned.
func MayStand(line []byte, from, to int) bool {
	if from > 0 && !before(line[from-1]) {
		return false
	}
	for to < len(line) && IsHex(line[to]) {
		to++
	}
	return to == len(line) || !word(line[to])
}

// Verbatim reports whether a needle that is found at p[at:] certainly stands in the line
// there: its first byte is not what belongs to a token. The needle has no byte of First or
// more.
func Verbatim(p []byte, at int) bool { return at == 0 || p[at-1] < First }
