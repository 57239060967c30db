package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/skaldlog/skald/agent"
	"github.com/skaldlog/skald/internal/conf"
)

type agentOptions struct {
	configFile          string
	clientURL           string
	expandEnv           bool
	dryRun, checkSyntax bool
	log                 logConfig
}

func (o *agentOptions) register(fs *flag.FlagSet) {
	fs.StringVar(&o.configFile, "config.file", "", "Promtail configuration `file`")
	fs.BoolVar(&o.expandEnv, "config.expand-env", false, "replace ${VAR} in the file by the environment's values")
	fs.StringVar(&o.clientURL, "client.url", "", "one more server's push `URL`, besides the file's clients")
	fs.BoolVar(&o.dryRun, "dry-run", false, "print entries instead of sending them, and remember nothing")
	fs.BoolVar(&o.checkSyntax, "check-syntax", false, "build everything that the file asks for, say whether it is right, and exit")
	o.log.register(fs)
}

// runAgent runs a node agent until a signal.
func runAgent(ctx context.Context, std stdio, args []string) error {
	var o agentOptions
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	o.register(fs)
	rest, done, err := parseFlags(std, fs, args, conf.Source{EnvPrefix: envPrefix}, "agent -config.file=promtail.yaml [flags]")
	if done || err != nil {
		return err
	}
	if len(rest) > 0 {
		return badUsage("agent takes no arguments, got %q", rest)
	}
	cfg, err := o.load(fs)
	if err != nil {
		return usageError{err}
	}
	logger, err := o.log.logger(std)
	if err != nil {
		return usageError{err}
	}
	if o.checkSyntax {
		if err := agent.Check(cfg, logger); err != nil {
			return usageError{fmt.Errorf("%s: %w", o.configFile, err)}
		}
		for _, w := range cfg.Warnings {
			fmt.Fprintf(std.err, "warning: %s\n", w)
		}
		_, err := fmt.Fprintln(std.out, "Valid config file! No syntax issues found")
		return err
	}
	for _, w := range cfg.Warnings {
		logger.Warn(w)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	opts := agent.Options{Logger: logger, Registerer: reg}
	if o.dryRun {
		opts.DryRun = std.out
	}
	a, err := agent.New(cfg, opts)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", o.configFile, err)}
	}
	return a.Run(ctx)
}

// load reads the configuration. The command line's log settings win over the file's.
func (o *agentOptions) load(fs *flag.FlagSet) (*agent.Config, error) {
	if o.configFile == "" {
		return nil, errors.New("agent: -config.file is missing: name a Promtail configuration file")
	}
	cfg, err := agent.LoadConfig(o.configFile, o.expandEnv)
	if err != nil {
		return nil, err
	}
	if o.clientURL != "" {
		if err := cfg.AddClient(o.clientURL); err != nil {
			return nil, fmt.Errorf("-client.url: %w", err)
		}
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["log.level"] && cfg.Server.LogLevel != "" {
		o.log.level = cfg.Server.LogLevel
	}
	if !given["log.format"] && cfg.Server.LogFormat != "" {
		o.log.format = cfg.Server.LogFormat
	}
	return cfg, nil
}
