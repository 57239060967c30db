package stage

import (
	"errors"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// logfmt extracts keys of a line written as key=value key="quoted value" key.
type logfmt struct {
	source *string
	keys   map[string]string // logfmt key → extracted name
}

func buildLogfmt(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Mapping yaml.Node `yaml:"mapping"`
		Source  *string   `yaml:"source"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	pairs, err := decodeMap(resolve(&c.Mapping))
	if err != nil {
		return nil, err
	}
	if len(pairs) == 0 {
		return nil, errors.New("mapping is required")
	}
	if err := checkSource(c.Source); err != nil {
		return nil, err
	}
	d := logfmt{source: c.Source, keys: map[string]string{}}
	for _, p := range pairs {
		if p.value == "" {
			p.value = p.key
		}
		d.keys[p.value] = p.key
	}
	return d, nil
}

func (d logfmt) attach(next Processor, _ *Pipeline) Processor { return &logfmtLink{d, next} }

type logfmtLink struct {
	logfmt
	next Processor
}

func (l *logfmtLink) Process(e *Entry) {
	if src, ok := e.source(l.source); ok {
		scanLogfmt(src, func(key, val string) {
			if name, ok := l.keys[key]; ok {
				e.extracted.set(name, stringValue(val))
			}
		})
	}
	l.next.Process(e)
}

// scanLogfmt reports the pairs before the first fault; it returns false at a fault.
func scanLogfmt(s string, got func(key, val string)) bool {
	for i := 0; i < len(s); {
		if s[i] <= ' ' {
			i++
			continue
		}
		start := i
		for i < len(s) && s[i] > ' ' && s[i] != '=' && s[i] != '"' {
			i++
		}
		key := s[start:i]
		if key == "" || !utf8.ValidString(key) || i < len(s) && s[i] == '"' {
			return false
		}
		if i == len(s) || s[i] != '=' {
			got(key, "")
			continue
		}
		i++
		if i < len(s) && s[i] == '"' {
			quoted, n, ok := logfmtQuoted(s[i:])
			if !ok {
				return false
			}
			got(key, quoted)
			i += n
			continue
		}
		start = i
		for i < len(s) && s[i] > ' ' {
			if s[i] == '=' || s[i] == '"' {
				return false
			}
			i++
		}
		got(key, s[start:i])
	}
	return true
}

// logfmtQuoted reads a quoted value and returns it with the number of bytes it took.
func logfmtQuoted(s string) (string, int, bool) {
	escaped := false
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			if !escaped {
				return s[1:i], i + 1, true
			}
			scan := jsonScanner{b: raw(s[:i+1])}
			if body, ok := scan.str(); ok {
				return jsonText(body), i + 1, true
			}
			v, err := strconv.Unquote(s[:i+1])
			return v, i + 1, err == nil
		}
	}
	return "", 0, false
}
