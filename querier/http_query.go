package querier

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// serveRange answers /loki/api/v1/query_range.
func (q *Querier) serveRange(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(w, r)
	if err != nil {
		return err
	}
	e, err := rangeParams(p)
	if err != nil {
		return err
	}
	return q.serveQuery(w, r, e)
}

// rangeParams reads the parameters of a range query.
func rangeParams(p params) (e engine.Params, err error) {
	e = engine.Params{Query: p.get("query"), PartialSeries: fromDrilldown(p.r)}
	if e.Start, e.End, err = p.orderedBounds(); err != nil {
		return e, err
	}
	if e.Limit, err = p.limit("limit", defaultLimit); err != nil {
		return e, err
	}
	if e.Forward, err = p.forward(); err != nil {
		return e, err
	}
	if e.Step, err = p.step(e.Start, e.End); err != nil {
		return e, err
	}
	e.Interval, err = p.interval()
	return e, err
}

// serveInstant answers /loki/api/v1/query.
func (q *Querier) serveInstant(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(w, r)
	if err != nil {
		return err
	}
	e := engine.Params{Query: p.get("query"), Instant: true, PartialSeries: fromDrilldown(r)}
	if e.End, err = p.time("time", p.now.UnixNano()); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	e.Start = e.End
	if e.Limit, err = p.limit("limit", defaultLimit); err != nil {
		return err
	}
	if e.Forward, err = p.forward(); err != nil {
		return err
	}
	return q.serveQuery(w, r, e)
}

func (q *Querier) serveQuery(w http.ResponseWriter, r *http.Request, p engine.Params) error {
	if r.Header.Get("Accept") == "application/vnd.apache.parquet" {
		return fault.New(fault.Invalid, "support for Parquet encoded responses is disabled. Enable with -frontend.support-parquet-encoding=true")
	}
	expr, err := syntax.Parse(p.Query)
	if err != nil {
		return err
	}
	result, took, err := q.evaluate(r, p, expr)
	if err != nil {
		return err
	}
	o := encoding{forward: p.Forward, took: took}
	o.flags, o.categorize = encodingFlags(r)
	body, err := q.inTurn(r, func() []byte { return appendResult(nil, result, o) })
	if err != nil {
		return err
	}
	return q.writeJSON(w, r, body)
}

// inTurn prints an answer in the tenant's turn: a large one takes as long as many blocks.
func (q *Querier) inTurn(r *http.Request, print func() []byte) ([]byte, error) {
	tenants, err := server.TenantsOf(r)
	if err != nil {
		return nil, err
	}
	var text []byte
	err = q.queues.turns.Do(r.Context(), queueKey(tenants), turns.Queries, func() error {
		text = print()
		return nil
	})
	return text, err
}

// evaluate checks a query against the tenant's limits, waits for its turn, and runs it.
func (q *Querier) evaluate(r *http.Request, p engine.Params, expr syntax.Expr) (*engine.Result, time.Duration, error) {
	tenants, err := server.TenantsOf(r)
	if err != nil {
		return nil, 0, err
	}
	lim := q.limitsFor(tenants)
	if err := checkQuery(expr, p, lim); err != nil {
		return nil, 0, err
	}
	if clampLookback(&p, lim, time.Now()) || hidden(expr, r) {
		return &engine.Result{Type: resultType(expr, p.Instant), Stats: &model.Stats{}}, 0, nil
	}
	wait := &model.Stats{}
	leave, err := q.admit(r.Context(), tenants, wait)
	if err != nil {
		return nil, 0, err
	}
	defer leave()
	start := time.Now()
	result, err := q.execute(r.Context(), tenants, lim, p, expr)
	if err != nil {
		return nil, 0, err
	}
	result.Stats.Add(wait)
	took := time.Since(start)
	q.count(result, took)
	return result, took, nil
}

func (q *Querier) count(result *engine.Result, took time.Duration) {
	q.metrics.queries.WithLabelValues(result.Type).Observe(took.Seconds())
	if s := result.Stats; s != nil {
		q.metrics.rows.Add(float64(s.RowsScanned.Load()))
		q.metrics.bytes.Add(float64(s.BytesScanned.Load()))
		q.metrics.fetched.Add(float64(s.BytesFetched.Load()))
		q.metrics.doubled.Add(float64(s.RowsDuplicate.Load()))
	}
}

// engineLimits are the tenant's limits that the engine obeys.
func (q *Querier) engineLimits(lim *limits.Limits, instant bool) engine.Limits {
	e := engine.Limits{
		MaxSeries: lim.MaxQuerySeries, MaxEntries: lim.MaxEntriesLimitPerQuery,
		MaxRange: lim.MaxQueryRange.Duration(), Timeout: lim.QueryTimeout.Duration(),
		Variants: lim.EnableMultiVariantQueries, ApproxTopK: slices.Contains(lim.ShardAggregations, "approx_topk"),
	}
	if !instant {
		e.MaxLength, e.MaxResolution = lim.MaxQueryLength.Duration(), maxResolution
	}
	return e
}

// clampLookback moves the start to what max_query_lookback allows; true means that
// nothing of the range is left.
func clampLookback(p *engine.Params, lim *limits.Limits, now time.Time) (empty bool) {
	lookback := lim.MaxQueryLookback.Duration()
	if lookback <= 0 {
		return false
	}
	oldest := now.Add(-lookback).UnixNano()
	if p.End < oldest {
		return true
	}
	p.Start = max(p.Start, oldest)
	return false
}

// resultType is the type of an empty answer.
func resultType(expr syntax.Expr, instant bool) string {
	switch _, log := expr.(*syntax.LogExpr); {
	case log:
		return "streams"
	case instant:
		return "vector"
	}
	return "matrix"
}

// encoding says how an answer is printed.
type encoding struct {
	flags               []string // echoed
	categorize, forward bool
	took                time.Duration
}

// appendResult appends a whole answer.
func appendResult(b []byte, res *engine.Result, o encoding) []byte {
	b = slices.Grow(b, roomFor(res))
	b = append(b, `{"status":"success",`...)
	b = appendWarnings(b, res.Warnings)
	b = append(b, `"data":{"resultType":"`...)
	b = append(b, res.Type...)
	b = append(b, `",`...)
	if res.Type == "streams" && len(o.flags) > 0 {
		b = append(b, `"encodingFlags":`...)
		b = appendStringList(b, o.flags)
		b = append(b, ',')
	}
	b = append(b, `"result":`...)
	switch res.Type {
	case "streams":
		b = appendStreams(b, res.Streams, o.forward, o.categorize)
	case "scalar":
		b = appendPoint(b, res.Scalar)
	default:
		b = appendSeries(b, res.Series, res.Type == "vector")
	}
	b = append(b, `,"stats":`...)
	b = appendStats(b, res, o.took)
	b = append(b, "}}"...)
	if res.Type == "streams" {
		b = append(b, '\n')
	}
	return b
}

// roomFor is about what an answer takes. What is appended to a large slice without room makes it
// larger by quarters, which is five times the answer of garbage.
func roomFor(res *engine.Result) int {
	const (
		rest  = 4 << 10 // statistics
		label = 96      // of a series or stream, all of them
		point = 28      // [1768474800.123,"12345.67"],
		entry = 32      // ["1768474800123456789",""],
	)
	n := rest
	for i := range res.Series {
		n += label + point*len(res.Series[i].Points)
	}
	for i := range res.Streams {
		n += label
		for _, e := range res.Streams[i].Entries {
			n += entry + len(e.Line) + len(e.Line)/16 // escapes
		}
	}
	return n
}

func appendStreams(b []byte, streams []scan.Stream, forward, categorize bool) []byte {
	if categorize {
		return appendCategorized(b, streams, forward)
	}
	b = append(b, '[')
	for i := range streams {
		s := &streams[i]
		b = openStream(b, i, s.Labels)
		for j := range s.Entries {
			if j > 0 {
				b = append(b, ',')
			}
			b = appendEntry(b, &s.Entries[j], false)
		}
		b = append(b, "]}"...)
	}
	return append(b, ']')
}

func openStream(b []byte, i int, ls labels.Labels) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	b = append(b, `{"stream":`...)
	b = appendLabels(b, ls)
	return append(b, `,"values":[`...)
}

// entryRef finds an entry again; refs are sorted instead of entries because they hold no
// pointers.
type entryRef struct {
	timestamp     int64
	stream, entry int32
}

// appendCategorized puts together the streams that differ in metadata or parsed labels
// only, since those stand with each entry.
func appendCategorized(b []byte, streams []scan.Stream, forward bool) []byte {
	groups, shown := groupStreams(streams)
	var refs []entryRef
	b = append(b, '[')
	for i, group := range groups {
		refs = refs[:0]
		for _, s := range group {
			for e := range streams[s].Entries {
				refs = append(refs, entryRef{streams[s].Entries[e].Timestamp, s, int32(e)})
			}
		}
		if len(group) > 1 {
			sortRefs(refs, forward)
		}
		b = openStream(b, i, shown[i])
		for j, r := range refs {
			if j > 0 {
				b = append(b, ',')
			}
			b = appendEntry(b, &streams[r.stream].Entries[r.entry], true)
		}
		b = append(b, "]}"...)
	}
	return append(b, ']')
}

// groupStreams returns which streams have the same labels of their own, in order of the
// first of each, and these labels.
func groupStreams(streams []scan.Stream) (groups [][]int32, shown []labels.Labels) {
	byHash := map[uint64][]int{} // groups
next:
	for i := range streams {
		ls := streams[i].StreamLabels.WithoutEmpty()
		hash := ls.Hash()
		for _, g := range byHash[hash] {
			if labels.Equal(shown[g], ls) {
				groups[g] = append(groups[g], int32(i))
				continue next
			}
		}
		byHash[hash] = append(byHash[hash], len(groups))
		groups, shown = append(groups, []int32{int32(i)}), append(shown, ls)
	}
	return groups, shown
}

func sortRefs(refs []entryRef, forward bool) {
	slices.SortFunc(refs, func(a, b entryRef) int {
		byTime := cmp.Compare(a.timestamp, b.timestamp)
		if !forward {
			byTime = -byTime
		}
		return cmp.Or(byTime, cmp.Compare(a.stream, b.stream), cmp.Compare(a.entry, b.entry))
	})
}

func appendEntry(b []byte, e *scan.Entry, categorize bool) []byte {
	b = append(b, `["`...)
	b = strconv.AppendInt(b, e.Timestamp, 10)
	b = append(b, `",`...)
	b = appendLine(b, e.Line)
	if categorize {
		b = append(b, ",{"...)
		if !e.Metadata.IsEmpty() {
			b = append(b, `"structuredMetadata":`...)
			b = appendLabels(b, e.Metadata)
		}
		if !e.Parsed.IsEmpty() {
			if !e.Metadata.IsEmpty() {
				b = append(b, ',')
			}
			b = append(b, `"parsed":`...)
			b = appendLabels(b, e.Parsed)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendSeries(b []byte, series []engine.Series, vector bool) []byte {
	b = append(b, '[')
	for i := range series {
		s := &series[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"metric":`...)
		b = appendLabels(b, s.Labels)
		if vector {
			b = append(b, `,"value":`...)
			b = append(appendPoint(b, s.Points[0]), '}')
			continue
		}
		b = append(b, `,"values":[`...)
		for j, p := range s.Points {
			if j > 0 {
				b = append(b, ',')
			}
			b = appendPoint(b, p)
		}
		b = append(b, "]}"...)
	}
	return append(b, ']')
}

func appendPoint(b []byte, p engine.Point) []byte {
	b = append(b, '[')
	b = appendMillis(b, p.T)
	b = append(b, ',')
	return append(appendValue(b, p.V), ']')
}
