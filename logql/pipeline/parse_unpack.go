package pipeline

import "bytes"

// unpackParser is | unpack: it undoes what an agent's pack stage did.
type unpackParser struct {
	id      int
	json    jsonParser
	pending []unpacked
}

type unpacked struct {
	sym   *symbol
	value string
}

func newUnpackParser(c *compiler) *unpackParser { return &unpackParser{id: c.parser()} }

// packedEntry is the member that holds the line.
var packedEntry = []byte("_entry")

func (p *unpackParser) process(r *row, line []byte) ([]byte, bool) {
	if len(line) == 0 || r.skipParsing() {
		return line, true
	}
	if line[0] != '{' {
		r.setError(errJSON, "expecting json object(6), but it is not")
		return line, true
	}
	p.pending = p.pending[:0]
	entry, packed, err := p.members(r, line)
	if err != nil {
		r.setError(errJSON, err.Error())
		return line, true
	}
	if !packed {
		return line, true
	}
	for _, u := range p.pending {
		if !r.extract(u.sym, u.value) {
			return line, false
		}
	}
	return entry, true
}

// members collects the string members; packed says that there is a packed line.
func (p *unpackParser) members(r *row, b []byte) (entry []byte, packed bool, err error) {
	i := skipSpace(b, 1)
	if i < 0 {
		return nil, false, errJSONForm
	}
	root := r.sh.root(p.id)
	var prev *keyNode
	for {
		key, next, err := p.json.memberKey(b, i)
		if key == nil {
			return entry, packed, err
		}
		isEntry := bytes.Equal(key, packedEntry)
		prev = root.child(r.sh, key, prev)
		value, typ, escaped, next, err := jsonValue(b, next)
		switch {
		case err != nil:
			return nil, false, err
		case typ != jsonString:
		case isEntry:
			packed = true
			if entry, err = p.entry(r, value); err != nil {
				return nil, false, err
			}
		default:
			if sym := prev.target(r); sym != nil {
				p.pending = append(p.pending, unpacked{sym, r.text(value, escaped)})
			}
		}
		if i = skipSpace(b, next); i < 0 {
			return nil, false, errJSONArray
		}
		switch b[i] {
		case '}':
			return entry, packed, nil
		case ',':
		default:
			return nil, false, errJSONObject
		}
		if i = skipSpace(b, i+1); i < 0 {
			return nil, false, errJSONArray
		}
	}
}

func (p *unpackParser) entry(r *row, value []byte) ([]byte, error) {
	n := len(r.arena)
	out, err := unescape(r.arena, value)
	if err != nil {
		return nil, err
	}
	r.arena = out
	return out[n:len(out):len(out)], nil
}
