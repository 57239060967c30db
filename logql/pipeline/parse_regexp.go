package pipeline

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// regexpParser is | regexp "…".
type regexpParser struct {
	re    *regexp.Regexp
	slots []int // by number of the group, -1 for those without a name
}

func newRegexpParser(c *compiler, expr string) (*regexpParser, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	p := &regexpParser{re: re, slots: make([]int, re.NumSubexp()+1)}
	var names []string
	for i, name := range re.SubexpNames() {
		p.slots[i] = -1
		if name == "" {
			continue
		}
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("duplicate extracted label name '%s'", name)
		}
		names = append(names, name)
		if label := joinKey([][]byte{[]byte(name)}); label != "" {
			p.slots[i] = c.slot(label)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("at least one named capture must be supplied")
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
