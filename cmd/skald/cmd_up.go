package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/agent"
	"github.com/skaldlog/skald/agent/journal"
	"github.com/skaldlog/skald/distributor"
	"github.com/skaldlog/skald/internal/model"
)

// systemLogs are what `skald up` reads when no path is given.
var systemLogs = []string{"/var/log/**/*.log", "/var/log/syslog", "/var/log/messages"}

// runUp runs a server and an agent for this machine's logs in one process: the same code as
// serve and agent, with a call in the place of a connection.
func runUp(ctx context.Context, std stdio, args []string) error {
	var cfg serverConfig
	fs := flag.NewFlagSet("up", flag.ContinueOnError)
	cfg.register(fs)
	// A laptop is not shared with tenants, and its first start reads whatever has piled up.
	mustSet(fs, "http.listen", "127.0.0.1:3100")
	mustSet(fs, "grpc.listen", "127.0.0.1:0")
	mustSet(fs, "limits.ingestion_rate_mb", "256")
	mustSet(fs, "limits.ingestion_burst_size_mb", "256")
	mustSet(fs, "limits.per_stream_rate_limit", "256MB")
	mustSet(fs, "limits.per_stream_rate_limit_burst", "256MB")
	mustSet(fs, "log.level", "warn")
	paths, done, err := parseFlags(std, fs, args, cfg.source(), "up [flags] [PATH…]")
	if done || err != nil {
		return err
	}
	if err := cfg.validate(); err != nil {
		return usageError{err}
	}
	logger, err := cfg.log.logger(std)
	if err != nil {
		return usageError{err}
	}
	withJournal := len(paths) == 0 && journal.Present()
	acfg, err := localAgent(cfg.dataDir, paths, withJournal)
	if err != nil {
		return usageError{err}
	}
	n, err := newNode(ctx, cfg, logger)
	if err != nil {
		return err
	}
	a, err := agent.New(acfg, agent.Options{Logger: logger, Registerer: n.registry, Push: localPusher{n.distributor}})
	if err != nil {
		return err
	}
	announce(std, n, acfg, withJournal)

	// The agent stops first: what it has read is then acknowledged or will be read again.
	var wg sync.WaitGroup
	nodeCtx, stopNode := context.WithCancel(context.WithoutCancel(ctx))
	defer stopNode()
	agentCtx, stopAgent := context.WithCancel(ctx)
	defer stopAgent()
	var nodeErr error
	wg.Go(func() {
		defer stopAgent()
		nodeErr = n.run(nodeCtx)
	})
	agentErr := a.Run(agentCtx)
	stopNode()
	wg.Wait()
	return errors.Join(ignoreCanceled(agentErr), nodeErr)
}

// localPusher is the distributor of this process, seen by the agent. An HTTP server would
// say whose the entries are.
type localPusher struct{ next *distributor.Distributor }

func (p localPusher) Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error {
	if tenant == "" {
		tenant = model.DefaultTenant
	}
	return p.next.Push(ctx, tenant, streams)
}

func mustSet(fs *flag.FlagSet, name, value string) {
	f := fs.Lookup(name)
	if err := f.Value.Set(value); err != nil {
		panic(fmt.Sprintf("default of -%s: %v", name, err)) // a constant of this file
	}
	f.DefValue = value
}

// localAgent is the agent's configuration for this machine.
func localAgent(dataDir string, paths []string, withJournal bool) (*agent.Config, error) {
	cfg := agent.DefaultConfig()
	cfg.Server.Disable = true
	cfg.Positions.Filename = filepath.Join(dataDir, "agent", "positions.yaml")
	if err := os.MkdirAll(filepath.Dir(cfg.Positions.Filename), 0o750); err != nil {
		return nil, fmt.Errorf("-data.dir: %w", err)
	}
	patterns, err := globs(paths)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	var groups []agent.StaticGroup
	for _, p := range patterns {
		groups = append(groups, agent.StaticGroup{Targets: []string{"localhost"}, Labels: map[string]string{"job": "varlogs", "host": host, "__path__": p}})
	}
	cfg.ScrapeConfigs = []agent.ScrapeConfig{{JobName: "varlogs", Static: groups}}
	if withJournal {
		var j agent.ScrapeConfig
		if err := yaml.Unmarshal([]byte(journalJob), &j); err != nil {
			return nil, fmt.Errorf("the journal's job: %w", err)
		}
		j.Journal.Labels["host"] = host
		cfg.ScrapeConfigs = append(cfg.ScrapeConfigs, j)
	}
	return cfg, nil
}

// journalJob is how the systemd journal is read, beside the files. Services are a label;
// scopes and slices have names of their own by the thousand.
const journalJob = `
job_name: systemd-journal
journal:
  max_age: 24h
  labels: {job: systemd-journal}
relabel_configs:
- {source_labels: [__journal__systemd_unit], regex: '(.+\.service)', target_label: unit}
- {source_labels: [__journal_syslog_identifier], target_label: syslog_identifier}
- {source_labels: [__journal_priority_keyword], regex: emerg|alert|crit, target_label: detected_level, replacement: critical}
- {source_labels: [__journal_priority_keyword], regex: error, target_label: detected_level, replacement: error}
- {source_labels: [__journal_priority_keyword], regex: warning, target_label: detected_level, replacement: warn}
- {source_labels: [__journal_priority_keyword], regex: notice|info, target_label: detected_level, replacement: info}
- {source_labels: [__journal_priority_keyword], regex: debug, target_label: detected_level, replacement: debug}
pipeline_stages:
- structured_metadata: {syslog_identifier: , detected_level: }
`

// globs turns arguments into patterns: a directory stands for the *.log files under it.
func globs(paths []string) ([]string, error) {
	if len(paths) == 0 {
		return systemLogs, nil
	}
	var out []string
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		info, err := os.Stat(abs)
		switch {
		case err == nil && info.IsDir():
			abs = filepath.Join(abs, "**", "*.log")
		case err != nil && !strings.ContainsAny(p, "*?["):
			return nil, fmt.Errorf("%w: give a file, a directory or a quoted pattern", err)
		}
		out = append(out, abs)
	}
	return out, nil
}

// announce is what a newcomer sees first.
func announce(std stdio, n *node, cfg *agent.Config, withJournal bool) {
	var patterns []string
	for _, g := range cfg.ScrapeConfigs[0].Static {
		patterns = append(patterns, g.Labels["__path__"])
	}
	if withJournal {
		patterns = append(patterns, `the systemd journal as {job="systemd-journal"}`)
	}
	addr := n.http.Addr().(*net.TCPAddr)
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "localhost"
	}
	url := fmt.Sprintf("http://%s", net.JoinHostPort(host, fmt.Sprint(addr.Port)))
	flagText := ""
	if addr.Port != 3100 {
		flagText = "--addr=" + url + " "
	}
	fmt.Fprintf(std.out, `Skald is up at %s
  reading   %s
  storing   %s
  asking    skald query %s'{job="varlogs"}'
  Grafana   add a Loki data source with the URL above
Press Ctrl-C to stop; everything acknowledged is kept.
`, url, strings.Join(patterns, ", "), n.cfg.dataDir, flagText)
}
