// Package querier is the read side: Loki's HTTP API over LogQL, over everything that is
// stored. It gathers blocks from the ingesters (memory and local segments) and from the
// object store, sees to it that each row counts once, has logql/engine evaluate, and
// prints answers byte for byte as Loki's clients expect them.
//
// The journey of an answer: http_query.go reads the request, select.go gathers blocks,
// dedupe.go marks rows that stand twice, the engine scans, encode.go prints. tail.go
// joins history and live entries without a gap.
package querier

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/storage/compact"
)

// Config says how much work the querier takes on.
type Config struct {
	// MaxConcurrent is the number of queries evaluated at a time; others wait their turn.
	// One tenant never gets all of these places.
	MaxConcurrent int
	// MaxOutstanding is the number of queries of one tenant that may wait.
	MaxOutstanding int
	// MaxMemory bounds what one query may hold in partial results, in bytes.
	MaxMemory int64
	// TotalMemory bounds what all queries together may hold in partial results; 0 is no bound.
	TotalMemory int64
	// DedupeBytes bounds what all queries together hold to find rows that stand twice; 0 is no
	// bound.
	DedupeBytes int64
	// Overloaded returns why no query can be begun now, or nil; nil means always.
	Overloaded func() error
	// TailMaxDuration ends live tails that are older.
	TailMaxDuration time.Duration
	// Partial says what a read does when too few ingesters answer: fail, or warn.
	Partial string
	// Turns are the turns to keep a core busy that this process hands out; nil means that
	// the querier has all of them.
	Turns *turns.Cores
	// ReplicaWait is how long a read waits for the last replicas when the others are enough.
	ReplicaWait time.Duration
}

const (
	partialFail = "fail"
	partialWarn = "warn"
)

// Validate checks the settings.
func (c *Config) Validate() error {
	if c.Partial != partialFail && c.Partial != partialWarn {
		return fmt.Errorf("-querier.partial=%s: expected %s or %s", c.Partial, partialFail, partialWarn)
	}
	return nil
}

// RegisterFlags declares the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.IntVar(&c.MaxConcurrent, "querier.max-concurrent", 16, "queries evaluated at a time; more wait. One tenant gets at most half of the places, fewer while others use them, so that there is one for whoever comes")
	fs.IntVar(&c.MaxOutstanding, "querier.max-outstanding-per-tenant", 256, "queries of one tenant that may wait; more are refused with 429")
	fs.Int64Var(&c.MaxMemory, "querier.max-memory", 256<<20, "`bytes` of partial results one query may hold; a query that needs more is refused with what to change")
	fs.Int64Var(&c.TotalMemory, "querier.total-memory", 2<<30, "`bytes` of partial results, and of answers that clients have not taken yet, that all queries together may hold; when they need more, the one that holds most is ended with 503")
	fs.Int64Var(&c.DedupeBytes, "querier.dedupe-bytes", 1<<30, "`bytes` that all queries together may hold to find rows that several replicas or segments have, 16 for each row of streams with more than one source; more wait. One query may have as much, or querier.max-memory if that is more; beyond it is refused with what to change")
	fs.DurationVar(&c.TailMaxDuration, "querier.tail-max-duration", time.Hour, "longest life of a live tail")
	fs.StringVar(&c.Partial, "querier.partial", partialFail, "what a read does when so many ingesters do not answer that acknowledged rows may be missing: `fail` with 503, or warn in the answer")
	fs.DurationVar(&c.ReplicaWait, "querier.replica-wait", 200*time.Millisecond, "how long a read waits for the last ingesters when those that have answered hold every row")
}

// Tailer yields acknowledged entries as they arrive. An ingester is one.
type Tailer interface {
	Tail(ctx context.Context, tenant model.Tenant, matchers []*labels.Matcher) (model.Tail, error)
}

// Querier answers queries. It is safe for concurrent use.
type Querier struct {
	cfg     Config
	sources []Source
	tailer  Tailer
	engine  *engine.Engine
	limits  limits.Source
	deletes *compact.Deletes // nil when there are none
	logger  *slog.Logger
	queues  queues
	dedupe  *dedupeBudget
	pool    *scan.Pool // of partial results
	peers   Peers      // nil when there are no other queriers
	// dialPeer returns the connection to a peer.
	dialPeer func(addr string) (grpc.ClientConnInterface, error)
	tails    tailCount
	failures server.Seldom // lines about queries that could not be answered
	metrics  metrics
}

type metrics struct {
	queries       *prometheus.HistogramVec
	tails         prometheus.Gauge
	rows          prometheus.Counter
	bytes         prometheus.Counter
	fetched       prometheus.Counter
	doubled       prometheus.Counter
	tailDrop      prometheus.Counter
	slicesRetried prometheus.Counter
}

// New returns a querier over the sources, which are asked in order: ingesters before the
// object store.
func New(cfg Config, sources []Source, tailer Tailer, lim limits.Source, reg prometheus.Registerer, logger *slog.Logger) *Querier {
	q := &Querier{
		cfg: cfg, sources: sources, tailer: tailer, limits: lim, logger: logger,
		engine: engine.New(engine.Options{MaxMemory: cfg.MaxMemory}),
		queues: newQueues(cfg, reg), dedupe: newDedupeBudget(cfg), pool: scan.NewPool(cfg.TotalMemory),
	}
	q.tails.mu.open = map[model.Tenant]int{}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "skald_querier_" + name, Help: help})
	}
	q.metrics = metrics{
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "skald_querier_query_seconds", Help: "Time to answer queries, by kind.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"kind"}),
		tails:         prometheus.NewGauge(prometheus.GaugeOpts{Name: "skald_querier_tails", Help: "Live tails that are open."}),
		rows:          counter("rows_scanned_total", "Rows looked at by queries."),
		bytes:         counter("bytes_scanned_total", "Line bytes looked at by queries."),
		fetched:       counter("bytes_fetched_total", "Bytes that queries read from disk or the object store."),
		doubled:       counter("rows_duplicate_total", "Rows left out of answers because another replica or segment holds them."),
		tailDrop:      counter("tail_dropped_total", "Entries that slow tails missed."),
		slicesRetried: counter("slices_retried_total", "Slices of queries that another querier did not evaluate."),
	}
	reg.MustRegister(q.metrics.queries, q.metrics.tails, q.metrics.rows, q.metrics.bytes, q.metrics.fetched, q.metrics.doubled, q.metrics.tailDrop, q.metrics.slicesRetried)
	return q
}

// UseDeletes has queries hide the rows that delete requests name, and serves the API for
// such requests. It must be called before Register.
func (q *Querier) UseDeletes(d *compact.Deletes) { q.deletes = d }

// Router is where the querier puts its endpoints; internal/server is one.
type Router interface {
	Handle(pattern string, h http.Handler, methods ...string)
}

// Register adds every endpoint of the read API.
func (q *Querier) Register(r Router) {
	get := []string{http.MethodGet, http.MethodHead}
	both := []string{http.MethodGet, http.MethodHead, http.MethodPost}
	handle := func(path string, h func(http.ResponseWriter, *http.Request) error) {
		r.Handle(path, q.compress(q.answer(h)), both...)
	}
	api := func(path string, h func(http.ResponseWriter, *http.Request) error) { handle("/loki/api/v1/"+path, h) }
	api("query", q.serveInstant)
	api("query_range", q.serveRange)
	api("labels", q.serveLabels)
	api("label", q.serveLabels)
	api("label/{name}/values", q.serveValues)
	api("series", q.serveSeries)
	api("index/stats", q.serveStats)
	api("index/volume", q.serveVolume)
	api("index/volume_range", q.serveVolumeRange)
	api("index/shards", q.serveShards)
	api("patterns", q.servePatterns)
	api("detected_labels", q.serveDetectedLabels)
	api("detected_fields", q.serveDetectedFields)
	api("detected_field/{name}/values", q.serveDetectedFieldValues)
	api("format_query", q.serveFormat)
	if q.deletes != nil {
		r.Handle("/loki/api/v1/cache/generation_numbers", q.answer(q.serveGenerations), http.MethodGet)
		r.Handle("/loki/api/v1/delete", q.answer(q.serveDelete), http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete)
	}
	r.Handle("/loki/api/v1/tail", q.answer(q.serveTail), both...)
	handle("/api/prom/query", q.serveLegacyQuery)
	handle("/api/prom/label", q.serveLegacyLabels)
	handle("/api/prom/label/{name}/values", q.serveLegacyValues)
	handle("/api/prom/series", q.serveSeries)
	r.Handle("/api/prom/tail", q.answer(q.serveLegacyTail), both...)
	r.Handle("/loki/api/v1/status/buildinfo", http.HandlerFunc(serveBuildInfo), get...)
	r.Handle("/loki/api/v1/drilldown-limits", q.answer(q.serveDrilldownLimits), get...)
}

// admit waits until a query of the tenants may run, and returns the function that says
// that it has ended. While memory is short none is begun. stats, when not nil, receives the time waited.
func (q *Querier) admit(ctx context.Context, tenants []model.Tenant, stats *model.Stats) (func(), error) {
	if q.cfg.Overloaded != nil {
		if err := q.cfg.Overloaded(); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	leave, err := q.queues.queries.Enter(ctx, queueKey(tenants), turns.Queries)
	if ctx.Err() != nil && err != nil {
		return nil, fault.New(fault.Canceled, "the request was cancelled by the client")
	}
	if stats != nil {
		stats.QueueNanoseconds.Add(int64(time.Since(began)))
	}
	return leave, err
}

// limitsFor returns the limits of a request, the tightest when it names several tenants.
func (q *Querier) limitsFor(tenants []model.Tenant) *limits.Limits {
	if len(tenants) == 1 {
		return q.limits.For(tenants[0])
	}
	all := make([]*limits.Limits, len(tenants))
	for i, t := range tenants {
		all[i] = q.limits.For(t)
	}
	return limits.Tightest(all...)
}

// fromDrilldown reports whether the Logs Drilldown app asks: it gets partial results where
// others get an error.
func fromDrilldown(r *http.Request) bool {
	for _, tag := range strings.Split(r.Header.Get("X-Query-Tags"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(tag), "=")
		if strings.EqualFold(name, "source") && strings.EqualFold(value, "grafana-lokiexplore-app") {
			return true
		}
	}
	return false
}
