package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/agent/positions"
	"github.com/skaldlog/skald/agent/stage"
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
	// Push, when set, is where entries go, instead of to the configuration's clients: a
	// server in the same process.
	Push deliver.Pusher
	// Tail tunes the following of files; the zero value is right for production.
	Tail tail.Config
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

// Agent is a node agent. New builds it, Run is its life.
type Agent struct {
	cfg     *Config
	opts    Options
	log     *slog.Logger
	store   *positions.Store
	lanes   []*lane
	targets []*target
	dropped *prometheus.CounterVec
	lost    *prometheus.CounterVec
	stages  *prometheus.CounterVec

	listener net.Listener
}

// New builds everything that the configuration asks for, pipelines, regular expressions and
// certificates included, reads the positions, and opens the HTTP port. An error says what
// is wrong with the configuration.
func New(cfg *Config, opts Options) (*Agent, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.StopTimeout <= 0 {
		opts.StopTimeout = 5 * time.Second
	}
	a := &Agent{cfg: cfg, opts: opts, log: opts.Logger}
	a.stages = counter(opts.Registerer, "stage_dropped_entries_total", "Entries that a stage of a pipeline dropped or cut, by reason.", "reason")
	a.dropped = counter(opts.Registerer, "long_lines_total", "Lines longer than limits_config.max_line_size, by what became of them.", "action")
	a.lost = counter(opts.Registerer, "lost_generations_total", "Files that could not be read to their end, by reason.", "client", "reason")
	if err := a.build(); err != nil {
		return nil, err
	}
	store, err := positions.Open(cfg.Positions.Filename, positions.Options{
		Logger: opts.Logger, ReadOnly: opts.DryRun != nil, Failed: stateFailed(opts.Registerer), Step: opts.Step,
	})
	if err != nil {
		return nil, err
	}
	a.store = store
	if err := a.buildLanes(); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if err := a.listen(); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	for _, w := range cfg.Warnings {
		a.log.Warn("configuration: " + w)
	}
	return a, nil
}

// Check builds all that New builds and keeps nothing: it finds every error that a start
// would find, except a port or a directory that is not to be had.
func Check(cfg *Config, logger *slog.Logger) error {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, opts: Options{Logger: logger}, log: logger}
	a.stages = counter(nil, "x", "x", "reason")
	if err := a.build(); err != nil {
		return err
	}
	if len(cfg.Clients) == 0 {
		return errNoClient
	}
	for i := range cfg.Clients {
		if _, err := newHTTPPusher(&cfg.Clients[i]); err != nil {
			return fmt.Errorf("clients[%d]: %w", i, err)
		}
	}
	for _, t := range a.targets {
		if _, err := tail.New(tail.Config{}, []tail.Target{{Path: t.path, Exclude: t.exclude}}, nil); err != nil {
			return fmt.Errorf("job %s: %w", t.job, err)
		}
	}
	return nil
}

var errNoClient = errors.New("at least one client config must be provided")

// build compiles pipelines and targets.
func (a *Agent) build() error {
	host := os.Getenv("HOSTNAME")
	if host == "" {
		host, _ = os.Hostname() // without a name, no __host__ matches
	}
	for i := range a.cfg.ScrapeConfigs {
		job := &a.cfg.ScrapeConfigs[i]
		program, err := stage.Build(job.PipelineStages, stage.Env{
			Logger:  a.log.With("job", job.JobName),
			Dropped: func(reason string) { a.stages.WithLabelValues(reason).Inc() },
			MaxLine: a.opts.Tail.MaxLine,
		})
		if err != nil {
			return fmt.Errorf("job %s: %w", job.JobName, err)
		}
		a.targets = append(a.targets, a.expandTargets(job, program, host)...)
	}
	return nil
}

// buildLanes makes a lane for each client.
func (a *Agent) buildLanes() error {
	metrics := deliver.NewMetrics(a.opts.Registerer)
	switch {
	case a.opts.DryRun != nil:
		return a.addLane("", deliver.Config{Name: "dry-run", Metrics: metrics}, &printer{w: a.opts.DryRun})
	case a.opts.Push != nil:
		return a.addLane("", deliver.Config{Name: "local", Metrics: metrics}, a.opts.Push)
	case len(a.cfg.Clients) == 0:
		return errNoClient
	}
	for i := range a.cfg.Clients {
		c := &a.cfg.Clients[i]
		pusher, err := newHTTPPusher(c)
		if err != nil {
			return fmt.Errorf("clients[%d]: %w", i, err)
		}
		name := c.Name
		if name == "" {
			name = c.URL.Host
		}
		key := "" // the first client keeps its positions when its URL changes
		if i > 0 {
			key = c.Name
			if key == "" {
				key = c.URL.Redacted() + " " + c.TenantID
			}
		}
		cfg := deliver.Config{
			Name: name, Tenant: c.TenantID, External: sortedLabels(c.ExternalLabels), BatchSize: c.BatchSize,
			BatchWait: c.BatchWait, Timeout: c.Timeout, MinBackoff: c.Backoff.MinPeriod, MaxBackoff: c.Backoff.MaxPeriod,
			DropRateLimited: c.DropRateLimited, Metrics: metrics,
		}
		if err := a.addLane(key, cfg, pusher); err != nil {
			return fmt.Errorf("clients[%d]: %w", i, err)
		}
	}
	return nil
}

// Run follows the files until the context ends, then delivers what is in memory as far as
// StopTimeout allows, and saves the positions.
func (a *Agent) Run(ctx context.Context) error {
	a.log.Info("agent started", "http", a.Addr(), "clients", len(a.lanes), "targets", len(a.targets))
	if len(a.targets) == 0 {
		a.log.Warn("no targets: nothing will be read; each job needs static_configs with a __path__ that relabelling keeps")
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var services, lanes sync.WaitGroup
	var saveErr error
	services.Go(func() { saveErr = a.store.Run(background, a.savePeriod()) })
	services.Go(func() { a.serve(background) })
	for _, l := range a.lanes {
		lanes.Go(func() { l.run(ctx, a.opts.StopTimeout) })
	}
	lanes.Wait() // they end with ctx
	stop()
	services.Wait()
	return errors.Join(saveErr, a.store.Close())
}

func (a *Agent) savePeriod() time.Duration {
	if p := a.cfg.Positions.SyncPeriod; p > 0 {
		return p
	}
	return 10 * time.Second
}

// Addr is the address of the HTTP server, "" when it is disabled.
func (a *Agent) Addr() string {
	if a.listener == nil {
		return ""
	}
	return a.listener.Addr().String()
}

func counter(reg prometheus.Registerer, name, help string, ls ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "skald_agent_" + name, Help: help}, ls)
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}

func stateFailed(reg prometheus.Registerer) func(error) {
	c := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "skald_agent_positions_write_failures_total",
		Help: "Failed writes of positions; while it grows, a restart repeats lines.",
	})
	if reg != nil {
		reg.MustRegister(c)
	}
	return func(error) { c.Inc() }
}
