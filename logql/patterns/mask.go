package patterns

import "bytes"

// Bounds of what is looked at in one line. The rest of a longer line is a value.
const (
	maxLineBytes  = 4096
	maxLineValues = 128
)

// placeholder stands for a value in a masked line. Lines that hold this byte themselves
// have it masked, too, so it is unambiguous.
const placeholder = 0

type byteClass uint8

const (
	word byteClass = iota
	digit
	separator
	colon
)

// classes sorts bytes. What is no separator keeps tokens together: letters, and the
// punctuation found inside times, paths, versions, addresses and names.
var classes = func() (c [256]byteClass) {
	for _, b := range []byte(" \t\r\n\v\f=,;\"'`()[]{}<>|&?\\") {
		c[b] = separator
	}
	for b := '0'; b <= '9'; b++ {
		c[b] = digit
	}
	c[placeholder] = digit
	c[':'] = colon
	return c
}()

// masker masks lines. Its results are valid until the next call of mask.
type masker struct {
	masked []byte
	values [][]byte // of the masked tokens, in order; nil for the cut-off end of a line
}

// mask replaces each token with a digit by a placeholder.
func (m *masker) mask(line []byte) {
	m.masked, m.values = m.masked[:0], m.values[:0]
	line, cut := shorten(line)
	kept, token := 0, 0 // where unmasked text and the current token begin
	for i := 0; i < len(line); {
		switch c := classes[line[i]]; {
		case c == word:
			i++
		case c == separator || c == colon && !insideToken(line, i):
			i++
			token = i
		case c == colon:
			i++
		default:
			if len(m.values) == maxLineValues {
				line, cut = line[:token], true
				break
			}
			end := tokenEnd(line, i)
			m.masked = append(append(m.masked, line[kept:token]...), placeholder)
			m.values = append(m.values, line[token:end])
			i, kept = end, end
		}
	}
	m.masked = append(m.masked, line[kept:]...)
	if cut {
		m.masked = append(m.masked, placeholder)
		m.values = append(m.values, nil)
	}
}

// shorten cuts an overlong line behind its last separator.
func shorten(line []byte) (head []byte, cut bool) {
	if len(line) <= maxLineBytes {
		return line, false
	}
	head = line[:maxLineBytes]
	for len(head) > 0 && classes[head[len(head)-1]] != separator {
		head = head[:len(head)-1]
	}
	return head, true
}

// tokenEnd is the end of the token that byte i lies in.
func tokenEnd(line []byte, i int) int {
	for ; i < len(line); i++ {
		if c := classes[line[i]]; c == separator || c == colon && !insideToken(line, i) {
			return i
		}
	}
	return i
}

// insideToken tells the colon of 10:00:00 or scope:name from one that ends a word.
func insideToken(line []byte, i int) bool {
	return i > 0 && i+1 < len(line) && alnum(line[i-1]) && alnum(line[i+1])
}

func alnum(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

// token is a token of a masked line, or of a template.
type token struct {
	text string // "" when it varies
	kind tokenKind
}

type tokenKind uint8

const (
	plain tokenKind = iota // a word of a message
	value                  // a value by its looks, such as a number; text is set while it is constant
	key                    // the name in name=value and "name":value
	lone                   // the only token of a key's value
)

// tokens are a line taken apart: separators[i] stands before tokens[i], and the last one
// ends the line.
type tokens struct {
	list       []token
	separators []string
}

// split takes a masked line apart. values has the text of each placeholder, nil where it
// varies.
func split(masked []byte, values [][]byte) tokens {
	var t tokens
	from := 0
	for i := 0; i < len(masked); {
		if c := classes[masked[i]]; c == separator || c == colon && !insideToken(masked, i) {
			i++
			continue
		}
		end := tokenEnd(masked, i)
		t.separators = append(t.separators, string(masked[from:i]))
		tok := token{text: string(masked[i:end])}
		if masked[i] == placeholder && len(values) > 0 { // always a token of its own
			tok = token{text: string(values[0]), kind: value}
			values = values[1:]
		}
		t.list = append(t.list, tok)
		i, from = end, end
	}
	t.separators = append(t.separators, string(masked[from:]))
	t.classify()
	return t
}

// messageKeys are keys whose value says what happened even when it is a single word.
var messageKeys = map[string]bool{"msg": true, "message": true, "event": true, "error": true, "err": true, "reason": true}

func (t *tokens) classify() {
	for i := range t.list {
		before, after := t.separators[i], t.separators[i+1]
		tok := &t.list[i]
		switch {
		case endsIn(before, '<') && startsWith(after, '>'):
			*tok = token{kind: value} // <name> would be a placeholder in a pattern
		case tok.kind == value:
		case startsWith(after, '=') || len(after) > 1 && after[:2] == `":`:
			tok.kind = key
		case i > 0 && t.list[i-1].kind == key && !messageKeys[t.list[i-1].text] && closes(before, after):
			tok.kind = lone
		}
	}
}

// closes reports whether a token between the two separators is a whole value.
func closes(before, after string) bool {
	if endsIn(before, '"') {
		return startsWith(after, '"')
	}
	return after == "" || bytes.IndexByte([]byte(" \t\r\n,;}])&"), after[0]) >= 0
}

func endsIn(s string, b byte) bool     { return s != "" && s[len(s)-1] == b }
func startsWith(s string, b byte) bool { return s != "" && s[0] == b }

// pattern prints tokens as a pattern.
func (t *tokens) pattern() string {
	var b []byte
	for i, tok := range t.list {
		b = append(b, t.separators[i]...)
		if tok.text == "" {
			b = append(b, "<_>"...)
		} else {
			b = append(b, tok.text...)
		}
	}
	return string(append(b, t.separators[len(t.list)]...))
}

// masked prints tokens as a masked line and its values, from which split makes them again.
func (t *tokens) masked() (masked []byte, values [][]byte) {
	for i, tok := range t.list {
		masked = append(masked, t.separators[i]...)
		switch {
		case tok.text == "":
			masked, values = append(masked, placeholder), append(values, nil)
		case tok.kind == value:
			masked, values = append(masked, placeholder), append(values, []byte(tok.text))
		default:
			masked = append(masked, tok.text...)
		}
	}
	return append(masked, t.separators[len(t.list)]...), values
}
