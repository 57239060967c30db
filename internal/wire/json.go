package wire

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/skaldlog/skald/internal/fault"
)

// scanner reads JSON where it stands: strings are unescaped in place and returned without
// copying. It is lenient in what it does not need (control characters in strings, values
// that are skipped) and exact about what it returns.
type scanner struct {
	buf []byte
	pos int
}

// fail makes an error that shows where reading stopped.
func (s *scanner) fail(format string, args ...any) error {
	near := s.buf[min(s.pos, len(s.buf)):min(s.pos+20, len(s.buf))]
	args = append(args, s.pos, near)
	return fault.New(fault.Invalid, format+", error found in #%d byte of ...|%s|...", args...)
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.buf) {
		switch c := s.buf[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// accept consumes c if it is next.
func (s *scanner) accept(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

// null consumes null if it is next.
func (s *scanner) null() bool {
	if s.peek() != 'n' || !bytes.HasPrefix(s.buf[s.pos:], []byte("null")) {
		return false
	}
	s.pos += 4
	return true
}

// object reads an object; member must consume the value of the name it is given.
func (s *scanner) object(member func(name []byte) error) error {
	if !s.accept('{') {
		return s.fail("Value looks like object, but can't find closing '}' symbol: expect {, but found %s", s.found())
	}
	if s.accept('}') {
		return nil
	}
	for {
		name, err := s.str()
		if err != nil {
			return err
		}
		if !s.accept(':') {
			return s.fail("expect : after object field, but found %s", s.found())
		}
		if err := member(name); err != nil {
			return err
		}
		if s.accept('}') {
			return nil
		}
		if !s.accept(',') {
			return s.fail("Value looks like object, but can't find closing '}' symbol: expect , or }, but found %s", s.found())
		}
	}
}

// array reads an array; item must consume the i-th element.
func (s *scanner) array(item func(i int) error) error {
	if !s.accept('[') {
		return s.fail("Value is array, but can't find closing ']' symbol: expect [, but found %s", s.found())
	}
	if s.accept(']') {
		return nil
	}
	for i := 0; ; i++ {
		if err := item(i); err != nil {
			return err
		}
		if s.accept(']') {
			return nil
		}
		if !s.accept(',') {
			return s.fail("Value is array, but can't find closing ']' symbol: expect , or ], but found %s", s.found())
		}
	}
}

func (s *scanner) found() string {
	if s.pos >= len(s.buf) {
		return "the end"
	}
	return strconv.QuoteRune(rune(s.buf[s.pos]))
}

// str reads a string.
func (s *scanner) str() ([]byte, error) {
	if !s.accept('"') {
		return nil, s.fail("Value is string, but can't find closing '\"' symbol: expect \", but found %s", s.found())
	}
	rest := s.buf[s.pos:]
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return nil, s.fail("Value is string, but can't find closing '\"' symbol")
	}
	if escape := bytes.IndexByte(rest[:end], '\\'); escape >= 0 {
		return s.unescape(escape)
	}
	s.pos += end + 1
	return rest[:end:end], nil
}

// unescape reads the rest of a string whose first backslash is at escape, counted from
// s.pos. No escape is shorter than what it stands for, so the text is moved in place.
func (s *scanner) unescape(escape int) ([]byte, error) {
	start := s.pos
	in, out := start+escape, start+escape
	for in < len(s.buf) {
		switch c := s.buf[in]; c {
		case '"':
			s.pos = in + 1
			return s.buf[start:out:out], nil
		case '\\':
			size, n := s.escape(in, out)
			if n == 0 {
				s.pos = in
				return nil, s.fail("Encountered an invalid escape sequence in a string")
			}
			in += n
			out += size
		default:
			s.buf[out] = c
			in++
			out++
		}
	}
	return nil, s.fail("Value is string, but can't find closing '\"' symbol")
}

// escape writes what the escape at in stands for to out, and returns the size of that and
// the length of the escape, which is 0 when it is not a valid one.
func (s *scanner) escape(in, out int) (size, n int) {
	if in+1 >= len(s.buf) {
		return 0, 0
	}
	c := s.buf[in+1]
	switch c {
	case '"', '\\', '/':
	case 'n':
		c = '\n'
	case 't':
		c = '\t'
	case 'r':
		c = '\r'
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'u':
		return s.escapeUnicode(in, out)
	default:
		return 0, 0
	}
	s.buf[out] = c
	return 1, 2
}

func (s *scanner) escapeUnicode(in, out int) (size, n int) {
	r, n := hex4(s.buf[in+2:]), 6
	if r < 0 {
		return 0, 0
	}
	if utf16.IsSurrogate(r) {
		low := rune(-1)
		if bytes.HasPrefix(s.buf[in+6:], []byte(`\u`)) {
			low = hex4(s.buf[in+8:])
		}
		if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
			n = 12
		}
	}
	return utf8.EncodeRune(s.buf[out:out+4], r), n
}

func hex4(p []byte) rune {
	if len(p) < 4 {
		return -1
	}
	v, err := strconv.ParseUint(alias(p[:4]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(v)
}

// labelValue reads a string, or any other value as its text.
func (s *scanner) labelValue() ([]byte, error) {
	if s.peek() != '"' {
		return s.raw()
	}
	return s.str()
}

// raw consumes any value and returns its text.
func (s *scanner) raw() ([]byte, error) {
	s.peek()
	start := s.pos
	if err := s.skip(); err != nil {
		return nil, err
	}
	return s.buf[start:s.pos:s.pos], nil
}

// skip consumes any value. It counts brackets instead of recursing, so that depth costs
// nothing.
func (s *scanner) skip() error {
	for depth := 0; ; {
		switch c := s.peek(); c {
		case 0:
			return s.fail("unexpected end of JSON")
		case '"':
			if err := s.skipString(); err != nil {
				return err
			}
		case '{', '[':
			depth++
			s.pos++
		case '}', ']':
			depth--
			s.pos++
		case ',', ':':
			if depth == 0 {
				return s.fail("expect a value, but found %s", s.found())
			}
			s.pos++
		default:
			if err := s.skipWord(); err != nil {
				return err
			}
		}
		if depth < 0 {
			return s.fail("expect a value, but found a closing bracket")
		}
		if depth == 0 {
			return nil
		}
	}
}

func (s *scanner) skipString() error {
	for i := s.pos + 1; i < len(s.buf); i++ {
		switch s.buf[i] {
		case '\\':
			i++
		case '"':
			s.pos = i + 1
			return nil
		}
	}
	return s.fail("Value is string, but can't find closing '\"' symbol")
}

// skipWord consumes a number, true, false or null.
func (s *scanner) skipWord() error {
	start := s.pos
	for s.pos < len(s.buf) {
		c := s.buf[s.pos]
		if !alphanumeric(c) && c != '-' && c != '+' && c != '.' {
			break
		}
		s.pos++
	}
	if s.pos == start {
		return s.fail("expect a value, but found %s", s.found())
	}
	return nil
}
