package compact

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/segment"
)

// retention says how long a tenant's streams are kept. A period of 0 is for ever.
type retention struct {
	base  time.Duration
	rules []limits.StreamRetention // the deciding ones first
}

func (c *Compactor) retentionOf(tenant model.Tenant) retention {
	if !c.cfg.Retention || c.limits == nil {
		return retention{}
	}
	lim := c.limits.For(tenant)
	rules := slices.Clone(lim.RetentionStream)
	slices.SortStableFunc(rules, func(a, b limits.StreamRetention) int { return cmp.Compare(b.Priority, a.Priority) })
	return retention{time.Duration(lim.RetentionPeriod), rules}
}

// over reports whether a day that ended at dayEnd has been kept for a period.
func over(period time.Duration, dayEnd, now time.Time) bool {
	return period > 0 && now.Sub(dayEnd) >= period
}

// all reports whether every stream's retention of the day is over.
func (t retention) all(dayEnd, now time.Time) bool {
	for _, rule := range t.rules {
		if !over(time.Duration(rule.Period), dayEnd, now) {
			return false
		}
	}
	return over(t.base, dayEnd, now)
}

// period is how long a stream is kept.
func (t retention) period(stream labels.Labels) time.Duration {
	for _, rule := range t.rules {
		if !slices.ContainsFunc(rule.Matchers, func(m *labels.Matcher) bool { return !m.Matches(stream.Get(m.Name)) }) {
			return time.Duration(rule.Period)
		}
	}
	return t.base
}

// decision names what has expired of a day; "" is nothing.
func (t retention) decision(dayEnd, now time.Time) string {
	var b strings.Builder
	expired := false
	for _, rule := range t.rules {
		o := over(time.Duration(rule.Period), dayEnd, now)
		expired = expired || o
		fmt.Fprintf(&b, "%s %t;", rule.Selector, o)
	}
	if o := over(t.base, dayEnd, now); o || expired {
		fmt.Fprintf(&b, "%t", o)
		return b.String()
	}
	return ""
}

// rules say which rows of a day are to be dropped now.
type rules struct {
	retention retention
	dayEnd    time.Time
	now       time.Time
	expiring  bool // some streams' retention is over
	requests  []*Request
	filters   []RowFilter // of the requests
	signature string      // equal for equal rules
	span      model.TimeRange
}

// rulesFor gathers the rules for a day: of the pending requests those that concern it and
// have not been applied to it yet.
func (r *round) rulesFor(td tenantDay, keeps retention, pending []*Request) (*rules, error) {
	span, err := catalog.DayRange(td.day)
	if err != nil {
		return nil, err
	}
	u := &rules{retention: keeps, dayEnd: time.Unix(0, span.Through), now: r.now(), span: span}
	u.signature = keeps.decision(u.dayEnd, u.now)
	u.expiring = u.signature != ""
	for _, req := range pending {
		if !span.Overlaps(req.Start, req.End) || slices.Contains(req.DaysDone, td.day) {
			continue
		}
		filters, err := r.compile(req.Query)
		if err != nil {
			return nil, fmt.Errorf("delete request %s: %w", req.ID, err)
		}
		u.requests, u.filters = append(u.requests, req), append(u.filters, filters.New())
		u.signature += " " + req.ID
	}
	return u, nil
}

func (u *rules) none() bool { return !u.expiring && len(u.requests) == 0 }

func (u *rules) expired(stream labels.Labels) bool {
	return u.expiring && over(u.retention.period(stream), u.dayEnd, u.now)
}

// keep is segment.MergeOptions.Keep. It counts the rows that requests remove one by one;
// those of streams that go as a whole are not seen.
func (u *rules) keep(deleted *int64) func(labels.Labels) (bool, func(int64, []byte, labels.Labels) bool) {
	if u.none() {
		return nil
	}
	return func(stream labels.Labels) (bool, func(int64, []byte, labels.Labels) bool) {
		if u.expired(stream) {
			return false, nil
		}
		drop := u.dropper(stream)
		if drop == nil {
			return true, nil
		}
		return true, func(ts int64, line []byte, metadata labels.Labels) bool {
			if drop(ts, line, metadata) {
				*deleted++
				return false
			}
			return true
		}
	}
}

// dropper returns what tells the rows of a stream that a request names; nil for none.
func (u *rules) dropper(stream labels.Labels) func(int64, []byte, labels.Labels) bool {
	type part struct {
		req *Request
		row func(int64, []byte, labels.Labels) bool // nil for all
	}
	var parts []part
	for i, filter := range u.filters {
		if all, row := filter(stream); all {
			parts = append(parts, part{u.requests[i], nil})
		} else if row != nil {
			parts = append(parts, part{u.requests[i], row})
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return func(ts int64, line []byte, metadata labels.Labels) bool {
		for _, p := range parts {
			if p.req.contains(ts) && (p.row == nil || p.row(ts, line, metadata)) {
				return true
			}
		}
		return false
	}
}

// next returns what is to be merged next: for size first, since that drops rows as well.
func (r *round) next(ctx context.Context, d *dayState, u *rules) (*job, error) {
	live := slices.DeleteFunc(slices.Clone(d.live), r.isDamaged)
	p := planner{target: r.cfg.TargetBytes, maxInputs: r.cfg.MaxInputs, closed: r.filter.Full || d.closed(r.now())}
	if j := p.plan(live); j != nil {
		return j, nil
	}
	if u.none() {
		return nil, nil
	}
	for _, s := range live {
		if signature, ok := r.clean.Get(s.ref.ID); ok && signature == u.signature || s.info.Rows == 0 {
			continue
		}
		found, err := r.dirty(ctx, s, u)
		if err != nil {
			j := &job{[]*seg{s}, "drop"}
			r.noteDamage(ctx, j, err)
			return nil, err
		}
		if found {
			return &job{[]*seg{s}, "drop"}, nil
		}
		r.clean.Put(s.ref.ID, u.signature, 1)
	}
	return nil, nil
}

// dirty reports whether a segment has a row that the rules drop. The stream table decides
// about retention; for requests, blocks are read up to the first such row.
func (r *round) dirty(ctx context.Context, s *seg, u *rules) (bool, error) {
	reader, err := segment.Open(ctx, r.source(s), segment.ReaderOptions{})
	if err != nil {
		return false, err
	}
	series, err := reader.Series(ctx, &model.Request{Range: u.span})
	if err != nil {
		return false, err
	}
	drops := map[uint64]func(int64, []byte, labels.Labels) bool{}
	for _, one := range series {
		if u.expired(one.Labels) {
			return true, nil
		}
		touched := slices.ContainsFunc(u.requests, func(q *Request) bool { return q.span().Overlaps(one.First, one.Last) })
		if !touched {
			continue
		}
		if drop := u.dropper(one.Labels); drop != nil {
			drops[one.Labels.Hash()] = drop
		}
	}
	if len(drops) == 0 {
		return false, nil
	}
	part, err := reader.Select(ctx, &model.Request{Range: u.reach(), Columns: model.Columns{Lines: true, AllMetadata: true}})
	if err != nil {
		return false, err
	}
	found := false
	for _, b := range part.Blocks {
		if !found && err == nil {
			found, err = anyRow(ctx, b, drops)
		}
		b.Release()
	}
	return found, err
}

// reach is the time that the requests cover together.
func (u *rules) reach() model.TimeRange {
	out := model.TimeRange{From: u.span.Through, Through: u.span.From}
	for _, q := range u.requests {
		out.From, out.Through = min(out.From, q.Start), max(out.Through, q.span().Through)
	}
	return out
}

func anyRow(ctx context.Context, b model.Block, drops map[uint64]func(int64, []byte, labels.Labels) bool) (bool, error) {
	var rows *rowReader
	for _, run := range b.Runs() {
		drop := drops[run.Hash]
		if drop == nil {
			continue
		}
		if rows == nil {
			var err error
			if rows, err = readRows(ctx, b); err != nil {
				return false, err
			}
		}
		for i := run.Start; i < run.End; i++ {
			if drop(rows.times[i], rows.line(i), rows.metadata(i)) {
				return true, nil
			}
		}
	}
	return false, nil
}

// rowReader gives the rows of a block one by one.
type rowReader struct {
	times   []int64
	offsets []uint32
	lines   []byte
	names   []string
	columns []model.Column
	builder labels.ScratchBuilder
}

func readRows(ctx context.Context, b model.Block) (r *rowReader, err error) {
	r = &rowReader{names: b.MetadataNames()}
	if r.times, err = b.Times(ctx); err != nil {
		return nil, err
	}
	if r.offsets, err = b.Offsets(ctx); err != nil {
		return nil, err
	}
	if r.lines, err = b.Lines(ctx); err != nil {
		return nil, err
	}
	for _, name := range r.names {
		column, err := b.Metadata(ctx, name)
		if err != nil {
			return nil, err
		}
		r.columns = append(r.columns, column)
	}
	return r, nil
}

func (r *rowReader) line(i int) []byte { return r.lines[r.offsets[i]:r.offsets[i+1]] }

func (r *rowReader) metadata(i int) labels.Labels {
	if len(r.columns) == 0 {
		return labels.EmptyLabels()
	}
	r.builder.Reset()
	for k := range r.columns {
		if v := r.columns[k].Value(i); v != "" {
			r.builder.Add(r.names[k], v)
		}
	}
	return r.builder.Labels()
}
