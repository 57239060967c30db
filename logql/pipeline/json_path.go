package pipeline

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// jsonStep is a step of a path: a key, or an index when key is empty and index is not
// negative.
type jsonStep struct {
	key   string
	index int // -1 for a key
}

// The tokens of a path, by the names that errors show.
const (
	tokEnd    = "$end"
	tokDot    = "DOT"
	tokOpen   = "LSB"
	tokClose  = "RSB"
	tokString = "STRING"
	tokField  = "FIELD"
	tokIndex  = "INDEX"
	tokKey    = "KEY"
)

// pathLexer divides a path of | json or | logfmt into tokens.
type pathLexer struct {
	s      string
	logfmt bool // only keys and strings
	text   string
	index  int
	// err is a character that is no token. It counts as the end, so it is only shown
	// where the path may end.
	err error
}

func (l *pathLexer) next() string {
	for l.s != "" && (l.s[0] == ' ' || l.s[0] == '\t' || l.s[0] == '\n') {
		l.s = l.s[1:]
	}
	if l.s == "" || l.s[0] == 0 {
		return tokEnd
	}
	c := l.s[0]
	switch {
	case isLabelRune(rune(c)) && (c < '0' || c > '9'):
		n := 1
		for n < len(l.s) && isLabelRune(rune(l.s[n])) {
			n++
		}
		l.text, l.s = l.s[:n], l.s[n:]
		if l.logfmt {
			return tokKey
		}
		return tokField
	case c == '"':
		n := 1
		for n < len(l.s) && l.s[n] != '"' && l.s[n] != ']' && l.s[n] != 0 {
			n++
		}
		l.text, l.s = l.s[1:n], l.s[min(n+1, len(l.s)):]
		return tokString
	case l.logfmt:
	case c >= '0' && c <= '9':
		return l.number()
	case c == '[' || c == ']' || c == '.':
		l.s = l.s[1:]
		return map[byte]string{'[': tokOpen, ']': tokClose, '.': tokDot}[c]
	}
	r, _ := utf8.DecodeRuneInString(l.s)
	l.err = fmt.Errorf("unexpected char %c", r)
	return tokEnd
}

// number reads an index, which only white space or a bracket may end.
func (l *pathLexer) number() string {
	n := 0
	for n < len(l.s) && l.s[n] >= '0' && l.s[n] <= '9' {
		n++
	}
	r, _ := utf8.DecodeRuneInString(l.s[n:])
	switch {
	case n == len(l.s):
		l.err = fmt.Errorf("non-integer value: %c", 0)
	case r == '.':
		l.err = errors.New("cannot use float as array index")
	case r == ' ', r == '\t', r == '\n', r == ']':
		if l.index, l.err = strconv.Atoi(l.s[:n]); l.err == nil {
			l.s = l.s[n:]
			return tokIndex
		}
	default:
		l.err = fmt.Errorf("non-integer value: %c", r)
	}
	return tokEnd
}

// parseJSONPath parses field.sub["key"][0].
func parseJSONPath(expr string) ([]jsonStep, error) {
	l := pathLexer{s: expr}
	var path []jsonStep
	for first := true; ; first = false {
		switch tok := l.next(); {
		case tok == tokOpen:
			step := jsonStep{index: -1}
			switch tok := l.next(); tok {
			case tokString:
				step.key = l.text
			case tokIndex:
				step.index = l.index
			default:
				return nil, unexpected(tok, "STRING or INDEX")
			}
			if tok := l.next(); tok != tokClose {
				return nil, unexpected(tok, "RSB")
			}
			path = append(path, step)
		case tok == tokField && first:
			path = append(path, jsonStep{l.text, -1})
		case tok == tokDot && !first:
			if tok := l.next(); tok != tokField {
				return nil, unexpected(tok, "FIELD")
			}
			path = append(path, jsonStep{l.text, -1})
		case first:
			return nil, unexpected(tok, "LSB or FIELD")
		case tok == tokEnd:
			return path, l.err
		default:
			return nil, unexpected(tok, "")
		}
	}
}

// parseLogfmtPath parses the key of a logfmt parameter.
func parseLogfmtPath(expr string) (string, error) {
	l := pathLexer{s: expr, logfmt: true}
	tok := l.next()
	if tok != tokKey && tok != tokString {
		return "", unexpected(tok, "STRING or KEY")
	}
	parts := []any{l.text}
	for {
		switch tok := l.next(); tok {
		case tokEnd:
			return fmt.Sprintf("%v", parts...), l.err
		case tokString:
			parts = append(parts, l.text)
		default:
			return "", unexpected(tok, "")
		}
	}
}

func unexpected(tok, want string) error {
	if want == "" {
		return fmt.Errorf("syntax error: unexpected %s", tok)
	}
	return fmt.Errorf("syntax error: unexpected %s, expecting %s", tok, want)
}
