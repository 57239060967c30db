package stage

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

func buildOutput(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Source string `yaml:"source"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	if c.Source == "" {
		return nil, errors.New("source is required")
	}
	return simple(func(e *Entry) bool {
		if v, ok := e.extracted.get(c.Source); ok {
			if s, ok := v.text(); ok {
				e.Line = raw(s)
			}
		}
		return true
	}), nil
}

// ansiEscape matches the sequences that terminals understand as colours and movements.
var ansiEscape = regexp.MustCompile("[\u001B\u009B][[\\]()#;?]*(?:(?:(?:[a-zA-Z\\d]*(?:;[a-zA-Z\\d]*)*)?\u0007)|(?:(?:\\d{1,4}(?:;\\d{0,4})*)?[\\dA-PRZcf-ntqry=><~]))")

func buildDecolorize(*yaml.Node, *Env) (definition, error) {
	return simple(func(e *Entry) bool {
		e.Line = ansiEscape.ReplaceAll(e.Line, nil)
		return true
	}), nil
}

// buildPack puts labels into the line, as a JSON object with the line as "_entry".
func buildPack(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Labels          []string   `yaml:"labels"`
		IngestTimestamp *looseBool `yaml:"ingest_timestamp"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	restamp := c.IngestTimestamp == nil || bool(*c.IngestTimestamp)
	return simple(func(e *Entry) bool {
		members := map[string]string{}
		for _, name := range c.Labels {
			if v, ok := e.extracted.get(name); ok {
				if s, ok := v.text(); ok {
					members[name] = s
				}
			}
		}
		e.Line = packed(members, text(e.Line))
		e.Labels = e.Labels.without(c.Labels)
		if restamp {
			e.Timestamp = env.Now()
		}
		return true
	}), nil
}

func packed(members map[string]string, line string) []byte {
	out := []byte{'{'}
	add := func(k, v string) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		kb, _ := json.Marshal(k) // marshalling a string cannot fail
		vb, _ := json.Marshal(v)
		out = append(append(append(out, kb...), ':'), vb...)
	}
	for _, k := range slices.Sorted(maps.Keys(members)) {
		add(k, members[k])
	}
	add("_entry", line)
	return append(out, '}')
}
