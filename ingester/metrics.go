package ingester

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	entries, bytes               prometheus.Counter
	discarded, refused           *prometheus.CounterVec
	walSync                      prometheus.Histogram
	flushSeconds, uploadSeconds  prometheus.Histogram
	flushFailures, uploadFailure prometheus.Counter
	uploadedBytes                prometheus.Counter
	recovery                     prometheus.Gauge
	replayed                     prometheus.Counter
	segments, segmentBytes       *prometheus.GaugeVec
	tails                        prometheus.Gauge
	tailDropped                  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, i *Ingester) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "skald_ingester_" + name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Name: "skald_ingester_" + name, Help: help, Buckets: buckets})
	}
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "skald_ingester_" + name, Help: help}, value)
	}
	gauge("memtable_bytes", "Memory of the memtables, being written out or not.", func() float64 { return float64(i.memory.used.Load()) })
	gauge("memtable_read_bytes", "Memory of memtables that are segments already and that queries still read.", func() float64 { return float64(i.memory.held.Load()) })
	gauge("memtable_limit_bytes", "The most memory that memtables may take.", func() float64 { return float64(i.cfg.MemtableBytes) })
	gauge("memtables_frozen", "Memtables that wait to be written out.", func() float64 {
		i.mu.RLock()
		defer i.mu.RUnlock()
		return float64(len(i.mu.frozen))
	})
	gauge("streams", "Active streams.", func() float64 { return float64(i.countStreams()) })
	long := prometheus.ExponentialBuckets(0.01, 2.5, 12)
	return &metrics{
		entries: counter("appended_entries_total", "Entries acknowledged."),
		bytes:   counter("appended_bytes_total", "Bytes of lines acknowledged."),
		discarded: f.NewCounterVec(prometheus.CounterOpts{Name: "skald_ingester_discarded_entries_total",
			Help: "Entries refused because of a limit of the tenant, by reason."}, []string{"reason"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{Name: "skald_ingester_refused_pushes_total",
			Help: "Pushes refused as a whole, by reason; clients send them again."}, []string{"reason"}),
		walSync:       histogram("wal_fsync_seconds", "Time to sync a group of batches.", prometheus.ExponentialBuckets(0.0001, 2.5, 12)),
		flushSeconds:  histogram("flush_seconds", "Time to write a memtable as segments.", long),
		flushFailures: counter("flush_failures_total", "Failed attempts to write a memtable as segments; they are repeated."),
		uploadSeconds: histogram("upload_seconds", "Time to upload an object and verify it.", long),
		uploadFailure: counter("upload_failures_total", "Failed attempts to merge or upload; they are repeated."),
		uploadedBytes: counter("uploaded_bytes_total", "Bytes of objects uploaded."),
		recovery: f.NewGauge(prometheus.GaugeOpts{Name: "skald_ingester_recovery_seconds",
			Help: "Time the last start took to replay the write-ahead log and open the local segments."}),
		replayed: counter("replayed_entries_total", "Entries replayed from the write-ahead log at start."),
		segments: f.NewGaugeVec(prometheus.GaugeOpts{Name: "skald_ingester_segments_local",
			Help: "Segments on local disk, by state."}, []string{"state"}),
		segmentBytes: f.NewGaugeVec(prometheus.GaugeOpts{Name: "skald_ingester_segments_local_bytes",
			Help: "Bytes of segments on local disk, by state."}, []string{"state"}),
		tails:       f.NewGauge(prometheus.GaugeOpts{Name: "skald_ingester_tails", Help: "Live tails."}),
		tailDropped: counter("tail_dropped_entries_total", "Entries that slow tails did not get."),
	}
}
