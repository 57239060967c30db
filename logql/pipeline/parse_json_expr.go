package pipeline

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/skaldlog/skald/logql/syntax"
)

// jsonExpr is | json with parameters. It does not parse the whole line: it walks over
// it once and picks the values at the paths.
type jsonExpr struct {
	labels []int // slots
	paths  [][]syntax.PathStep
	depth  int // of the longest path

	done  []bool
	found int      // paths dealt with
	hits  int      // values set
	trail [][]byte // the keys that lead to the current position
	mem   []byte   // memory for keys without their escapes
}

func newJSONExpr(c *compiler, exprs []syntax.Extraction) (*jsonExpr, error) {
	p := &jsonExpr{done: make([]bool, len(exprs))}
	for _, e := range exprs {
		path, err := syntax.ParseJSONPath(e.Expr)
		if err != nil {
			return nil, fmt.Errorf("cannot parse expression [%s]: %w", e.Expr, err)
		}
		if e.Name == "" || !utf8.ValidString(e.Name) {
			return nil, fmt.Errorf("invalid extracted label name '%s'", e.Name)
		}
		p.paths = append(p.paths, path)
		p.labels = append(p.labels, c.slot(e.Name))
		p.depth = max(p.depth, len(path))
	}
	p.trail = make([][]byte, p.depth)
	return p, nil
}

func (p *jsonExpr) process(r *row, line []byte) ([]byte, bool) {
	if len(line) == 0 || r.skipParsing() {
		return line, true
	}
	if c := line[0]; c != '"' && c != '{' && c != '[' {
		r.setError(errJSON, "")
		return line, true
	}
	clear(p.done)
	clear(p.trail)
	p.found, p.hits, p.mem = 0, 0, p.mem[:0]
	p.walk(r, line)
	if p.hits < len(p.paths) {
		for _, slot := range p.labels {
			if _, ok := r.getSlot(slot); !ok {
				r.set(r.sh.slots[slot], "")
			}
		}
	}
	return line, true
}

// walk goes through the line until every path has been found. Where the line is
// malformed it picks up what it can.
func (p *jsonExpr) walk(r *row, b []byte) {
	level := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{':
			level++
		case '}', ']':
			level--
		case '"':
			end, escaped := stringEnd(b, i+1)
			if end < 0 {
				return
			}
			next := skipSpace(b, end+1)
			if next < 0 {
				return
			}
			if b[next] != ':' {
				i = next - 1
				continue
			}
			if !p.key(r, b, b[i+1:end], escaped, level, next+1) {
				return
			}
			i = next
		case '[':
			if level < 0 {
				r.setError(errJSON, errJSONForm.Error())
				return
			}
			if p.wantsIndex(level) {
				level++
				i += p.array(r, b[i:], level) - 1
				if p.found == len(p.paths) {
					return
				}
				continue
			}
			end := blockEnd(b, i, '[', ']')
			if end < 0 {
				return
			}
			i = end - 1
		}
	}
}

// key handles a key at a level; its value begins at or after next. It returns false when
// there is no more to do.
func (p *jsonExpr) key(r *row, b, key []byte, escaped bool, level, next int) bool {
	if level > p.depth {
		return true
	}
	if escaped {
		n := len(p.mem)
		out, err := unescape(p.mem, key)
		if err != nil {
			return false
		}
		p.mem = out
		key = out[n:]
	}
	if level < 1 {
		r.setError(errJSON, errJSONForm.Error())
		return false
	}
	p.trail[level-1] = key
	for i, path := range p.paths {
		if len(path) != level || p.done[i] || !p.onTrail(path, level) {
			continue
		}
		p.done[i] = true
		p.found++
		value, typ, escaped, _, err := jsonValue(b, next)
		p.put(r, i, value, typ, escaped, err)
	}
	return p.found < len(p.paths)
}

// onTrail reports whether the first n steps of the path lead to the current position.
func (p *jsonExpr) onTrail(path []syntax.PathStep, n int) bool {
	for i, step := range path[:min(n, len(path))] {
		if step.IsIndex || step.Key != string(p.trail[i]) {
			return false
		}
	}
	return true
}

// wantsIndex reports whether a path goes on with an index at the current position.
func (p *jsonExpr) wantsIndex(level int) bool {
	for i, path := range p.paths {
		if p.goesInto(i, path, level) {
			return true
		}
	}
	return false
}

func (p *jsonExpr) goesInto(i int, path []syntax.PathStep, level int) bool {
	return len(path) > level && !p.done[i] && path[level].IsIndex && p.onTrail(path, level)
}

// array looks up the paths that go into the array b starts with. It returns the position
// of the closing bracket, or where the array stops making sense. Level is one more than
// outside of the array.
func (p *jsonExpr) array(r *row, b []byte, level int) int {
	wants := make([]bool, len(p.paths))
	for i, path := range p.paths {
		wants[i] = p.goesInto(i, path, level-1)
	}
	off := skipSpace(b, 1)
	if off < 0 {
		return 1
	}
	if b[off] == ']' {
		return off
	}
	for n := 0; ; n++ {
		value, typ, escaped, next, err := jsonValue(b, off)
		if err != nil {
			return off
		}
		for i, path := range p.paths {
			if !wants[i] || path[level-1].Index != n {
				continue
			}
			p.done[i] = true
			p.found++
			if v, t, esc, ok := lookup(value, typ, escaped, path[level:]); ok {
				p.put(r, i, v, t, esc, nil)
			}
		}
		at := skipSpace(b, next)
		if at < 0 {
			return next
		}
		if b[at] != ',' {
			return at
		}
		off = at + 1
	}
}

// lookup follows the rest of a path inside a value.
func lookup(value []byte, typ jsonType, escaped bool, path []syntax.PathStep) ([]byte, jsonType, bool, bool) {
	if len(path) == 0 {
		return value, typ, escaped, true
	}
	step := path[0]
	switch {
	case typ == jsonObject && !step.IsIndex:
		var p jsonParser
		for i := skipSpace(value, 1); i >= 0; {
			key, next, err := p.memberKey(value, i)
			if key == nil || err != nil {
				break
			}
			match := string(key) == step.Key
			v, t, esc, next, err := jsonValue(value, next)
			if err != nil {
				break
			}
			if match {
				if v, t, esc, ok := lookup(v, t, esc, path[1:]); ok {
					return v, t, esc, true
				}
			}
			if i = skipSpace(value, next); i < 0 || value[i] != ',' {
				break
			}
			i = skipSpace(value, i+1)
		}
	case typ == jsonArray && step.IsIndex:
		off := 1
		for n := 0; ; n++ {
			v, t, esc, next, err := jsonValue(value, off)
			if err != nil {
				break
			}
			if n == step.Index {
				return lookup(v, t, esc, path[1:])
			}
			if off = skipSpace(value, next); off < 0 || value[off] != ',' {
				break
			}
			off++
		}
	}
	return nil, jsonNone, false, false
}

// put sets the label of path i, over what may be there already.
func (p *jsonExpr) put(r *row, i int, value []byte, typ jsonType, escaped bool, err error) {
	if err != nil {
		r.setError(errJSON, err.Error())
		return
	}
	sym := r.target(r.sh.slots[p.labels[i]])
	switch typ {
	case jsonNull:
		r.set(sym, "")
	case jsonObject:
		r.set(sym, view(value))
	case jsonArray:
		r.set(sym, r.text(value, bytes.IndexByte(value, '\\') >= 0))
	default:
		r.set(sym, r.text(value, escaped))
	}
	p.hits++
}
