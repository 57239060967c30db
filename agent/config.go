package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
)

// Config is Promtail's configuration, as far as this agent heeds it.
type Config struct {
	Global        Global         `yaml:"global"`
	Server        Server         `yaml:"server"`
	Client        *Client        `yaml:"client,omitempty"`
	Clients       []Client       `yaml:"clients"`
	Positions     Positions      `yaml:"positions"`
	ScrapeConfigs []ScrapeConfig `yaml:"scrape_configs"`
	TargetConfig  TargetConfig   `yaml:"target_config"`
	Limits        Limits         `yaml:"limits_config"`
	Options       map[string]any `yaml:"options,omitempty"`
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
	ReadlineRateDrop    bool    `yaml:"readline_rate_drop"`
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
// keys, and keys that Skald does not support, are errors that name key and line. flags may be nil.
func LoadConfig(path string, expandEnv bool, flags *Flags) (*Config, error) {
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
	cfg, err := decodeConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if flags != nil {
		if err := flags.apply(cfg); err != nil {
			return nil, err
		}
	}
	if err := cfg.finish(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cfg.Warnings = append(warnings, cfg.Warnings...)
	return cfg, nil
}

// parseConfig reads and checks a configuration without flags.
func parseConfig(text []byte) (*Config, error) {
	cfg, err := decodeConfig(text)
	if err != nil {
		return nil, err
	}
	return cfg, cfg.finish()
}

func decodeConfig(text []byte) (*Config, error) {
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
		return nil, plainYAML(locate(&root, err))
	}
	if len(cfg.Options) > 0 {
		return nil, errors.New("options: has no keys in this version of Skald")
	}
	return cfg, nil
}

// DefaultConfig returns the configuration of an empty file.
func DefaultConfig() *Config {
	return &Config{
		Server:       DefaultServer(),
		Positions:    Positions{Filename: "/var/log/positions.yaml", SyncPeriod: 10 * time.Second},
		TargetConfig: TargetConfig{SyncPeriod: 10 * time.Second},
		Limits:       Limits{ReadlineRate: 10000, ReadlineBurst: 10000, ReadlineRateDrop: true},
	}
}

// finish checks what the parts mean together.
func (c *Config) finish() error {
	if err := c.finishClients(); err != nil {
		return err
	}
	if err := c.finishJobs(); err != nil {
		return err
	}
	if l := c.Limits; l.ReadlineRateEnabled && (l.ReadlineRate <= 0 || l.ReadlineBurst <= 0) {
		return fmt.Errorf("limits_config: readline_rate is %v and readline_burst %d, want more than 0", l.ReadlineRate, l.ReadlineBurst)
	}
	if c.Limits.MaxStreams > 0 {
		c.warnf("limits_config.max_streams has no effect: it would stop delivery; set limits on the server")
	}
	if c.WAL.Enabled {
		c.warnf("wal has no effect: the files themselves are the buffer")
	}
	if c.Tracing.Enabled {
		c.warnf("tracing has no effect")
	}
	if c.Positions.IgnoreInvalidYAML {
		c.warnf("positions.ignore_invalid_yaml has no effect: a damaged positions file never stops the agent, and the state before it is used")
	}
	return nil
}

func (c *Config) warnf(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}

// sortedLabels makes labels of a map.
func sortedLabels(m map[string]string) labels.Labels { return labels.FromMap(m) }
