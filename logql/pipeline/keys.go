package pipeline

import (
	"bytes"
	"strings"
)

// keyNode is what a parser knows of a key in a shape: the label it becomes, and, for
// nested objects, the keys inside. The root stands for the line itself.
type keyNode struct {
	raw      string // the key as it stands in the line, unescaped
	parts    [][]byte
	children map[string]*keyNode
	first    *keyNode // the child that came first in the latest object
	next     *keyNode // the sibling that followed in the latest object

	sym    *symbol // nil when the key makes no label
	dup    *symbol // what sym becomes when its name is taken; made on demand
	enter  bool    // for objects: a wanted label may be inside
	nested bool
	plain  bool // JSON has raw as it is between quotes
}

// maxKeys bounds the children of a node; keys beyond are looked at afresh each time.
const maxKeys = 4096

// root returns the key table of a parser.
func (sh *shape) root(parser int) *keyNode {
	for parser >= len(sh.roots) {
		sh.roots = append(sh.roots, nil)
	}
	if sh.roots[parser] == nil {
		sh.roots[parser] = &keyNode{enter: true}
	}
	return sh.roots[parser]
}

// child returns the node for a key inside n. Prev is the child seen before it in the same
// object, nil at its beginning: keys mostly come in the order of the line before.
func (n *keyNode) child(sh *shape, key []byte, prev *keyNode) *keyNode {
	if guess := n.guess(prev); guess != nil && guess.raw == string(key) {
		return guess
	}
	c, ok := n.children[string(key)]
	if !ok {
		c = n.newChild(sh, key)
	}
	if prev != nil {
		prev.next = c
	} else {
		n.first = c
	}
	return c
}

// guess returns the child that followed prev in the latest object, nil when there is none.
func (n *keyNode) guess(prev *keyNode) *keyNode {
	if prev != nil {
		return prev.next
	}
	return n.first
}

// quotedAt returns where a JSON object goes on behind the key, its quotes and a colon at
// b[i:]; −1 when something else stands there, or the same in another spelling.
func (n *keyNode) quotedAt(b []byte, i int) int {
	if n == nil || !n.plain {
		return -1
	}
	end := i + 1 + len(n.raw)
	if end+1 >= len(b) || b[i] != '"' || b[end] != '"' || b[end+1] != ':' || string(b[i+1:end]) != n.raw {
		return -1
	}
	return end + 2
}

func (n *keyNode) newChild(sh *shape, key []byte) *keyNode {
	c := &keyNode{raw: string(key), nested: n.parts != nil, plain: !bytes.ContainsAny(key, "\"\\")}
	c.parts = append(append(c.parts, n.parts...), []byte(c.raw))
	if name := joinKey(c.parts); name != "" {
		c.sym = sh.symbol(name)
		c.enter = sh.p.hints.mayHavePrefix(name)
	} else {
		c.enter = true
	}
	sh.size += 2*len(c.raw) + 24*len(c.parts) + nameOverhead
	if n.children == nil {
		n.children = map[string]*keyNode{}
	}
	if len(n.children) < maxKeys {
		n.children[c.raw] = c
	}
	return c
}

// target returns the symbol to set for the key in this row, after collisions; nil when
// the key makes no label, or none that is wanted and new.
func (n *keyNode) target(r *row) *symbol {
	sym := n.sym
	if sym == nil {
		return nil
	}
	if r.taken(sym) {
		if n.dup == nil {
			n.dup = r.sh.symbol(joinKey(n.suffixed()))
		}
		sym = n.dup
	}
	if !sym.want || r.extracted(sym) {
		return nil
	}
	return sym
}

// suffixed returns the key's parts with the suffix for duplicates. For keys that are not
// nested it goes after the finished name.
func (n *keyNode) suffixed() [][]byte {
	if !n.nested {
		return [][]byte{[]byte(n.sym.name + duplicateSuffix)}
	}
	parts := bytes.Join(n.parts[len(n.parts)-1:], nil)
	out := append([][]byte(nil), n.parts[:len(n.parts)-1]...)
	return append(out, append(parts, duplicateSuffix...))
}

// joinKey makes a label name of nested keys.
func joinKey(parts [][]byte) string {
	var b strings.Builder
	for _, part := range parts {
		part = bytes.TrimSpace(part)
		if len(part) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('_')
		} else if part[0] >= '0' && part[0] <= '9' {
			b.WriteByte('_')
		}
		for _, c := range string(part) {
			if isLabelRune(c) {
				b.WriteByte(byte(c))
			} else {
				b.WriteByte('_')
			}
		}
	}
	return b.String()
}

func isLabelRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}
