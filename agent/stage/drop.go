package stage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// drop discards entries for which all given conditions hold.
type drop struct {
	sources   []string
	separator string
	value     *string
	re        *regexp.Regexp
	olderThan time.Duration
	longer    int64
	hasLonger bool
	env       *Env
}

func buildDrop(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Source     stringList     `yaml:"source"`
		Separator  *looseString   `yaml:"separator"`
		Value      *looseString   `yaml:"value"`
		Expression *looseString   `yaml:"expression"`
		OlderThan  *time.Duration `yaml:"older_than"`
		LongerThan *looseString   `yaml:"longer_than"`
		Reason     *looseString   `yaml:"drop_counter_reason"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	d := &drop{sources: c.Source, separator: ";", env: env}
	switch {
	case c.Value != nil && c.Expression != nil:
		return nil, errors.New("value and expression cannot both be given")
	case c.Value != nil && len(c.Source) == 0:
		return nil, errors.New("value needs a source")
	case len(c.Source) == 0 && c.Expression == nil && c.OlderThan == nil && c.LongerThan == nil:
		return nil, errors.New("at least one of source, expression, older_than and longer_than is required")
	}
	if c.Separator != nil {
		d.separator = string(*c.Separator)
	}
	if c.Value != nil {
		d.value = (*string)(c.Value)
	}
	var err error
	if c.Expression != nil {
		if d.re, err = compileRegexp(string(*c.Expression), "expression"); err != nil {
			return nil, err
		}
	}
	if c.OlderThan != nil {
		d.olderThan = *c.OlderThan
	}
	if c.LongerThan != nil {
		d.hasLonger = true
		if d.longer, err = byteSize(string(*c.LongerThan)); err != nil {
			return nil, fmt.Errorf("longer_than: %w", err)
		}
	}
	reason := "drop_stage"
	if c.Reason != nil && *c.Reason != "" {
		reason = string(*c.Reason)
	}
	return dropping(d.matches, reason), nil
}

// dropping is a stage that discards what matches, and counts it.
func dropping(matches func(*Entry) bool, reason string) definition {
	return discard{matches, reason}
}

type discard struct {
	matches func(*Entry) bool
	reason  string
}

func (d discard) attach(next Processor, p *Pipeline) Processor {
	return &link{next, func(e *Entry) bool {
		if !d.matches(e) {
			return true
		}
		p.dropped(d.reason)
		return false
	}}
}

func (d *drop) matches(e *Entry) bool {
	if d.hasLonger && int64(len(e.Line)) <= d.longer {
		return false
	}
	if d.olderThan != 0 && e.Timestamp >= d.env.Now()-int64(d.olderThan) {
		return false
	}
	switch {
	case len(d.sources) == 0:
		return d.re == nil || d.re.Match(e.Line)
	case d.value == nil && d.re == nil:
		for _, s := range d.sources {
			if _, ok := e.extracted.get(s); !ok {
				return false
			}
		}
		return true
	}
	joined := d.join(e)
	if d.value != nil {
		return joined == *d.value
	}
	return d.re.MatchString(joined)
}

func (d *drop) join(e *Entry) string {
	var parts []string
	for _, name := range d.sources {
		if v, ok := e.extracted.get(name); ok {
			if s, ok := v.text(); ok {
				parts = append(parts, s)
			}
		}
	}
	return strings.Join(parts, d.separator)
}

// buildSampling keeps a random share of the entries.
func buildSampling(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Rate   looseFloat   `yaml:"rate"`
		Reason *looseString `yaml:"drop_counter_reason"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	if !(c.Rate >= 0 && c.Rate <= 1) {
		return nil, fmt.Errorf("rate is %v, want 0 to 1", c.Rate)
	}
	reason := "sampling_stage"
	if c.Reason != nil && *c.Reason != "" {
		reason = string(*c.Reason)
	}
	return dropping(func(*Entry) bool { return rand.Float64() >= float64(c.Rate) }, reason), nil
}
