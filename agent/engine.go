package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/text/encoding"

	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/agent/discover"
	"github.com/skaldlog/skald/agent/positions"
	"github.com/skaldlog/skald/agent/stage"
	"github.com/skaldlog/skald/agent/tail"
)

// engine is an agent at work under one configuration. newEngine builds what can be wrong,
// open takes files and ports, run is its life.
type engine struct {
	agent *Agent
	cfg   *Config
	log   *slog.Logger
	host  string // this node's name
	jobs  []*job

	store   *positions.Store
	lanes   []*lane
	shared  []source // sources that feed all lanes
	targets targetSet
}

// job is a scrape config, compiled.
type job struct {
	*ScrapeConfig
	program  *stage.Program
	discover *discover.Job // nil when there is nothing to discover
	fromAPI  apiNeeds

	encoding   encoding.Encoding
	decompress *tail.Decompression
}

// source is what brings entries that are in no file.
type source interface {
	// run reads until the context ends, or the source is over.
	run(ctx context.Context)
	// info describes the source for people.
	info() sourceInfo
	// close frees what open took, when run is never called.
	close() error
}

type sourceInfo struct {
	Job, Type, Where, Problem string
	Labels                    string
	Ready                     bool
}

func hostname() string {
	if h := os.Getenv("HOSTNAME"); h != "" {
		return h
	}
	h, _ := os.Hostname() // without a name, no __host__ matches
	return h
}

// newEngine compiles jobs. Nothing is opened.
func newEngine(a *Agent, cfg *Config) (*engine, error) {
	rt := &engine{agent: a, cfg: cfg, log: a.log, host: hostname()}
	rt.targets.init(rt)
	if a.opts.Stdin != nil {
		j, err := rt.compile(stdinJob(cfg, rt.host), "Stdin")
		rt.jobs = append(rt.jobs, j)
		return rt, err
	}
	for i := range cfg.ScrapeConfigs {
		sc := &cfg.ScrapeConfigs[i]
		j, err := rt.compile(sc, sc.kind())
		if err != nil {
			return nil, fmt.Errorf("job %s: %w", sc.JobName, err)
		}
		rt.jobs = append(rt.jobs, j)
	}
	return rt, nil
}

func (rt *engine) compile(sc *ScrapeConfig, kind string) (*job, error) {
	a := rt.agent
	env := stage.Env{
		Logger:  a.log.With("job", sc.JobName),
		Dropped: func(reason string) { a.metrics.dropped.WithLabelValues(reason).Inc() },
		Limited: func(name, value string) { a.metrics.limited.WithLabelValues(name, value).Inc() },
		MaxLine: a.opts.Tail.MaxLine,
		Custom:  a.metrics.custom,
		Now:     a.opts.Now,
		Job:     sc.JobName,
	}
	if a.opts.Inspect != nil {
		env.Inspect = stage.NewInspector(a.opts.Inspect, a.opts.Color)
	}
	program, err := stage.Build(sc.PipelineStages, env)
	if err != nil {
		return nil, err
	}
	j := &job{ScrapeConfig: sc, program: program}
	switch kind {
	case "File":
		if j.encoding, err = sc.charset(); err != nil {
			return nil, err
		}
		if d := sc.Decompression; d != nil && d.Enabled {
			j.decompress = &tail.Decompression{Format: d.Format, InitialDelay: d.InitialDelay}
		}
		j.fromAPI = needsOfAPI(sc.Relabel)
		if cfgs := sc.discovery(); len(cfgs) > 0 {
			j.discover, err = discover.New(cfgs, discover.Options{
				Logger: a.log.With("job", sc.JobName), Host: rt.host, PodLogs: a.opts.PodLogs, Registerer: a.opts.Registerer,
			})
		}
	case "Docker":
		j.discover, err = discover.New(dockerDiscovery(sc.Docker), discover.Options{Logger: a.log.With("job", sc.JobName), Host: rt.host, Registerer: a.opts.Registerer})
	}
	return j, err
}

// check builds what open and run would build, as far as that takes no files and no ports.
func (rt *engine) check() error {
	if _, err := rt.pushers(); err != nil {
		return err
	}
	if _, err := serverTLS(&rt.cfg.Server); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	for _, j := range rt.jobs {
		if err := rt.checkJob(j); err != nil {
			return fmt.Errorf("job %s: %w", j.JobName, err)
		}
	}
	return nil
}

func (rt *engine) checkJob(j *job) error {
	if j.discover != nil {
		// The same file may be checked on a laptop and run in a cluster.
		if err := j.discover.Check(); errors.Is(err, discover.ErrNotInCluster) {
			rt.cfg.warnf("job %s: %v", j.JobName, err)
		} else if err != nil {
			return err
		}
	}
	active, _ := rt.targets.relabel(j, rt.staticTargets(j))
	for _, t := range active {
		if _, err := tail.New(tail.Config{}, []tail.Target{{Path: t.path, Exclude: t.exclude}}, nil); err != nil {
			return err
		}
	}
	switch {
	case j.files():
	case j.Syslog != nil:
		_, err := syslogTLS(j.Syslog.TLS)
		return err
	case j.Push != nil:
		if _, err := serverTLS(&j.Push.Server); err != nil {
			return fmt.Errorf("loki_push_api.server: %w", err)
		}
	case j.Journal != nil:
		// The same file may be checked on another machine, and journalctl may come later.
		if err := checkJournal(j.Journal); err != nil {
			rt.cfg.warnf("job %s: %v", j.JobName, err)
		}
	}
	return nil
}

// open takes the positions and the ports, and makes a lane for each client.
func (rt *engine) open() (err error) {
	rt.store, err = positions.Open(rt.cfg.Positions.Filename, positions.Options{
		Logger: rt.log, ReadOnly: rt.agent.opts.DryRun != nil, Failed: func(error) { rt.agent.metrics.stateFailed.Inc() },
		Step: rt.agent.opts.Step,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, rt.close())
		}
	}()
	if err := rt.buildLanes(); err != nil {
		return err
	}
	for _, j := range rt.jobs {
		if err := rt.openSources(j); err != nil {
			return fmt.Errorf("job %s: %w", j.JobName, err)
		}
	}
	return rt.targets.start()
}

// close frees what open took, when run is never called.
func (rt *engine) close() error {
	var errs []error
	for _, s := range rt.shared {
		errs = append(errs, s.close())
	}
	if rt.store != nil {
		errs = append(errs, rt.store.Close())
	}
	return errors.Join(errs...)
}

// openSources makes the sources of a job that reads no files.
func (rt *engine) openSources(j *job) error {
	var feeds []*feed
	for _, l := range rt.lanes {
		feeds = append(feeds, newFeed(l, j))
	}
	var s source
	var err error
	switch {
	case rt.agent.opts.Stdin != nil:
		s = newStdin(j, feeds, rt.agent.opts.Stdin)
	case j.files():
		return nil
	case j.Journal != nil:
		// A lane has a cursor of its own, and so a reading of its own.
		for i, l := range rt.lanes {
			l.sources = append(l.sources, newJournalSource(rt, j, feeds[i]))
		}
		return nil
	case len(j.Docker) > 0:
		for i, l := range rt.lanes {
			d, err := newDockerSource(rt, j, feeds[i])
			if err != nil {
				return err
			}
			l.sources = append(l.sources, d)
		}
		return nil
	case j.Syslog != nil:
		s, err = newSyslogSource(rt, j, feeds)
	case j.Push != nil:
		s, err = newPushSource(rt, j, feeds)
	}
	if err != nil || s == nil {
		return err
	}
	rt.shared = append(rt.shared, s)
	return nil
}

// pushers builds a pusher for each client.
func (rt *engine) pushers() ([]*httpPusher, error) {
	if len(rt.cfg.Clients) == 0 {
		return nil, errNoClient
	}
	out := make([]*httpPusher, len(rt.cfg.Clients))
	for i := range rt.cfg.Clients {
		p, err := newHTTPPusher(&rt.cfg.Clients[i])
		if err != nil {
			return nil, fmt.Errorf("clients[%d]: %w", i, err)
		}
		out[i] = p
	}
	return out, nil
}

// buildLanes makes a lane for each client.
func (rt *engine) buildLanes() error {
	opts := &rt.agent.opts
	switch {
	case opts.Push != nil:
		return rt.addLane("", "local", deliver.Config{Name: "local"}, opts.Push)
	case opts.DryRun != nil:
		if _, err := rt.pushers(); err != nil {
			return err
		}
		return rt.addLane("", "dry-run", deliver.Config{Name: "dry-run"}, &printer{w: opts.DryRun, color: opts.Color})
	}
	pushers, err := rt.pushers()
	if err != nil {
		return err
	}
	for i, p := range pushers {
		c := &rt.cfg.Clients[i]
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
			DropRateLimited: c.DropRateLimited,
		}
		if err := rt.addLane(key, c.URL.Host, cfg, p); err != nil {
			return fmt.Errorf("clients[%d]: %w", i, err)
		}
		p.encoded = rt.agent.metrics.encoded.WithLabelValues(rt.lanes[i].name)
	}
	return nil
}

// run reads until the context ends, or standard input does, and stops in order: sources
// first, then what is in memory is delivered, then the positions are saved.
func (rt *engine) run(ctx context.Context) error {
	ctx, over := context.WithCancel(ctx)
	defer over()
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var services, sources, lanes sync.WaitGroup
	var saveErr error
	services.Go(func() { saveErr = rt.store.Run(background, rt.savePeriod()) })
	sourcesDone := make(chan struct{})
	for _, l := range rt.lanes {
		sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
		l.sender.Start(sending)
		lanes.Go(func() { l.run(ctx, cancel, sourcesDone, rt.agent.opts.StopTimeout) })
	}
	for _, s := range rt.shared {
		sources.Go(func() {
			s.run(ctx)
			if _, ok := s.(*stdinSource); ok {
				over()
			}
		})
	}
	sources.Go(func() { rt.targets.run(ctx) })
	sources.Wait() // they end with ctx, or are over
	if rt.agent.opts.Stdin == nil {
		<-ctx.Done()
	}
	close(sourcesDone)
	lanes.Wait()
	stop()
	services.Wait()
	return errors.Join(saveErr, rt.store.Close())
}

func (rt *engine) savePeriod() time.Duration {
	if p := rt.cfg.Positions.SyncPeriod; p > 0 {
		return p
	}
	return 10 * time.Second
}

// stdinJob is what standard input goes through: the first job's stages and static labels.
func stdinJob(cfg *Config, host string) *ScrapeConfig {
	j := &ScrapeConfig{JobName: "stdin", Static: []StaticGroup{{Labels: map[string]string{"job": "stdin", "hostname": host}}}}
	if len(cfg.ScrapeConfigs) > 0 {
		first := cfg.ScrapeConfigs[0]
		j.PipelineStages = first.PipelineStages
		if len(first.Static) > 0 {
			j.Static = first.Static[:1]
		}
	}
	return j
}
