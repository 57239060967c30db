package storage

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// piece is a listed segment and what a query gets from it.
type piece struct {
	ref    catalog.Ref
	reader *segment.Reader // nil while not open, and when damaged
	damage error           // corrupt or missing
	part   model.Part
	series []model.Series
}

type readFunc func(ctx context.Context, p *piece) error

func (p *piece) missing() bool { return errors.Is(p.damage, object.ErrNotFound) }

// openAll lists the segments of the request's days and opens those that may have rows in
// its range, and the merged ones that may replace one of these. What looks like a source of a merged
// one waits until that is open, and mostly need not be opened then: sources stay for an hour, and
// would double the requests.
func (r *Reader) openAll(ctx context.Context, tenant model.Tenant, req *model.Request) ([]*piece, error) {
	refs, err := r.catalog.Around(ctx, tenant, req.Range)
	if err != nil {
		return nil, kinded(err)
	}
	var inRange []catalog.Ref
	for _, ref := range refs {
		if req.Range.Overlaps(ref.Min, ref.Max) {
			inRange = append(inRange, ref)
		}
	}
	if req.Stats != nil {
		req.Stats.SegmentsConsidered.Add(int64(len(refs)))
		req.Stats.SegmentsPrunedTime.Add(int64(len(refs) - len(inRange)))
	}
	var pieces []*piece
	for _, ref := range refs {
		if req.Range.Overlaps(ref.Min, ref.Max) || mayReplace(ref, inRange) {
			pieces = append(pieces, &piece{ref: ref})
		}
	}
	open := func(ctx context.Context, p *piece) (err error) {
		p.reader, err = r.open(accounted(ctx, req.Stats, true), p.ref)
		return err
	}
	now, later := likelySources(pieces)
	if err = r.each(ctx, now, open); err == nil && len(later) > 0 {
		// The sources of one that is not opened are gone too: a merged segment names all generations.
		gone := replaced(now)
		later = slices.DeleteFunc(later, func(p *piece) bool { return gone[p.ref.ID] })
		err = r.each(ctx, later, open)
	}
	return pieces, err
}

// likelySources tells the segments, sorted by key, from those among them that another is likely to be
// merged from: it has a higher level, was made later, and its time covers theirs. Whether it is stands
// in its footer.
func likelySources(pieces []*piece) (others, sources []*piece) {
	for len(pieces) > 0 {
		n, lowest := 0, catalog.MaxLevel
		for ; n < len(pieces) && pieces[n].ref.Day == pieces[0].ref.Day; n++ {
			lowest = min(lowest, pieces[n].ref.Level)
		}
		var merged []*piece // few beside many uploads
		for _, p := range pieces[:n] {
			if p.ref.Level > lowest {
				merged = append(merged, p)
			}
		}
		for _, p := range pieces[:n] {
			if slices.ContainsFunc(merged, func(m *piece) bool {
				return m.ref.Level > p.ref.Level && m.ref.ID > p.ref.ID && m.ref.Min <= p.ref.Min && p.ref.Max <= m.ref.Max
			}) {
				sources = append(sources, p)
			} else {
				others = append(others, p)
			}
		}
		pieces = pieces[n:]
	}
	return others, sources
}

// clockSkew is how far the clocks of two machines, and so the times in the ids of their
// segments, may be apart.
const clockSkew = time.Hour

// mayReplace reports whether a segment outside a query's range can be merged from one
// inside. It can when all rows that it would have there were dropped by a deletion or by
// retention; the source, not yet deleted, must not bring them back. A merged segment has
// a higher level than its sources and was made after them, so this is rarely true, and
// queries over a short time do not open all of the day's segments.
func mayReplace(ref catalog.Ref, inRange []catalog.Ref) bool {
	for _, source := range inRange {
		if source.Day == ref.Day && source.Level < ref.Level && idTime(source).Before(idTime(ref).Add(clockSkew)) {
			return true
		}
	}
	return false
}

// idTime is when a segment was made, by the clock of who made it.
func idTime(ref catalog.Ref) time.Time {
	id, err := ulid.ParseStrict(ref.ID)
	if err != nil {
		return time.Time{} // no Ref has such an id
	}
	return ulid.Time(id.Time())
}

// each runs fn for every segment that is not damaged, some at a time. Damage is noted with
// its segment, since another may replace it; any other error ends the query.
func (r *Reader) each(ctx context.Context, pieces []*piece, fn readFunc) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.cfg.Concurrency)
	for _, p := range pieces {
		if p.damage != nil {
			continue
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := fn(ctx, p)
			if errors.Is(err, object.ErrNotFound) || fault.Of(err) == fault.Corrupt {
				p.damage, p.reader, err = err, nil, nil
			}
			return err
		})
	}
	return group.Wait()
}

// withoutReplaced leaves the segments with rows in the range that no open segment was
// merged from. A damaged one that is replaced is no damage.
func withoutReplaced(pieces []*piece, span model.TimeRange) []*piece {
	gone := replaced(pieces)
	left := make([]*piece, 0, len(pieces))
	for _, p := range pieces {
		// Damage outside the range matters too: what it would have replaced is unknown.
		if !gone[p.ref.ID] && (span.Overlaps(p.ref.Min, p.ref.Max) || p.damage != nil) {
			left = append(left, p)
		}
	}
	return left
}

// replaced returns the ids of the segments that the open ones were merged from.
func replaced(pieces []*piece) map[string]bool {
	ids := make(map[string]bool)
	for _, p := range pieces {
		if p.reader == nil {
			continue
		}
		for _, id := range p.reader.Info().MergedFrom {
			if id != p.ref.ID { // whatever it says, it does not replace itself
				ids[id] = true
			}
		}
	}
	return ids
}
