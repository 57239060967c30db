package syntax

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// PathStep is one step into a JSON value: into the member Key of an object, or into the
// element Index of an array when IsIndex is set.
type PathStep struct {
	Key     string
	Index   int
	IsIndex bool
}

// ParseJSONPath parses the expression of a json extraction: field, field.sub,
// field["any key"], field[0], and the same without a field in front. Its errors are the
// causes that follow "cannot parse expression […]: ".
func ParseJSONPath(expr string) ([]PathStep, error) {
	p := pathParser{rest: expr}
	steps, err := p.parse()
	switch {
	case err != nil:
		return nil, err
	case p.err != nil:
		return nil, p.err
	}
	return steps, nil
}

// pathParser reads a path. An error of the lexer ends the input: what the user sees is
// that the end came too early, and only where it did not, the lexer's own words.
type pathParser struct {
	rest string
	err  error
}

func (p *pathParser) parse() ([]PathStep, error) {
	var steps []PathStep
	t, text := p.next()
	switch t {
	case "FIELD":
		steps = append(steps, PathStep{Key: text})
	case "LSB":
		step, err := p.brackets()
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	default:
		return nil, unexpectedPath(t, "LSB or FIELD")
	}
	for {
		t, _ := p.next()
		switch t {
		case "$end":
			return steps, nil
		case "DOT":
			t, text := p.next()
			if t != "FIELD" {
				return nil, unexpectedPath(t, "FIELD")
			}
			steps = append(steps, PathStep{Key: text})
		case "LSB":
			step, err := p.brackets()
			if err != nil {
				return nil, err
			}
			steps = append(steps, step)
		default:
			return nil, unexpectedPath(t, "")
		}
	}
}

// brackets parses after the opening one.
func (p *pathParser) brackets() (PathStep, error) {
	var step PathStep
	t, text := p.next()
	switch t {
	case "STRING":
		step.Key = text
	case "INDEX":
		step.IsIndex = true
		step.Index, _ = strconv.Atoi(text)
	default:
		return step, unexpectedPath(t, "STRING or INDEX")
	}
	if t, _ := p.next(); t != "RSB" {
		return step, unexpectedPath(t, "RSB")
	}
	return step, nil
}

func unexpectedPath(got, want string) error {
	if want == "" {
		return fmt.Errorf("syntax error: unexpected %s", got)
	}
	return fmt.Errorf("syntax error: unexpected %s, expecting %s", got, want)
}

// next returns a token by its name in messages, and its text.
func (p *pathParser) next() (name, text string) {
	p.rest = strings.TrimLeft(p.rest, " \t\n")
	if p.rest == "" || p.rest[0] == 0 {
		return "$end", ""
	}
	switch c := p.rest[0]; {
	case c >= '0' && c <= '9':
		return p.index()
	case c == '[':
		return p.take(1, "LSB")
	case c == ']':
		return p.take(1, "RSB")
	case c == '.':
		return p.take(1, "DOT")
	case isNameByte(c):
		n := 1
		for n < len(p.rest) && isNameByte(p.rest[n]) {
			n++
		}
		return p.take(n, "FIELD")
	case c == '"':
		return p.string()
	}
	r, _ := utf8.DecodeRuneInString(p.rest)
	return p.fail(fmt.Errorf("unexpected char %c", r))
}

func (p *pathParser) take(n int, name string) (string, string) {
	text := p.rest[:n]
	p.rest = p.rest[n:]
	return name, text
}

func (p *pathParser) fail(err error) (string, string) {
	p.err, p.rest = err, ""
	return "$end", ""
}

// isNameByte includes digits, which next has seen to when they come first.
func isNameByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// string reads a quoted key. There are no escapes, and a closing bracket ends the key too.
func (p *pathParser) string() (string, string) {
	p.rest = p.rest[1:]
	n := strings.IndexAny(p.rest, "\"]\x00")
	if n < 0 {
		return p.take(len(p.rest), "STRING")
	}
	_, text := p.take(n, "")
	p.rest = p.rest[1:]
	return "STRING", text
}

func (p *pathParser) index() (string, string) {
	n := strings.IndexFunc(p.rest, func(r rune) bool { return r < '0' || r > '9' })
	if n < 0 {
		return p.fail(fmt.Errorf("non-integer value: %c", 0))
	}
	switch c := p.rest[n]; c {
	case ' ', '\t', '\n', ']':
	case '.':
		return p.fail(errors.New("cannot use float as array index"))
	default:
		r, _ := utf8.DecodeRuneInString(p.rest[n:])
		return p.fail(fmt.Errorf("non-integer value: %c", r))
	}
	if _, err := strconv.Atoi(p.rest[:n]); err != nil {
		return p.fail(err)
	}
	return p.take(n, "INDEX")
}
