// Package storage answers Select and Series from the segments in the object store. The
// querier calls it, beside the ingesters, which answer for what is not uploaded yet.
//
// Which segments there are is the catalog's word, and the catalog may be stale: a segment
// just merged may be missing from it, and one that was merged into another may still be
// there, or be listed and deleted. What keeps answers right is provenance. A merged segment
// names its sources, and theirs; whoever sees both uses the merged one only, whether the
// source can still be read or not; sources are deleted only when the merged segment has long
// been visible. So every row is seen exactly once from what any one listing shows, or, when a
// segment that nothing listed replaces is gone, not at all: then the listing is made again,
// and if that does not help the query fails and names the object. An answer never lacks
// rows in silence.
package storage

import (
	"context"
	"flag"
	"log/slog"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/internal/flight"
	"github.com/skaldlog/skald/storage/internal/lru"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// Config holds the settings of a Reader. Zeros mean the defaults of RegisterFlags.
type Config struct {
	// OpenBytes bounds the memory of the indexes of segments kept open, as estimated from
	// the numbers of their blocks and streams, and OpenSegments their number.
	OpenBytes    int64
	OpenSegments int
	// Concurrency bounds how many segments one query opens or prunes at the same time.
	Concurrency int
	// SkipDamaged answers a query without the segments that are corrupt or gone, with a
	// warning, instead of failing it.
	SkipDamaged bool
	// Segment tunes the segments' readers.
	Segment segment.ReaderOptions
}

// RegisterFlags declares the settings, with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.Int64Var(&c.OpenBytes, "storage.open-bytes", defaultOpenBytes, "Memory for the indexes of segments in the object store that queries have used recently. Less means that more are read again.")
	fs.IntVar(&c.OpenSegments, "storage.open-segments", defaultOpenSegments, "How many segments' indexes that memory may hold at most.")
	fs.IntVar(&c.Concurrency, "storage.concurrency", defaultConcurrency, "Segments that one query opens and searches by index at the same time. Each costs a request to the object store now and then.")
	fs.BoolVar(&c.SkipDamaged, "storage.skip-damaged", false, "Answer queries without the segments that are corrupt or missing, with a warning in the answer, instead of failing them. Answers may lack rows.")
}

const (
	defaultOpenBytes    = 128 << 20
	defaultOpenSegments = 4096
	defaultConcurrency  = 64
)

// Reader answers queries from the object store. All methods may be called from many
// goroutines.
type Reader struct {
	store   object.Store
	catalog *catalog.Catalog
	cfg     Config
	logger  *slog.Logger
	metrics metrics
	opens   flight.Group[object.Key, *segment.Reader]
	mu      struct {
		sync.Mutex
		open *lru.Cache[object.Key, *segment.Reader]
	}
}

type metrics struct {
	opened    *prometheus.CounterVec // result: hit, miss, error
	openBytes prometheus.Gauge
	relisted  prometheus.Counter
	damaged   prometheus.Counter
}

// Cached puts a cache before a store whose reads travel over a network, and returns any
// other store as it is. Segments alone are cached, since other objects change.
func Cached(store object.Store, cfg object.CacheConfig, reg prometheus.Registerer, logger *slog.Logger) (object.Store, error) {
	if !object.Remote(store) || cfg.MemoryBytes <= 0 && cfg.Dir == "" {
		return store, nil
	}
	cfg.Cacheable = func(key object.Key) bool { return strings.HasSuffix(string(key), catalog.Suffix) }
	return object.NewCache(store, cfg, reg, logger)
}

// NewReader returns a reader over the segments that cat lists in store, which may be the
// result of Cached. A nil reg registers no metrics, a nil logger logs nothing.
func NewReader(store object.Store, cat *catalog.Catalog, cfg Config, reg prometheus.Registerer, logger *slog.Logger) *Reader {
	if cfg.OpenBytes <= 0 {
		cfg.OpenBytes = defaultOpenBytes
	}
	if cfg.OpenSegments <= 0 {
		cfg.OpenSegments = defaultOpenSegments
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = defaultConcurrency
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	r := &Reader{store: store, catalog: cat, cfg: cfg, logger: logger, metrics: newMetrics(reg)}
	r.mu.open = lru.New[object.Key, *segment.Reader](cfg.OpenBytes)
	return r
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_storage_segments_opened_total",
			Help: "Segments that queries wanted open, by result: hit (was open), miss (was opened), error.",
		}, []string{"result"}),
		openBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "skald_storage_open_bytes",
			Help: "Estimated memory of the indexes of open segments.",
		}),
		relisted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_storage_relisted_total",
			Help: "Queries that listed segments again because one that was listed had been deleted.",
		}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_storage_damaged_segments_total",
			Help: "Corrupt or missing segments met by queries, whether these failed or went on without.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.opened, m.openBytes, m.relisted, m.damaged)
	}
	return m
}

// open returns the reader of a listed segment. Readers of objects hold no file, so one that
// falls out of the cache while a query uses it needs no care.
func (r *Reader) open(ctx context.Context, ref catalog.Ref) (*segment.Reader, error) {
	if reader, ok := r.opened(ref.Key); ok {
		r.metrics.opened.WithLabelValues("hit").Inc()
		return reader, nil
	}
	reader, joined, err := r.opens.Do(ctx, ref.Key, func(ctx context.Context) (*segment.Reader, error) {
		reader, err := segment.Open(ctx, r.source(ref), r.cfg.Segment)
		if err == nil {
			err = CheckIdentity(ref, reader.Info())
		}
		if err == nil {
			r.keep(ref.Key, reader)
		}
		return reader, err
	})
	switch {
	case err != nil:
		r.metrics.opened.WithLabelValues("error").Inc()
		return nil, err
	case joined:
		r.metrics.opened.WithLabelValues("hit").Inc()
	default:
		r.metrics.opened.WithLabelValues("miss").Inc()
	}
	return reader, nil
}

func (r *Reader) opened(key object.Key) (*segment.Reader, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.open.Get(key)
}

// source returns a segment's bytes. When they turn out to be gone, at whatever moment of a
// query, the listing that named them is old, and the next query makes a new one.
func (r *Reader) source(ref catalog.Ref) segment.Source {
	src := newSource(r.store, ref)
	src.gone = func() {
		r.catalog.Invalidate(ref.Tenant, ref.Day)
		r.forget(ref.Key)
	}
	return src
}

// CheckIdentity refuses a segment that is not the one its key promises: another tenant's, or one with
// rows where its key says there are none, which pruning would lose, or with its ids elsewhere.
func CheckIdentity(ref catalog.Ref, info segment.Info) error {
	switch {
	case info.ID != ref.ID, info.Tenant != ref.Tenant:
		return fault.New(fault.Corrupt, "segment %s: the object holds the segment %s of tenant %q", ref.Key, info.ID, info.Tenant)
	case info.Rows > 0 && (info.MinTime < ref.Min || info.MaxTime > ref.Max):
		return fault.New(fault.Corrupt, "segment %s: its rows lie between %d and %d", ref.Key, info.MinTime, info.MaxTime)
	case info.IDs != ref.IDs:
		return fault.New(fault.Corrupt, "segment %s: its ids lie in %d pages of %d bytes at %d", ref.Key, info.IDs.Pages, info.IDs.PageBytes, info.IDs.Offset)
	}
	return nil
}

// keep puts a reader into the cache. The estimate of its memory counts what it will read
// sooner or later: per block its index entry, per stream labels, times and postings. No
// reader counts less than its share of OpenSegments, which bounds their number.
func (r *Reader) keep(key object.Key, reader *segment.Reader) {
	const perSegment, perBlock, perStream = 16 << 10, 256, 512
	info := reader.Info()
	estimate := int64(perSegment + perBlock*info.Blocks + perStream*info.Streams)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.open.Put(key, reader, max(estimate, r.cfg.OpenBytes/int64(r.cfg.OpenSegments)))
	r.metrics.openBytes.Set(float64(r.mu.open.Cost()))
}

func (r *Reader) forget(key object.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.open.Remove(key)
	r.metrics.openBytes.Set(float64(r.mu.open.Cost()))
}
