package discover

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/discovery"
)

// metrics are shared by all jobs that have one registerer.
type metrics struct {
	updates *prometheus.CounterVec
	refresh discovery.RefreshMetricsManager
}

var registered sync.Map // of metrics by registerer

// newMetrics registers the metrics of discovery once for each registerer.
func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	} else if m, ok := registered.Load(reg); ok {
		return m.(*metrics) //nolint:forcetypeassert // nothing else is stored
	}
	m := &metrics{
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_agent_discovery_updates_total", Help: "Updates of targets received, by kind of discovery.",
		}, []string{"discovery"}),
		refresh: discovery.NewRefreshMetrics(reg),
	}
	_ = reg.Register(m.updates) // a second registration means that the first one counts
	_ = m.refresh.Register()
	registered.Store(reg, m)
	return m
}
