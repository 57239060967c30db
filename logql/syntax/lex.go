package syntax

import (
	"strings"
	"text/scanner"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/util/strutil"
)

// lexer turns a query into tokens, one at a time and only when asked, because which
// error a user sees depends on how far the text has been read.
//
// The scanner gives Go's rules for numbers, strings, comments and positions. What
// LogQL adds (durations, sizes, ranges, flags, two-character operators) is decided by
// looking at the text behind the scanner's position and consuming more of it.
type lexer struct {
	src  string
	scan scanner.Scanner
	// consumed is set when the current token took more text than the scanner's token.
	consumed bool
	err      *ParseError // the first error
}

func newLexer(src string) *lexer {
	l := &lexer{src: src}
	l.scan.Init(strings.NewReader(src))
	l.scan.Error = func(_ *scanner.Scanner, msg string) { l.fail(msg) }
	return l
}

func (l *lexer) fail(msg string) {
	if l.err == nil {
		line, col := l.position()
		l.err = &ParseError{Msg: msg, Line: line, Col: col}
	}
}

func (l *lexer) position() (line, col int) {
	if l.consumed {
		return 0, l.scan.Column
	}
	return l.scan.Line, l.scan.Column
}

// rest is the text that has not been consumed.
func (l *lexer) rest() string { return l.src[min(l.scan.Pos().Offset, len(l.src)):] }

// consume skips the first n bytes of rest, which must end at a character's boundary.
func (l *lexer) consume(n int) {
	l.consumed = true
	for end := l.scan.Pos().Offset + n; l.scan.Pos().Offset < end; {
		l.scan.Next()
	}
}

// next returns the next token. After an error it returns l.err and an end token.
func (l *lexer) next() (token, *ParseError) {
	t := l.lex()
	t.line, t.col = l.position()
	if l.err != nil {
		return token{line: t.line, col: t.col}, l.err
	}
	return t, nil
}

func (l *lexer) lex() token {
	r := l.scanToken()
	switch r {
	case scanner.EOF:
		return token{kind: tokEOF}
	case scanner.Int, scanner.Float:
		return l.number(l.scan.TokenText())
	case scanner.String, scanner.RawString:
		return l.string(l.scan.TokenText())
	case '[':
		return l.rangeToken()
	case '-':
		if flag, ok := leadingFlag(l.rest()); ok {
			l.consume(len(flag) - 1)
			return token{kind: tokFlag, text: flag}
		}
		if d, n, ok := leadingDuration("-", l.rest()); ok {
			l.consume(n)
			return token{kind: tokDuration, dur: d}
		}
	}
	return l.word(l.scan.TokenText())
}

// scanToken skips # comments, which Go does not know.
func (l *lexer) scanToken() rune {
	for {
		l.consumed = false
		r := l.scan.Scan()
		if r != '#' {
			return r
		}
		for next := l.scan.Peek(); next != '\n' && next != scanner.EOF; next = l.scan.Next() {
		}
	}
}

func (l *lexer) word(text string) token {
	lower := strings.ToLower(text)
	if k, ok := functions[lower]; ok {
		if startsArguments(l.rest()) {
			return token{kind: k, text: lower}
		}
		return token{kind: tokIdent, text: text}
	}
	if next := l.rest(); len(lower) == 1 && next != "" {
		if k, ok := keywords[lower+next[:1]]; ok && isOperator(lower[0]) {
			l.consume(1)
			return token{kind: k, text: lower + next[:1]}
		}
	}
	if k, ok := keywords[lower]; ok {
		return token{kind: k, text: lower}
	}
	return token{kind: tokIdent, text: text}
}

func isOperator(c byte) bool { return strings.IndexByte("=!|<>", c) >= 0 }

// startsArguments reports whether text goes on with an argument list, or with a
// grouping clause.
func startsArguments(text string) bool {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	if strings.HasPrefix(text, "(") {
		return true
	}
	for _, word := range []string{"by", "without"} {
		if len(text) > len(word) && strings.EqualFold(text[:len(word)], word) {
			return strings.HasPrefix(strings.TrimLeftFunc(text[len(word):], unicode.IsSpace), "(")
		}
	}
	return false
}

func (l *lexer) number(text string) token {
	if d, n, ok := leadingDuration(text, l.rest()); ok {
		l.consume(n)
		return token{kind: tokDuration, dur: d}
	}
	if b, n, ok := leadingBytes(text, l.rest()); ok {
		l.consume(n)
		return token{kind: tokBytes, bytes: b}
	}
	return token{kind: tokNumber, text: text}
}

func (l *lexer) string(quoted string) token {
	if !utf8.ValidString(quoted) {
		l.fail("invalid UTF-8 rune")
		return token{}
	}
	s, err := strutil.Unquote(quoted)
	if err != nil {
		l.fail(err.Error())
		return token{}
	}
	return token{kind: tokString, text: s}
}

func (l *lexer) rangeToken() token {
	rest := l.rest()
	end := strings.IndexByte(rest, ']')
	if end < 0 {
		l.consume(len(rest))
		l.fail("missing closing ']' in duration")
		return token{}
	}
	l.consume(end + 1)
	d, err := model.ParseDuration(rest[:end])
	if err != nil {
		l.fail(err.Error())
		return token{}
	}
	return token{kind: tokRange, dur: time.Duration(d)}
}

// The flags of parsers.
const (
	flagStrict    = "--strict"
	flagKeepEmpty = "--keep-empty"
)

// leadingFlag recognises a parser flag whose first dash was read before rest.
func leadingFlag(rest string) (string, bool) {
	for _, flag := range []string{flagStrict, flagKeepEmpty} {
		after, ok := strings.CutPrefix(rest, flag[1:])
		if !ok {
			continue
		}
		if r, _ := utf8.DecodeRuneInString(after); !unicode.IsLetter(r) && r != '-' {
			return flag, true
		}
	}
	return "", false
}

// leadingDuration reports whether number, continued by the first n bytes of rest, is a
// duration: in Prometheus' notation, otherwise in Go's.
func leadingDuration(number, rest string) (d time.Duration, n int, ok bool) {
	n = strings.IndexFunc(rest, func(r rune) bool {
		return !unicode.IsNumber(r) && r != '.' && !strings.ContainsRune("nuµmshdwy", r)
	})
	if n < 0 {
		n = len(rest)
	}
	if n == 0 {
		return 0, 0, false
	}
	text := number + rest[:n]
	if p, err := model.ParseDuration(text); err == nil {
		return time.Duration(p), n, true
	}
	d, err := time.ParseDuration(text)
	return d, n, err == nil
}

// leadingBytes is leadingDuration for sizes. Units over P are left out, because their
// values may not fit 64 bits.
func leadingBytes(number, rest string) (b uint64, n int, ok bool) {
	n = strings.IndexFunc(rest, func(r rune) bool {
		return !unicode.IsNumber(r) && r != '.' && !strings.ContainsRune("BikKMGTP", r)
	})
	if n < 0 {
		n = len(rest)
	}
	if n == 0 {
		return 0, 0, false
	}
	b, err := humanize.ParseBytes(number + rest[:n])
	return b, n, err == nil
}
