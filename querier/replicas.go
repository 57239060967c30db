package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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

// reply is what one replica has answered.
type reply[T any] struct {
	replica Replica
	value   T
	err     error
}

// ask asks all replicas of a tenant at once. It returns when all have answered or, when
// those that have are enough, a short while later. discard is called with answers that
// come after that. The context given to a replica lives as long as ctx once its answer is
// among those returned.
func ask[T any](ctx context.Context, g *Ingesters, tenant model.Tenant, call func(context.Context, Holder) (T, error), discard func(T)) (good []reply[T], warning string, err error) {
	all := g.ring.Ingesters(tenant)
	replies := make(chan reply[T], len(all))
	cancels := map[string]context.CancelFunc{}
	waiting := map[string]Replica{}
	var failed []reply[T]
	suspects := g.suspects(all)
	for _, r := range all {
		if slices.Contains(suspects, r) {
			failed = append(failed, reply[T]{replica: r, err: errSuspect})
			continue
		}
		one, cancel := context.WithCancel(ctx)
		cancels[r.ID], waiting[r.ID] = cancel, r
		go func() { // ends when it has answered, at the latest when it is cancelled
			v, err := call(one, g.dial(r))
			replies <- reply[T]{r, v, err}
		}()
	}
	defer func() {
		for id := range waiting {
			cancels[id]()
		}
		late := len(waiting)
		go func() {
			for range late {
				if r := <-replies; r.err == nil {
					discard(r.value)
				}
			}
		}()
		if err != nil {
			for _, r := range good {
				discard(r.value)
			}
			good = nil
		}
	}()
	patience, giveUp := time.NewTimer(ingesterWait), time.NewTimer(ingesterWait)
	defer patience.Stop()
	defer giveUp.Stop()
	granted := false
	for len(waiting) > 0 {
		if missing := append(replicas(failed), values(waiting)...); g.tolerable(all, missing) {
			if !slices.ContainsFunc(values(waiting), func(r Replica) bool { return r.Healthy }) {
				break // those that are left were not expected to answer
			}
			if !granted {
				granted = true
				patience.Reset(g.cfg.ReplicaWait)
			}
		}
		timeout := giveUp.C
		if granted {
			timeout = patience.C
		}
		select {
		case r := <-replies:
			delete(waiting, r.replica.ID)
			switch {
			case r.err == nil:
				good = append(good, r)
			case ctx.Err() != nil:
				return good, "", context.Cause(ctx)
			case fault.Of(r.err) == fault.Invalid || fault.Of(r.err) == fault.Forbidden:
				return good, "", r.err // every other one would say the same
			default:
				g.failures.WithLabelValues(r.replica.ID).Inc()
				failed = append(failed, r)
			}
			continue
		case <-ctx.Done():
			return good, "", context.Cause(ctx)
		case <-timeout:
		}
		break
	}
	for _, r := range waiting {
		g.failures.WithLabelValues(r.ID).Inc()
	}
	slices.SortFunc(good, func(a, b reply[T]) int { return strings.Compare(a.replica.ID, b.replica.ID) })
	if g.tolerable(all, append(replicas(failed), values(waiting)...)) {
		return good, "", nil
	}
	g.partial.Inc()
	text := incomplete(len(all), g.rf/2+1, failed, values(waiting))
	if g.cfg.Partial == partialWarn { // a read that fails is logged where it is answered
		if untold, ok := g.partials.Now(time.Now()); ok {
			g.logger.Warn("a read could not reach enough ingesters", "tenant", tenant, "reason", text, "more_before", untold)
		}
		return good, "incomplete: " + text + ", so rows may be missing", nil
	}
	return good, "", fault.New(fault.Unavailable, "%s: rows that were acknowledged might be missing; try again, or set -querier.partial=warn to see what there is", text)
}

// incomplete says which ingesters are missing and why.
func incomplete[T any](all, quorum int, failed []reply[T], silent []Replica) string {
	switch {
	case all == 0:
		return "no ingester is in the ring"
	case all < quorum:
		return fmt.Sprintf("this process sees %d of at least %d ingesters in the ring", all, quorum)
	}
	var missing []string
	for _, r := range failed {
		missing = append(missing, fmt.Sprintf("%s (%s)", r.replica.ID, r.err))
	}
	for _, r := range silent {
		missing = append(missing, r.ID+" (no answer)")
	}
	slices.Sort(missing)
	return fmt.Sprintf("%d of %d ingesters did not answer: %s", len(missing), all, strings.Join(missing, ", "))
}

func replicas[T any](list []reply[T]) []Replica {
	out := make([]Replica, 0, len(list))
	for _, r := range list {
		out = append(out, r.replica)
	}
	return out
}

func values(m map[string]Replica) []Replica {
	out := make([]Replica, 0, len(m))
	for _, r := range m {
		out = append(out, r)
	}
	return out
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
