package distributor

import (
	"context"
	"flag"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/skaldlog/skald/internal/gencache"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/internal/wire"
)

// Pusher is the next hop: it makes streams durable before it returns nil. It may read the
// streams until it returns and copies what it keeps.
type Pusher interface {
	Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error
}

// Config holds the distributor's settings.
type Config struct {
	MaxReceivedBytes     int64
	MaxDecompressedBytes int64
	MaxInflightBytes     int64
	LabelCacheBytes      int

	// Overloaded returns why no push can be taken on now, or nil; nil means always.
	Overloaded func() error
	// Turns are the turns to keep a core busy that this process hands out; nil means that
	// the distributor has all of them.
	Turns *turns.Cores
	// Instances returns the number of distributors, by which a global ingestion rate is
	// divided; nil means one.
	Instances func() int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// RegisterFlags declares the settings.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.Int64Var(&c.MaxReceivedBytes, "distributor.max-received-bytes", 100<<20, "Largest body of a push as it is sent. Larger ones are refused.")
	fs.Int64Var(&c.MaxDecompressedBytes, "distributor.max-decompressed-bytes", 256<<20, "Largest body of a push after decompression. Larger ones are refused.")
	fs.Int64Var(&c.MaxInflightBytes, "distributor.max-inflight-bytes", 256<<20, "Memory for all pushes being worked on, at most half of it for one tenant while others push. Beyond it pushes get 503 and Retry-After; a push that alone needs more gets 413.")
	fs.IntVar(&c.LabelCacheBytes, "distributor.label-cache-bytes", 160<<20, "Most memory for parsed stream labels; a stream takes about 1 KB. If active streams do not fit, pushes parse their labels again and again.")
}

// Distributor is the entrance for pushes. It is safe for concurrent use and owns no
// goroutines.
type Distributor struct {
	cfg      Config
	next     Pusher
	limits   limits.Source
	logger   *slog.Logger
	decoder  *wire.Decoder
	inflight budget
	failures server.Seldom // lines about failed pushes
	metrics  *metrics

	tenants *gencache.Cache[model.Tenant, *tenant]
	streams *gencache.Cache[streamKey, *stream]
	mu      struct {
		sync.Mutex // serialises the making of tenants, so that each has one rate limiter
	}
}

// maxTenants bounds the tenants whose state is kept: rates and caches of tenants that
// were not seen for long begin anew.
const maxTenants = 20_000

// New returns a distributor that passes valid streams on to next.
func New(cfg Config, next Pusher, lim limits.Source, reg prometheus.Registerer, logger *slog.Logger) *Distributor {
	if cfg.Instances == nil {
		cfg.Instances = func() int { return 1 }
	}
	if cfg.Overloaded == nil {
		cfg.Overloaded = func() error { return nil }
	}
	if cfg.Turns == nil {
		cfg.Turns = turns.ForCores()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := &Distributor{
		cfg: cfg, next: next, limits: lim, logger: logger,
		// The streams are remembered with the decoder's labels, and few elsewhere.
		decoder:  wire.NewDecoder(cfg.MaxReceivedBytes, cfg.MaxDecompressedBytes, cfg.LabelCacheBytes/8*7),
		inflight: budget{max: cfg.MaxInflightBytes},
		tenants:  gencache.New[model.Tenant, *tenant](maxTenants),
		streams:  gencache.New[streamKey, *stream](cfg.LabelCacheBytes / 8),
	}
	d.metrics = newMetrics(reg, &d.inflight)
	return d
}

// tenant is what is kept of a tenant between pushes. When its limits change it is
// replaced; the rate limiter and the counters stay.
type tenant struct {
	id      model.Tenant
	limits  *limits.Limits
	levels  *levelFinder // nil when levels are not derived
	limiter *rate.Limiter
	metrics *tenantMetrics
	// inflight is the memory that its pushes have reserved.
	inflight *atomic.Int64
}

func (d *Distributor) tenant(id model.Tenant) *tenant {
	l := d.limits.For(id)
	t, ok := d.tenants.Get(id)
	if ok && t.limits == l {
		return t
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if t, ok = d.tenants.Get(id); ok && t.limits == l {
		return t
	}
	next := &tenant{id: id, limits: l}
	if l.DiscoverLogLevels && l.AllowStructuredMetadata {
		next.levels = newLevelFinder(l.LogLevelFields, l.LogLevelFromJSONMaxDepth)
	}
	if ok {
		next.limiter, next.metrics, next.inflight = t.limiter, t.metrics, t.inflight
	} else {
		next.limiter = rate.NewLimiter(rate.Limit(d.rate(l)), l.IngestionBurst())
		next.metrics, next.inflight = d.metrics.tenant(id), new(atomic.Int64)
	}
	d.tenants.Put(id, next, 1)
	return next
}

// allow takes bytes from the tenant's rate. The limiter follows changes of the limits and
// of the number of distributors.
func (d *Distributor) allow(t *tenant, now time.Time, bytes int) (limit float64, ok bool) {
	if limit = d.rate(t.limits); limit <= 0 {
		return limit, true
	}
	if t.limiter.Limit() != rate.Limit(limit) {
		t.limiter.SetLimitAt(now, rate.Limit(limit))
	}
	if burst := t.limits.IngestionBurst(); t.limiter.Burst() != burst {
		t.limiter.SetBurstAt(now, burst)
	}
	return limit, t.limiter.AllowN(now, bytes)
}

// rate is this distributor's part of a tenant's rate, in bytes per second; 0 is no limit.
func (d *Distributor) rate(l *limits.Limits) float64 {
	if l.IngestionRateStrategy == "global" {
		return l.IngestionRate() / float64(max(1, d.cfg.Instances()))
	}
	return l.IngestionRate()
}
