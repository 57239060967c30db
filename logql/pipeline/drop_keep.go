package pipeline

import (
	"bytes"
	"regexp"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/syntax"
)

// dropStage is | drop.
type dropStage struct{ items []dropItem }

type dropItem struct {
	name    string
	slot    int
	matcher *labels.Matcher // nil for a bare name
}

func newDrop(c *compiler, items []syntax.NameOrMatcher) *dropStage {
	d := &dropStage{}
	for _, it := range items {
		name := it.Name
		if it.Matcher != nil {
			name = it.Matcher.Name
		}
		d.items = append(d.items, dropItem{name, c.slot(name), it.Matcher})
	}
	return d
}

func (d *dropStage) process(r *row, line []byte) ([]byte, bool) {
	for _, it := range d.items {
		switch it.name {
		case errorLabel:
			if it.matcher == nil || it.matcher.Matches(r.err) {
				r.err = ""
			}
			continue
		case errorDetailsLabel:
			if it.matcher == nil || it.matcher.Matches(r.errDetails) {
				r.errDetails = ""
			}
			continue
		}
		sym := r.sh.slots[it.slot]
		v, ok := r.get(sym)
		if it.matcher == nil && ok || it.matcher != nil && it.matcher.Matches(v) {
			r.del(sym)
		}
	}
	return line, true
}

// keepStage is | keep.
type keepStage struct{ items []syntax.NameOrMatcher }

func newKeep(items []syntax.NameOrMatcher) *keepStage { return &keepStage{items} }

func (k *keepStage) process(r *row, line []byte) ([]byte, bool) {
	for i, sym := range r.sh.base {
		if sym.gen == r.gen {
			continue // with the touched ones below
		}
		value := ""
		if k.needsValue(sym.name) {
			value = r.baseValue(r.sh.base[i])
		}
		if !k.keeps(sym.name, value) {
			r.del(sym)
		}
	}
	for _, sym := range r.touched {
		if v, ok := r.get(sym); ok && !k.keeps(sym.name, v) {
			r.del(sym)
		}
	}
	return line, true
}

// needsValue reports whether the label's value decides.
func (k *keepStage) needsValue(name string) bool {
	for _, it := range k.items {
		if it.Matcher != nil && it.Matcher.Name == name {
			return true
		}
	}
	return false
}

func (k *keepStage) keeps(name, value string) bool {
	switch name {
	case errorLabel, errorDetailsLabel, preserveErrorLabel:
		return true
	}
	for _, it := range k.items {
		switch {
		case it.Matcher != nil && it.Matcher.Name == name && it.Matcher.Matches(value):
			return true
		case it.Matcher == nil && it.Name == name:
			return true
		}
	}
	return false
}

// decolorize is | decolorize.
type decolorize struct{}

// ansi matches the escape sequences of terminals: those that a letter ends, and those
// that set a title and end with a bell.
var ansi = regexp.MustCompile("[\x1b\u009b][\\[\\]()#;?]*(?:(?:[a-zA-Z0-9]*(?:;[a-zA-Z0-9]*)*)?\a|(?:[0-9]{1,4}(?:;[0-9]{0,4})*)?[0-9A-PRZcf-nqrty=><~])")

func (decolorize) process(_ *row, line []byte) ([]byte, bool) {
	if bytes.IndexByte(line, 0x1b) < 0 && !bytes.Contains(line, []byte("\u009b")) {
		return line, true
	}
	return ansi.ReplaceAll(line, nil), true
}
