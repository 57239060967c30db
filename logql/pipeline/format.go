package pipeline

import (
	"errors"
	"fmt"
	"text/template"

	"github.com/skaldlog/skald/logql/syntax"
)

// lineFormat is | line_format.
type lineFormat struct {
	env  *templateEnv
	tmpl *template.Template
	// simple is the slot of the label when the template is just {{.label}}, else -1.
	simple int
}

func newLineFormat(c *compiler, text string) (*lineFormat, error) {
	f := &lineFormat{env: newTemplateEnv(), simple: -1}
	t, err := f.env.parse("line", text)
	if err != nil {
		return nil, fmt.Errorf("invalid line template: %w", err)
	}
	c.required = append(c.required, fieldNames(t)...)
	if name := simpleField(t); name != "" {
		f.simple = c.slot(name)
	}
	f.env.guard(t)
	f.tmpl = t
	return f, nil
}

func (f *lineFormat) process(r *row, line []byte) ([]byte, bool) {
	if f.simple >= 0 {
		v, _ := r.getSlot(f.simple)
		return bytesOf(v), true
	}
	f.env.line, f.env.ts = line, r.ts
	f.env.load(r)
	out, err := f.env.run(f.tmpl)
	if err != nil {
		r.err, r.errDetails = errTemplateFormat, err.Error()
		return line, true
	}
	return bytesOf(r.appendArena(out)), true
}

// labelFormat is | label_format.
type labelFormat struct {
	env     *templateEnv
	formats []labelAssign
}

type labelAssign struct {
	dst  int                // slot
	src  int                // slot, when tmpl is nil
	tmpl *template.Template // nil for a rename
}

func newLabelFormat(c *compiler, formats []syntax.LabelAssign) (*labelFormat, error) {
	f := &labelFormat{env: newTemplateEnv()}
	seen := map[string]bool{}
	for _, a := range formats {
		switch {
		case a.Dst == errorLabel:
			return nil, errors.New("__error__ cannot be formatted")
		case seen[a.Dst]:
			return nil, fmt.Errorf("multiple label name '%s' not allowed in a single format operation", a.Dst)
		}
		seen[a.Dst] = true
	}
	for _, a := range formats {
		if a.Rename {
			f.formats = append(f.formats, labelAssign{dst: c.slot(a.Dst), src: c.slot(a.Value)})
			c.required = append(c.required, a.Value)
			continue
		}
		t, err := f.env.parse("label", a.Value)
		if err != nil {
			return nil, fmt.Errorf("invalid template for label '%s': %w", a.Dst, err)
		}
		c.required = append(c.required, fieldNames(t)...)
		f.env.guard(t)
		f.formats = append(f.formats, labelAssign{dst: c.slot(a.Dst), tmpl: t})
	}
	return f, nil
}

// process runs the assignments in order. A rename sees what the ones before it did; all
// templates see the labels as they were when the first of them ran.
func (f *labelFormat) process(r *row, line []byte) ([]byte, bool) {
	f.env.line, f.env.ts = line, r.ts
	loaded := false
	for _, a := range f.formats {
		dst := r.sh.slots[a.dst]
		if a.tmpl == nil {
			src := r.sh.slots[a.src]
			if v, ok := r.get(src); ok {
				r.set(dst, v)
				r.del(src)
			}
			continue
		}
		if !loaded || len(f.env.data) == 0 {
			f.env.load(r)
			loaded = true
		}
		out, err := f.env.run(a.tmpl)
		if err != nil {
			r.err, r.errDetails = errTemplateFormat, err.Error()
			continue
		}
		r.set(dst, r.appendArena(out))
	}
	return line, true
}
