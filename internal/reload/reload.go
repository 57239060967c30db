// Package reload reads files again while a process runs: those with the limits of tenants
// (internal/limits) and those with credentials (internal/auth). What a file holds is the
// caller's; this package has the rhythm, the metrics and the log lines, so that an operator
// meets one behaviour. A file that turns bad is logged and counted, and the last good one
// stays in force.
package reload

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Loop calls a function that reads files again.
type Loop struct {
	what   string
	period time.Duration
	load   func() (changed bool, err error)
	logger *slog.Logger

	failed   prometheus.Gauge
	reloaded prometheus.Counter
}

// New returns a loop that calls load each period; 0 or less is never. load puts in force
// what it reads, and reports whether that differs from before. Its metrics are
// skald_WHAT_last_reload_failed and skald_WHAT_reloads_total; reg may be nil.
func New(what string, period time.Duration, load func() (changed bool, err error), reg prometheus.Registerer, logger *slog.Logger) *Loop {
	l := &Loop{
		what: what, period: period, load: load, logger: logger,
		failed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "skald_" + what + "_last_reload_failed", Help: "1 while the " + what + " file cannot be used and older " + what + " are in force.",
		}),
		reloaded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_" + what + "_reloads_total", Help: "Changes of the " + what + " file that took effect.",
		}),
	}
	if reg != nil {
		reg.MustRegister(l.failed, l.reloaded)
	}
	return l
}

// Run reads the files again until ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	if l.period <= 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(l.period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, err := l.load()
		if err != nil {
			l.failed.Set(1)
			l.logger.Error("a file cannot be used; what was read of it before stays in force", "file", l.what, "err", err)
			continue
		}
		l.failed.Set(0)
		if changed {
			l.reloaded.Inc()
			l.logger.Info("a changed file is in force", "file", l.what)
		}
	}
}
