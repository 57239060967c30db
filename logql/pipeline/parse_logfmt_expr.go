package pipeline

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/skaldlog/skald/logql/syntax"
)

// logfmtExpr is | logfmt with parameters.
type logfmtExpr struct {
	id     int
	strict bool
	labels []logfmtLabel
	scan   logfmtScanner
}

// logfmtLabel takes its value from a key.
type logfmtLabel struct {
	name string
	slot int
	key  string // sanitised
}

func newLogfmtExpr(c *compiler, s *syntax.LogfmtStage) (*logfmtExpr, error) {
	p := &logfmtExpr{id: c.parser(), strict: s.Strict}
	for _, e := range s.Extract {
		key, err := parseLogfmtPath(e.Expr)
		if err != nil {
			return nil, fmt.Errorf("cannot parse expression [%s]: %w", e.Expr, err)
		}
		if e.Name == "" || !utf8.ValidString(e.Name) {
			return nil, fmt.Errorf("invalid extracted label name '%s'", e.Name)
		}
		p.labels = append(p.labels, logfmtLabel{e.Name, c.slot(e.Name), key})
	}
	return p, nil
}

func (p *logfmtExpr) process(r *row, line []byte) ([]byte, bool) {
	if r.skipParsing() {
		return line, true
	}
	for _, l := range p.labels {
		if sym := r.sh.slots[l.slot]; !r.taken(sym) {
			r.set(sym, "")
		}
	}
	s := &p.scan
	s.reset(line, r.arena)
	root := r.sh.root(p.id)
	var prev *keyNode
	for s.pos < len(line) {
		if !s.next() {
			if p.strict {
				break
			}
			continue
		}
		k := root.child(r.sh, s.key, prev)
		prev = k
		if k.sym != nil && !p.put(r, k.sym) {
			break
		}
	}
	r.arena = s.mem
	if p.strict && s.fault != "" {
		r.setError(errLogfmt, s.details())
	}
	return line, true
}

// put sets the labels that take their value from the key called sym.name, or, when there
// is none, the label of that name. It returns false when the rest of the line is of no
// interest.
func (p *logfmtExpr) put(r *row, sym *symbol) bool {
	used, own := false, -1
	for i := range p.labels {
		if p.labels[i].name == sym.name {
			own = i
		}
	}
	if own < 0 && r.extracted(sym) {
		return true
	}
	for i := range p.labels {
		if p.labels[i].key == sym.name {
			used = true
			if !p.set(r, &p.labels[i]) {
				return false
			}
		}
	}
	if !used && own >= 0 && !p.set(r, &p.labels[own]) {
		return false
	}
	return true
}

func (p *logfmtExpr) set(r *row, l *logfmtLabel) bool {
	value := p.scan.value
	if bytes.ContainsRune(value, utf8.RuneError) {
		value = nil
	}
	sym := r.sh.slots[l.slot]
	if r.taken(sym) {
		sym = r.sh.duplicate(sym)
		if !sym.want || r.extracted(sym) {
			return false
		}
	}
	r.set(sym, view(value))
	return !r.allRequired()
}
