package compact

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rounds   *prometheus.CounterVec // result: ok, error
	last     prometheus.Gauge
	failures prometheus.Counter
	merges   *prometheus.CounterVec // reason
	seconds  prometheus.Histogram
	bytes    *prometheus.CounterVec // direction: in, out
	rows     *prometheus.CounterVec // fate: kept, duplicate, deleted, expired
	deleted  *prometheus.CounterVec // reason: replaced, expired
	waiting  *prometheus.GaugeVec   // state: live, replaced
	requests prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "skald_compactor_" + name, Help: help}, labels)
	}
	m := metrics{
		rounds: counter("rounds_total", "Passages over the object store, by result: ok, error.", "result"),
		last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "skald_compactor_last_success_timestamp_seconds",
			Help: "When a round last ended without an error."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "skald_compactor_day_failures_total",
			Help: "Days of tenants that could not be compacted; they are tried again in the next round."}),
		merges: counter("merges_total", "Merged segments uploaded, by reason: size (small ones merged), repack (one compressed harder), duplicate (two that hold the same rows), drop (rows removed).", "reason"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "skald_compactor_merge_seconds",
			Help: "Time from reading the inputs of a merge to its upload.", Buckets: prometheus.ExponentialBuckets(0.1, 4, 8)}),
		bytes:   counter("bytes_total", "Bytes of segments merged, by direction: in, out.", "direction"),
		rows:    counter("rows_total", "Rows merged, by fate: kept, duplicate (stood in several inputs), deleted (by request), expired (by retention).", "fate"),
		deleted: counter("segments_deleted_total", "Objects deleted, by reason: replaced (merged into another), expired (retention).", "reason"),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "skald_compactor_day_segments",
			Help: "Segments of the day visited last, by state: live, replaced (waiting to be deleted)."}, []string{"state"}),
		requests: prometheus.NewCounter(prometheus.CounterOpts{Name: "skald_compactor_delete_requests_processed_total",
			Help: "Delete requests whose rows are gone from all objects."}),
	}
	if reg != nil {
		reg.MustRegister(m.rounds, m.last, m.failures, m.merges, m.seconds, m.bytes, m.rows, m.deleted, m.waiting, m.requests)
	}
	return m
}

func (m *metrics) ended(now time.Time, err error) {
	if err != nil {
		m.rounds.WithLabelValues("error").Inc()
		return
	}
	m.rounds.WithLabelValues("ok").Inc()
	m.last.Set(float64(now.Unix()))
}
