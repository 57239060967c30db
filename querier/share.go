package querier

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"
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
		if _, log := expr.(*syntax.LogExpr); log {
			return s.logs(ctx)
		}
		return s.metric(ctx)
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
	memory      int64 // of results gathered
}

// slice is a part of a query: its parameters, and the key of its place.
type slice struct {
	key    string
	params engine.Params
}

// widths are the lengths of slices: parts of a UTC day that divide it.
var widths = []time.Duration{
	15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

const (
	// slicesPerPeer is how many slices each querier gets of a query, about: enough to even
	// out that some take longer.
	slicesPerPeer = 4
	maxSlices     = 512
)

// plan cuts the query; it leaves no slices when it should stay whole.
func (s *sharing) plan() {
	if s.q.peers == nil || s.p.Instant || s.p.Interval > 0 {
		return
	}
	peers := len(s.allowed(s.q.peers.Queriers(s.tenantKey())))
	if peers < 2 {
		return
	}
	s.parallelism = cmp.Or(s.lim.MaxQueryParallelism, s.lim.TSDBMaxQueryParallelism)
	s.parallelism = max(1, min(s.parallelism, slicesPerPeer*peers))
	if _, log := s.expr.(*syntax.LogExpr); log {
		if s.p.Limit > 0 && s.p.End > s.p.Start {
			s.cutLogs(peers)
		}
		return
	}
	reach, ok := lookback(s.expr)
	if step := s.p.Step.Truncate(time.Millisecond); ok && step > 0 && s.p.End >= s.p.Start {
		s.cutGrid(peers, int64(step), int64(max(2*reach, step)))
	}
}

// lookback is the longest time before a step that its value depends on; false for
// expressions that read nothing, or are limited by part, so that they must stay whole.
func lookback(expr syntax.Expr) (reach time.Duration, ok bool) {
	whole := false
	syntax.Walk(expr, func(x syntax.Expr) bool {
		switch x := x.(type) {
		case *syntax.RangeAgg:
			reach, ok = max(reach, x.Range.Range), true
		case *syntax.Variants:
			whole = true
		}
		return true
	})
	return reach, ok && !whole
}

// width chooses the length of slices.
func width(length, least int64, peers int) int64 {
	for _, w := range widths {
		if int64(w) >= least && length/int64(w) <= int64(slicesPerPeer*peers) {
			return int64(w)
		}
	}
	day := int64(24 * time.Hour)
	days := max(1, (least+day-1)/day, (length/day+maxSlices-1)/maxSlices)
	return days * day
}

// floorTo is the largest multiple of step that is not above t.
func floorTo(t, step int64) int64 {
	r := t % step
	if r < 0 {
		r += step
	}
	return t - r
}

func (s *sharing) tenantKey() string { return queueKey(s.tenants) }

func (s *sharing) key(start, width int64) string {
	return fmt.Sprintf("%s/%s/%s", s.tenantKey(), time.Unix(0, start).UTC().Format(time.RFC3339), time.Duration(width))
}

func (s *sharing) cutLogs(peers int) {
	w := width(s.p.End-s.p.Start, 0, peers)
	for from := floorTo(s.p.Start, w); from < s.p.End; from += w {
		one := slice{key: s.key(from, w), params: s.p}
		one.params.Start, one.params.End = max(from, s.p.Start), min(from+w, s.p.End)
		s.slices = append(s.slices, one)
	}
	if !s.p.Forward {
		slices.Reverse(s.slices)
	}
}

func (s *sharing) cutGrid(peers int, step, least int64) {
	first, last := floorTo(s.p.Start, step), -floorTo(-s.p.End, step)
	w := width(last-first, least, peers)
	for at := first; at <= last; {
		end := floorTo(at, w) + w // the first time of the next slice
		points := (end - at + step - 1) / step
		one := slice{key: s.key(end-w, w), params: s.p}
		one.params.Start, one.params.End = at, min(at+(points-1)*step, last)
		s.slices = append(s.slices, one)
		at += points * step
	}
}

// allowed leaves the queriers that serve the tenant, by max_queriers_per_tenant and
// max_query_capacity. They are the same for all its queries.
func (s *sharing) allowed(ranked []Peer) []Peer {
	most := len(ranked)
	if n := s.lim.MaxQueriersPerTenant; n > 0 {
		most = min(most, n)
	}
	if share := s.lim.MaxQueryCapacity; share > 0 && share < 1 {
		most = min(most, max(1, int(share*float64(len(ranked))+0.999)))
	}
	if most == len(ranked) {
		return ranked
	}
	chosen := s.q.peers.Queriers("tenant " + s.tenantKey())
	chosen = chosen[:min(most, len(chosen))]
	return slices.DeleteFunc(slices.Clone(ranked), func(p Peer) bool {
		return !slices.ContainsFunc(chosen, func(c Peer) bool { return c.ID == p.ID })
	})
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

// charge counts the memory of results.
func (s *sharing) charge(n int64) error {
	if s.memory += n; s.q.cfg.MaxMemory > 0 && s.memory > s.q.cfg.MaxMemory {
		return scan.MemoryError(s.q.cfg.MaxMemory)
	}
	return nil
}

// metric evaluates all slices and puts the points of each series together.
func (s *sharing) metric(ctx context.Context) (*engine.Result, error) {
	results := make([]*engine.Result, len(s.slices))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.parallelism)
	for i, one := range s.slices {
		g.Go(func() (err error) {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			results[i], err = s.run(gctx, one)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := s.newResult("matrix")
	byHash := map[uint64][]int{}
	for _, r := range results {
		s.count(out, r)
		for _, series := range r.Series {
			i := seriesAt(out.Series, byHash, series.Labels)
			if i == len(out.Series) {
				out.Series = append(out.Series, engine.Series{Labels: series.Labels})
			}
			out.Series[i].Points = append(out.Series[i].Points, series.Points...)
			if err := s.charge(int64(len(series.Points))*16 + 64); err != nil {
				return nil, err
			}
		}
	}
	sort.SliceStable(out.Series, func(i, j int) bool { return labels.Compare(out.Series[i].Labels, out.Series[j].Labels) < 0 })
	return out, s.limitSeries(out)
}

// seriesAt is the place of the series with the labels, the next one when it is new.
func seriesAt(series []engine.Series, byHash map[uint64][]int, l labels.Labels) int {
	h := l.Hash()
	for _, i := range byHash[h] {
		if labels.Equal(series[i].Labels, l) {
			return i
		}
	}
	byHash[h] = append(byHash[h], len(series))
	return len(series)
}

// limitSeries applies the limit to the union. The first series of the union are among the
// first of each slice, so partial answers are those of an evaluation in one piece.
func (s *sharing) limitSeries(out *engine.Result) error {
	limit := s.el.MaxSeries
	if limit < 0 || len(out.Series) <= limit {
		return nil
	}
	if !s.p.PartialSeries {
		return scan.SeriesLimitError(limit)
	}
	out.Series = out.Series[:limit]
	if text := engine.PartialSeriesWarning(limit); !slices.Contains(out.Warnings, text) {
		out.Warnings = append(out.Warnings, text)
	}
	return nil
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

// logs asks slices in order, more at a time as it goes, until there are enough entries.
func (s *sharing) logs(ctx context.Context) (*engine.Result, error) {
	out := s.newResult("streams")
	m := logMerge{forward: s.p.Forward, left: s.p.Limit, index: map[[2]string]int{}}
	rest := s.slices
	for n := 1; len(rest) > 0 && m.left > 0; n = min(2*n, s.parallelism) {
		wave := rest[:min(n, len(rest))]
		rest = rest[len(wave):]
		results, err := s.wave(ctx, wave, &m)
		if err != nil {
			return nil, err
		}
		for i, r := range results {
			if r == nil {
				continue // there were enough before it
			}
			s.count(out, r)
			if err := m.take(r.Streams, func(ts int64, limit int) ([]scan.Stream, error) { return s.moment(ctx, wave[i], ts, limit) }); err != nil {
				return nil, err
			}
			if err := s.charge(m.grown); err != nil {
				return nil, err
			}
			m.grown = 0
		}
	}
	out.Streams = m.sorted()
	return out, nil
}

// wave evaluates some slices at a time. Those behind the ones that have enough entries are
// cancelled and have no result.
func (s *sharing) wave(ctx context.Context, wave []slice, m *logMerge) ([]*engine.Result, error) {
	type outcome struct {
		i      int
		result *engine.Result
		err    error
	}
	done := make(chan outcome, len(wave))
	ctxs := make([]context.CancelFunc, len(wave))
	for i, one := range wave {
		one.params.Limit = m.left
		inner, cancel := context.WithCancel(ctx)
		ctxs[i] = cancel
		go func() {
			r, err := s.run(inner, one)
			done <- outcome{i, r, err}
		}()
	}
	results := make([]*engine.Result, len(wave))
	end := len(wave)
	var failed error // of slice end, if any
	for range wave {
		o := <-done
		if o.i >= end {
			continue // it was cancelled
		}
		if o.err != nil {
			failed, end = o.err, o.i
		} else {
			results[o.i] = o.result
			if n := enough(results[:end], m.left); n < end || n == end && holds(results[:end], m.left) {
				failed, end = nil, n // whatever happened to those behind
			}
		}
		clear(results[end:])
		for _, cancel := range ctxs[end:] {
			cancel()
		}
	}
	for _, cancel := range ctxs {
		cancel()
	}
	return results, failed
}

// holds reports whether the results are all there and have so many entries together.
func holds(results []*engine.Result, want int) bool {
	for _, r := range results {
		if r == nil {
			return false
		}
		for j := range r.Streams {
			want -= len(r.Streams[j].Entries)
		}
	}
	return want <= 0
}

// enough is the number of leading results that together have so many entries, all of them
// when that is not known yet.
func enough(results []*engine.Result, want int) int {
	for i, r := range results {
		if r == nil {
			break
		}
		for j := range r.Streams {
			want -= len(r.Streams[j].Entries)
		}
		if want <= 0 {
			return i + 1
		}
	}
	return len(results)
}

// moment asks once more for the entries of a single time, of which only some are wanted:
// which ones depends on an order that answers do not show.
func (s *sharing) moment(ctx context.Context, one slice, ts int64, limit int) ([]scan.Stream, error) {
	one.params.Start, one.params.End, one.params.Limit = ts, ts+1, limit
	r, err := s.run(ctx, one)
	if err != nil {
		return nil, err
	}
	return r.Streams, nil
}

// logMerge puts the answers of slices together in order.
type logMerge struct {
	forward bool
	left    int // entries that are wanted still
	streams []scan.Stream
	index   map[[2]string]int
	grown   int64
}

// take adds the streams of the next slice, of which the first entries are wanted. moment
// decides between entries of one time.
func (m *logMerge) take(streams []scan.Stream, moment func(ts int64, limit int) ([]scan.Stream, error)) error {
	total := 0
	for i := range streams {
		total += len(streams[i].Entries)
	}
	if total <= m.left {
		m.add(streams)
		return nil
	}
	times := make([]int64, 0, total)
	for i := range streams {
		for j := range streams[i].Entries {
			times = append(times, streams[i].Entries[j].Timestamp)
		}
	}
	slices.Sort(times)
	if !m.forward {
		slices.Reverse(times)
	}
	edge := times[m.left-1]
	before := func(ts int64) bool { return m.forward && ts < edge || !m.forward && ts > edge }
	whole := times[m.left] != edge // nobody else is at the edge
	at := 0
	cut := make([]scan.Stream, len(streams))
	for i, s := range streams {
		for j := range s.Entries {
			ts := s.Entries[j].Timestamp
			if !before(ts) && !(whole && ts == edge) {
				s.Entries = s.Entries[:j]
				break
			}
		}
		cut[i] = s
		at += len(s.Entries)
	}
	m.add(cut)
	if whole {
		return nil
	}
	edges, err := moment(edge, m.left)
	if err != nil {
		return err
	}
	m.add(edges)
	m.left = 0
	return nil
}

func (m *logMerge) add(streams []scan.Stream) {
	for _, s := range streams {
		if len(s.Entries) == 0 {
			continue
		}
		key := [2]string{s.Labels.String(), s.StreamLabels.String()}
		i, known := m.index[key]
		if !known {
			i = len(m.streams)
			m.index[key] = i
			m.streams = append(m.streams, scan.Stream{Labels: s.Labels, StreamLabels: s.StreamLabels})
		}
		m.streams[i].Entries = append(m.streams[i].Entries, s.Entries...)
		m.left -= len(s.Entries)
		for j := range s.Entries {
			m.grown += int64(len(s.Entries[j].Line)) + 128
		}
	}
}

// sorted are the streams by the text of their labels.
func (m *logMerge) sorted() []scan.Stream {
	texts := make(map[*scan.Stream]string, len(m.streams))
	order := make([]*scan.Stream, len(m.streams))
	for i := range m.streams {
		order[i] = &m.streams[i]
		texts[order[i]] = m.streams[i].Labels.String()
	}
	slices.SortStableFunc(order, func(a, b *scan.Stream) int { return strings.Compare(texts[a], texts[b]) })
	out := make([]scan.Stream, len(order))
	for i, s := range order {
		out[i] = *s
	}
	return out
}
