package querier

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
)

// The encoders append JSON to a buffer. They are written by hand because pages of
// thousands of lines are the server's most frequent large answer, and because order of
// keys, escapes and number formats must be those of Loki.

const hexDigits = "0123456789abcdef"

// safe marks the ASCII bytes that need no escape in a JSON string; HTML bytes need one in lines.
var safe, safeHTML [utf8.RuneSelf]bool

func init() {
	for c := byte(0x20); c < utf8.RuneSelf; c++ {
		safe[c] = c != '"' && c != '\\'
		safeHTML[c] = safe[c] && c != '<' && c != '>' && c != '&'
	}
}

// appendLine appends a log line as a JSON string, with <, > and & escaped as Loki does.
func appendLine(b, line []byte) []byte {
	b = append(b, '"')
	for {
		n := plainPrefix(line)
		b = append(b, line[:n]...)
		if line = line[n:]; len(line) == 0 {
			return append(b, '"')
		}
		// Escapes are often near each other, as in JSON and in texts that are not English.
		for n = 0; n < len(line); {
			c, size := line[n], 1
			if c >= utf8.RuneSelf {
				b, size = appendRune(b, line[n:])
			} else if !safeHTML[c] {
				b = appendEscape(b, c)
			} else {
				break
			}
			n += size
		}
		line = line[n:]
	}
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plainPrefix is the number of bytes at the front of a line that stand for themselves. It
// looks at eight at a time: a byte is zero after the XOR if it is the one sought, and the
// subtraction borrows into the high bit of the first such byte.
func plainPrefix(line []byte) int {
	i := 0
	for ; i+8 <= len(line); i += 8 {
		w := binary.LittleEndian.Uint64(line[i:])
		special := w | (w - 0x20*ones) |
			((w ^ '"'*ones) - ones) | ((w ^ '\\'*ones) - ones) |
			((w ^ '<'*ones) - ones) | ((w ^ '>'*ones) - ones) | ((w ^ '&'*ones) - ones)
		if special &= highs; special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(line); i++ {
		if c := line[i]; c >= utf8.RuneSelf || !safeHTML[c] {
			break
		}
	}
	return i
}

// appendString appends any other JSON string.
func appendString[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if safe[c] {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			b = appendEscape(b, c)
			i++
			start = i
			continue
		}
		var size int
		b = append(b, s[start:i]...)
		b, size = appendRune(b, s[i:])
		i += size
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// appendRune appends the first rune of s, escaped where JSON or JavaScript wants it, and
// returns its length in s.
func appendRune[T string | []byte](b []byte, s T) ([]byte, int) {
	r, size := decodeRune(s)
	switch {
	case r == utf8.RuneError && size == 1:
		return append(b, `\ufffd`...), size
	case r == '\u2028' || r == '\u2029':
		b = append(b, `\u202`...)
		return append(b, hexDigits[r&0xf]), size
	}
	return append(b, s[:size]...), size
}

func decodeRune[T string | []byte](s T) (rune, int) {
	// A rune is at most four bytes; copying them keeps one code path for both types.
	var buf [utf8.UTFMax]byte
	n := copy(buf[:], s)
	return utf8.DecodeRune(buf[:n])
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// appendLabels appends {"name":"value",…} in order of names.
func appendLabels(b []byte, ls labels.Labels) []byte {
	b = append(b, '{')
	first := true
	ls.Range(func(l labels.Label) {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, l.Name)
		b = append(b, ':')
		b = appendString(b, l.Value)
	})
	return append(b, '}')
}

// appendMillis appends a time in seconds with up to three decimals.
func appendMillis(b []byte, ms int64) []byte {
	return strconv.AppendFloat(b, float64(ms)/1000, 'f', -1, 64)
}

// appendValue appends a sample's value as a JSON string.
func appendValue(b []byte, v float64) []byte {
	b = append(b, '"')
	switch {
	case math.IsInf(v, 1):
		b = append(b, "+Inf"...)
	default:
		b = strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	return append(b, '"')
}

func appendStringList(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}
