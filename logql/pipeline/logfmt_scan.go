package pipeline

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// logfmtScanner takes a line apart into keys and values.
type logfmtScanner struct {
	line  []byte
	pos   int
	key   []byte
	value []byte // nil when empty
	// fault is what was wrong with the latest bad pair, at position faultPos.
	fault    string
	faultPos int
	mem      []byte // memory for values without their escapes, for the whole line
}

// reset starts a line. Mem is where unquoted values go.
func (s *logfmtScanner) reset(line, mem []byte) {
	s.line, s.pos, s.fault, s.mem = line, 0, "", mem
}

// details is the text of __error_details__ for the latest fault.
func (s *logfmtScanner) details() string {
	return fmt.Sprintf("logfmt syntax error at pos %d : %s", s.faultPos, s.fault)
}

// fail notes a fault at the current position.
func (s *logfmtScanner) fail(what string) { s.fault, s.faultPos = what, s.pos+1 }

// Classes of bytes in keys and values.
const (
	logfmtSpace = 1 << iota // ends keys and values
	logfmtMark              // = and ", which have a meaning
	logfmtHigh              // not ASCII
)

var logfmtClass = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c <= ' ':
			t[c] = logfmtSpace
		case c == '=' || c == '"':
			t[c] = logfmtMark
		case c >= utf8.RuneSelf:
			t[c] = logfmtHigh
		}
	}
	return t
}()

// next reads a pair into key and value. It returns false for a bad pair, which it steps
// over, and at the end of the line, when pos is the line's length.
func (s *logfmtScanner) next() bool {
	line := s.line
	s.key, s.value = nil, nil
	i := s.pos
	for i < len(line) && logfmtClass[line[i]] == logfmtSpace {
		i++
	}
	if s.pos = i; i == len(line) {
		return false
	}
	start, high := i, uint8(0)
	for i < len(line) {
		c := logfmtClass[line[i]]
		if c&(logfmtSpace|logfmtMark) != 0 {
			break
		}
		high |= c
		i++
	}
	s.pos = i
	s.key = line[start:i:i]
	bad := high != 0 && bytes.ContainsRune(s.key, utf8.RuneError)
	switch {
	case i == len(line) || logfmtClass[line[i]] == logfmtSpace:
		if bad {
			s.fail("invalid key")
			return false
		}
		return true
	case line[i] == '"' || i == start:
		s.fail("unexpected " + strconv.QuoteRune(rune(line[i])))
		return s.skip()
	case bad:
		s.fail("invalid key")
		return s.skip()
	}
	// An equals sign.
	i++
	s.pos = i
	if i == len(line) || logfmtClass[line[i]] == logfmtSpace {
		return true
	}
	if line[i] == '"' {
		return s.quoted()
	}
	start = i
	for i < len(line) && logfmtClass[line[i]]&(logfmtSpace|logfmtMark) == 0 {
		i++
	}
	s.pos = i
	if i < len(line) && logfmtClass[line[i]] == logfmtMark {
		s.fail("unexpected " + strconv.QuoteRune(rune(line[i])))
		return s.skip()
	}
	s.value = line[start:i:i]
	return true
}

// skip steps over the rest of a bad pair.
func (s *logfmtScanner) skip() bool {
	for s.pos < len(s.line) && logfmtClass[s.line[s.pos]] != logfmtSpace {
		s.pos++
	}
	return false
}

// quoted reads the quoted value that begins at pos. Pairs may follow it without space.
func (s *logfmtScanner) quoted() bool {
	end, escaped := stringEnd(s.line, s.pos+1)
	if end < 0 {
		s.pos = len(s.line)
		s.fail("unterminated quoted value")
		return false
	}
	text := s.line[s.pos+1 : end : end]
	s.pos = end + 1
	if !escaped {
		if len(text) > 0 {
			s.value = text
		}
		return true
	}
	n := len(s.mem)
	out, ok := unquote(s.mem, text)
	if !ok {
		s.fail("invalid quoted value")
		return false
	}
	s.mem = out
	s.value = out[n:len(out):len(out)]
	return true
}

// unquote appends the text of a quoted value without its escapes; bytes that are not
// UTF-8 become U+FFFD.
func unquote(out, s []byte) ([]byte, bool) {
	for len(s) > 0 {
		switch c := s[0]; {
		case c == '\\':
			n := 0
			if out, n = unquoteEscape(out, s); n == 0 {
				return out, false
			}
			s = s[n:]
		case c < utf8.RuneSelf:
			out = append(out, c)
			s = s[1:]
		default:
			r, size := utf8.DecodeRune(s)
			out = utf8.AppendRune(out, r)
			s = s[size:]
		}
	}
	return out, true
}

// unquoteEscape appends what the escape at the beginning of s stands for, and returns its
// length; 0 when it is none.
func unquoteEscape(out, s []byte) ([]byte, int) {
	if len(s) < 2 {
		return out, 0
	}
	switch s[1] {
	case '"', '\\', '/', '\'':
		return append(out, s[1]), 2
	case 'b':
		return append(out, '\b'), 2
	case 'f':
		return append(out, '\f'), 2
	case 'n':
		return append(out, '\n'), 2
	case 'r':
		return append(out, '\r'), 2
	case 't':
		return append(out, '\t'), 2
	case 'u':
		c, ok := hex4(s)
		if !ok {
			return out, 0
		}
		if !utf16.IsSurrogate(c) {
			return utf8.AppendRune(out, c), 6
		}
		if low, ok := hex4(s[6:]); ok && s[6] == '\\' && s[7] == 'u' {
			if pair := utf16.DecodeRune(c, low); pair != unicode.ReplacementChar {
				return utf8.AppendRune(out, pair), 12
			}
		}
		return utf8.AppendRune(out, utf8.RuneError), 6
	}
	return out, 0
}
