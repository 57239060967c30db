package object

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count what a store is asked for. Each attempt of a retried request counts.
type Metrics struct {
	requests *prometheus.CounterVec   // op, result
	seconds  *prometheus.HistogramVec // op
	bytes    *prometheus.CounterVec   // op
	retries  *prometheus.CounterVec   // op
	hedged   *prometheus.CounterVec   // won
}

// NewMetrics makes the metrics and registers them; a nil reg leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_object_store_requests_total",
			Help: "Requests to the object store, each attempt counted, by operation and result (ok, not_found, canceled, transient, error).",
		}, []string{"op", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "skald_object_store_request_seconds",
			Help:    "Duration of a request to the object store; of a get until its body begins, of a list until its end.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10), // 0.5 ms to 131 s
		}, []string{"op"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_object_store_bytes_total",
			Help: "Bytes of objects written to or read from the object store, by operation.",
		}, []string{"op"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_object_store_retries_total",
			Help: "Requests to the object store that were repeated after a transient failure.",
		}, []string{"op"}),
		hedged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_object_store_hedged_total",
			Help: "Slow reads of the object store that were asked a second time, by the request that answered (first, second).",
		}, []string{"won"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.bytes, m.retries, m.hedged)
	}
	return m
}

// slowRequest is how long a request may take before it is logged.
const slowRequest = 10 * time.Second

type instrumented struct {
	Store
	metrics *Metrics
	logger  *slog.Logger
}

// Instrument counts and times the operations of a store and logs those that fail or are
// slow; a missing object and a canceled request are normal and are only counted.
func Instrument(s Store, m *Metrics, logger *slog.Logger) Store {
	return &instrumented{s, m, orDiscard(logger)}
}

func (i *instrumented) Remote() bool { return Remote(i.Store) }

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case IsTransient(err):
		return "transient"
	}
	return "error"
}

func (i *instrumented) done(ctx context.Context, op, key string, begin time.Time, bytes int64, err error) {
	took := time.Since(begin)
	outcome := result(err)
	i.metrics.requests.WithLabelValues(op, outcome).Inc()
	i.metrics.seconds.WithLabelValues(op).Observe(took.Seconds())
	if err == nil && bytes > 0 {
		i.metrics.bytes.WithLabelValues(op).Add(float64(bytes))
	}
	switch {
	case outcome == "transient" || outcome == "error":
		i.logger.WarnContext(ctx, "object store request failed", "op", op, "key", key, "took", took, "err", err)
	case took >= slowRequest:
		i.logger.WarnContext(ctx, "object store request was slow", "op", op, "key", key, "bytes", bytes, "took", took)
	}
}

func (i *instrumented) Put(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	begin := time.Now()
	err := i.Store.Put(ctx, key, body, size)
	i.done(ctx, "put", string(key), begin, size, err)
	return err
}

func (i *instrumented) Get(ctx context.Context, key Key) (io.ReadCloser, int64, error) {
	begin := time.Now()
	body, size, err := i.Store.Get(ctx, key)
	i.done(ctx, "get", string(key), begin, 0, err)
	if err != nil {
		return nil, 0, err
	}
	return &countedBody{body, i.metrics.bytes.WithLabelValues("get")}, size, nil
}

// countedBody counts the bytes that are really read.
type countedBody struct {
	io.ReadCloser
	bytes prometheus.Counter
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(float64(n))
	return n, err
}

func (i *instrumented) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	begin := time.Now()
	err := i.Store.ReadAt(ctx, key, p, off)
	i.done(ctx, "read", string(key), begin, int64(len(p)), err)
	return err
}

func (i *instrumented) Delete(ctx context.Context, key Key) error {
	begin := time.Now()
	err := i.Store.Delete(ctx, key)
	i.done(ctx, "delete", string(key), begin, 0, err)
	return err
}

func (i *instrumented) Stat(ctx context.Context, key Key) (Info, error) {
	begin := time.Now()
	info, err := i.Store.Stat(ctx, key)
	i.done(ctx, "stat", string(key), begin, 0, err)
	return info, err
}

func (i *instrumented) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return timedList(i, ctx, prefix, i.Store.List(ctx, prefix))
}

func (i *instrumented) ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return timedList(i, ctx, prefix, i.Store.ListPrefixes(ctx, prefix))
}

func timedList[T any](i *instrumented, ctx context.Context, prefix string, items iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		begin := time.Now()
		var failed error
		for item, err := range items {
			failed = err
			if !yield(item, err) {
				break
			}
		}
		i.done(ctx, "list", prefix, begin, 0, failed)
	}
}
