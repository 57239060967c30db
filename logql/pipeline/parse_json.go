package pipeline

import "errors"

// jsonParser is | json without parameters: every string, number and boolean of the
// object becomes a label.
type jsonParser struct {
	id  int
	key []byte // memory for a key without its escapes
}

func newJSONParser(c *compiler) *jsonParser { return &jsonParser{id: c.parser()} }

// Reasons to stop in the middle of an object.
var (
	errFoundAll = errors.New("all labels found")
	errDropped  = errors.New("a filter dropped the row")
)

func (p *jsonParser) process(r *row, line []byte) ([]byte, bool) {
	if r.skipParsing() {
		return line, true
	}
	switch err := p.object(r, line, r.sh.root(p.id), 0); err {
	case nil, errFoundAll:
	case errDropped:
		return line, false
	default:
		r.setError(errJSON, err.Error())
	}
	return line, true
}

// maxJSONDepth bounds the nesting of objects. Deeper ones are treated as if they had no
// labels.
const maxJSONDepth = 512

// object extracts the members of the object that b starts with. What follows it is
// ignored. An object inside is measured before it is entered, so that nothing is taken
// from one that does not end.
func (p *jsonParser) object(r *row, b []byte, node *keyNode, depth int) error {
	i := skipSpace(b, 0)
	if i < 0 || b[i] != '{' {
		return errJSONObject
	}
	if i = skipSpace(b, i+1); i < 0 {
		return errJSONForm
	}
	if b[i] == '}' {
		return nil
	}
	var prev *keyNode
	for {
		// Keys mostly come in the order of the line before.
		k := node.guess(prev)
		next := k.quotedAt(b, i)
		if next < 0 {
			key, after, err := p.memberKey(b, i)
			if key == nil {
				return err
			}
			k, next = node.child(r.sh, key, prev), after
		}
		prev = k
		value, typ, escaped, next, err := jsonValue(b, next)
		if err != nil {
			return err
		}
		if err := p.member(r, k, value, typ, escaped, depth); err != nil {
			return err
		}
		if i = skipSpace(b, next); i < 0 {
			return errJSONArray
		}
		switch b[i] {
		case '}':
			return nil
		case ',':
		default:
			return errJSONObject
		}
		if i = skipSpace(b, i+1); i < 0 {
			return errJSONArray
		}
	}
}

// memberKey reads the key at i and the colon behind it. The key is nil at the end of the
// object, and when there is an error.
func (p *jsonParser) memberKey(b []byte, i int) (key []byte, next int, err error) {
	switch b[i] {
	case '"':
	case '}':
		return nil, 0, nil
	default:
		return nil, 0, errJSONObject
	}
	end, escaped := stringEnd(b, i+1)
	if end < 0 {
		return nil, 0, errJSONForm
	}
	key = b[i+1 : end : end]
	if escaped {
		if p.key, err = unescape(p.key[:0], key); err != nil {
			return nil, 0, err
		}
		key = p.key
	}
	if i = skipSpace(b, end+1); i < 0 || b[i] != ':' {
		return nil, 0, errJSONForm
	}
	return key, i + 1, nil
}

// member handles one member of an object.
func (p *jsonParser) member(r *row, k *keyNode, value []byte, typ jsonType, escaped bool, depth int) error {
	var err error
	switch typ {
	case jsonObject:
		if k.enter && depth < maxJSONDepth {
			return p.object(r, value, k, depth+1)
		}
		return nil
	case jsonString, jsonNumber, jsonBool:
		if sym := k.target(r); sym != nil {
			v := view(value)
			if typ == jsonString {
				v = r.text(value, escaped)
			}
			if !r.extract(sym, v) {
				err = errDropped
			}
		}
	}
	if r.allRequired() {
		return errFoundAll
	}
	return err
}
