package stage

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// buildEventLog takes apart the text of a Windows event: lines "Key: value" that end with
// carriage return and line feed.
func buildEventLog(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Source    *string   `yaml:"source"`
		Drop      looseBool `yaml:"drop_invalid_labels"`
		Overwrite looseBool `yaml:"overwrite_existing"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	if c.Source == nil {
		message := "message"
		c.Source = &message
	}
	if err := checkSource(c.Source); err != nil {
		return nil, err
	}
	return simple(func(e *Entry) bool {
		all, ok := e.source(c.Source)
		if !ok {
			return true
		}
		for line := range strings.SplitSeq(all, "\r\n") {
			key, v, ok := strings.Cut(line, ":")
			if !ok || key == "" {
				continue
			}
			if !labelName(key) {
				if c.Drop {
					continue
				}
				key = sanitizeName(key)
			}
			if _, taken := e.extracted.get(key); taken && !bool(c.Overwrite) {
				key += "_extracted"
			}
			e.extracted.set(key, stringValue(strings.TrimSpace(v)))
		}
		return true
	}), nil
}

// sanitizeName makes a label's name of any text.
func sanitizeName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !labelName(string([]byte{'_', c})) {
			b[i] = '_'
		}
	}
	if b[0] >= '0' && b[0] <= '9' {
		return "_" + string(b)
	}
	return string(b)
}
