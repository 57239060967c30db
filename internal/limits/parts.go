package limits

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// ShardStreams says how streams that receive much are spread over ingesters.
type ShardStreams struct {
	Enabled                  bool     `yaml:"enabled"`
	TimeShardingEnabled      bool     `yaml:"time_sharding_enabled"`
	TimeShardingIgnoreRecent Duration `yaml:"time_sharding_ignore_recent"`
	LoggingEnabled           bool     `yaml:"logging_enabled"`
	DesiredRate              Bytes    `yaml:"desired_rate"`
}

// BlockedQuery describes queries to refuse.
type BlockedQuery struct {
	Pattern   string            `yaml:"pattern,omitempty" json:"pattern,omitempty"`
	Regex     bool              `yaml:"regex,omitempty" json:"regex,omitempty"`
	Hash      uint32            `yaml:"hash,omitempty" json:"hash,omitempty"` // FNV-1 of the query text; when set, nothing else counts
	Types     CommaList         `yaml:"types,omitempty" json:"types,omitempty"`
	QueryTags map[string]string `yaml:"query_tags,omitempty" json:"query_tags,omitempty"`
}

// CommaList is a list written as one text: metric,filter,limited.
type CommaList []string

// Set splits s at its commas.
func (c *CommaList) Set(s string) error {
	*c = nil
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*c = append(*c, part)
		}
	}
	return nil
}

func (c CommaList) String() string { return strings.Join(c, ",") }

// StreamRetention is another retention period for the streams that Matchers select. Of
// several that match, the highest priority decides.
type StreamRetention struct {
	Period   Duration          `yaml:"period" json:"period"`
	Priority int               `yaml:"priority" json:"priority"`
	Selector string            `yaml:"selector" json:"selector"`
	Matchers []*labels.Matcher `yaml:"-" json:"-"` // Selector, parsed by Validate
}

// PolicyMapping says which streams belong to which policy, by name.
type PolicyMapping map[string][]PolicyRule

// PolicyRule puts the streams that Matchers select under a policy.
type PolicyRule struct {
	Selector string            `yaml:"selector" json:"selector"`
	Priority int               `yaml:"priority" json:"priority"`
	Matchers []*labels.Matcher `yaml:"-" json:"-"` // Selector, parsed by Validate
}

// For returns the policy of a stream: the matching rule of the highest priority decides,
// between equals the first policy by name. Without a match it is "".
func (p PolicyMapping) For(stream labels.Labels) string {
	best, priority := "", 0
	for name, rules := range p {
		for _, rule := range rules {
			if !matches(rule.Matchers, stream) {
				continue
			}
			if best == "" || rule.Priority > priority || rule.Priority == priority && name < best {
				best, priority = name, rule.Priority
			}
		}
	}
	return best
}

func matches(ms []*labels.Matcher, stream labels.Labels) bool {
	for _, m := range ms {
		if !m.Matches(stream.Get(m.Name)) {
			return false
		}
	}
	return true
}

// OTLPConfig says what becomes of OTLP attributes: the first matching rule decides, and
// without one an attribute is structured metadata.
type OTLPConfig struct {
	ResourceAttributes  OTLPResource `yaml:"resource_attributes,omitempty" json:"resource_attributes,omitzero"`
	ScopeAttributes     []OTLPRule   `yaml:"scope_attributes,omitempty" json:"scope_attributes,omitempty"`
	LogAttributes       []OTLPRule   `yaml:"log_attributes,omitempty" json:"log_attributes,omitempty"`
	SeverityTextAsLabel bool         `yaml:"severity_text_as_label,omitempty" json:"severity_text_as_label,omitempty"`
}

// OTLPResource holds the rules for resource attributes. Reading a configuration puts the
// default rule first, unless IgnoreDefaults.
type OTLPResource struct {
	IgnoreDefaults bool       `yaml:"ignore_defaults,omitempty" json:"ignore_defaults,omitempty"`
	Rules          []OTLPRule `yaml:"attributes_config,omitempty" json:"attributes_config,omitempty"`
}

// The actions of an OTLPRule.
const (
	OTLPIndexLabel = "index_label"
	OTLPMetadata   = "structured_metadata"
	OTLPDrop       = "drop"
)

// OTLPRule says what becomes of the attributes it names, or whose names its regular
// expression matches wholly.
type OTLPRule struct {
	Action     string   `yaml:"action" json:"action"`
	Attributes []string `yaml:"attributes,omitempty" json:"attributes,omitempty"`
	Regex      string   `yaml:"regex,omitempty" json:"regex,omitempty"`

	re *regexp.Regexp // Regex, anchored, compiled by Validate
}

// Matches reports whether the rule is about the attribute.
func (r *OTLPRule) Matches(attribute string) bool {
	return slices.Contains(r.Attributes, attribute) || r.re != nil && r.re.MatchString(attribute)
}

var promotedAttributes = []string{
	"service.name", "service.namespace", "service.instance.id", "deployment.environment",
	"deployment.environment.name", "cloud.region", "cloud.availability_zone", "k8s.cluster.name",
	"k8s.namespace.name", "k8s.pod.name", "k8s.container.name", "container.name", "k8s.replicaset.name",
	"k8s.deployment.name", "k8s.statefulset.name", "k8s.daemonset.name", "k8s.cronjob.name", "k8s.job.name",
}

func defaultRule() OTLPRule {
	return OTLPRule{Action: OTLPIndexLabel, Attributes: slices.Clone(promotedAttributes)}
}

func defaultOTLP() OTLPConfig {
	return OTLPConfig{ResourceAttributes: OTLPResource{Rules: []OTLPRule{defaultRule()}}}
}

// withDefaults puts the default rule before those that were read. A configuration that
// was printed already has it there, and reading it again must change nothing.
func (c *OTLPConfig) withDefaults() {
	res := &c.ResourceAttributes
	if res.IgnoreDefaults || len(res.Rules) > 0 && slices.Equal(res.Rules[0].Attributes, promotedAttributes) {
		return
	}
	res.Rules = append([]OTLPRule{defaultRule()}, res.Rules...)
}

func (c *OTLPConfig) compile() error {
	c.ResourceAttributes.Rules = slices.Clone(c.ResourceAttributes.Rules)
	c.ScopeAttributes, c.LogAttributes = slices.Clone(c.ScopeAttributes), slices.Clone(c.LogAttributes)
	for _, group := range []struct {
		name  string
		rules []OTLPRule
		label bool
	}{
		{"resource_attributes", c.ResourceAttributes.Rules, true},
		{"scope_attributes", c.ScopeAttributes, false},
		{"log_attributes", c.LogAttributes, true},
	} {
		for i := range group.rules {
			if err := group.rules[i].compile(group.label); err != nil {
				return fmt.Errorf("otlp_config: %s, rule %d: %w", group.name, i+1, err)
			}
		}
	}
	return nil
}

func (r *OTLPRule) compile(labelAllowed bool) (err error) {
	switch {
	case r.Action == OTLPIndexLabel && !labelAllowed:
		return fmt.Errorf("action %s is not possible here, want %s or %s", r.Action, OTLPMetadata, OTLPDrop)
	case r.Action != OTLPIndexLabel && r.Action != OTLPMetadata && r.Action != OTLPDrop:
		return fmt.Errorf("got action %q, want %s, %s or %s", r.Action, OTLPIndexLabel, OTLPMetadata, OTLPDrop)
	case len(r.Attributes) == 0 && r.Regex == "":
		return fmt.Errorf("want attributes or a regex")
	case len(r.Attributes) > 0 && r.Regex != "":
		return fmt.Errorf("want attributes or a regex, not both")
	case r.Regex != "":
		r.re, err = regexp.Compile("^(?:" + r.Regex + ")$")
	}
	return err
}

var selectorParser = parser.NewParser(parser.Options{})

// parseSelector reads {a="b"} and asks for a matcher that "" does not satisfy, so that a
// slip cannot select everything.
func parseSelector(s string) ([]*labels.Matcher, error) {
	ms, err := selectorParser.ParseMetricSelector(s)
	if err != nil {
		return nil, fmt.Errorf("invalid labels matchers: %w", err)
	}
	for _, m := range ms {
		if !m.Matches("") {
			return ms, nil
		}
	}
	return nil, fmt.Errorf("invalid labels matchers: %s matches every stream, want at least one matcher that an absent label does not satisfy", s)
}

// Validate checks what types alone cannot, and compiles selectors and expressions. The
// error names the key.
func (l *Limits) Validate() error {
	if s := l.IngestionRateStrategy; s != "local" && s != "global" {
		return fmt.Errorf("ingestion_rate_strategy: got %q, want local or global", s)
	}
	switch l.DeletionMode {
	case "disabled", "filter-only", "filter-and-delete":
	default:
		return fmt.Errorf("deletion_mode: unknown deletion mode: must be one of disabled, filter-only, filter-and-delete, got %q", l.DeletionMode)
	}
	if l.MaxQueryCapacity < 0 || l.MaxQueryCapacity > 1 {
		return fmt.Errorf("max_query_capacity: got %v, want 0 to 1", l.MaxQueryCapacity)
	}
	if c := l.BlockIngestionStatusCode; c < 200 || c > 599 {
		return fmt.Errorf("block_ingestion_status_code: got %d, want a status from 200 to 599", c)
	}
	if err := l.compileSelectors(); err != nil {
		return err
	}
	for i, q := range l.BlockedQueries {
		if q.Regex {
			if _, err := regexp.Compile(q.Pattern); err != nil {
				return fmt.Errorf("blocked_queries, entry %d: %w", i+1, err)
			}
		}
	}
	return l.OTLPConfig.compile()
}

// compileSelectors compiles into fresh lists: a tenant's Limits begin as a copy of the
// server's, and the old lists may be in use.
func (l *Limits) compileSelectors() (err error) {
	l.RetentionStream = slices.Clone(l.RetentionStream)
	for i := range l.RetentionStream {
		r := &l.RetentionStream[i]
		if r.Period < day {
			return fmt.Errorf("retention_stream, entry %d: retention period must be >= 24h was %s", i+1, r.Period)
		}
		if r.Matchers, err = parseSelector(r.Selector); err != nil {
			return fmt.Errorf("retention_stream, entry %d: %w", i+1, err)
		}
	}
	l.PolicyStreamMapping = maps.Clone(l.PolicyStreamMapping)
	for name, rules := range l.PolicyStreamMapping {
		rules = slices.Clone(rules)
		l.PolicyStreamMapping[name] = rules
		for i := range rules {
			if rules[i].Matchers, err = parseSelector(rules[i].Selector); err != nil {
				return fmt.Errorf("policy_stream_mapping, policy %s, entry %d: %w", name, i+1, err)
			}
		}
	}
	return nil
}
