package pipeline

import (
	"fmt"
	"unicode/utf8"
)

// parseLogfmtPath parses the key of a logfmt parameter: a name, or a text in quotes,
// which a closing bracket ends as well. What follows the first part has to be texts.
func parseLogfmtPath(expr string) (string, error) {
	l := logfmtPathLexer{rest: expr}
	tok := l.next()
	if tok != "KEY" && tok != "STRING" {
		return "", fmt.Errorf("syntax error: unexpected %s, expecting STRING or KEY", tok)
	}
	parts := []any{l.text}
	for {
		switch tok := l.next(); tok {
		case "$end":
			return fmt.Sprintf("%v", parts...), l.err
		case "STRING":
			parts = append(parts, l.text)
		default:
			return "", fmt.Errorf("syntax error: unexpected %s", tok)
		}
	}
}

// logfmtPathLexer divides the key of a logfmt parameter into tokens.
type logfmtPathLexer struct {
	rest, text string
	// err is a character that is no token. It counts as the end, so it is only shown
	// where the key may end.
	err error
}

func (l *logfmtPathLexer) next() string {
	for l.rest != "" && (l.rest[0] == ' ' || l.rest[0] == '\t' || l.rest[0] == '\n') {
		l.rest = l.rest[1:]
	}
	if l.rest == "" || l.rest[0] == 0 {
		return "$end"
	}
	n := 1
	switch c := l.rest[0]; {
	case isLabelRune(rune(c)) && (c < '0' || c > '9'):
		for n < len(l.rest) && isLabelRune(rune(l.rest[n])) {
			n++
		}
		l.text, l.rest = l.rest[:n], l.rest[n:]
		return "KEY"
	case c == '"':
		for n < len(l.rest) && l.rest[n] != '"' && l.rest[n] != ']' && l.rest[n] != 0 {
			n++
		}
		l.text, l.rest = l.rest[1:n], l.rest[min(n+1, len(l.rest)):]
		return "STRING"
	}
	r, _ := utf8.DecodeRuneInString(l.rest)
	l.err, l.rest = fmt.Errorf("unexpected char %c", r), ""
	return "$end"
}
