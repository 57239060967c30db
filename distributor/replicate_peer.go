package distributor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/fault"
)

// peer is what a Replicator knows about one ingester beyond the ring: what it owes an
// answer for, and whether calls reach it. The ring notices a dead instance after some
// heartbeats; until then the circuit breaker makes it cost nothing.
//
//	        failures in a row               a try succeeded
//	closed ───────────────────▶ open ──────────────────────────▶ closed
//	                             │  ▲ a try failed: wait longer
//	                             ▼  │
//	                        half open: one call at a time is let through
type peer struct {
	id, addr string
	cfg      *ReplicatorConfig
	outcomes map[string]prometheus.Counter

	mu struct {
		sync.Mutex
		pushes   int   // without an answer
		bytes    int64 // of them
		answered time.Time
		sent     time.Time // the first call since everything was answered

		failures int       // in a row
		openTill time.Time // zero: closed
		wait     time.Duration
		trying   bool
		lastErr  error
	}
}

// The breaker's numbers: how many failures in a row open it, and how long it stays open
// the first time and at most.
const (
	breakerFailures = 3
	breakerFirst    = 500 * time.Millisecond
	breakerMost     = 10 * time.Second
)

func newPeer(in *ring.Instance, r *Replicator) *peer {
	p := &peer{id: in.ID, addr: in.Addr, cfg: &r.cfg, outcomes: map[string]prometheus.Counter{}}
	for _, outcome := range []string{outcomeStored, outcomeRefused, outcomeFailed, outcomeSkipped} {
		p.outcomes[outcome] = r.metrics.pushes.WithLabelValues(in.ID, outcome)
	}
	return p
}

func (p *peer) String() string { return p.id + " at " + p.addr }

var errBusy = errors.New("too much is waiting for its answer")

// admit asks for leave to send bytes. After nil, done must be called.
func (p *peer) admit(bytes int64, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.openTill.IsZero() {
		if now.Before(p.mu.openTill) || p.mu.trying {
			return fmt.Errorf("left out after %d failures in a row: %w", p.mu.failures, p.mu.lastErr)
		}
		p.mu.trying = true
	} else if p.mu.pushes > 0 {
		if p.mu.pushes >= p.cfg.QueuePushes || p.mu.bytes+bytes > p.cfg.QueueBytes {
			return fmt.Errorf("%w: %d pushes, %d bytes", errBusy, p.mu.pushes, p.mu.bytes)
		}
		if silent := now.Sub(later(p.mu.sent, p.mu.answered)); silent > p.cfg.Timeout/2 {
			return fmt.Errorf("no answer for %s", silent.Round(100*time.Millisecond))
		}
	}
	if p.mu.pushes == 0 {
		p.mu.sent = now
	}
	p.mu.pushes++
	p.mu.bytes += bytes
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// done takes the result of a call of so many bytes.
func (p *peer) done(bytes int64, err error, now time.Time) {
	var call *remote.CallError
	reached := !errors.As(err, &call) && !errors.Is(err, context.DeadlineExceeded)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.pushes--
	p.mu.bytes -= bytes
	if reached {
		p.mu.answered = now
		p.mu.failures, p.mu.openTill, p.mu.wait, p.mu.trying, p.mu.lastErr = 0, time.Time{}, 0, false, nil
		return
	}
	if fault.Of(err) == fault.Canceled {
		p.mu.trying = false // by us, which says nothing about the ingester
		return
	}
	p.mu.failures++
	p.mu.lastErr = err
	if p.mu.failures < breakerFailures || !p.mu.openTill.IsZero() && !p.mu.trying {
		return
	}
	p.mu.trying = false
	p.mu.wait = min(max(2*p.mu.wait, breakerFirst), breakerMost)
	// Spread, so that distributors do not try again in step.
	p.mu.openTill = now.Add(p.mu.wait/2 + rand.N(p.mu.wait/2))
}

// forgive closes the breaker.
func (p *peer) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.failures, p.mu.openTill, p.mu.wait, p.mu.trying = 0, time.Time{}, 0, false
}

// The outcomes of sending something to an ingester.
const (
	outcomeStored  = "stored"
	outcomeRefused = "refused" // by the ingester, for what it is
	outcomeFailed  = "failed"
	outcomeSkipped = "skipped" // not tried: full queue or open breaker
)

type replicatorMetrics struct {
	pushes       *prometheus.CounterVec // by instance and outcome
	seconds      prometheus.Histogram
	quorum       prometheus.Histogram
	replacements prometheus.Counter
	short        prometheus.Counter
	inflight     *inflightCollector
}

func newReplicatorMetrics(reg prometheus.Registerer, r *Replicator) *replicatorMetrics {
	f := promauto.With(reg)
	buckets := prometheus.ExponentialBuckets(0.001, 2.5, 12)
	m := &replicatorMetrics{
		pushes: f.NewCounterVec(prometheus.CounterOpts{Name: "skald_distributor_replica_pushes_total",
			Help: "What became of pushes to ingesters, by instance: stored, refused for what they hold, failed, or skipped because the ingester does not answer or has too much waiting."}, []string{"instance", "outcome"}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{Name: "skald_distributor_replica_seconds",
			Help: "Time until one ingester answered.", Buckets: buckets}),
		quorum: f.NewHistogram(prometheus.HistogramOpts{Name: "skald_distributor_quorum_seconds",
			Help: "Time until a quorum had all of what was sent at once.", Buckets: buckets}),
		replacements: f.NewCounter(prometheus.CounterOpts{Name: "skald_distributor_replica_replacements_total",
			Help: "Groups of streams that went to another ingester because one of their own failed."}),
		short: f.NewCounter(prometheus.CounterOpts{Name: "skald_distributor_unreplicated_streams_total",
			Help: "Streams of pushes that did not reach a quorum; clients send them again."}),
		inflight: &inflightCollector{r},
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "skald_distributor_replica_memory_bytes",
		Help: "Memory of entries on their way to ingesters, those that were acknowledged at quorum included."},
		func() float64 { return float64(r.memory.Load()) })
	if reg != nil {
		reg.MustRegister(m.inflight)
	}
	return m
}

func (m *replicatorMetrics) forget(id string) {
	m.pushes.DeletePartialMatch(prometheus.Labels{"instance": id})
}

// inflightCollector shows the peers' queues.
type inflightCollector struct{ r *Replicator }

var (
	inflightPushes = prometheus.NewDesc("skald_distributor_replica_inflight_pushes", "Pushes that an ingester has not answered.", []string{"instance"}, nil)
	inflightBytes  = prometheus.NewDesc("skald_distributor_replica_inflight_bytes", "Bytes of them.", []string{"instance"}, nil)
	breakerOpen    = prometheus.NewDesc("skald_distributor_replica_left_out", "1 while an ingester is left out because calls to it fail.", []string{"instance"}, nil)
)

// Describe names the metrics.
func (c *inflightCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- inflightPushes
	ch <- inflightBytes
	ch <- breakerOpen
}

// Collect reads them.
func (c *inflightCollector) Collect(ch chan<- prometheus.Metric) {
	c.r.mu.Lock()
	peers := make([]*peer, 0, len(c.r.mu.peers))
	for _, p := range c.r.mu.peers {
		peers = append(peers, p)
	}
	c.r.mu.Unlock()
	for _, p := range peers {
		p.mu.Lock()
		pushes, bytes, open := p.mu.pushes, p.mu.bytes, 0.0
		if !p.mu.openTill.IsZero() {
			open = 1
		}
		p.mu.Unlock()
		ch <- prometheus.MustNewConstMetric(inflightPushes, prometheus.GaugeValue, float64(pushes), p.id)
		ch <- prometheus.MustNewConstMetric(inflightBytes, prometheus.GaugeValue, float64(bytes), p.id)
		ch <- prometheus.MustNewConstMetric(breakerOpen, prometheus.GaugeValue, open, p.id)
	}
}
