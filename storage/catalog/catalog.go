// Package catalog says which segments exist. There is no database and no manifest: a
// segment's key carries its tenant, its UTC day, its level, its time range and its id, and where it
// can be asked for ids, so one LIST of a tenant's day is the catalog of that day. The storage reader, the compactor
// and the verifier call it.
//
// A listing is a hint, not the truth. It may be stale by itself, and it is cached for a
// short time, so it can name segments that are deleted by now and miss ones just uploaded.
// Callers are built for that: a merged segment names its sources, sources are deleted only
// after a delay, and whoever uploads or deletes calls Invalidate on its own catalog.
package catalog

import (
	"context"
	"flag"
	"fmt"
	"hash/maphash"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/internal/flight"
	"github.com/skaldlog/skald/storage/internal/lru"
	"github.com/skaldlog/skald/storage/object"
)

// Config holds the settings of a Catalog. The zero value never caches; take the defaults
// from RegisterFlags.
type Config struct {
	// TTL is how long a listing is believed. It must be well below the delay after which
	// merged segments are deleted.
	TTL time.Duration
	// MaxRefs bounds the segments remembered, over all tenants and days; one takes about
	// 300 bytes.
	MaxRefs int
	// Concurrency bounds the listings of one call that run at once. 0 means 8.
	Concurrency int
}

// RegisterFlags declares the settings, with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.DurationVar(&c.TTL, "catalog.ttl", 5*time.Second, "How long the listing of a tenant's day is believed. Longer saves LIST requests; it delays the moment when a segment that another process uploaded is seen.")
	fs.IntVar(&c.MaxRefs, "catalog.max-segments", 200_000, "Segments whose keys are remembered between listings, about 300 bytes each.")
	fs.IntVar(&c.Concurrency, "catalog.concurrency", 8, "Days that one query lists at the same time.")
}

// fewDays is up to how many days a range is listed day by day. A longer range first asks
// which days exist, so that a query over ten years costs as many listings as there are
// days with data.
const fewDays = 3

// Catalog lists segments. All methods may be called from many goroutines.
type Catalog struct {
	store   object.Store
	cfg     Config
	logger  *slog.Logger
	metrics metrics
	now     func() time.Time
	flights flight.Group[flightKey, listing]
	mu      struct {
		sync.Mutex
		cache *lru.Cache[cacheKey, listing]
		// changed counts invalidations by hash of the key. That two keys may share a
		// counter only means that a listing is now and then not kept.
		changed [1024]uint64
		warned  time.Time
	}
}

// cacheKey is a tenant's day, or with an empty day the list of the tenant's days.
type cacheKey struct {
	tenant model.Tenant
	day    string
}

// flightKey is a cacheKey between two invalidations.
type flightKey struct {
	cacheKey
	changed uint64
}

type listing struct {
	refs []Ref    // of a day, sorted by key; read-only
	days []string // of a tenant, sorted; read-only
	at   time.Time
}

type metrics struct {
	listings *prometheus.CounterVec // result: hit, miss, error
	foreign  prometheus.Counter
}

// New returns a catalog over a store. A nil reg registers no metrics, a nil logger logs
// nothing.
func New(store object.Store, cfg Config, reg prometheus.Registerer, logger *slog.Logger) *Catalog {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 8
	}
	c := &Catalog{store: store, cfg: cfg, logger: logger, now: time.Now}
	c.mu.cache = lru.New[cacheKey, listing](int64(cfg.MaxRefs))
	c.metrics = metrics{
		listings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_catalog_listings_total",
			Help: "Listings of a tenant's day, or of its days, by result: hit (answered from memory), miss (asked from the object store), error.",
		}, []string{"result"}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_catalog_foreign_objects_total",
			Help: "Objects in a tenant's day that are not segments, counted in each listing; they are ignored.",
		}),
	}
	if reg != nil {
		reg.MustRegister(c.metrics.listings, c.metrics.foreign)
	}
	return c
}

// Segments returns the tenant's segments whose rows may lie in r, sorted by key.
func (c *Catalog) Segments(ctx context.Context, tenant model.Tenant, r model.TimeRange) ([]Ref, error) {
	refs, err := c.Around(ctx, tenant, r)
	return slices.DeleteFunc(refs, func(ref Ref) bool { return !r.Overlaps(ref.Min, ref.Max) }), err
}

// Around returns all segments of the days in which r has timestamps, sorted by key, also
// those without a row in r: a merged segment may hold fewer rows than its sources (their
// retention has ended), and must still be known as the one that replaces them.
func (c *Catalog) Around(ctx context.Context, tenant model.Tenant, r model.TimeRange) ([]Ref, error) {
	if r.From >= r.Through {
		return nil, nil
	}
	days, err := c.daysOf(ctx, tenant, r)
	if err != nil {
		return nil, err
	}
	perDay := make([][]Ref, len(days))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(c.cfg.Concurrency)
	for i, day := range days {
		group.Go(func() (err error) {
			perDay[i], err = c.Day(groupCtx, tenant, day)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(perDay...), nil
}

// daysOf returns the days in which r has timestamps, without those known not to exist
// when there are many.
func (c *Catalog) daysOf(ctx context.Context, tenant model.Tenant, r model.TimeRange) ([]string, error) {
	first, last := DayOf(r.From), DayOf(r.Through-1)
	const nsPerDay = int64(24 * time.Hour)
	if span := uint64(r.Through) - uint64(r.From); span <= fewDays*uint64(nsPerDay) {
		var days []string
		for ts := r.From; ; ts += nsPerDay {
			day := DayOf(min(ts, r.Through-1))
			if len(days) == 0 || days[len(days)-1] != day {
				days = append(days, day)
			}
			if day == last {
				return days, nil
			}
		}
	}
	all, err := c.Days(ctx, tenant)
	if err != nil {
		return nil, err
	}
	from, _ := slices.BinarySearch(all, first)
	through, found := slices.BinarySearch(all, last)
	if found {
		through++
	}
	return all[from:through], nil
}

// Day returns all of the tenant's segments of a day, sorted by key. The caller must not
// modify it.
func (c *Catalog) Day(ctx context.Context, tenant model.Tenant, day string) ([]Ref, error) {
	if _, err := DayRange(day); err != nil {
		return nil, err
	}
	l, err := c.cached(ctx, cacheKey{tenant, day}, c.listDay)
	return l.refs, err
}

// Days returns the UTC days of which the tenant may have segments, in order. The caller
// must not modify it.
func (c *Catalog) Days(ctx context.Context, tenant model.Tenant) ([]string, error) {
	l, err := c.cached(ctx, cacheKey{tenant: tenant}, c.listDays)
	return l.days, err
}

// Tenants returns the tenants that have objects, in order. It always asks the store.
func (c *Catalog) Tenants(ctx context.Context) ([]model.Tenant, error) {
	var tenants []model.Tenant
	for folder, err := range c.store.ListPrefixes(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("list tenants: %w", err)
		}
		tenant, err := model.ParseTenant(strings.TrimSuffix(folder, "/"))
		if err != nil {
			c.foreign(ctx, folder, 1)
			continue
		}
		tenants = append(tenants, tenant)
	}
	return tenants, nil
}

// Invalidate forgets a tenant's day, and the list of the tenant's days, so that the next
// call asks the store. Whoever uploads or deletes a segment calls it afterwards.
func (c *Catalog) Invalidate(tenant model.Tenant, day string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range []cacheKey{{tenant, day}, {tenant: tenant}} {
		c.mu.cache.Remove(key)
		c.mu.changed[stripe(key)]++
	}
}

// InvalidateAll forgets every listing. A process calls it when an ingester has left: what
// only that one could answer until now is in objects that no cached listing may name.
func (c *Catalog) InvalidateAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.cache = lru.New[cacheKey, listing](int64(c.cfg.MaxRefs))
	for i := range c.mu.changed {
		c.mu.changed[i]++
	}
}

var seed = maphash.MakeSeed()

func stripe(key cacheKey) uint64 { return maphash.Comparable(seed, key) % 1024 }

// cached answers from memory or by list. A listing that an Invalidate overtook is good for
// those who began to wait before it, but is not kept, and nobody who comes later joins it:
// the invalidation's number is part of the flight's key.
func (c *Catalog) cached(ctx context.Context, key cacheKey, list func(context.Context, cacheKey) (listing, error)) (listing, error) {
	c.mu.Lock()
	l, ok := c.mu.cache.Get(key)
	age := c.mu.changed[stripe(key)]
	c.mu.Unlock()
	if ok && c.now().Sub(l.at) < c.cfg.TTL {
		c.metrics.listings.WithLabelValues("hit").Inc()
		return l, nil
	}
	l, joined, err := c.flights.Do(ctx, flightKey{key, age}, func(ctx context.Context) (listing, error) {
		at := c.now() // before the listing: that is how old it is
		l, err := list(ctx, key)
		l.at = at
		if err == nil {
			c.keep(key, age, l)
		}
		return l, err
	})
	switch {
	case err != nil:
		c.metrics.listings.WithLabelValues("error").Inc()
		return listing{}, fmt.Errorf("list segments of %s: %w", path.Join(string(key.tenant), key.day), err)
	case joined:
		c.metrics.listings.WithLabelValues("hit").Inc()
	default:
		c.metrics.listings.WithLabelValues("miss").Inc()
	}
	return l, nil
}

// keep remembers a listing unless its key was invalidated since age.
func (c *Catalog) keep(key cacheKey, age uint64, l listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.TTL > 0 && c.mu.changed[stripe(key)] == age {
		// An empty day costs something too: somebody may ask for many of them.
		c.mu.cache.Put(key, l, int64(1+len(l.refs)+len(l.days)))
	}
}

func (c *Catalog) listDay(ctx context.Context, key cacheKey) (l listing, err error) {
	prefix := string(key.tenant) + "/" + key.day + "/"
	foreign, example := 0, ""
	for info, err := range c.store.List(ctx, prefix) {
		if err != nil {
			return listing{}, err
		}
		ref, err := ParseKey(info.Key)
		if err != nil {
			foreign, example = foreign+1, string(info.Key)
			continue
		}
		ref.Size = info.Size
		l.refs = append(l.refs, ref)
	}
	if foreign > 0 {
		c.foreign(ctx, example, foreign)
	}
	return l, nil
}

// listDays ignores other folders of the tenant in silence: Skald itself has some.
func (c *Catalog) listDays(ctx context.Context, key cacheKey) (l listing, err error) {
	prefix := string(key.tenant) + "/"
	for folder, err := range c.store.ListPrefixes(ctx, prefix) {
		if err != nil {
			return listing{}, err
		}
		day := strings.TrimSuffix(strings.TrimPrefix(folder, prefix), "/")
		if _, err := DayRange(day); err == nil {
			l.days = append(l.days, day)
		}
	}
	return l, nil
}

// foreign counts objects that are not ours and warns once a minute: a listing is made
// every few seconds, and somebody's README in the bucket is not worth a page of log.
func (c *Catalog) foreign(ctx context.Context, example string, n int) {
	c.metrics.foreign.Add(float64(n))
	c.mu.Lock()
	now := c.now()
	quiet := now.Sub(c.mu.warned) < time.Minute
	if !quiet {
		c.mu.warned = now
	}
	c.mu.Unlock()
	if !quiet {
		c.logger.WarnContext(ctx, "ignoring objects that are not segments", "store", c.store.String(), "count", n, "example", example)
	}
}
