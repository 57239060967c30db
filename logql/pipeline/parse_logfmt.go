package pipeline

// logfmtParser is | logfmt without parameters: every key with a value becomes a label.
type logfmtParser struct {
	id                int
	strict, keepEmpty bool
	scan              logfmtScanner
}

func (p *logfmtParser) process(r *row, line []byte) ([]byte, bool) {
	if r.skipParsing() {
		return line, true
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
		sym := k.target(r)
		if sym == nil || (len(s.value) == 0 && !p.keepEmpty) {
			continue
		}
		r.arena = s.mem
		ok := r.extract(sym, r.clean(s.value))
		s.mem = r.arena
		if !ok {
			return line, false
		}
		if r.allRequired() {
			break
		}
	}
	r.arena = s.mem
	if p.strict && s.fault != "" {
		r.setError(errLogfmt, s.details())
		if f := r.p.hints.filterFor(errorLabel); f != nil && !f.match(r) {
			return line, false
		}
	}
	return line, true
}
