package stage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
)

// link makes a Processor of a function that looks at one entry and passes it on, or not.
type link struct {
	next Processor
	keep func(e *Entry) bool
}

func (l *link) Process(e *Entry) {
	if l.keep(e) {
		l.next.Process(e)
	} else {
		e.releaseHeld()
	}
}

// simple is a stage without state of its own in a pipeline.
type simple func(e *Entry) bool

func (f simple) attach(next Processor, _ *Pipeline) Processor { return &link{next, f} }

// mapping reads a map of label → extracted name, where nothing means the same name.
func mapping(node *yaml.Node) ([]pair, error) {
	pairs, err := decodeMap(node)
	if err != nil {
		return nil, err
	}
	if len(pairs) == 0 {
		return nil, errors.New("at least one label is required")
	}
	for i := range pairs {
		if !labelName(pairs[i].key) {
			return nil, fmt.Errorf("line %d: invalid label name %q", pairs[i].line, pairs[i].key)
		}
		if pairs[i].value == "" {
			pairs[i].value = pairs[i].key
		}
	}
	return pairs, nil
}

func buildLabels(node *yaml.Node, _ *Env) (definition, error) {
	pairs, err := mapping(node)
	if err != nil {
		return nil, err
	}
	return simple(func(e *Entry) bool {
		for i := range pairs {
			if v, ok := e.extracted.get(pairs[i].value); ok {
				if s, ok := v.text(); ok && utf8.ValidString(s) {
					e.Labels = e.Labels.with(pairs[i].key, s)
				}
			}
		}
		return true
	}), nil
}

// buildMetadata moves extracted values, or labels, into the structured metadata.
func buildMetadata(node *yaml.Node, _ *Env) (definition, error) {
	pairs, err := mapping(node)
	if err != nil {
		return nil, err
	}
	return simple(func(e *Entry) bool {
		for _, p := range pairs {
			v, ok := e.extracted.get(p.value)
			s, valid := v.text()
			if !ok || !valid {
				if s, ok = e.Labels.lookup(p.value); !ok {
					continue
				}
			}
			if !utf8.ValidString(s) {
				continue
			}
			e.setMetadata(p.key, s)
			if l, ok := e.Labels.lookup(p.value); ok && l == s {
				e.Labels = e.Labels.with(p.value, "")
			}
		}
		return true
	}), nil
}

// setMetadata keeps the metadata sorted by name, each name once, without empty values.
func (e *Entry) setMetadata(name, val string) {
	i, found := slices.BinarySearchFunc(e.Metadata, name, func(l labels.Label, n string) int {
		return strings.Compare(l.Name, n)
	})
	switch {
	case found && val == "":
		e.Metadata = slices.Delete(e.Metadata, i, i+1)
	case found:
		e.Metadata[i].Value = val
	case val != "":
		e.Metadata = slices.Insert(e.Metadata, i, labels.Label{Name: name, Value: val})
	}
}

func buildStaticLabels(node *yaml.Node, _ *Env) (definition, error) {
	pairs, err := decodeMap(node)
	if err != nil {
		return nil, err
	}
	if len(pairs) == 0 {
		return nil, errors.New("at least one label is required")
	}
	for _, p := range pairs {
		if !labelName(p.key) {
			return nil, fmt.Errorf("line %d: invalid label name %q", p.line, p.key)
		}
	}
	return simple(func(e *Entry) bool {
		for i := range pairs {
			if pairs[i].value != "" {
				e.Labels = e.Labels.with(pairs[i].key, pairs[i].value)
			}
		}
		return true
	}), nil
}

func names(node *yaml.Node) ([]string, error) {
	var list []string
	if err := node.Decode(&list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("at least one label name is required")
	}
	return list, nil
}

func buildLabelDrop(node *yaml.Node, _ *Env) (definition, error) {
	list, err := names(node)
	if err != nil {
		return nil, err
	}
	return simple(func(e *Entry) bool {
		e.Labels = e.Labels.without(list)
		return true
	}), nil
}

// labelAllow keeps the named labels and removes all others.
type labelAllow []string

func buildLabelAllow(node *yaml.Node, _ *Env) (definition, error) {
	list, err := names(node)
	return labelAllow(list), err
}

func (d labelAllow) attach(next Processor, _ *Pipeline) Processor {
	var from, to *Set
	return &link{next, func(e *Entry) bool {
		if e.Labels != from {
			from, to = e.Labels, e.Labels
			from.all.Range(func(l labels.Label) {
				if !slices.Contains(d, l.Name) {
					to = to.with(l.Name, "")
				}
			})
		}
		e.Labels = to
		return true
	}}
}

func buildTenant(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Label  string `yaml:"label"`
		Source string `yaml:"source"`
		Value  string `yaml:"value"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	given := 0
	for _, s := range []string{c.Label, c.Source, c.Value} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("exactly one of label, source and value is required, got %d", given)
	}
	return simple(func(e *Entry) bool {
		tenant := c.Value
		switch {
		case c.Label != "":
			tenant, _ = e.Labels.lookup(c.Label)
		case c.Source != "":
			v, _ := e.extracted.get(c.Source)
			tenant, _ = v.text()
		}
		if tenant != "" {
			e.Labels = e.Labels.with(TenantLabel, tenant)
		}
		return true
	}), nil
}
