package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/skaldlog/skald/agent"
	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/internal/conf"
)

type agentOptions struct {
	configFile  string
	expandEnv   bool
	dryRun      bool
	inspect     bool
	checkSyntax bool
	stdin       bool
	printConfig bool
	printLog    bool
	version     bool
	podLogs     string
	labelWait   time.Duration
	stopTimeout time.Duration
	deadLetter  string
	deadBytes   int64
	overrides   agent.Flags
	log         logConfig
}

func (o *agentOptions) register(fs *flag.FlagSet) {
	fs.StringVar(&o.configFile, "config.file", "", "Promtail configuration `file`, or several with commas between, of which the first that exists is read")
	fs.BoolVar(&o.expandEnv, "config.expand-env", false, "replace ${VAR} in the file by the environment's values")
	fs.BoolVar(&o.dryRun, "dry-run", false, "print entries instead of sending them, and remember nothing")
	fs.BoolVar(&o.inspect, "inspect", false, "show on standard error what each stage does to each line")
	fs.BoolVar(&o.checkSyntax, "check-syntax", false, "build everything that the file asks for, say whether it is right, and exit")
	fs.BoolVar(&o.stdin, "stdin", false, "read standard input through the first job's stages, and exit when all is delivered")
	fs.BoolVar(&o.printConfig, "print-config-stderr", false, "show the configuration in force on standard error, and go on")
	fs.BoolVar(&o.printLog, "log-config-reverse-order", false, "log the configuration in force, line by line from its end, and go on")
	fs.BoolVar(&o.version, "version", false, "print the version and exit")
	fs.StringVar(&o.podLogs, "kubernetes.pod-logs-dir", "/var/log/pods", "`directory` of the logs of Kubernetes' pods, whose names tell namespace, pod, uid and container; - to rely on the API alone")
	fs.DurationVar(&o.labelWait, "kubernetes.label-wait", 5*time.Second, "most `time` a new pod's lines wait for labels that only the Kubernetes API knows; 0 to wait for nothing")
	fs.DurationVar(&o.stopTimeout, "stop-timeout", 5*time.Second, "most `time` spent on delivering what is in memory when told to stop; the rest is read again at the next start")
	fs.StringVar(&o.deadLetter, "dead-letter.file", "", "`file` that receives the entries that a server refuses for good, one JSON object a line")
	fs.Int64Var(&o.deadBytes, "dead-letter.max-bytes", 100<<20, "size in `bytes` at which that file is renamed to NAME.1 and begun anew")
	o.overrides.RegisterFlags(fs)
	o.log.register(fs)
}

// runAgent runs a node agent until a signal.
func runAgent(ctx context.Context, std stdio, args []string) error {
	var o agentOptions
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	o.register(fs)
	rest, done, err := parseFlags(std, fs, args, conf.Source{EnvPrefix: envPrefix}, "agent -config.file=promtail.yaml [flags] [why PATH|POD]")
	if done || err != nil {
		return err
	}
	why := ""
	if len(rest) == 2 && rest[0] == "why" {
		why = rest[1]
	} else if len(rest) > 0 {
		return badUsage("agent takes no arguments but why and a path or pod, got %q", rest)
	}
	if o.version {
		return runVersion(ctx, std, nil)
	}
	cfg, err := o.load(fs)
	if err != nil {
		return usageError{err}
	}
	if why != "" {
		return askWhy(ctx, std, cfg, why)
	}
	logger, err := o.log.logger(std)
	if err != nil {
		return usageError{err}
	}
	if o.checkSyntax {
		return o.check(std, cfg, logger)
	}
	if err := o.show(cfg, std, logger.Info); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		// An agent shares its node: a quarter less memory is worth the collector's time, which
		// is little, since what is read is copied once and lies in blocks that are used again.
		debug.SetGCPercent(50)
	}
	opts := o.forAgent(std, cfg, logger)
	opts.Load = func() (*agent.Config, error) { return o.load(fs) }
	if o.deadLetter != "" {
		dead, err := deliver.OpenDeadLetter(o.deadLetter, o.deadBytes)
		if err != nil {
			return usageError{fmt.Errorf("-dead-letter.file: %w", err)}
		}
		defer dead.Close()
		opts.DeadLetter = dead
	}
	a, err := agent.New(cfg, opts)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", o.configFile, err)}
	}
	stop := reloadOnHangup(ctx, a)
	defer stop()
	small, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { keepProgramSmall(small, programPagesAfter) })
	defer wg.Wait()
	defer cancel()
	return a.Run(ctx)
}

// check says whether the agent could run with a configuration.
func (o *agentOptions) check(std stdio, cfg *agent.Config, logger *slog.Logger) error {
	err := agent.Check(cfg, logger)
	for _, w := range cfg.Warnings {
		fmt.Fprintf(std.err, "warning: %s\n", w)
	}
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", o.configFile, err)}
	}
	_, err = fmt.Fprintln(std.out, "Valid config file! No syntax issues found")
	return err
}

// forAgent is what the flags ask of the agent.
func (o *agentOptions) forAgent(std stdio, cfg *agent.Config, logger *slog.Logger) agent.Options {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	opts := agent.Options{Logger: logger, Registerer: reg, PodLogs: o.podLogs, LabelWait: o.labelWait, StopTimeout: o.stopTimeout}
	if o.labelWait == 0 {
		opts.LabelWait = -1
	}
	if o.dryRun {
		opts.DryRun, opts.Color = std.out, isTerminal(std.out)
	}
	if o.inspect {
		opts.Inspect, opts.Color = std.err, isTerminal(std.err)
	}
	if o.stdin || cfg.TargetConfig.Stdin {
		opts.Stdin = std.in
	}
	return opts
}

// reloadOnHangup makes SIGHUP read the configuration again. The agent logs what is wrong.
func reloadOnHangup(ctx context.Context, a *agent.Agent) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hangups:
				_ = a.Reload(ctx) // logged by the agent
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		cancel()
		<-done
	}
}

// load reads the configuration. The command line wins over the file.
func (o *agentOptions) load(flags *flag.FlagSet) (*agent.Config, error) {
	if o.configFile == "" {
		return nil, errors.New("agent: -config.file is missing: name a Promtail configuration file")
	}
	cfg, err := agent.LoadConfig(o.configFile, o.expandEnv, &o.overrides)
	var unreadable *fs.PathError
	if errors.As(err, &unreadable) {
		return nil, fmt.Errorf("agent: -config.file: %w", err)
	}
	if err != nil {
		return nil, err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["log.level"] && cfg.Server.LogLevel != "" {
		o.log.level = cfg.Server.LogLevel
	}
	if !given["log.format"] && cfg.Server.LogFormat != "" {
		o.log.format = cfg.Server.LogFormat
	}
	return cfg, nil
}

// show prints the configuration in force, where it is asked for.
func (o *agentOptions) show(cfg *agent.Config, std stdio, log func(string, ...any)) error {
	if !o.printConfig && !o.printLog {
		return nil
	}
	text, err := cfg.YAML()
	if err != nil {
		return err
	}
	if o.printConfig {
		fmt.Fprintf(std.err, "---\n# Skald agent, configuration in force\n%s\n", text)
	}
	if o.printLog {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for i := len(lines) - 1; i >= 0; i-- {
			log(lines[i])
		}
	}
	return nil
}

// askWhy asks the agent that runs with this configuration.
func askWhy(ctx context.Context, std stdio, cfg *agent.Config, what string) error {
	if cfg.Server.Disable {
		return errors.New("server.disable: the running agent cannot be asked")
	}
	host := cfg.Server.HTTPListenAddress
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	addr := "http://" + net.JoinHostPort(host, strconv.Itoa(cfg.Server.HTTPListenPort)) + cfg.Server.HTTPPathPrefix + "/why?q=" + url.QueryEscape(what)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no agent answers; is it running with this configuration? %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answered %s", resp.Status)
	}
	_, err = io.Copy(std.out, resp.Body)
	return err
}
