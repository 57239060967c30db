package distributor

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/model"
)

// The reasons for which entries are refused, as Loki names them.
const (
	reasonRateLimited    = "rate_limited"
	reasonLineTooLong    = "line_too_long"
	reasonTooOld         = "greater_than_max_sample_age"
	reasonTooNew         = "too_far_in_future"
	reasonMissingLabels  = "missing_labels"
	reasonTooManyLabels  = "max_label_names_per_series"
	reasonNameTooLong    = "label_name_too_long"
	reasonValueTooLong   = "label_value_too_long"
	reasonDuplicateName  = "duplicate_label_names"
	reasonNoMetadata     = "disallowed_structured_metadata"
	reasonMetadataSize   = "structured_metadata_too_large"
	reasonMetadataCount  = "structured_metadata_too_many"
	reasonBlocked        = "blocked_ingestion"
	reasonBlockedPolicy  = "blocked_ingestion_policy"
	reasonMissingDemands = "missing_enforced_labels"
)

type metrics struct {
	lines, bytes                   *prometheus.CounterVec // by tenant
	discardedLines, discardedBytes *prometheus.CounterVec // by tenant and reason
	truncatedLines, truncatedBytes *prometheus.CounterVec
	received                       prometheus.Counter
	requests                       *prometheus.CounterVec // by format and status
}

func newMetrics(reg prometheus.Registerer, inflight *budget) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "skald_distributor_" + name, Help: help}, labels)
	}
	m := &metrics{
		lines:          counter("lines_received_total", "Lines that were valid and within the rate.", "tenant"),
		bytes:          counter("bytes_received_total", "Bytes of such lines and of their structured metadata.", "tenant"),
		discardedLines: counter("discarded_lines_total", "Lines that were refused.", "tenant", "reason"),
		discardedBytes: counter("discarded_bytes_total", "Bytes of lines that were refused.", "tenant", "reason"),
		truncatedLines: counter("truncated_lines_total", "Lines that were cut to max_line_size.", "tenant"),
		truncatedBytes: counter("truncated_bytes_total", "Bytes cut off such lines.", "tenant"),
		requests:       counter("pushes_total", "Pushes, by format of the body and status of the answer.", "format", "status"),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_distributor_decoded_bytes_total", Help: "Bytes of push bodies after decompression.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.lines, m.bytes, m.discardedLines, m.discardedBytes, m.truncatedLines, m.truncatedBytes,
			m.requests, m.received, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "skald_distributor_inflight_bytes", Help: "Memory that pushes being worked on have reserved.",
			}, func() float64 { return float64(inflight.used.Load()) }))
	}
	return m
}

// tenantMetrics are one tenant's counters, looked up once.
type tenantMetrics struct {
	all                            *metrics
	id                             string
	lines, bytes                   prometheus.Counter
	truncatedLines, truncatedBytes prometheus.Counter
	mu                             struct {
		sync.Mutex
		discarded map[string][2]prometheus.Counter // lines and bytes by reason
	}
}

func (m *metrics) tenant(id model.Tenant) *tenantMetrics {
	t := &tenantMetrics{
		all: m, id: string(id), lines: m.lines.WithLabelValues(string(id)), bytes: m.bytes.WithLabelValues(string(id)),
		truncatedLines: m.truncatedLines.WithLabelValues(string(id)), truncatedBytes: m.truncatedBytes.WithLabelValues(string(id)),
	}
	t.mu.discarded = map[string][2]prometheus.Counter{}
	return t
}

func (t *tenantMetrics) discard(reason string, lines, bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.mu.discarded[reason]
	if !ok {
		c = [2]prometheus.Counter{
			t.all.discardedLines.WithLabelValues(t.id, reason), t.all.discardedBytes.WithLabelValues(t.id, reason),
		}
		t.mu.discarded[reason] = c
	}
	c[0].Add(float64(lines))
	c[1].Add(float64(bytes))
}
