package agent

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
	pmodel "github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
)

// Config is Promtail's configuration, as far as this agent heeds it.
type Config struct {
	Global        Global         `yaml:"global"`
	Server        Server         `yaml:"server"`
	Client        *Client        `yaml:"client"`
	Clients       []Client       `yaml:"clients"`
	Positions     Positions      `yaml:"positions"`
	ScrapeConfigs []ScrapeConfig `yaml:"scrape_configs"`
	TargetConfig  TargetConfig   `yaml:"target_config"`
	Limits        Limits         `yaml:"limits_config"`
	Options       map[string]any `yaml:"options"`
	Tracing       Tracing        `yaml:"tracing"`
	WAL           WAL            `yaml:"wal"`

	// Warnings are what the file asks for and the agent does otherwise.
	Warnings []string `yaml:"-"`
}

// Global holds settings for all jobs.
type Global struct {
	FileWatch struct {
		MinPoll time.Duration `yaml:"min_poll_frequency"`
		MaxPoll time.Duration `yaml:"max_poll_frequency"`
	} `yaml:"file_watch_config"`
}

// Positions says where delivery is remembered.
type Positions struct {
	// Filename is Promtail's positions file; it is read at the first start, and the agent's
	// own files stand beside it. Default /var/log/positions.yaml.
	Filename string `yaml:"filename"`
	// SyncPeriod is how often a snapshot is written; the journal is always up to date. Default 10 s.
	SyncPeriod        time.Duration `yaml:"sync_period"`
	IgnoreInvalidYAML bool          `yaml:"ignore_invalid_yaml"`
}

// Client is one server to deliver to.
type Client struct {
	Name           string            `yaml:"name"`
	URL            URL               `yaml:"url"`
	BatchWait      time.Duration     `yaml:"batchwait"`
	BatchSize      int               `yaml:"batchsize"`
	Timeout        time.Duration     `yaml:"timeout"`
	TenantID       string            `yaml:"tenant_id"`
	ExternalLabels map[string]string `yaml:"external_labels"`
	Headers        map[string]string `yaml:"headers"`
	Backoff        struct {
		MinPeriod  time.Duration `yaml:"min_period"`
		MaxPeriod  time.Duration `yaml:"max_period"`
		MaxRetries *int          `yaml:"max_retries"`
	} `yaml:"backoff_config"`
	DropRateLimited bool                        `yaml:"drop_rate_limited_batches"`
	HTTP            promconfig.HTTPClientConfig `yaml:",inline"`
}

// URL is a URL in a configuration.
type URL struct{ *url.URL }

// UnmarshalYAML implements yaml.Unmarshaler.
func (u *URL) UnmarshalYAML(n *yaml.Node) error {
	p, err := url.Parse(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: url: %w", n.Line, err)
	}
	if p.Scheme != "http" && p.Scheme != "https" || p.Host == "" {
		return fmt.Errorf("line %d: url %q is not of the form http://host/path", n.Line, p.Redacted())
	}
	u.URL = p
	return nil
}

// UnmarshalYAML gives the HTTP part its defaults.
func (c *Client) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Client
	*c = Client{HTTP: promconfig.DefaultHTTPClientConfig}
	if err := unmarshal((*plain)(c)); err != nil {
		return err
	}
	return c.HTTP.Validate()
}

// TargetConfig says how often patterns are expanded.
type TargetConfig struct {
	SyncPeriod time.Duration `yaml:"sync_period"`
	Stdin      bool          `yaml:"stdin"`
}

// Limits are those of the agent itself.
type Limits struct {
	ReadlineRateEnabled bool    `yaml:"readline_rate_enabled"`
	ReadlineRate        float64 `yaml:"readline_rate"`
	ReadlineBurst       int     `yaml:"readline_burst"`
	ReadlineRateDrop    *bool   `yaml:"readline_rate_drop"`
	MaxStreams          int     `yaml:"max_streams"`
	MaxLineSize         Bytes   `yaml:"max_line_size"`
	MaxLineSizeTruncate bool    `yaml:"max_line_size_truncate"`
}

// Tracing is read and has no effect.
type Tracing struct {
	Enabled bool `yaml:"enabled"`
}

// WAL is read and has no effect: files are the buffer.
type WAL struct {
	Enabled       bool          `yaml:"enabled"`
	Dir           string        `yaml:"dir"`
	MaxSegmentAge time.Duration `yaml:"cleanSegmentsOlderThan"`
	Watch         struct {
		MinReadFrequency time.Duration `yaml:"minReadFrequency"`
		MaxReadFrequency time.Duration `yaml:"maxReadFrequency"`
		DrainTimeout     time.Duration `yaml:"drainTimeout"`
	} `yaml:"watchConfig"`
}

// ScrapeConfig is one job.
type ScrapeConfig struct {
	JobName        string            `yaml:"job_name"`
	PipelineStages []yaml.Node       `yaml:"pipeline_stages"`
	Relabel        []*relabel.Config `yaml:"relabel_configs"`
	Static         []StaticGroup     `yaml:"static_configs"`
	Encoding       string            `yaml:"encoding"`
}

// StaticGroup is a group of targets. For files, the labels matter: __path__ is the pattern.
type StaticGroup struct {
	Targets []string          `yaml:"targets"`
	Labels  map[string]string `yaml:"labels"`
}

// Bytes is a size such as 262144 or 256kb.
type Bytes int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	v, err := parseBytes(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*b = Bytes(v)
	return nil
}

// LoadConfig reads a configuration file. path may be a list of files separated by commas, of
// which the first that exists is used. expandEnv replaces ${VAR} in the text first. Unknown
// keys, and keys that this version does not support, are errors that name key and line.
func LoadConfig(path string, expandEnv bool) (*Config, error) {
	var text []byte
	err := errors.New("no configuration file given")
	for _, p := range strings.Split(path, ",") {
		path = strings.TrimSpace(p)
		if text, err = os.ReadFile(path); err == nil || !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	var warnings []string
	if expandEnv {
		expanded, warn, err := expand(string(text), os.LookupEnv)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		text, warnings = []byte(expanded), warn
	}
	cfg, err := parseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cfg.Warnings = append(warnings, cfg.Warnings...)
	return cfg, nil
}

func parseConfig(text []byte) (*Config, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, plainYAML(err)
	}
	if err := refuse(&root); err != nil {
		return nil, err
	}
	cfg := DefaultConfig()
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	dec.KnownFields(true)
	if err := dec.Decode(cfg); err != nil && !errors.Is(err, io.EOF) {
		return nil, plainYAML(err)
	}
	if len(cfg.Options) > 0 {
		return nil, errors.New("options: has no keys in this version of Skald")
	}
	return cfg, cfg.finish()
}

// DefaultConfig returns the configuration of an empty file.
func DefaultConfig() *Config {
	return &Config{
		Server:       Server{HTTPListenPort: 80, LogLevel: "info", LogFormat: "logfmt"},
		Positions:    Positions{Filename: "/var/log/positions.yaml", SyncPeriod: 10 * time.Second},
		TargetConfig: TargetConfig{SyncPeriod: 10 * time.Second},
	}
}

var goType = regexp.MustCompile(` (in|into) (type )?[*\[\]]*[a-z]+\.\w+`)

// plainYAML removes Go's words from the errors of the YAML library.
func plainYAML(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	out := make([]string, len(te.Errors))
	for i, e := range te.Errors {
		out[i] = strings.Replace(goType.ReplaceAllString(e, ""), ": field ", ": unknown key ", 1)
		out[i] = strings.TrimSuffix(out[i], " not found")
	}
	return errors.New(strings.Join(out, "\n"))
}

// notYet are keys of scrape_configs that Promtail has and this version refuses.
var notYet = []string{
	"kubernetes_sd_configs", "file_sd_configs", "docker_sd_configs", "dns_sd_configs", "consul_sd_configs",
	"consulagent_sd_configs", "ec2_sd_configs", "gce_sd_configs", "azure_sd_configs", "openstack_sd_configs",
	"digitalocean_sd_configs", "dockerswarm_sd_configs", "marathon_sd_configs", "nerve_sd_configs",
	"serverset_sd_configs", "triton_sd_configs", "journal", "syslog", "gcplog", "loki_push_api",
	"windows_events", "kafka", "azure_event_hubs", "gelf", "cloudflare", "heroku_drain", "decompression",
	"encoding",
}

// refuse looks for keys that are known but not supported.
func refuse(root *yaml.Node) error {
	if len(root.Content) == 0 {
		return nil
	}
	var errs []error
	for _, job := range items(member(root.Content[0], "scrape_configs")) {
		for i := 0; job.Kind == yaml.MappingNode && i+1 < len(job.Content); i += 2 {
			if k := job.Content[i]; slices.Contains(notYet, k.Value) {
				errs = append(errs, fmt.Errorf("not supported by this version of Skald: %s at line %d", k.Value, k.Line))
			}
		}
	}
	return errors.Join(errs...)
}

func member(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return follow(n.Content[i+1])
		}
	}
	return nil
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	out := make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		out[i] = follow(c)
	}
	return out
}

func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// finish checks what the parts mean together.
func (c *Config) finish() error {
	if c.Client != nil {
		c.Clients = append([]Client{*c.Client}, c.Clients...)
		c.Client = nil
	}
	names := map[string]bool{}
	for i := range c.Clients {
		cl := &c.Clients[i]
		if cl.URL.URL == nil {
			return fmt.Errorf("clients[%d]: url is required", i)
		}
		if cl.Name != "" && names[cl.Name] {
			return fmt.Errorf("clients[%d]: a second client named %q", i, cl.Name)
		}
		names[cl.Name] = true
		if r := cl.Backoff.MaxRetries; r != nil && *r > 0 {
			c.warnf("max_retries %d of client %s has no effect: nothing is dropped because a server is away", *r, cl.URL.Redacted())
		}
	}
	jobs := map[string]bool{}
	for i := range c.ScrapeConfigs {
		j := &c.ScrapeConfigs[i]
		if j.JobName == "" {
			return fmt.Errorf("scrape_configs[%d]: job_name is required", i)
		}
		if jobs[j.JobName] {
			return fmt.Errorf("scrape_configs[%d]: a second job named %q", i, j.JobName)
		}
		jobs[j.JobName] = true
		for k, r := range j.Relabel {
			if r == nil {
				return fmt.Errorf("job %s: relabel_configs[%d] is empty", j.JobName, k)
			}
			if err := r.Validate(pmodel.LegacyValidation); err != nil {
				return fmt.Errorf("job %s: relabel_configs[%d]: %w", j.JobName, k, err)
			}
		}
	}
	if c.TargetConfig.Stdin {
		return errors.New("not supported by this version of Skald: target_config.stdin")
	}
	if c.Limits.ReadlineRateEnabled {
		return errors.New("not supported by this version of Skald: limits_config.readline_rate_enabled")
	}
	if c.Limits.MaxStreams > 0 {
		c.warnf("limits_config.max_streams has no effect")
	}
	if c.WAL.Enabled {
		c.warnf("wal has no effect: the files themselves are the buffer")
	}
	return nil
}

func (c *Config) warnf(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}

// sortedLabels makes labels of a map.
func sortedLabels(m map[string]string) labels.Labels { return labels.FromMap(m) }

// AddClient adds a client with default settings, for -client.url.
func (c *Config) AddClient(rawURL string) error {
	var u URL
	if err := u.UnmarshalYAML(&yaml.Node{Kind: yaml.ScalarNode, Value: rawURL}); err != nil {
		return fmt.Errorf("client url %q is not of the form http://host/path", rawURL)
	}
	c.Clients = append(c.Clients, Client{URL: u, HTTP: promconfig.DefaultHTTPClientConfig})
	return nil
}
