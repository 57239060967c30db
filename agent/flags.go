package agent

import (
	"errors"
	"flag"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Flags are Promtail's command-line flags that override its file. A flag wins only when it is
// given.
type Flags struct {
	clientURL string
	client    Client // what -client.url gets, and part of it all clients
	labels    labelFlag
	set       map[string]func(*Config) // what was given, by flag
}

// labelFlag reads a=b,c=d.
type labelFlag map[string]string

// String implements flag.Value.
func (l labelFlag) String() string {
	var out []string
	for k, v := range l {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return strings.Join(out, ",")
}

// Set implements flag.Value.
func (l labelFlag) Set(s string) error {
	for _, pair := range strings.Split(s, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q is not name=value", pair)
		}
		l[k] = v
	}
	return nil
}

// override is a flag that sets one thing of the configuration.
type override struct {
	f     *Flags
	name  string
	def   string
	bool  bool
	parse func(string) (func(*Config), error)
}

// String implements flag.Value.
func (o *override) String() string { return o.def }

// IsBoolFlag lets -flag stand for -flag=true.
func (o *override) IsBoolFlag() bool { return o.bool }

// Set implements flag.Value.
func (o *override) Set(s string) error {
	apply, err := o.parse(s)
	if err != nil {
		return err
	}
	o.f.set[o.name] = apply
	return nil
}

func add[T any](f *Flags, fs *flag.FlagSet, name, def, usage string, parse func(string) (T, error), apply func(*Config, T)) {
	var zero T
	_, isBool := any(zero).(bool)
	fs.Var(&override{f: f, name: name, def: def, bool: isBool, parse: func(s string) (func(*Config), error) {
		v, err := parse(s)
		if err != nil {
			return nil, errors.New("parse error")
		}
		return func(c *Config) { apply(c, v) }, nil
	}}, name, usage)
}

func text(s string) (string, error) { return s, nil }

func size(s string) (Bytes, error) {
	n, err := parseBytes(s)
	return Bytes(n), err
}

func float(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

// RegisterFlags registers the flags.
func (f *Flags) RegisterFlags(fs *flag.FlagSet) {
	f.set, f.labels = map[string]func(*Config){}, labelFlag{}
	fs.StringVar(&f.clientURL, "client.url", "", "one more server's push `URL`, besides the file's clients")
	fs.DurationVar(&f.client.BatchWait, "client.batch-wait", 0, "for the client of -client.url: most `time` before a batch is sent (default 250ms)")
	fs.IntVar(&f.client.BatchSize, "client.batch-size-bytes", 0, "for the client of -client.url: `bytes` of lines at which a batch is sent (default 1048576)")
	fs.DurationVar(&f.client.Backoff.MinPeriod, "client.min-backoff", 0, "for the client of -client.url: first `pause` after a failure (default 500ms)")
	fs.DurationVar(&f.client.Backoff.MaxPeriod, "client.max-backoff", 0, "for the client of -client.url: longest `pause` after a failure (default 1m)")
	fs.DurationVar(&f.client.Timeout, "client.timeout", 0, "for the client of -client.url: most `time` a request may take (default 10s)")
	fs.StringVar(&f.client.TenantID, "client.tenant-id", "", "for the client of -client.url: `tenant` of entries that have none of their own")
	fs.BoolVar(&f.client.DropRateLimited, "client.drop-rate-limited-batches", false, "for the client of -client.url: drop what the server answers with 429")
	fs.Func("client.max-retries", "for the client of -client.url: read as Promtail's `number`, and warned of: nothing is dropped because a server is away", func(s string) error {
		n, err := strconv.Atoi(s)
		f.client.Backoff.MaxRetries = &n
		return err
	})
	fs.Var(f.labels, "client.external-labels", "`labels` such as a=b,c=d for all clients; the file's win")

	add(f, fs, "positions.file", "", "Promtail's positions `file`; the agent's own stand beside it", text, func(c *Config, v string) { c.Positions.Filename = v })
	add(f, fs, "positions.sync-period", "", "`interval` of snapshots of positions", time.ParseDuration, func(c *Config, v time.Duration) { c.Positions.SyncPeriod = v })
	add(f, fs, "positions.ignore-invalid-yaml", "", "read as Promtail's, and warned of: a damaged file never stops the agent", strconv.ParseBool, func(c *Config, v bool) { c.Positions.IgnoreInvalidYAML = v })
	add(f, fs, "target.sync-period", "", "`interval` at which patterns are expanded, besides inotify", time.ParseDuration, func(c *Config, v time.Duration) { c.TargetConfig.SyncPeriod = v })
	add(f, fs, "file-watch.min_poll_frequency", "", "`interval` of looking at changed files, besides inotify", time.ParseDuration, func(c *Config, v time.Duration) { c.Global.FileWatch.MinPoll = v })
	add(f, fs, "file-watch.max_poll_frequency", "", "`interval` of looking at idle files, besides inotify", time.ParseDuration, func(c *Config, v time.Duration) { c.Global.FileWatch.MaxPoll = v })
	add(f, fs, "server.disable", "", "no HTTP server", strconv.ParseBool, func(c *Config, v bool) { c.Server.Disable = v })
	add(f, fs, "server.http-listen-address", "", "`address` of the HTTP server", text, func(c *Config, v string) { c.Server.HTTPListenAddress = v })
	add(f, fs, "server.http-listen-port", "", "`port` of the HTTP server, 0 for any", strconv.Atoi, func(c *Config, v int) { c.Server.HTTPListenPort = v })
	add(f, fs, "server.grpc-listen-port", "", "read as Promtail's `port`: no gRPC port is opened", strconv.Atoi, func(c *Config, v int) { c.Server.GRPCListenPort = v })
	add(f, fs, "server.enable-runtime-reload", "", "serve POST /reload", strconv.ParseBool, func(c *Config, v bool) { c.Server.EnableRuntimeReload = v })
	add(f, fs, "server.profiling_enabled", "", "serve /debug/pprof", strconv.ParseBool, func(c *Config, v bool) { c.Server.ProfilingEnabled = v })
	add(f, fs, "limit.readline-rate-enabled", "", "limit the rate of entries", strconv.ParseBool, func(c *Config, v bool) { c.Limits.ReadlineRateEnabled = v })
	add(f, fs, "limit.readline-rate", "", "`entries` per second", float, func(c *Config, v float64) { c.Limits.ReadlineRate = v })
	add(f, fs, "limit.readline-burst", "", "`entries` at once", strconv.Atoi, func(c *Config, v int) { c.Limits.ReadlineBurst = v })
	add(f, fs, "limit.readline-rate-drop", "", "drop what exceeds the rate instead of waiting", strconv.ParseBool, func(c *Config, v bool) { c.Limits.ReadlineRateDrop = v })
	add(f, fs, "max-streams", "", "read as Promtail's `number`, and warned of: it would stop delivery", strconv.Atoi, func(c *Config, v int) { c.Limits.MaxStreams = v })
	add(f, fs, "max-line-size", "", "longest line, a `size` such as 256kb; 0 for no limit", size, func(c *Config, v Bytes) { c.Limits.MaxLineSize = v })
	add(f, fs, "max-line-size-truncate", "", "cut longer lines instead of dropping them", strconv.ParseBool, func(c *Config, v bool) { c.Limits.MaxLineSizeTruncate = v })
	add(f, fs, "tracing.enabled", "", "read as Promtail's, and warned of", strconv.ParseBool, func(c *Config, v bool) { c.Tracing.Enabled = v })
}

// apply overrides a configuration, before it is checked.
func (f *Flags) apply(c *Config) error {
	for _, set := range f.set {
		set(c)
	}
	if f.clientURL != "" {
		if err := c.AddClient(f.clientURL); err != nil {
			return fmt.Errorf("-client.url: %w", err)
		}
		last := &c.Clients[len(c.Clients)-1]
		from := f.client
		from.URL, from.HTTP = last.URL, last.HTTP
		*last = from
	}
	for i := range c.Clients {
		cl := &c.Clients[i]
		for k, v := range f.labels {
			if _, has := cl.ExternalLabels[k]; !has {
				if cl.ExternalLabels == nil {
					cl.ExternalLabels = map[string]string{}
				}
				cl.ExternalLabels[k] = v
			}
		}
	}
	return nil
}
