package object

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/storage/internal/flight"
	"github.com/skaldlog/skald/storage/internal/lru"
)

// CacheConfig holds the settings of a Cache.
type CacheConfig struct {
	// MemoryBytes bounds the ranges held in memory; 0 holds none.
	MemoryBytes int64
	// Dir is the directory of the ranges on local disk, of which the cache is the only
	// user; "" uses no disk.
	Dir string
	// DiskBytes bounds the ranges on disk, each rounded up to whole 4 KiB.
	DiskBytes int64
	// Cacheable says which objects never change; nil means all.
	Cacheable func(Key) bool
}

// maxCachedRange keeps a few huge reads from emptying the cache of what is useful.
const maxCachedRange = 16 << 20

// rangeOverhead is what a range costs in memory besides its bytes.
const rangeOverhead = 200

// Cache is a Store that remembers the byte ranges read from another, in memory and on
// local disk, by object, offset and length. That is exact because segments never change
// and their readers ask for the same columns and sections again and again. Concurrent
// reads of a range are one request.
//
// The disk is never trusted and never needed: each range there carries its key and a
// checksum, what does not fit them is a miss, and when writing fails (a full disk) the
// cache stops writing for a minute and goes on without.
type Cache struct {
	Store
	cacheable func(Key) bool
	flights   flight.Group[rangeKey, fetched]
	disk      *diskCache // nil without
	metrics   cacheMetrics
	mu        struct {
		sync.Mutex
		memory *lru.Cache[rangeKey, []byte]
	}
}

type rangeKey struct {
	key Key
	off int64
	len int
}

// fetched is a range and where it was found.
type fetched struct {
	data []byte
	from string
}

func (k rangeKey) hash() uint64 {
	return xxhash.Sum64String(fmt.Sprintf("%s\x00%d\x00%d", k.key, k.off, k.len))
}

type cacheMetrics struct {
	requests *prometheus.CounterVec // result: memory, disk, joined, miss
	held     *prometheus.GaugeVec   // tier
	corrupt  prometheus.Counter
	failures prometheus.Counter
}

func newCacheMetrics(reg prometheus.Registerer) cacheMetrics {
	m := cacheMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skald_object_cache_requests_total",
			Help: "Reads of ranges by where they were found: memory, disk, joined (another read of the range was under way) or miss (object store).",
		}, []string{"result"}),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "skald_object_cache_bytes",
			Help: "Bytes held by the cache of ranges, by tier.",
		}, []string{"tier"}),
		corrupt: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_object_cache_corrupt_total",
			Help: "Ranges on the cache's disk that failed their checksum or were cut short. They were read from the object store instead.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_object_cache_disk_failures_total",
			Help: "Failed writes to the cache's disk. Each stops writing for a minute.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.held, m.corrupt, m.failures)
	}
	return m
}

// NewCache puts a cache before a store. It reads the directory's listing to know what an
// earlier process left there. A nil reg registers no metrics.
func NewCache(next Store, cfg CacheConfig, reg prometheus.Registerer, logger *slog.Logger) (*Cache, error) {
	c := &Cache{Store: next, cacheable: cfg.Cacheable, metrics: newCacheMetrics(reg)}
	c.mu.memory = lru.New[rangeKey, []byte](max(cfg.MemoryBytes, 0))
	if cfg.Dir != "" && cfg.DiskBytes > 0 {
		disk, err := openDiskCache(cfg.Dir, cfg.DiskBytes, c.metrics, orDiscard(logger))
		if err != nil {
			return nil, err
		}
		c.disk = disk
	}
	return c, nil
}

// ReadAt implements Store.
func (c *Cache) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	_, err := c.ReadCached(ctx, key, p, off)
	return err
}

// ReadCached is ReadAt, and says whether the bytes cost no request of the caller's to the
// store below.
func (c *Cache) ReadCached(ctx context.Context, key Key, p []byte, off int64) (hit bool, err error) {
	if len(p) == 0 || len(p) > maxCachedRange || c.cacheable != nil && !c.cacheable(key) {
		return false, c.Store.ReadAt(ctx, key, p, off)
	}
	if ctx.Err() != nil {
		return false, &Error{Op: "read", Store: c.String(), Key: string(key), Err: context.Cause(ctx)}
	}
	data, result, err := c.read(ctx, rangeKey{key, off, len(p)})
	if err != nil {
		return false, err
	}
	copy(p, data)
	c.metrics.requests.WithLabelValues(result).Inc()
	return result != "miss", nil
}

func (c *Cache) read(ctx context.Context, k rangeKey) (data []byte, result string, err error) {
	if data, ok := c.fromMemory(k); ok {
		return data, "memory", nil
	}
	f, joined, err := c.flights.Do(ctx, k, func(ctx context.Context) (fetched, error) {
		data, from, err := c.fetch(ctx, k)
		if err == nil {
			c.toMemory(k, data)
		}
		return fetched{data, from}, err
	})
	if joined {
		f.from = "joined"
	}
	return f.data, f.from, err
}

// fetch gets a range from disk or from the store, and has a copy left on disk.
func (c *Cache) fetch(ctx context.Context, k rangeKey) (data []byte, result string, err error) {
	if c.disk != nil {
		if data, ok := c.disk.get(k); ok {
			return data, "disk", nil
		}
	}
	data = make([]byte, k.len)
	if err := c.Store.ReadAt(ctx, k.key, data, k.off); err != nil {
		return nil, "miss", err
	}
	if c.disk != nil {
		c.disk.put(ctx, k, data)
	}
	return data, "miss", nil
}

// Run writes ranges to the disk behind the reads that brought them, which otherwise do it
// themselves. When ctx ends it writes those that wait, at most 8 MB, and returns nil.
func (c *Cache) Run(ctx context.Context) error {
	if c.disk != nil {
		c.disk.run(ctx)
	}
	return nil
}

// Remote is false: what costs a round trip below is at hand here.
func (c *Cache) Remote() bool { return false }

func (c *Cache) fromMemory(k rangeKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.memory.Get(k)
}

func (c *Cache) toMemory(k rangeKey, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.memory.Put(k, data, int64(len(data)+rangeOverhead))
	c.metrics.held.WithLabelValues("memory").Set(float64(c.mu.memory.Cost()))
}
