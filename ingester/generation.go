package ingester

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skaldlog/skald/ingester/wal"
	"github.com/skaldlog/skald/internal/model"
)

// generation is a memtable and the write-ahead log that holds the same entries. They are
// born together, and the log is removed when the memtable is durable as segments.
//
//	current ──freeze──▶ frozen, writers leave ──▶ log sealed ──▶ segments durable ──▶ log removed
type generation struct {
	seq  uint64
	born atomic.Int64 // when the first entry came, ns since 1970
	log  *wal.Log     // nil for one that was replayed
	// walPath is where the log lies now; it changes last before complete is closed.
	walPath string
	// complete is closed when the memtable and the log have all that they will ever have.
	complete chan struct{}
	// skip lists tenant-days that were durable as segments before a crash.
	skip map[tenantDay]bool

	// writers are pushes between the append to the log and the one to the memtable. None
	// come once the generation is not current, and only then is it complete.
	writers sync.WaitGroup

	bytes   atomic.Int64
	entries atomic.Int64
	readers *readers

	mu struct {
		sync.RWMutex
		tables map[model.Tenant]*table
	}
}

// tenantDay is the unit of segments: the rows of a tenant of one UTC day.
type tenantDay struct {
	tenant model.Tenant
	day    string
}

func newGeneration(seq uint64) *generation {
	g := &generation{seq: seq, complete: make(chan struct{}), readers: &readers{}}
	g.mu.tables = make(map[model.Tenant]*table)
	return g
}

// table returns the tenant's table, nil when it has none.
func (g *generation) table(name model.Tenant) *table {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.mu.tables[name]
}

// append adds entries to the memtable.
func (i *Ingester) appendTo(g *generation, t *tenant, streams []model.Stream, hashes []uint64) {
	table := g.table(t.name)
	if table == nil {
		// It is likely to have as many streams as the one before.
		expected := 0
		if before := t.flushed.Load(); before != nil {
			expected = before.last
		}
		g.mu.Lock()
		if table = g.mu.tables[t.name]; table == nil {
			table = newTable(t.name, expected, func(n int64) { g.bytes.Add(n); i.memory.used.Add(n) })
			g.mu.tables[t.name] = table
		}
		g.mu.Unlock()
	}
	table.append(streams, hashes)
}

// startGeneration makes the next generation with an empty log. It is not current yet. A
// number is used once, so that the leftovers of a failure are never in the way.
func (i *Ingester) startGeneration() (*generation, error) {
	i.lastSeq++
	g := newGeneration(i.lastSeq)
	g.walPath = i.walPath(g.seq, extActive)
	log, err := wal.Create(g.walPath, wal.Options{
		NoSync:      !i.cfg.WALSync,
		Create:      i.disk.Create,
		ObserveSync: func(d time.Duration) { i.metrics.walSync.Observe(d.Seconds()) },
	})
	if err != nil {
		return nil, err
	}
	// Without this a power cut could take the file's name away, and with it every batch.
	if err := i.disk.SyncDir(filepath.Dir(g.walPath)); err != nil {
		_ = log.Close()
		_ = i.disk.Remove(g.walPath)
		return nil, fmt.Errorf("making write-ahead log %s durable: %w", g.walPath, err)
	}
	g.log = log
	return g, nil
}

// freeze makes a new generation current, and the old one, complete, the newest frozen
// one. An empty generation stays.
func (i *Ingester) freeze() error {
	i.freezing.Lock()
	defer i.freezing.Unlock()
	i.mu.RLock()
	old := i.mu.current
	i.mu.RUnlock()
	if old == nil || old.entries.Load() == 0 && !old.log.Broken() {
		return nil
	}
	// 1. The next log is durable before anybody can write to it.
	next, err := i.startGeneration()
	if err != nil {
		return err
	}
	// 2. Pushes go to the new generation; queries see both.
	i.mu.Lock()
	i.mu.current = next
	i.mu.frozen = append(i.mu.frozen, old)
	i.mu.Unlock()
	// 3. The last pushes leave the old one. Now its memtable holds what its log holds.
	old.writers.Wait()
	i.seal(old)
	close(old.complete)
	i.wakeFlush()
	return nil
}

// seal closes the log of a complete generation. The name tells recovery that a damaged
// end is no torn tail; failing to change it only costs that knowledge.
func (i *Ingester) seal(g *generation) {
	broken := g.log.Broken()
	if err := g.log.Close(); err != nil || broken {
		i.logger.Warn("write-ahead log file was not closed in good order", "path", g.walPath, "err", err)
		return
	}
	sealed := i.walPath(g.seq, extSealed)
	if err := i.disk.Rename(g.walPath, sealed); err != nil {
		i.logger.Warn("cannot rename write-ahead log file", "path", g.walPath, "err", err)
		return
	}
	g.walPath = sealed
}
