package stage

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

func wallClock() int64 { return time.Now().UnixNano() }

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// decode reads a stage's body into a struct with yaml tags. Keys match in any case. A key
// that the stage does not know is ignored, as Promtail does, but not silently.
func decode(node *yaml.Node, into any, env *Env) error {
	if isNull(node) {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want a map", node.Line)
	}
	known := map[string]string{}
	t := reflect.TypeOf(into).Elem()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		known[strings.ToLower(name)] = name
	}
	body := *node
	body.Content = nil
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := *node.Content[i]
		name, ok := known[strings.ToLower(key.Value)]
		if !ok {
			env.Logger.Warn("ignoring an unknown key in a pipeline stage", "line", key.Line, "key", key.Value)
			continue
		}
		if seen[name] {
			return fmt.Errorf("line %d: key %q given twice", key.Line, key.Value)
		}
		seen[name] = true
		key.Value = name
		body.Content = append(body.Content, &key, node.Content[i+1])
	}
	if err := body.Decode(into); err != nil {
		var te *yaml.TypeError
		if errors.As(err, &te) {
			return errors.New(strings.Join(te.Errors, "; "))
		}
		return err
	}
	return nil
}

// pair is a key and a value of a map whose order matters.
type pair struct {
	key, value string
	line       int
	null       bool
}

// decodeMap reads a map of strings in the order of the file; null values are marked.
func decodeMap(node *yaml.Node) ([]pair, error) {
	if isNull(node) {
		return nil, nil
	}
	if node.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: want a map", node.Line)
	}
	var out []pair
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, v := node.Content[i], resolve(node.Content[i+1])
		if v.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: the value of %q must be a string", v.Line, k.Value)
		}
		p := pair{key: k.Value, value: v.Value, line: k.Line, null: isNull(v)}
		if p.null {
			p.value = ""
		}
		for _, o := range out {
			if o.key == p.key {
				return nil, fmt.Errorf("line %d: key %q given twice", k.Line, k.Value)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// stringList reads a string or a list of strings.
type stringList []string

func (l *stringList) UnmarshalYAML(node *yaml.Node) error {
	node = resolve(node)
	if node.Kind == yaml.ScalarNode {
		*l = stringList{node.Value}
		return nil
	}
	return node.Decode((*[]string)(l))
}

// source returns the text a stage works on: the line when name is nil.
func (e *Entry) source(name *string) (string, bool) {
	if name == nil {
		return text(e.Line), true
	}
	v, ok := e.extracted.get(*name)
	if !ok {
		return "", false
	}
	return v.text()
}

func checkSource(name *string) error {
	if name != nil && *name == "" {
		return errors.New("source is empty; leave it out to use the line")
	}
	return nil
}

func compileRegexp(expr, key string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, fmt.Errorf("%s is required", key)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return re, nil
}

// labelName reports whether s can be the name of a label.
func labelName(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '_', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}
