// Package ingester takes entries in and keeps them until the object store has them: a
// write-ahead log for durability, a memtable for queries, local segments for the time in
// between, and the upload of segments in sizes worth an object.
//
// The distributor calls Push, the querier Select, Series and Tail, cmd runs Run, and an
// operator's POST /flush ends in Flush.
//
// # Promises
//
//   - What Push acknowledged is durable on this machine's disk and visible to the next
//     Select, and stays visible, exactly once in every part, through freezing, flushing,
//     uploading and any crash.
//   - Memory is bounded by Config.MemtableBytes whatever the number of tenants and
//     streams, half as much for memtables that queries still read (readers.go), plus a list
//     of active streams bounded by a quarter of that. When disk or memory is full, Push refuses with fault.Unavailable, and takes entries again by
//     itself.
//   - The object store may be away for as long as the disk has room.
//   - A restart replays at most what Config.MemtableBytes holds.
//
// # The life of an entry
//
//	push.go      log, sync, memtable, acknowledge
//	flush.go     frozen memtable → one segment for each tenant and UTC day; log removed
//	upload.go    several segments → one object; kept locally until every querier knows it
//	recover.go   what a start finds, and makes of it
//	disk.go      the names of files, which are their states
package ingester

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
)

// Ingester owns a data directory. All methods may be called from many goroutines.
type Ingester struct {
	cfg     Config
	store   object.Store
	limits  limits.Source
	logger  *slog.Logger
	metrics *metrics
	disk    disk
	lock    *os.File
	memory  *memory
	small   atomic.Int64 // bytes of local segments that are in memory

	stopping atomic.Bool

	freezing sync.Mutex // one freeze at a time; guards lastSeq
	lastSeq  uint64     // the newest generation's number
	flushing semaphore  // one flush of frozen memtables at a time
	sending  semaphore  // one round of merges and uploads at a time; guards leftovers
	// leftovers are files to remove: merged, uploaded, and no longer served.
	leftovers []string

	freezeWanted, flushWanted, sendWanted chan struct{} // capacity 1

	tenants struct {
		sync.RWMutex
		byName map[model.Tenant]*tenant
	}

	// mu guards where rows are. A reader who takes all three under one lock sees each row
	// in exactly one of them.
	mu struct {
		sync.RWMutex
		current  *generation   // nil once the ingester has stopped
		readOnly bool          // current takes no more writers
		frozen   []*generation // oldest first
		segments map[model.Tenant][]*localSegment
	}
}

var (
	errStopped  = fault.New(fault.Unavailable, "ingester is stopping")
	errReadOnly = fault.New(fault.Unavailable, "ingester is leaving and takes no more entries")
)

// New opens the directory, and recovers what an earlier process left there: it replays the
// write-ahead log and opens the local segments. Entries can be pushed and read from then
// on; Run moves them to disk and to the store. A damaged file is an error of kind
// fault.Corrupt that says what to do.
func New(cfg Config, store object.Store, lim limits.Source, reg prometheus.Registerer, logger *slog.Logger) (*Ingester, error) {
	return newOn(osDisk{}, cfg, store, lim, reg, logger)
}

func newOn(d disk, cfg Config, store object.Store, lim limits.Source, reg prometheus.Registerer, logger *slog.Logger) (*Ingester, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Share == nil {
		cfg.Share = func(model.Tenant) float64 { return 1 }
	}
	i := &Ingester{
		cfg: cfg, store: store, limits: lim, logger: logger, disk: d, memory: newMemory(),
		flushing: newSemaphore(), sending: newSemaphore(),
		freezeWanted: make(chan struct{}, 1), flushWanted: make(chan struct{}, 1), sendWanted: make(chan struct{}, 1),
	}
	i.tenants.byName = make(map[model.Tenant]*tenant)
	i.mu.segments = make(map[model.Tenant][]*localSegment)
	i.metrics = newMetrics(reg, i)
	if err := i.recover(); err != nil {
		i.closeFiles()
		return nil, fmt.Errorf("ingester: %w", err)
	}
	return i, nil
}

// Ready reports whether pushes can succeed, with the reason when they cannot.
func (i *Ingester) Ready() error {
	if err := i.open(); err != nil {
		return err
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.mu.current != nil && i.mu.current.log.Broken() {
		return fault.New(fault.Unavailable, "write-ahead log %s is out of use and there is no new one yet; see the log for the reason", i.mu.current.walPath)
	}
	return nil
}

// SetReadOnly makes Push refuse everything with fault.Unavailable, or ends that. What was
// stored is still read and uploaded: so an ingester leaves a ring. When it returns, a
// Flush will upload everything that is ever acknowledged.
func (i *Ingester) SetReadOnly(on bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mu.readOnly = on
}

func (i *Ingester) open() error {
	if i.stopping.Load() {
		return errStopped
	}
	return nil
}

// lockTenant returns what is remembered of a tenant, locked.
func (i *Ingester) lockTenant(name model.Tenant) *tenant {
	for {
		i.tenants.RLock()
		t := i.tenants.byName[name]
		i.tenants.RUnlock()
		if t == nil {
			i.tenants.Lock()
			if t = i.tenants.byName[name]; t == nil {
				t = newTenant(name)
				i.tenants.byName[name] = t
			}
			i.tenants.Unlock()
		}
		t.mu.Lock()
		if !t.mu.forgotten {
			return t
		}
		t.mu.Unlock()
	}
}

func (i *Ingester) allTenants() []*tenant {
	i.tenants.RLock()
	defer i.tenants.RUnlock()
	return slices.Collect(maps.Values(i.tenants.byName))
}

func (i *Ingester) countStreams() (n int) {
	for _, t := range i.allTenants() {
		t.mu.Lock()
		n += t.mu.count
		t.mu.Unlock()
	}
	return n
}

// expireStreams forgets idle streams, and tenants that have nothing else. When streams that come and go have filled their
// share of memory, all but the ones in use count as idle.
func (i *Ingester) expireStreams(now time.Time) {
	expire := func(before time.Time) (bytes int64) {
		for _, t := range i.allTenants() {
			forgotten, b := t.expire(before)
			bytes += b
			if forgotten {
				i.tenants.Lock()
				if i.tenants.byName[t.name] == t {
					delete(i.tenants.byName, t.name)
				}
				i.tenants.Unlock()
			}
		}
		return bytes
	}
	if expire(now.Add(-i.cfg.StreamIdle)) > i.cfg.MemtableBytes/4 {
		expire(now.Add(-2 * i.cfg.FreezeAge))
	}
}

// shutdownTime is how long Run may take to write the last memtable; what is not written
// by then stays in the write-ahead log.
const shutdownTime = 25 * time.Second

// Run freezes, flushes and uploads until ctx ends. Then it takes no more pushes, writes
// what is in memory to local segments, closes everything and returns. Shutting down needs
// no object store.
func (i *Ingester) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, loop := range []func(context.Context){i.freezeLoop, i.flushLoop, i.sendLoop} {
		g.Go(func() error { loop(ctx); return nil })
	}
	_ = g.Wait()
	return i.Close()
}

// Close is what Run does at its end. It is for those who do not call Run; a second call
// does nothing.
func (i *Ingester) Close() error {
	if i.stopping.Swap(true) {
		return nil
	}
	// 1. No new writers; those under way finish.
	i.freezing.Lock()
	i.mu.Lock()
	last := i.mu.current
	i.mu.current = nil
	i.mu.frozen = append(i.mu.frozen, last)
	i.mu.Unlock()
	last.writers.Wait()
	i.seal(last)
	close(last.complete)
	i.freezing.Unlock()
	// 2. Memory to local segments, so that the next start has nothing to replay.
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if err := i.flushFrozen(ctx); err != nil {
		i.logger.Warn("memtable stays in the write-ahead log, the next start replays it", "err", err)
	}
	// 3. Nobody is left who could need the files.
	for _, t := range i.allTenants() {
		t.mu.Lock()
		tails := t.mu.tails
		t.mu.Unlock()
		for _, tail := range tails {
			tail.Close()
		}
	}
	if err := i.sending.lock(ctx); err != nil {
		return nil // a merge that does not end still reads the files; they end with the process
	}
	defer i.sending.unlock()
	i.closeFiles()
	return nil
}

func (i *Ingester) closeFiles() {
	i.mu.Lock()
	segments := i.mu.segments
	i.mu.segments = nil
	i.mu.Unlock()
	for _, list := range segments {
		for _, s := range list {
			s.unpin()
		}
	}
	if i.lock != nil {
		_ = i.lock.Close() // which releases the lock
	}
}

// Flush makes everything in memory and on local disk a segment in the object store, and
// returns when it is there.
func (i *Ingester) Flush(ctx context.Context) error {
	if err := i.open(); err != nil {
		return err
	}
	if err := i.freeze(); err != nil {
		return err
	}
	if err := i.flushFrozen(ctx); err != nil {
		return err
	}
	return i.send(ctx, true)
}

// semaphore is a mutex that can be waited for with a context.
type semaphore chan struct{}

func newSemaphore() semaphore { return make(semaphore, 1) }

func (s semaphore) lock(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s semaphore) unlock() { <-s }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (i *Ingester) wakeFreeze() { wake(i.freezeWanted) }
func (i *Ingester) wakeFlush()  { wake(i.flushWanted) }
func (i *Ingester) wakeSend()   { wake(i.sendWanted) }

// backoff is a delay that doubles from first to last.
type backoff struct{ first, last, next time.Duration }

// wait sleeps and reports whether the context is still alive.
func (b *backoff) wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, b.first), b.last)
	timer := time.NewTimer(b.next)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *backoff) reset() { b.next = 0 }

// isStop reports whether an error only says that the process is stopping.
func isStop(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, ctx.Err())
}
