package querier

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// Queriers share the work of one query. It is cut in time, along borders that are the same
// for every query, and each slice is given to the querier that ranks first for its tenant
// and time: so the same querier reads the same segments again and has them in its caches.
//
//   - A log query's slices are asked in order of the answer, first one, then two at a time,
//     then four, until there are enough entries.
//   - A range query's slices are runs of steps; each step is evaluated whole by one querier,
//     so any expression can be cut. Slices are at least twice as long as the longest range
//     in brackets, since what lies before a slice's first step is read by two queriers.
//   - Instant queries, and log queries with an interval, where what is kept depends on all
//     that was kept before, stay whole.
//
// A querier that cannot be reached, or is too busy, is passed over for the next in rank;
// after a few this querier does the work. Limits hold for the whole: each slice obeys them,
// and so does the union.

// Peer is a querier of the ring.
type Peer struct {
	ID, Addr string
	// Self says that it is this one.
	Self bool
}

// Peers ranks the healthy queriers for a piece of work: the first one owns it.
type Peers interface {
	Queriers(key string) []Peer
}

// UsePeers has queries shared with other queriers; dial returns the connection to one. It
// must be called before the first query.
func (q *Querier) UsePeers(peers Peers, dial func(addr string) (grpc.ClientConnInterface, error)) {
	q.peers, q.dialPeer = peers, dial
}

// execute evaluates a query that has been admitted, by itself or with the help of others.
func (q *Querier) execute(ctx context.Context, tenants []model.Tenant, lim *limits.Limits, p engine.Params, expr syntax.Expr) (*engine.Result, error) {
	el := q.engineLimits(lim, p.Instant)
	if err := engine.Check(expr, el, p); err != nil {
		return nil, err
	}
	return engine.Within(ctx, el, func(ctx context.Context) (*engine.Result, error) {
		el.Timeout = 0
		p.Query = expr.String() // which may differ from what came, as in /api/prom
		s := sharing{q: q, tenants: tenants, lim: lim, el: el, p: p, expr: expr}
		if s.plan(); len(s.slices) < 2 {
			return q.evaluateHere(ctx, tenants, el, p, expr)
		}
		var result *engine.Result
		err := q.pool.Within(ctx, func(ctx context.Context) (err error) {
			if _, log := expr.(*syntax.LogExpr); log {
				result, err = s.logs(ctx)
			} else {
				result, err = s.metric(ctx)
			}
			return err
		})
		return result, err
	})
}

// evaluateHere evaluates a query, or a slice of one, without the help of others.
func (q *Querier) evaluateHere(ctx context.Context, tenants []model.Tenant, el engine.Limits, p engine.Params, expr syntax.Expr) (result *engine.Result, err error) {
	src := boundSelector{q: q, tenants: tenants, turns: p.Interval == 0}
	err = q.retry(ctx, func() (err error) {
		return q.pool.Within(ctx, func(ctx context.Context) (err error) {
			result, err = q.engine.Evaluate(ctx, src, el, p, expr)
			return err
		})
	})
	return result, err
}

// sharing is one query that is evaluated by several queriers.
type sharing struct {
	q       *Querier
	tenants []model.Tenant
	lim     *limits.Limits
	el      engine.Limits
	p       engine.Params
	expr    syntax.Expr

	slices      []slice
	parallelism int
	memory      atomic.Int64 // of results that are kept
}

// attempts is how many queriers are asked for a slice before this one does it.
const attempts = 3

// run evaluates a slice where it belongs.
func (s *sharing) run(ctx context.Context, one slice) (*engine.Result, error) {
	t := task{tenants: s.tenants, params: one.params, maxSeries: s.el.MaxSeries}
	for n, peer := range s.allowed(s.q.peers.Queriers(one.key)) {
		if peer.Self || n == attempts {
			break
		}
		result, err := s.q.askPeer(ctx, peer, t)
		switch kind := fault.Of(err); {
		case err == nil:
			return result, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case kind != fault.Unavailable && kind != fault.RateLimited:
			return nil, err
		}
		s.q.metrics.slicesRetried.Inc()
		s.q.logger.Warn("a querier did not evaluate a slice, which goes to the next", "querier", peer.ID, "err", err)
	}
	return s.q.evaluateSlice(ctx, t)
}

// evaluateSlice evaluates a slice for this querier or another one.
func (q *Querier) evaluateSlice(ctx context.Context, t task) (*engine.Result, error) {
	expr, err := syntax.Parse(t.params.Query)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	leave, err := q.queues.slices.Enter(ctx, queueKey(t.tenants), turns.Queries)
	if err != nil {
		return nil, err
	}
	defer leave()
	waited := time.Since(began)
	result, err := q.evaluateHere(ctx, t.tenants, engine.Limits{MaxSeries: t.maxSeries, Variants: true}, t.params, expr)
	if err == nil && result.Stats != nil {
		result.Stats.QueueNanoseconds.Add(int64(waited))
	}
	return result, err
}

// keep counts bytes of results against what one query may hold.
func (s *sharing) keep(n int64) error {
	if total := s.memory.Add(n); s.q.cfg.MaxMemory > 0 && total > s.q.cfg.MaxMemory {
		return scan.MemoryError(s.q.cfg.MaxMemory)
	}
	return nil
}

// weightOf is about how many bytes of memory a slice's result takes.
func weightOf(r *engine.Result) (n int64) {
	for i := range r.Streams {
		n += entriesWeight(r.Streams[i].Entries)
	}
	for i := range r.Series {
		n += int64(len(r.Series[i].Points))*16 + 64
	}
	return n
}

func entriesWeight(entries []scan.Entry) (n int64) {
	for i := range entries {
		n += int64(len(entries[i].Line)) + 128
	}
	return n
}

func (s *sharing) newResult(kind string) *engine.Result {
	return &engine.Result{Type: kind, Stats: &model.Stats{}}
}

// count adds a slice's statistics and warnings.
func (s *sharing) count(out, r *engine.Result) {
	out.Stats.Slices.Add(1)
	if r.Stats != nil {
		out.Stats.Add(r.Stats)
	}
	for _, w := range r.Warnings {
		if !slices.Contains(out.Warnings, w) {
			out.Warnings = append(out.Warnings, w)
		}
	}
}
