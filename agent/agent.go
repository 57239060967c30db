package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/agent/tail"
)

// Options are what an agent is given besides its configuration. The zero value works.
type Options struct {
	// Logger receives what the agent has to say about itself. Nil discards it.
	Logger *slog.Logger
	// Registerer receives the agent's metrics; nil leaves them unregistered. When it is a
	// prometheus.Gatherer as well, /metrics shows it.
	Registerer prometheus.Registerer
	// DryRun, when set, receives the entries as text instead of the clients, and nothing is
	// written to the disk.
	DryRun io.Writer
	// Inspect, when set, is told what each stage does to each line.
	Inspect io.Writer
	// Color makes DryRun and Inspect texts coloured, for a terminal.
	Color bool
	// Stdin, when set, is read instead of the jobs' sources, through the first job's stages;
	// the agent ends when all of it is delivered.
	Stdin io.Reader
	// Push, when set, is where entries go, instead of to the configuration's clients: a
	// server in the same process.
	Push deliver.Pusher
	// Load reads the configuration again, for a reload. Nil means that there is none.
	Load func() (*Config, error)
	// Journalctl is the program that reads the systemd journal; "journalctl" when empty.
	Journalctl string
	// Now is the wall clock, in ns since 1970, which gives times to lines of files that bring none;
	// for tests. Nil means the real one.
	Now func() int64
	// Tail tunes the following of files; the zero value is right for production.
	Tail tail.Config
	// PodLogs is the directory of the logs of Kubernetes' pods, /var/log/pods when empty, and
	// "-" to know pods from the API alone.
	PodLogs string
	// LabelWait is how long the lines of a pod wait for labels that only the Kubernetes API
	// knows; then they go with those that their path tells. Default 5 s; negative waits for nothing.
	LabelWait time.Duration
	// Budget bounds the unacknowledged bytes in memory, for each client. Default 16 MiB.
	Budget int64
	// StopTimeout bounds the delivery of what is in memory when the agent is told to stop;
	// what is not acknowledged by then is read again at the next start. Default 5 s.
	StopTimeout time.Duration
	// DeadLetter, when set, receives the entries that a server refuses for good. The caller
	// closes it after Run.
	DeadLetter *deliver.DeadLetter
	// Step is called at places where a kill would be worst, with a name for the place; tests
	// kill the process there. Nil ignores.
	Step func(place string)
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.StopTimeout <= 0 {
		o.StopTimeout = 5 * time.Second
	}
	switch o.PodLogs {
	case "":
		o.PodLogs = "/var/log/pods"
	case "-":
		o.PodLogs = ""
	}
	if o.LabelWait == 0 {
		o.LabelWait = 5 * time.Second
	}
}

// Agent is a node agent. New builds it, Run is its life. What changes with a reload is its
// engine; the HTTP server and the metrics stay.
type Agent struct {
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	listener net.Listener
	server   Server // as at the start: a reload does not change it
	reloads  chan reload

	mu struct {
		sync.Mutex
		run *engine
	}
}

// reload asks the running agent to take another configuration.
type reload struct {
	cfg  *Config
	done chan error
}

// New builds everything that the configuration asks for, pipelines, regular expressions and
// certificates included, reads the positions, and opens the ports. An error says what is
// wrong with the configuration.
func New(cfg *Config, opts Options) (*Agent, error) {
	opts.defaults()
	a := &Agent{opts: opts, log: opts.Logger, server: cfg.Server, reloads: make(chan reload)}
	a.metrics = newMetrics(opts.Registerer, a)
	rt, err := newEngine(a, cfg)
	if err != nil {
		return nil, err
	}
	if err := rt.open(); err != nil {
		return nil, err
	}
	if err := a.listen(); err != nil {
		return nil, errors.Join(err, rt.close())
	}
	a.setEngine(rt)
	for _, w := range cfg.Warnings {
		a.log.Warn("configuration: " + w)
	}
	return a, nil
}

// Check builds all that New builds and keeps nothing: it finds every error that a start
// would find, except a port or a directory that is not to be had.
func Check(cfg *Config, logger *slog.Logger) error {
	opts := Options{Logger: logger}
	opts.defaults()
	a := &Agent{opts: opts, log: opts.Logger}
	a.metrics = newMetrics(nil, a)
	rt, err := newEngine(a, cfg)
	if err != nil {
		return err
	}
	return rt.check()
}

// Run reads the sources until the context ends, then delivers what is in memory as far as
// StopTimeout allows, and saves the positions.
func (a *Agent) Run(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { a.serve(background) })
	err := a.runAll(ctx)
	stop()
	wg.Wait()
	return err
}

// runAll runs one engine after the other, until one ends by itself or with the context.
func (a *Agent) runAll(ctx context.Context) error {
	for {
		rt := a.engine()
		a.log.Info("agent started", "http", a.Addr(), "clients", len(rt.lanes), "jobs", len(rt.jobs))
		run, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- rt.run(run) }()
		next, ask, err := a.awaitReload(done)
		cancel()
		if next == nil {
			return err
		}
		err = <-done // the old one has delivered what it could
		if err == nil {
			err = next.open()
		}
		if err != nil {
			// A port is taken, or a directory cannot be written. What ran before runs again.
			a.metrics.reloaded(err)
			ask.done <- err
			if next, err = newEngine(a, rt.cfg); err == nil {
				err = next.open()
			}
			if err != nil {
				return err
			}
			a.setEngine(next)
			continue
		}
		a.setEngine(next)
		for _, w := range next.cfg.Warnings {
			a.log.Warn("configuration: " + w)
		}
		a.metrics.reloaded(nil)
		ask.done <- nil
	}
}

// awaitReload waits until the engine ends, or until a configuration comes that can be built.
func (a *Agent) awaitReload(done <-chan error) (*engine, reload, error) {
	for {
		select {
		case err := <-done:
			return nil, reload{}, err
		case ask := <-a.reloads:
			next, err := newEngine(a, ask.cfg)
			if err == nil {
				err = next.check()
			}
			if err == nil {
				return next, ask, nil
			}
			a.metrics.reloaded(err)
			a.log.Error("the new configuration is refused; the old one stays in force", "err", err)
			ask.done <- err
		}
	}
}

// Reload reads the configuration again and replaces everything but the server block. With an
// error, what ran before goes on.
func (a *Agent) Reload(ctx context.Context) error {
	if a.opts.Load == nil {
		return errors.New("this agent has no configuration file to read again")
	}
	cfg, err := a.opts.Load()
	if err != nil {
		a.metrics.reloaded(err)
		a.log.Error("the new configuration cannot be read; the old one stays in force", "err", err)
		return err
	}
	ask := reload{cfg: cfg, done: make(chan error, 1)}
	select {
	case a.reloads <- ask:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-ask.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Agent) engine() *engine {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.run
}

func (a *Agent) setEngine(rt *engine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.run = rt
}

// Addr is the address of the HTTP server, "" when it is disabled.
func (a *Agent) Addr() string {
	if a.listener == nil {
		return ""
	}
	return a.listener.Addr().String()
}
