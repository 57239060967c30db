package stage

import (
	"bytes"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonScanner walks over a JSON text once, checks all of it as strictly as encoding/json
// does, and allocates nothing unless a string has escapes.
type jsonScanner struct {
	b []byte
	i int
}

// maxJSONDepth is encoding/json's limit.
const maxJSONDepth = 10000

// object calls got for each member of the text's top-level object, in order, with the raw
// key (between its quotes) and the raw value; it reports whether the whole text is one
// valid object. Members before a fault have been reported by then.
func (s *jsonScanner) object(got func(key, val []byte)) bool {
	s.space()
	if !s.eat('{') {
		return false
	}
	s.space()
	if !s.eat('}') {
		for {
			key, ok := s.str()
			if !ok {
				return false
			}
			if s.space(); !s.eat(':') {
				return false
			}
			s.space()
			start := s.i
			if !s.value(2) {
				return false
			}
			got(key, s.b[start:s.i])
			s.space()
			if s.eat('}') {
				break
			}
			if !s.eat(',') {
				return false
			}
			s.space()
		}
	}
	s.space()
	return s.i == len(s.b)
}

func (s *jsonScanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *jsonScanner) eat(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// str reads a string and returns what stands between the quotes.
func (s *jsonScanner) str() ([]byte, bool) {
	if !s.eat('"') {
		return nil, false
	}
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.b[start : s.i-1], true
		case c == '\\':
			if !s.escape() {
				return nil, false
			}
		case c < 0x20:
			return nil, false
		default:
			s.i++
		}
	}
	return nil, false
}

func (s *jsonScanner) escape() bool {
	if s.i+1 >= len(s.b) {
		return false
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return true
	case 'u':
		if s.i+6 > len(s.b) || hex4(s.b[s.i+2:]) < 0 {
			return false
		}
		s.i += 6
		return true
	}
	return false
}

func (s *jsonScanner) value(depth int) bool {
	if s.i >= len(s.b) || depth > maxJSONDepth {
		return false
	}
	switch c := s.b[s.i]; {
	case c == '"':
		_, ok := s.str()
		return ok
	case c == '{':
		return s.members('}', depth, true)
	case c == '[':
		return s.members(']', depth, false)
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return false
}

func (s *jsonScanner) members(end byte, depth int, keys bool) bool {
	s.i++
	s.space()
	if s.eat(end) {
		return true
	}
	for {
		if keys {
			if _, ok := s.str(); !ok {
				return false
			}
			if s.space(); !s.eat(':') {
				return false
			}
			s.space()
		}
		if !s.value(depth + 1) {
			return false
		}
		s.space()
		if s.eat(end) {
			return true
		}
		if !s.eat(',') {
			return false
		}
		s.space()
	}
}

func (s *jsonScanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || text(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

func (s *jsonScanner) number() bool {
	s.eat('-')
	if !s.eat('0') && !s.digits() {
		return false
	}
	if s.eat('.') && !s.digits() {
		return false
	}
	if s.i < len(s.b) && s.b[s.i]|0x20 == 'e' {
		s.i++
		if !s.eat('+') {
			s.eat('-')
		}
		return s.digits()
	}
	return true
}

func (s *jsonScanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	return s.i > start
}

// jsonValue turns a raw, valid value into an extracted one. Arrays and objects are not its
// business (ok is false).
func jsonValue(rawValue []byte) (v value, ok bool) {
	switch rawValue[0] {
	case '"':
		return stringValue(jsonText(rawValue[1 : len(rawValue)-1])), true
	case 't':
		return value{kind: kindBool, num: 1}, true
	case 'f':
		return value{kind: kindBool}, true
	case 'n':
		return value{}, true
	case '{', '[':
		return value{}, false
	}
	n, err := strconv.ParseFloat(text(rawValue), 64)
	return value{kind: kindFloat, num: n}, err == nil
}

// jsonText decodes what stands between the quotes of a valid string. The result aliases
// the input when there is nothing to decode.
func jsonText(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 && (ascii(b) || utf8.Valid(b)) {
		return text(b)
	}
	out := make([]byte, 0, len(b)+2*utf8.UTFMax)
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '\\' && b[i+1] == 'u':
			r := hex4(b[i+2:])
			i += 6
			if utf16.IsSurrogate(r) {
				second := rune(-1)
				if i+6 <= len(b) && b[i] == '\\' && b[i+1] == 'u' {
					second = hex4(b[i+2:])
				}
				if r = utf16.DecodeRune(r, second); r != unicode.ReplacementChar {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		case c == '\\':
			out = append(out, unescape(b[i+1]))
			i += 2
		case c < utf8.RuneSelf:
			out = append(out, c)
			i++
		default:
			r, n := utf8.DecodeRune(b[i:])
			out = utf8.AppendRune(out, r)
			i += n
		}
	}
	return text(out)
}

func unescape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// hex4 reads four hexadecimal digits; -1 when they are not.
func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
