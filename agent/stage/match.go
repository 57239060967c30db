package stage

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
)

// match runs stages on the entries that a selector chooses; the others pass by.
type match struct {
	sel    selector
	stages []named
}

func buildMatch(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Selector     string      `yaml:"selector"`
		Stages       []yaml.Node `yaml:"stages"`
		Action       string      `yaml:"action"`
		PipelineName string      `yaml:"pipeline_name"`
		Reason       string      `yaml:"drop_counter_reason"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	sel, err := parseSelector(c.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector %q: %w", c.Selector, err)
	}
	switch c.Action {
	case "drop":
		if len(c.Stages) > 0 {
			return nil, errors.New("action drop and stages exclude each other")
		}
		if c.Reason == "" {
			c.Reason = "match_stage"
		}
		return dropping(sel.matches, c.Reason), nil
	case "", "keep":
	default:
		return nil, fmt.Errorf("action is %q, want keep or drop", c.Action)
	}
	if len(c.Stages) == 0 {
		return nil, errors.New("stages is required with action keep")
	}
	stages, err := buildAll(c.Stages, env)
	return match{sel, stages}, err
}

func (d match) attach(next Processor, p *Pipeline) Processor {
	inner := chain(d.stages, next, p)
	return processor(func(e *Entry) {
		if d.sel.matches(e) {
			inner.Process(e)
		} else {
			next.Process(e)
		}
	})
}

type processor func(*Entry)

func (f processor) Process(e *Entry) { f(e) }

// selector is {matchers} and line filters, all of which must hold.
type selector struct {
	matchers []*labels.Matcher
	filters  []lineFilter
}

type lineFilter struct {
	negative bool
	text     string
	re       *regexp.Regexp
}

func (s selector) matches(e *Entry) bool {
	for _, m := range s.matchers {
		v, _ := e.Labels.lookup(m.Name)
		if !m.Matches(v) {
			return false
		}
	}
	for _, f := range s.filters {
		found := false
		if f.re != nil {
			found = f.re.Match(e.Line)
		} else {
			found = strings.Contains(text(e.Line), f.text)
		}
		if found == f.negative {
			return false
		}
	}
	return true
}

// parseSelector reads {name op "value", …} followed by |= != |~ !~ "text" filters.
func parseSelector(s string) (selector, error) {
	var sel selector
	p := &selectorParser{s: strings.TrimSpace(s)}
	if !p.eat("{") {
		return sel, errors.New("want { at the beginning")
	}
	for {
		m, err := p.matcher()
		if err != nil {
			return sel, err
		}
		sel.matchers = append(sel.matchers, m)
		if p.eat("}") {
			break
		}
		if !p.eat(",") {
			return sel, fmt.Errorf("want , or } before %q", p.s)
		}
	}
	for p.s != "" {
		f, err := p.filter()
		if err != nil {
			return sel, err
		}
		sel.filters = append(sel.filters, f)
	}
	return sel, nil
}

type selectorParser struct{ s string }

func (p *selectorParser) eat(token string) bool {
	rest, ok := strings.CutPrefix(p.s, token)
	if ok {
		p.s = strings.TrimSpace(rest)
	}
	return ok
}

func (p *selectorParser) matcher() (*labels.Matcher, error) {
	n := 0
	for n < len(p.s) && labelName(p.s[:n+1]) {
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("want the name of a label before %q", p.s)
	}
	name := p.s[:n]
	p.s = strings.TrimSpace(p.s[n:])
	for _, op := range []struct {
		token string
		typ   labels.MatchType
	}{{"=~", labels.MatchRegexp}, {"!~", labels.MatchNotRegexp}, {"!=", labels.MatchNotEqual}, {"=", labels.MatchEqual}} {
		if p.eat(op.token) {
			v, err := p.quoted()
			if err != nil {
				return nil, err
			}
			return labels.NewMatcher(op.typ, name, v)
		}
	}
	return nil, fmt.Errorf("want = != =~ or !~ after %s", name)
}

func (p *selectorParser) quoted() (string, error) {
	if !strings.HasPrefix(p.s, `"`) {
		return "", fmt.Errorf("want a text in double quotes before %q", p.s)
	}
	q, err := strconv.QuotedPrefix(p.s)
	if err != nil {
		return "", fmt.Errorf("want a text in double quotes before %q", p.s)
	}
	p.s = strings.TrimSpace(p.s[len(q):])
	return strconv.Unquote(q)
}

func (p *selectorParser) filter() (lineFilter, error) {
	var f lineFilter
	isRegexp := false
	switch {
	case p.eat("|="):
	case p.eat("|~"):
		isRegexp = true
	case p.eat("!="):
		f.negative = true
	case p.eat("!~"):
		f.negative, isRegexp = true, true
	default:
		return f, fmt.Errorf("want a line filter |= != |~ or !~ before %q", p.s)
	}
	var err error
	if f.text, err = p.quoted(); err == nil && isRegexp {
		f.re, err = regexp.Compile(f.text)
	}
	return f, err
}
