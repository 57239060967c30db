package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"time"

	promconfig "github.com/prometheus/common/config"
	"go.yaml.in/yaml/v3"
)

// Client is one server to deliver to.
type Client struct {
	Name           string            `yaml:"name,omitempty"`
	URL            URL               `yaml:"url"`
	BatchWait      time.Duration     `yaml:"batchwait,omitempty"`
	BatchSize      int               `yaml:"batchsize,omitempty"`
	Timeout        time.Duration     `yaml:"timeout,omitempty"`
	TenantID       string            `yaml:"tenant_id,omitempty"`
	ExternalLabels map[string]string `yaml:"external_labels,omitempty"`
	Headers        map[string]string `yaml:"headers,omitempty"`
	Backoff        Backoff           `yaml:"backoff_config,omitempty"`
	// DropRateLimited drops what a 429 refuses.
	DropRateLimited bool                        `yaml:"drop_rate_limited_batches,omitempty"`
	HTTP            promconfig.HTTPClientConfig `yaml:",inline"`
}

// Backoff bounds the pauses before another attempt.
type Backoff struct {
	MinPeriod time.Duration `yaml:"min_period,omitempty"`
	MaxPeriod time.Duration `yaml:"max_period,omitempty"`
	// MaxRetries is read and has no effect: nothing is dropped because a server is away.
	MaxRetries *int `yaml:"max_retries,omitempty"`
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

// MarshalYAML implements yaml.Marshaler; a password is left out.
func (u URL) MarshalYAML() (any, error) {
	if u.URL == nil {
		return "", nil
	}
	return u.Redacted(), nil
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

var secretHeader = regexp.MustCompile(`(?i)auth|token|key|secret|cookie|password`)

// MarshalYAML implements yaml.Marshaler; headers that look like secrets are left out.
func (c Client) MarshalYAML() (any, error) {
	type plain Client
	c.Headers = maps.Clone(c.Headers)
	for k := range c.Headers {
		if secretHeader.MatchString(k) {
			c.Headers[k] = "<secret>"
		}
	}
	return plain(c), nil
}

// AddClient adds a client with default settings, for -client.url.
func (c *Config) AddClient(rawURL string) error {
	var u URL
	if err := u.UnmarshalYAML(&yaml.Node{Kind: yaml.ScalarNode, Value: rawURL}); err != nil {
		return fmt.Errorf("client url %q is not of the form http://host/path", rawURL)
	}
	c.Clients = append(c.Clients, Client{URL: u, HTTP: promconfig.DefaultHTTPClientConfig})
	return nil
}

// finishClients checks the clients and makes one list of them.
func (c *Config) finishClients() error {
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
	return nil
}

var errNoClient = errors.New("at least one client config must be provided")
