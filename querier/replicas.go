package querier

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
)

// Replica is an ingester of the ring.
type Replica struct {
	ID, Addr, Zone string
	// Healthy says that it was heard from lately. An unhealthy one is asked too, but not
	// waited for when the others are enough.
	Healthy bool
	// Lossy says that it came back with an empty disk, and that the copies it has lost are
	// not in the object store yet. It answers, but counts as missing.
	Lossy bool
}

// Ring knows which ingesters may hold rows of a tenant.
type Ring interface {
	Ingesters(tenant model.Tenant) []Replica
}

// Holder is an ingester, here or in another process.
type Holder interface {
	Source
	Tailer
}

// Ingesters is the ingesters of a ring, seen as one. Every acknowledged row is on a quorum
// of replicas, so up to RF − quorum of them may fail, or be too slow, and the rest still
// have every row; failures inside one zone count as one where replicas are in zones of
// their own. With fewer answers a read fails, or warns, by Config.Partial.
//
// It is both a Source and a Tailer. Rows come once for each replica; whoever reads them
// marks those that stand twice, as it does for all sources.
type Ingesters struct {
	cfg      Config
	rf       int
	ring     Ring
	dial     func(Replica) Holder
	logger   *slog.Logger
	failures *prometheus.CounterVec
	partial  prometheus.Counter
	partials server.Seldom // lines about them
	mu       struct {
		sync.Mutex
		lost map[string]time.Time // by address; not asked until then
	}
}

// NewIngesters returns the ingesters of a ring with a replication factor. dial returns the
// ingester itself; it is called for each read and must be cheap.
func NewIngesters(cfg Config, rf int, ring Ring, dial func(Replica) Holder, reg prometheus.Registerer, logger *slog.Logger) *Ingesters {
	g := &Ingesters{cfg: cfg, rf: rf, ring: ring, dial: dial, logger: logger}
	g.mu.lost = map[string]time.Time{}
	g.failures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "skald_querier_ingester_failures_total", Help: "Reads that an ingester failed, or was too slow, to answer.",
	}, []string{"ingester"})
	g.partial = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "skald_querier_partial_reads_total", Help: "Reads that fewer ingesters answered than it takes to be complete.",
	})
	reg.MustRegister(g.failures, g.partial)
	return g
}

const (
	// lostFor is how long an ingester that failed in the middle of a read is not waited for.
	lostFor = 10 * time.Second
	// ingesterWait bounds the wait for the first sign of ingesters without which a read
	// cannot be complete.
	ingesterWait = 15 * time.Second
)

// Lost takes note that the ingester at an address has failed in the middle of a read.
func (g *Ingesters) Lost(addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.lost[addr] = time.Now().Add(lostFor)
}

var errSuspect = errors.New("failed in the middle of a read a moment ago")

// suspects are the replicas that failed in the middle of a read lately, and can be done
// without; none when they cannot.
func (g *Ingesters) suspects(all []Replica) []Replica {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Replica
	for _, r := range all {
		switch until, lost := g.mu.lost[r.Addr]; {
		case lost && time.Now().After(until):
			delete(g.mu.lost, r.Addr)
		case lost:
			list = append(list, r)
		}
	}
	if !g.tolerable(all, list) {
		return nil
	}
	return list
}

// tolerable reports whether the rest of all hold every acknowledged row when some are
// missing. A ring too small to acknowledge anything is one that this process sees but a
// part of.
func (g *Ingesters) tolerable(all, missing []Replica) bool {
	quorum := g.rf/2 + 1
	allowed := g.rf - quorum
	if len(all) < quorum || len(missing) == len(all) {
		return false
	}
	missing = slices.Clone(missing)
	for _, r := range all {
		if r.Lossy && !slices.Contains(missing, r) {
			missing = append(missing, r)
		}
	}
	zones := map[string]bool{}
	zoned := true
	for _, r := range all {
		zones[r.Zone] = true
		zoned = zoned && r.Zone != ""
	}
	if !zoned || len(zones) < g.rf {
		return len(missing) <= allowed
	}
	failed := map[string]bool{}
	for _, r := range missing {
		failed[r.Zone] = true
	}
	return len(failed) <= allowed
}

// Select gathers the parts of all replicas, in the order of their ids.
func (g *Ingesters) Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error) {
	good, warning, err := ask(ctx, g, tenant, func(ctx context.Context, h Holder) (*model.Selection, error) {
		return h.Select(ctx, tenant, req)
	}, (*model.Selection).Release)
	if err != nil {
		return nil, err
	}
	all := &model.Selection{}
	for _, r := range good {
		all.Parts = append(all.Parts, r.value.Parts...)
		all.Warnings = append(all.Warnings, r.value.Warnings...)
	}
	if warning != "" {
		all.Warnings = append(all.Warnings, warning)
	}
	return all, nil
}

// Series lists the streams of all replicas. A stream is described by the replica that has
// most of it, since replicas hold the same rows and their counts must not be added up.
// A list has no room for a warning: without enough replicas it tells the request's Warn, and
// fails when there is none, whatever Config.Partial says.
func (g *Ingesters) Series(ctx context.Context, tenant model.Tenant, req *model.Request) ([]model.Series, error) {
	good, warning, err := ask(ctx, g, tenant, func(ctx context.Context, h Holder) ([]model.Series, error) {
		return h.Series(ctx, tenant, req)
	}, func([]model.Series) {})
	if err == nil && warning != "" {
		if req.Warn == nil {
			return nil, fault.New(fault.Unavailable, "%s", warning)
		}
		req.Warn(warning)
	}
	if err != nil {
		return nil, err
	}
	var lists [][]model.Series
	for _, r := range good {
		lists = append(lists, r.value)
	}
	return model.FoldSeries(lists, func(m, s *model.Series) {
		m.Entries, m.Bytes, m.Blocks = max(m.Entries, s.Entries), max(m.Bytes, s.Bytes), max(m.Blocks, s.Blocks)
	}), nil
}

// lostPeer is an error that names the process that failed.
type lostPeer interface {
	error
	LostPeer() string
}

// retry runs a read again without the ingesters that failed in its middle, when the others
// are enough. What fails is a process that died, was stopped or cut off meanwhile.
func (q *Querier) retry(ctx context.Context, read func() error) error {
	const attempts = 3
	for n := 1; ; n++ {
		err := read()
		var lost lostPeer
		if err == nil || n == attempts || ctx.Err() != nil || !errors.As(err, &lost) {
			return err
		}
		q.logger.Warn("an ingester failed in the middle of a read, which begins again", "ingester", lost.LostPeer(), "err", err)
		for _, s := range q.sources {
			if g, ok := s.(*Ingesters); ok {
				g.Lost(lost.LostPeer())
			}
		}
	}
}
