package pipeline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"
	"unicode/utf8"
)

// What can be wrong with a line that should be JSON, in the words that Loki's users know.
var (
	errJSONObject = errors.New("Value looks like object, but can't find closing '}' symbol")
	errJSONArray  = errors.New("Value is array, but can't find closing ']' symbol")
	errJSONString = errors.New("Value is string, but can't find closing '\"' symbol")
	errJSONForm   = errors.New("Malformed JSON error")
	errJSONType   = errors.New("Unknown value type")
	errJSONEscape = errors.New("Encountered an invalid escape sequence in a string")
)

// jsonType is the type of a JSON value.
type jsonType uint8

const (
	jsonNone jsonType = iota
	jsonString
	jsonNumber
	jsonObject
	jsonArray
	jsonBool
	jsonNull
)

// Character classes of the JSON scanner.
const (
	jsonSpace = 1 << iota // white space
	jsonEnd               // ends a number or a word
)

var jsonClass = [256]uint8{
	' ': jsonSpace | jsonEnd, '\n': jsonSpace | jsonEnd, '\r': jsonSpace | jsonEnd, '\t': jsonSpace | jsonEnd,
	',': jsonEnd, '}': jsonEnd, ']': jsonEnd,
}

// skipSpace returns the position of the first byte at or after i that is no white space,
// -1 when there is none.
func skipSpace(b []byte, i int) int {
	for ; i < len(b); i++ {
		if jsonClass[b[i]]&jsonSpace == 0 {
			return i
		}
	}
	return -1
}

// stringEnd returns the position of the quote that ends the string whose content begins
// at i, and whether the content has backslashes; -1 when there is no such quote.
func stringEnd(b []byte, i int) (end int, escaped bool) {
	start := i
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^lowBits*'"', w^lowBits*'\\'
		// The lowest bit set is that of the first quote or backslash.
		found := ((quote-lowBits)&^quote | (slash-lowBits)&^slash) & highBits
		if found == 0 {
			continue
		}
		if i += bits.TrailingZeros64(found) >> 3; b[i] == '"' {
			return i, false
		}
		break
	}
	for i < len(b) {
		// Most strings are short: a plain loop beats the vectorised search for them.
		stop := min(i+16, len(b))
		for ; i < stop; i++ {
			if b[i] == '"' {
				if !escaped || evenBackslashes(b[start:i]) {
					return i, escaped
				}
			} else if b[i] == '\\' {
				escaped = true
			}
		}
		if i == len(b) {
			break
		}
		if !escaped {
			q := bytes.IndexByte(b[i:], '"')
			if q < 0 {
				return -1, bytes.IndexByte(b[i:], '\\') >= 0
			}
			if bytes.IndexByte(b[i:i+q], '\\') < 0 {
				return i + q, false
			}
			escaped = true
		}
		q := bytes.IndexByte(b[i:], '"')
		if q < 0 {
			return -1, true
		}
		i += q
		if evenBackslashes(b[start:i]) {
			return i, true
		}
		i++
	}
	return -1, escaped
}

// evenBackslashes reports whether b ends in an even number of backslashes.
func evenBackslashes(b []byte) bool {
	n := 0
	for n < len(b) && b[len(b)-1-n] == '\\' {
		n++
	}
	return n&1 == 0
}

// blockEnd returns the position behind the bracket that closes the one at i, looking at
// this kind of bracket only; -1 when there is none.
func blockEnd(b []byte, i int, open, shut byte) int {
	level := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i, _ = stringEnd(b, i+1); i < 0 {
				return -1
			}
		case open:
			level++
		case shut:
			if level--; level == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// jsonValue reads the value at or after i. For strings the returned value is what stands
// between the quotes, and escaped says whether it has backslashes. Next is the position
// behind it.
func jsonValue(b []byte, i int) (value []byte, typ jsonType, escaped bool, next int, err error) {
	if i = skipSpace(b, i); i < 0 {
		return nil, jsonNone, false, 0, errJSONForm
	}
	switch b[i] {
	case '"':
		end, esc := stringEnd(b, i+1)
		if end < 0 {
			return nil, jsonString, false, 0, errJSONString
		}
		return b[i+1 : end : end], jsonString, esc, end + 1, nil
	case '{':
		end := blockEnd(b, i, '{', '}')
		if end < 0 {
			return nil, jsonObject, false, 0, errJSONObject
		}
		return b[i:end:end], jsonObject, false, end, nil
	case '[':
		end := blockEnd(b, i, '[', ']')
		if end < 0 {
			return nil, jsonArray, false, 0, errJSONArray
		}
		return b[i:end:end], jsonArray, false, end, nil
	}
	end := i
	for end < len(b) && jsonClass[b[end]]&jsonEnd == 0 {
		end++
	}
	value = b[i:end:end]
	switch c := b[i]; {
	case c >= '0' && c <= '9' || c == '-':
		typ = jsonNumber
	case string(value) == "true" || string(value) == "false":
		typ = jsonBool
	case string(value) == "null":
		typ = jsonNull
	default:
		return nil, jsonNone, false, 0, errJSONType
	}
	return value, typ, false, end, nil
}

// unescape appends the text of a JSON string without its escapes.
func unescape(out, s []byte) ([]byte, error) {
	for {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			return append(out, s...), nil
		}
		out = append(out, s[:i]...)
		s = s[i:]
		if len(s) < 2 {
			return nil, errJSONEscape
		}
		switch s[1] {
		case '"', '\\', '/':
			out = append(out, s[1])
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			c, n := unicodeEscape(s)
			if n == 0 {
				return nil, errJSONEscape
			}
			out = utf8.AppendRune(out, c)
			s = s[n:]
			continue
		default:
			return nil, errJSONEscape
		}
		s = s[2:]
	}
}

// unicodeEscape decodes the \uXXXX, or the pair of them, that s starts with, and returns
// how many bytes it takes; 0 when it is none. The second of a pair may be anything from
// the first low surrogate upwards.
func unicodeEscape(s []byte) (rune, int) {
	c, ok := hex4(s)
	if !ok {
		return 0, 0
	}
	if c < 0xd800 || c > 0xdfff {
		return c, 6
	}
	low, ok := hex4(s[6:])
	if !ok || low < 0xdc00 {
		return 0, 0
	}
	return 0x10000 + (c-0xd800)<<10 + (low - 0xdc00), 12
}

// hex4 decodes the four digits of a \uXXXX; only the digits are looked at.
func hex4(s []byte) (rune, bool) {
	if len(s) < 6 {
		return 0, false
	}
	var c rune
	for _, d := range s[2:6] {
		switch {
		case d >= '0' && d <= '9':
			d -= '0'
		case d >= 'a' && d <= 'f':
			d -= 'a' - 10
		case d >= 'A' && d <= 'F':
			d -= 'A' - 10
		default:
			return 0, false
		}
		c = c<<4 | rune(d)
	}
	return c, true
}

// text returns the text of a JSON string as a label value; a string with a bad escape
// is empty.
func (r *row) text(s []byte, escaped bool) string {
	if !escaped {
		return r.clean(s)
	}
	n := len(r.arena)
	out, err := unescape(r.arena, s)
	if err != nil {
		return ""
	}
	r.arena = out
	return r.clean(out[n:])
}
