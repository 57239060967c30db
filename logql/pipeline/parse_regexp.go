package pipeline

import (
	"regexp"

	"github.com/skaldlog/skald/logql/syntax"
)

// regexpParser is | regexp "…".
type regexpParser struct {
	re    *regexp.Regexp
	slots []int // by number of the group, -1 for those without a name
}

func newRegexpParser(c *compiler, expr string) (*regexpParser, error) {
	if err := syntax.CheckExtractRegexp(expr); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	p := &regexpParser{re: re, slots: make([]int, re.NumSubexp()+1)}
	for i, name := range re.SubexpNames() {
		p.slots[i] = -1
		if name == "" {
			continue
		}
		if label := joinKey([][]byte{[]byte(name)}); label != "" {
			p.slots[i] = c.slot(label)
		}
	}
	return p, nil
}

func (p *regexpParser) process(r *row, line []byte) ([]byte, bool) {
	m := p.re.FindSubmatchIndex(line)
	if m == nil {
		return line, true
	}
	for i, slot := range p.slots {
		if slot < 0 {
			continue
		}
		sym := r.target(r.sh.slots[slot])
		if !sym.want || r.extracted(sym) {
			continue
		}
		value := ""
		if m[2*i] >= 0 {
			value = view(line[m[2*i]:m[2*i+1]])
		}
		if !r.extract(sym, value) {
			return line, false
		}
	}
	return line, true
}
