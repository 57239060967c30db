package stage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jmespath/go-jmespath"
	"go.yaml.in/yaml/v3"
)

// jsonStage extracts fields of a JSON object.
type jsonStage struct {
	source        *string
	dropMalformed bool
	names         []string // to extract
	keys          []string // top-level members, when all expressions are plain names
	paths         []*jmespath.JMESPath
	env           *Env
}

func buildJSON(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Expressions   yaml.Node `yaml:"expressions"`
		Source        *string   `yaml:"source"`
		DropMalformed bool      `yaml:"drop_malformed"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	pairs, err := decodeMap(resolve(&c.Expressions))
	if err != nil {
		return nil, err
	}
	if len(pairs) == 0 {
		return nil, errors.New("expressions is required")
	}
	if err := checkSource(c.Source); err != nil {
		return nil, err
	}
	d := &jsonStage{source: c.Source, dropMalformed: c.DropMalformed, env: env}
	plain := true
	for _, p := range pairs {
		if p.value == "" {
			p.value = p.key
		}
		path, err := jmespath.Compile(p.value)
		if err != nil {
			return nil, fmt.Errorf("line %d: expression %q: %w", p.line, p.value, err)
		}
		key, ok := plainName(p.value)
		plain = plain && ok
		d.names, d.keys, d.paths = append(d.names, p.key), append(d.keys, key), append(d.paths, path)
	}
	if !plain {
		d.keys = nil
	}
	return d, nil
}

// plainName reports whether a JMESPath expression is nothing but the name of a member.
func plainName(expr string) (string, bool) {
	if n := len(expr); n > 2 && expr[0] == '"' && expr[n-1] == '"' && !strings.ContainsAny(expr[1:n-1], `"\`) {
		return expr[1 : n-1], true
	}
	return expr, labelName(expr)
}

func (d *jsonStage) attach(next Processor, _ *Pipeline) Processor {
	return &jsonLink{jsonStage: d, next: next, values: make([][]byte, len(d.names))}
}

type jsonLink struct {
	*jsonStage
	next   Processor
	values [][]byte // scratch: raw values, by index of names
}

func (l *jsonLink) Process(e *Entry) {
	if !l.extract(e) && l.dropMalformed {
		e.releaseHeld()
		return
	}
	l.next.Process(e)
}

func (l *jsonLink) extract(e *Entry) bool {
	src, ok := e.source(l.source)
	if !ok {
		return true
	}
	if l.keys == nil {
		return l.search(e, src)
	}
	clear(l.values)
	scan := jsonScanner{b: raw(src)}
	ok = scan.object(func(key, val []byte) {
		if bytes.IndexByte(key, '\\') >= 0 {
			key = raw(jsonText(key))
		}
		for i, k := range l.keys {
			if k == text(key) {
				l.values[i] = val
			}
		}
	})
	if !ok {
		return false
	}
	for i, v := range l.values {
		if v == nil {
			e.extracted.set(l.names[i], value{})
			continue
		}
		if jv, ok := jsonValue(v); ok {
			e.extracted.set(l.names[i], jv)
		} else if s, ok := compactJSON(v); ok {
			e.extracted.set(l.names[i], stringValue(s))
		}
	}
	return true
}

// compactJSON writes an array or object the way encoding/json does.
func compactJSON(b []byte) (string, bool) {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return "", false
	}
	out, err := json.Marshal(v)
	return text(out), err == nil
}

// search evaluates JMESPath expressions.
func (l *jsonLink) search(e *Entry, src string) bool {
	var data map[string]any
	if err := json.Unmarshal(raw(src), &data); err != nil || data == nil {
		return false
	}
	for i, path := range l.paths {
		got, err := path.Search(data)
		if err != nil {
			continue
		}
		switch got := got.(type) {
		case nil:
			e.extracted.set(l.names[i], value{})
		case string:
			e.extracted.set(l.names[i], stringValue(got))
		case float64:
			e.extracted.set(l.names[i], value{kind: kindFloat, num: got})
		case bool:
			v := value{kind: kindBool}
			if got {
				v.num = 1
			}
			e.extracted.set(l.names[i], v)
		default:
			if out, err := json.Marshal(got); err == nil {
				e.extracted.set(l.names[i], stringValue(text(out)))
			}
		}
	}
	return true
}

// docker reads the lines of Docker's json-file driver: log, stream and time.
type docker struct{}

func buildDocker(node *yaml.Node, env *Env) (definition, error) {
	if !isNull(node) && (node.Kind != yaml.MappingNode || len(node.Content) > 0) {
		env.Logger.Warn("the docker stage has no parameters; ignoring them", "line", node.Line)
	}
	return docker{}, nil
}

func (docker) attach(next Processor, _ *Pipeline) Processor {
	return &dockerLink{next: next, times: newFudge()}
}

type dockerLink struct {
	next  Processor
	times *fudge
}

func (l *dockerLink) Process(e *Entry) {
	var line, stream, stamp []byte
	scan := jsonScanner{b: e.Line}
	ok := scan.object(func(key, val []byte) {
		switch text(key) {
		case "log":
			line = val
		case "stream":
			stream = val
		case "time":
			stamp = val
		}
	})
	if ok {
		l.apply(e, line, stream, stamp)
	}
	l.next.Process(e)
}

func (l *dockerLink) apply(e *Entry, line, stream, stamp []byte) {
	x := &e.extracted
	x.set("output", anyJSON(line))
	x.set("stream", anyJSON(stream))
	x.set("timestamp", anyJSON(stamp))
	if v, _ := x.get("stream"); v.kind != kindNil {
		if s, ok := v.text(); ok {
			e.Labels = e.Labels.with("stream", s)
		}
	}
	v, _ := x.get("timestamp")
	s, _ := v.text()
	if ts, ok := parseRFC3339(raw(s)); ok {
		e.Timestamp = ts
		l.times.good(e.Labels, ts)
	} else {
		e.Timestamp = l.times.guess(e.Labels, e.Timestamp)
	}
	v, _ = x.get("output")
	if s, ok := v.text(); ok {
		e.Line = raw(s)
	}
}

func anyJSON(b []byte) value {
	if b == nil {
		return value{}
	}
	if v, ok := jsonValue(b); ok {
		return v
	}
	s, _ := compactJSON(b)
	return stringValue(s)
}

// regexStage extracts the named groups of an expression's first match.
type regexStage struct {
	re     *regexp.Regexp
	source *string
	names  []string
}

func buildRegex(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Expression string  `yaml:"expression"`
		Source     *string `yaml:"source"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	if err := checkSource(c.Source); err != nil {
		return nil, err
	}
	re, err := compileRegexp(c.Expression, "expression")
	if err != nil {
		return nil, err
	}
	return regexStage{re: re, source: c.Source, names: re.SubexpNames()}, nil
}

func (d regexStage) attach(next Processor, _ *Pipeline) Processor {
	return &regexLink{regexStage: d, next: next}
}

type regexLink struct {
	regexStage
	next Processor
}

func (l *regexLink) Process(e *Entry) {
	if src, ok := e.source(l.source); ok {
		if m := l.re.FindStringSubmatchIndex(src); m != nil {
			for i, name := range l.names {
				switch {
				case name == "":
				case m[2*i] < 0:
					e.extracted.set(name, stringValue(""))
				default:
					e.extracted.set(name, stringValue(src[m[2*i]:m[2*i+1]]))
				}
			}
		}
	}
	l.next.Process(e)
}
