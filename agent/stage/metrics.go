package stage

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"
)

// counts is the metrics stage: numbers that lines tell or are, by the labels they have then.
type counts struct{ rules []countRule }

// countRule is one metric of the stage.
type countRule struct {
	metric *customMetric
	source string
	value  *string // count only when the source equals it
	all    bool    // count every line
	bytes  bool    // add the length of the line
	action string
}

type metricConfig struct {
	Type        string         `yaml:"type"`
	Description string         `yaml:"description"`
	Source      *string        `yaml:"source"`
	Prefix      string         `yaml:"prefix"`
	MaxIdle     *time.Duration `yaml:"max_idle_duration"`
	Config      yaml.Node      `yaml:"config"`
}

var metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)

func buildMetrics(node *yaml.Node, env *Env) (definition, error) {
	if isNull(node) || node.Kind != yaml.MappingNode || len(node.Content) == 0 {
		return nil, errors.New("at least one metric is required")
	}
	var d counts
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		r, err := buildMetric(name.Value, resolve(node.Content[i+1]), env)
		if err != nil {
			return nil, fmt.Errorf("line %d: metric %s: %w", name.Line, name.Value, err)
		}
		d.rules = append(d.rules, r)
	}
	return d, nil
}

func buildMetric(name string, node *yaml.Node, env *Env) (countRule, error) {
	var c metricConfig
	if err := decode(node, &c, env); err != nil {
		return countRule{}, err
	}
	if c.Prefix == "" {
		c.Prefix = "promtail_custom_"
	}
	if !metricName.MatchString(c.Prefix + name) {
		return countRule{}, fmt.Errorf("%q is not a valid name of a metric", c.Prefix+name)
	}
	r := countRule{source: name}
	if c.Source != nil {
		r.source = *c.Source
	}
	idle := 5 * time.Minute
	if c.MaxIdle != nil {
		idle = *c.MaxIdle
	}
	if idle < time.Second {
		return countRule{}, fmt.Errorf("max_idle_duration is %s, want at least 1s", idle)
	}
	var buckets []float64
	var err error
	kind := strings.ToLower(c.Type)
	switch kind {
	case "counter":
		err = r.counter(&c.Config, env)
	case "gauge":
		err = r.gauge(&c.Config, env)
	case "histogram":
		buckets, err = r.histogram(&c.Config, env)
	default:
		err = fmt.Errorf("type is %q, want counter, gauge or histogram", c.Type)
	}
	if err != nil {
		return countRule{}, err
	}
	r.metric, err = env.Custom.metric(c.Prefix+name, c.Description, kind, buckets, idle)
	return r, err
}

func (r *countRule) counter(node *yaml.Node, env *Env) error {
	var c struct {
		MatchAll *looseBool `yaml:"match_all"`
		Bytes    *looseBool `yaml:"count_entry_bytes"`
		Value    *string    `yaml:"value"`
		Action   string     `yaml:"action"`
	}
	if err := decode(resolve(node), &c, env); err != nil {
		return err
	}
	r.action, r.value = strings.ToLower(c.Action), c.Value
	r.all = c.MatchAll != nil && bool(*c.MatchAll)
	r.bytes = c.Bytes != nil && bool(*c.Bytes)
	switch {
	case r.action != "inc" && r.action != "add":
		return fmt.Errorf("action of a counter is %q, want inc or add", c.Action)
	case r.all && r.value != nil:
		return errors.New("match_all and value exclude each other")
	case r.bytes && (!r.all || r.action != "add"):
		return errors.New("count_entry_bytes needs match_all: true and action: add")
	}
	return nil
}

func (r *countRule) gauge(node *yaml.Node, env *Env) error {
	var c struct {
		Value  *string `yaml:"value"`
		Action string  `yaml:"action"`
	}
	if err := decode(resolve(node), &c, env); err != nil {
		return err
	}
	r.action, r.value = strings.ToLower(c.Action), c.Value
	if !slices.Contains([]string{"set", "inc", "dec", "add", "sub"}, r.action) {
		return fmt.Errorf("action of a gauge is %q, want set, inc, dec, add or sub", c.Action)
	}
	return nil
}

func (r *countRule) histogram(node *yaml.Node, env *Env) ([]float64, error) {
	var c struct {
		Value   *string   `yaml:"value"`
		Buckets []float64 `yaml:"buckets"`
	}
	if err := decode(resolve(node), &c, env); err != nil {
		return nil, err
	}
	r.action, r.value = "observe", c.Value
	if len(c.Buckets) == 0 {
		c.Buckets = prometheus.DefBuckets
	}
	for i := 1; i < len(c.Buckets); i++ {
		if !(c.Buckets[i] > c.Buckets[i-1]) {
			return nil, errors.New("buckets must increase")
		}
	}
	return c.Buckets, nil
}

func (d counts) attach(next Processor, p *Pipeline) Processor {
	if p.silent {
		return next
	}
	return &link{next, func(e *Entry) bool {
		for i := range d.rules {
			d.rules[i].count(e)
		}
		return true
	}}
}

func (r *countRule) count(e *Entry) {
	if r.all {
		n := 1.0
		if r.bytes {
			n = float64(len(e.Line))
		}
		r.metric.add(e.Labels, n, "add")
		return
	}
	v, ok := e.extracted.get(r.source)
	if !ok {
		return
	}
	if r.value != nil {
		if s, ok := v.text(); !ok || s != *r.value {
			return
		}
	}
	switch r.action {
	case "inc":
		r.metric.add(e.Labels, 1, "add")
	case "dec":
		r.metric.add(e.Labels, -1, "add")
	default:
		if f, ok := v.number(); ok {
			r.metric.add(e.Labels, f, r.action)
		}
	}
}

// number converts to a float as Promtail does: numbers in texts, durations as seconds.
func (v value) number() (float64, bool) {
	switch v.kind {
	case kindFloat, kindBool:
		return v.num, true
	case kindString:
		if f, err := strconv.ParseFloat(v.str, 64); err == nil {
			return f, true
		}
		if d, err := time.ParseDuration(v.str); err == nil {
			return d.Seconds(), true
		}
	}
	return 0, false
}
