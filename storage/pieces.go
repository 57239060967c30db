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
	// hasSources says that others are likely to be merged into this one, excluded that the probe has
	// found none of its rows.
	hasSources, excluded bool
}

type readFunc func(ctx context.Context, p *piece) error

func (p *piece) missing() bool { return errors.Is(p.damage, object.ErrNotFound) }

// list returns the segments of the request's days that may have rows in its range, and the merged ones
// that may replace one of these.
func (r *Reader) list(ctx context.Context, tenant model.Tenant, req *model.Request) ([]*piece, error) {
	refs, err := r.catalog.Around(ctx, tenant, req.Range)
	if err != nil {
		return nil, kinded(err)
	}
	wanted, inRange := make(oldest), 0
	for _, ref := range refs {
		if req.Range.Overlaps(ref.Min, ref.Max) {
			wanted.add(ref.Day, ref.Level, ref.ID)
			inRange++
		}
	}
	if req.Stats != nil {
		req.Stats.SegmentsConsidered.Add(int64(len(refs)))
		req.Stats.SegmentsPrunedTime.Add(int64(len(refs) - inRange))
	}
	var pieces []*piece
	for _, ref := range refs {
		if req.Range.Overlaps(ref.Min, ref.Max) || wanted.mayBeReplacedBy(ref) {
			pieces = append(pieces, &piece{ref: ref})
		}
	}
	return pieces, nil
}

// openAll lists the segments of a request and opens them. What looks like a source of a merged
// one waits until that is open, and mostly need not be opened then: sources stay for an hour, and
// would double the requests.
//
// What the probe excludes stays closed, unless it may replace a segment that is not excluded: of which
// it was merged only its footer tells, and a deletion may have dropped the rows that the other still has.
func (r *Reader) openAll(ctx context.Context, tenant model.Tenant, req *model.Request, probe *segment.Probe) ([]*piece, error) {
	pieces, err := r.list(ctx, tenant, req)
	if err != nil {
		return nil, err
	}
	others, sources := likelySources(pieces)
	held := make(oldest)
	if len(req.Held) > 0 {
		first := slices.Min(req.Held) // ids sort by age
		for _, p := range pieces {
			held.add(p.ref.Day, heldLevel, first)
		}
	}
	open := func(ctx context.Context, p *piece) (err error) {
		p.reader, err = r.open(accounted(ctx, req.Stats, true), p.ref)
		return err
	}
	openOrExclude := func(ctx context.Context, p *piece) error {
		if probe != nil && !p.hasSources && !held.mayBeReplacedBy(p.ref) && r.excludes(accounted(ctx, req.Stats, true), probe, p.ref) {
			p.excluded = true
			return nil
		}
		return open(ctx, p)
	}
	if err = r.each(ctx, others, openOrExclude); err == nil && len(sources) > 0 {
		// The sources of one that is not opened are gone too: a merged segment names all generations.
		gone := replaced(others)
		sources = slices.DeleteFunc(sources, func(p *piece) bool { return gone[p.ref.ID] })
		err = r.each(ctx, sources, openOrExclude)
	}
	if err != nil || probe == nil {
		return pieces, err
	}
	left := make(oldest)
	asked := slices.Concat(others, sources)
	for _, p := range asked {
		switch {
		case !p.excluded:
			left.add(p.ref.Day, p.ref.Level, p.ref.ID)
		case req.Stats != nil && req.Range.Overlaps(p.ref.Min, p.ref.Max):
			req.Stats.SegmentsPrunedNeedle.Add(1)
		}
	}
	replacing := slices.DeleteFunc(asked, func(p *piece) bool { return !p.excluded || !left.mayBeReplacedBy(p.ref) })
	return pieces, r.each(ctx, replacing, open)
}

// excludes asks the id table of a segment that is not open. What goes wrong is left to those who open it:
// the key may be to blame, and they compare it with the segment.
func (r *Reader) excludes(ctx context.Context, probe *segment.Probe, ref catalog.Ref) bool {
	if _, open := r.opened(ref.Key); open {
		return false
	}
	excluded, err := probe.Excludes(ctx, r.source(ref), ref.ID, ref.IDs)
	return err == nil && excluded
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
			is := false
			for _, m := range merged {
				if m.ref.Level > p.ref.Level && m.ref.ID > p.ref.ID && m.ref.Min <= p.ref.Min && p.ref.Max <= m.ref.Max {
					is, m.hasSources = true, true
				}
			}
			if is {
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

// oldest is when the oldest segment of each day and level was made.
type oldest map[dayLevel]time.Time

type dayLevel struct {
	day   string
	level int
}

// heldLevel is the level of segments that ingesters have.
const heldLevel = -1

func (o oldest) add(day string, level int, id string) {
	made := idTime(id)
	if at, ok := o[dayLevel{day, level}]; !ok || made.Before(at) {
		o[dayLevel{day, level}] = made
	}
}

// mayBeReplacedBy reports whether one of the segments can be what ref was merged from. Ref may lie outside a
// query's range, or have none of the rows that it is about: when all those were dropped by a deletion or by
// retention; the source, not yet deleted, must not bring them back. A merged segment has
// a higher level than its sources and was made after them, so this is rarely true, and
// queries over a short time do not open all of the day's segments.
func (o oldest) mayBeReplacedBy(ref catalog.Ref) bool {
	above := ref.Level
	if above == catalog.MaxLevel {
		above++ // its sources may have the highest level too
	}
	for level := heldLevel; level < above; level++ {
		if made, ok := o[dayLevel{ref.Day, level}]; ok && made.Before(idTime(ref.ID).Add(clockSkew)) {
			return true
		}
	}
	return false
}

// idTime is when a segment was made, by the clock of who made it.
func idTime(id string) time.Time {
	parsed, err := ulid.ParseStrict(id)
	if err != nil {
		return time.Time{} // no listed segment has such an id
	}
	return ulid.Time(parsed.Time())
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
		if !gone[p.ref.ID] && (span.Overlaps(p.ref.Min, p.ref.Max) && !p.excluded || p.damage != nil) {
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
