package agent

import (
	"bytes"
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/agent/positions"
	"github.com/skaldlog/skald/agent/stage"
	"github.com/skaldlog/skald/agent/tail"
	"github.com/skaldlog/skald/internal/model"
)

// lane is all that belongs to one client: it shares nothing with the others but the CPU, so
// that none can hold up another.
type lane struct {
	agent  *Agent
	name   string
	tailer *tail.Tailer
	sender *deliver.Sender
}

func (a *Agent) addLane(key string, cfg deliver.Config, pusher deliver.Pusher) error {
	l := &lane{agent: a, name: cfg.Name}
	cfg.Budget = a.opts.Budget
	cfg.Logger, cfg.Step, cfg.DeadLetter = a.log, a.opts.Step, a.opts.DeadLetter
	// Times that the agent gave to lines must be in the journal before the server sees them,
	// and acknowledgements as soon as it has: then a kill repeats exactly what is unsettled.
	cfg.BeforeSend, cfg.AfterSend = a.store.Flush, a.store.Flush
	cfg.OnRoom = func() { l.tailer.Resume() }
	l.sender = deliver.New(cfg, pusher)

	targets := make([]tail.Target, len(a.targets))
	for i, t := range a.targets {
		targets[i] = tail.Target{
			Job: t.job, Labels: t.labels, Path: t.path, Exclude: t.exclude,
			Consumer: func(path string) tail.Consumer { return newConsumer(l, t, path) },
		}
	}
	tc := a.opts.Tail
	tc.Client, tc.Logger = key, a.log.With("client", cfg.Name)
	tc.Step = a.opts.Step
	tc.Lost = func(reason string) { a.lost.WithLabelValues(cfg.Name, reason).Inc() }
	if tc.Scan == 0 {
		tc.Scan = a.cfg.TargetConfig.SyncPeriod
	}
	var err error
	if l.tailer, err = tail.New(tc, targets, a.store); err != nil {
		return err
	}
	if a.opts.Registerer != nil {
		registerTail(a.opts.Registerer, cfg.Name, &l.tailer.Stats)
	}
	a.lanes = append(a.lanes, l)
	return nil
}

// run works until the context ends, then delivers what has been read.
func (l *lane) run(ctx context.Context, stopTimeout time.Duration) {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	l.sender.Start(sending)
	_ = l.tailer.Run(ctx) // ends with ctx and nothing else
	timer := time.AfterFunc(stopTimeout, cancel)
	defer timer.Stop()
	l.sender.Stop()
}

func registerTail(reg prometheus.Registerer, client string, s *tail.Stats) {
	add := func(name, help string, counter bool, get func() int64) {
		opts := prometheus.Opts{Name: "skald_agent_" + name, Help: help, ConstLabels: prometheus.Labels{"client": client}}
		f := func() float64 { return float64(get()) }
		if counter {
			reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts(opts), f))
		} else {
			reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts), f))
		}
	}
	add("read_bytes_total", "Bytes of files that went through the pipelines.", true, s.BytesRead.Load)
	add("read_lines_total", "Lines that went through the pipelines.", true, s.LinesRead.Load)
	add("rotations_total", "Times that a path named a new file.", true, s.Rotations.Load)
	add("truncations_total", "Files that were truncated while they were followed.", true, s.Truncations.Load)
	add("held_files", "Deleted files that are kept open because they are not read to their end.", false, s.HeldFiles.Load)
	add("held_bytes", "Space on the disk that deleted files take which are kept open.", false, s.HeldBytes.Load)
	add("cut_lines_total", "Lines that were longer than the longest allowed, and were cut.", true, s.CutLines.Load)
	add("open_files", "Open descriptors of followed files.", false, s.OpenFiles.Load)
	add("watches", "Watched directories.", false, s.Watches.Load)
	add("watch_errors", "Directories that cannot be watched; more than 0 makes the agent look at files every second.", false, s.WatchErrors.Load)
}

// consumer stands between the file and the batch: it runs the pipeline of one log.
type consumer struct {
	lane    *lane
	pipe    *stage.Pipeline
	staging deliver.Staging
	scratch labels.ScratchBuilder
	tenant  string // of the last entry

	given   int64 // time given to the line in hand
	stamped bool  // an entry went out with such a time
}

func newConsumer(l *lane, t *target, path string) *consumer {
	c := &consumer{lane: l}
	base := labels.NewBuilder(t.labels).Set("filename", path).Labels()
	c.pipe = t.program.New(base, c)
	return c
}

// origin is a span as stages see it.
type origin struct{ *positions.Span }

// Covers implements stage.Origin.
func (o origin) Covers(later stage.Origin) bool {
	l, ok := later.(origin)
	return ok && o.Before(l.Span)
}

// Lines implements tail.Consumer.
func (c *consumer) Lines(data []byte, base int64, span *positions.Span) (got tail.Taken) {
	var o stage.Origin = origin{span}
	c.stamped = false
	for at := 0; at < len(data); {
		line, next := data[at:], len(data)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, next = line[:i], at+i+1
		}
		c.given = base + int64(got.Lines)
		c.pipe.Line(line, c.given, o)
		switch {
		case !c.pipe.Pending():
			got.Clean, got.CleanLines = next, got.Lines+1
		case c.pipe.Fresh():
			got.Clean, got.CleanLines = at, got.Lines
		}
		got.Lines++
		at = next
	}
	got.Stamped = c.stamped || c.pipe.Pending()
	return got
}

// Rehome implements tail.Consumer.
func (c *consumer) Rehome(from, to *positions.Span) { c.pipe.Rehome(origin{from}, origin{to}) }

// Cut implements tail.Consumer.
func (c *consumer) Cut(int64) {}

// Flush implements tail.Consumer.
func (c *consumer) Flush(now int64, everything bool) int64 { return c.pipe.Flush(now, everything) }

// Commit implements tail.Consumer.
func (c *consumer) Commit() { c.lane.sender.Commit(&c.staging) }

// Ready implements tail.Consumer.
func (c *consumer) Ready() bool { return c.lane.sender.Room(c.tenant) }

// Pending implements tail.Consumer.
func (c *consumer) Pending() bool { return c.pipe.Pending() }

// Process is the end of the pipeline.
func (c *consumer) Process(e *stage.Entry) {
	if limit := int(c.lane.agent.cfg.Limits.MaxLineSize); limit > 0 && len(e.Line) > limit {
		if !c.lane.agent.cfg.Limits.MaxLineSizeTruncate {
			c.lane.agent.dropped.WithLabelValues("dropped").Inc()
			for _, o := range e.Held {
				o.Release()
			}
			return
		}
		c.lane.agent.dropped.WithLabelValues("cut").Inc()
		e.Line = e.Line[:limit]
	}
	out := model.Entry{Timestamp: e.Timestamp, Line: e.Line}
	if len(e.Metadata) > 0 {
		c.scratch.Reset()
		for _, m := range e.Metadata {
			c.scratch.Add(m.Name, m.Value)
		}
		out.Metadata = c.scratch.Labels()
	}
	c.stamped = c.stamped || e.Timestamp == c.given
	c.tenant = e.Labels.Tenant
	var held []deliver.Origin
	for _, o := range e.Held {
		held = append(held, o)
	}
	c.staging.Add(c.tenant, e.Labels.Labels, e.Labels.Hash, out, e.Origin, held)
}
