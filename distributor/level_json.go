package distributor

import (
	"bytes"
	"encoding/json"
	"slices"
)

func looksLikeJSON(line []byte) bool {
	first, last := 0, len(line)-1
	for first <= last && isSpace(line[first]) {
		first++
	}
	if first > last || line[first] != '{' {
		return false
	}
	for isSpace(line[last]) {
		last--
	}
	return line[last] == '}'
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// jsonWalk looks for a level in the members of an object, in the order of the text.
type jsonWalk struct {
	buf    []byte
	pos    int
	finder *levelFinder
	value  []byte // nil until found
}

// object walks the object at pos; false ends the walk, because the level is found or the
// text is not JSON.
func (w *jsonWalk) object(depth int) bool {
	for w.pos++; ; {
		if w.next() == '}' {
			w.pos++
			return true
		}
		key, ok := w.str()
		if !ok || w.next() != ':' {
			return false
		}
		w.pos++
		if !w.member(key, depth) {
			return false
		}
		switch w.next() {
		case ',':
			w.pos++
		case '}':
		default:
			return false
		}
	}
}

// member walks the value of key.
func (w *jsonWalk) member(key []byte, depth int) bool {
	switch w.next() {
	case '"':
		value, ok := w.str()
		if ok && w.finder.isField(key) {
			w.value = value
			return false
		}
		return ok
	case '{':
		if depth < w.finder.depth {
			return w.object(depth + 1)
		}
		return w.skip()
	case '[':
		return w.skip()
	}
	start := w.pos
	for w.pos < len(w.buf) && w.buf[w.pos] != ',' && w.buf[w.pos] != '}' {
		w.pos++
	}
	return w.pos > start
}

// next skips white space and returns the byte there, 0 at the end.
func (w *jsonWalk) next() byte {
	for w.pos < len(w.buf) && isSpace(w.buf[w.pos]) {
		w.pos++
	}
	if w.pos == len(w.buf) {
		return 0
	}
	return w.buf[w.pos]
}

// str reads the string at pos, escapes left as they are.
func (w *jsonWalk) str() ([]byte, bool) {
	if w.pos >= len(w.buf) || w.buf[w.pos] != '"' {
		return nil, false
	}
	start := w.pos + 1
	for from := start; ; {
		n := bytes.IndexByte(w.buf[from:], '"')
		if n < 0 {
			return nil, false
		}
		end := from + n
		slashes := 0
		for end-slashes > start && w.buf[end-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			w.pos = end + 1
			return w.buf[start:end], true
		}
		from = end + 1
	}
}

// skip passes over an array or object by counting brackets.
func (w *jsonWalk) skip() bool {
	for depth := 0; w.pos < len(w.buf); {
		switch w.buf[w.pos] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			if _, ok := w.str(); !ok {
				return false
			}
			continue
		}
		w.pos++
		if depth == 0 {
			return true
		}
	}
	return false
}

func (f *levelFinder) isField(key []byte) bool {
	if bytes.IndexByte(key, '\\') >= 0 {
		var plain string
		if json.Unmarshal(slices.Concat([]byte{'"'}, key, []byte{'"'}), &plain) != nil {
			return false
		}
		key = []byte(plain)
	}
	if len(key) < f.shortest || len(key) > f.longest {
		return false
	}
	for _, field := range f.fields {
		if string(key) == field {
			return true
		}
	}
	return false
}
