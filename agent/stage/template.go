package stage

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"go.yaml.in/yaml/v3"
)

// templateFuncs are the functions of the template and replace stages: sprig's for text, and
// Promtail's own, whose order of arguments is that of Go's strings package.
func templateFuncs() template.FuncMap {
	funcs := sprig.TxtFuncMap()
	for name, f := range map[string]any{
		"ToLower": strings.ToLower, "ToUpper": strings.ToUpper, "Replace": strings.Replace,
		"Trim": strings.Trim, "TrimLeft": strings.TrimLeft, "TrimRight": strings.TrimRight,
		"TrimPrefix": strings.TrimPrefix, "TrimSuffix": strings.TrimSuffix, "TrimSpace": strings.TrimSpace,
		"Hash": func(salt, in string) string {
			h := sha3.Sum256([]byte(salt + in))
			return hex.EncodeToString(h[:])
		},
		"Sha2Hash": func(salt, in string) string {
			h := sha256.Sum256([]byte(salt + in))
			return hex.EncodeToString(h[:])
		},
		"regexReplaceAll": func(re, s, repl string) (string, error) {
			r, err := regexp.Compile(re)
			if err != nil {
				return "", err
			}
			return r.ReplaceAllString(s, repl), nil
		},
		"regexReplaceAllLiteral": func(re, s, repl string) (string, error) {
			r, err := regexp.Compile(re)
			if err != nil {
				return "", err
			}
			return r.ReplaceAllLiteralString(s, repl), nil
		},
	} {
		funcs[name] = f
	}
	return funcs
}

func parseTemplate(s string) (*template.Template, error) {
	return template.New("pipeline").Funcs(templateFuncs()).Parse(s)
}

// render executes a template with all extracted values, .Value and .Entry. The result owns
// its memory.
func render(t *template.Template, e *Entry, val string, hasValue bool) (string, bool) {
	data := map[string]string{}
	e.extracted.all(func(name string, v value) {
		if s, ok := v.text(); ok {
			data[name] = s
		}
	})
	if hasValue {
		data["Value"] = val
	}
	data["Entry"] = text(e.Line)
	var out bytes.Buffer
	// A template may keep no reference to data, but it may fail half-way.
	if err := t.Execute(&out, data); err != nil {
		return "", false
	}
	return out.String(), true
}

func buildTemplate(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Source   string `yaml:"source"`
		Template string `yaml:"template"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	if c.Source == "" {
		return nil, errors.New("source is required")
	}
	if c.Template == "" {
		return nil, errors.New("template is required")
	}
	t, err := parseTemplate(c.Template)
	if err != nil {
		return nil, err
	}
	return simple(func(e *Entry) bool {
		v, _ := e.extracted.get(c.Source)
		old, has := v.text()
		if s, ok := render(t, e, old, has); ok && s == "" {
			e.extracted.delete(c.Source)
		} else if ok {
			e.extracted.set(c.Source, stringValue(s))
		}
		return true
	}), nil
}

// replace rewrites the captured groups of every match.
type replace struct {
	re     *regexp.Regexp
	source *string
	with   *template.Template
}

func buildReplace(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Expression string  `yaml:"expression"`
		Source     *string `yaml:"source"`
		Replace    string  `yaml:"replace"`
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
	t, err := parseTemplate(c.Replace)
	if err != nil {
		return nil, err
	}
	d := replace{re, c.Source, t}
	return simple(func(e *Entry) bool {
		d.apply(e)
		return true
	}), nil
}

func (d replace) apply(e *Entry) {
	src, ok := e.source(d.source)
	if !ok {
		return
	}
	matches := d.re.FindAllStringSubmatchIndex(src, -1)
	if len(matches) == 0 {
		return
	}
	groups := d.re.SubexpNames()
	named := map[string]string{}
	var out strings.Builder
	done := 0
	for _, m := range matches {
		for g := 1; g < len(groups); g++ {
			start, end := m[2*g], m[2*g+1]
			if start < done {
				continue // took no part, or lies inside a group that was replaced
			}
			s, ok := render(d.with, e, src[start:end], true)
			if !ok {
				return
			}
			out.WriteString(src[done:start])
			out.WriteString(s)
			done = end
			if _, seen := named[groups[g]]; groups[g] != "" && !seen {
				named[groups[g]] = s
			}
		}
	}
	out.WriteString(src[done:])
	if d.source == nil {
		e.Line = raw(out.String())
	} else {
		e.extracted.set(*d.source, stringValue(out.String()))
	}
	for name, s := range named {
		e.extracted.set(name, stringValue(s))
	}
}
