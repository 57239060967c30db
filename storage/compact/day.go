package compact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// seg is a listed segment and what its footer says.
type seg struct {
	ref  catalog.Ref
	info segment.Info
}

// made is when the merge of a segment began.
func (s *seg) made() time.Time { return idTime(s.ref.ID) }

func idTime(id string) time.Time {
	parsed, err := ulid.ParseStrict(id)
	if err != nil {
		return time.Time{} // no listed segment has such an id
	}
	return ulid.Time(parsed.Time())
}

// dayState is what one listing shows of a tenant's day.
type dayState struct {
	tenantDay
	span model.TimeRange
	all  []*seg
	live []*seg // that no other is merged from, in order of time
	// successors lists, for the id of each replaced segment, those that name it.
	successors map[string][]*seg
}

// end is the moment after the day's last.
func (d *dayState) end() time.Time { return time.Unix(0, d.span.Through) }

// load lists a day and reads the footers that are not known yet.
//
// A footer that cannot be read might name sources, so nothing can be said about the day:
// it is left as it is until the operator has removed or restored the object.
func (c *Compactor) load(ctx context.Context, td tenantDay) (*dayState, error) {
	span, err := catalog.DayRange(td.day)
	if err != nil {
		return nil, err
	}
	refs, err := c.fresh.Day(ctx, td.tenant, td.day)
	if err != nil {
		return nil, err
	}
	d := &dayState{tenantDay: td, span: span, successors: map[string][]*seg{}}
	for _, ref := range refs {
		s, err := c.footer(ctx, ref)
		if err != nil {
			return nil, err
		}
		d.all = append(d.all, s)
	}
	for _, s := range d.all {
		for _, id := range s.info.MergedFrom {
			if id != s.ref.ID {
				d.successors[id] = append(d.successors[id], s)
			}
		}
	}
	for _, s := range d.all {
		if len(d.successors[s.ref.ID]) == 0 {
			d.live = append(d.live, s)
		}
	}
	slices.SortFunc(d.live, func(a, b *seg) int {
		return cmp.Or(cmp.Compare(a.ref.Min, b.ref.Min), cmp.Compare(a.ref.Max, b.ref.Max), cmp.Compare(a.ref.ID, b.ref.ID))
	})
	return d, nil
}

// footer returns a segment with its footer, which never changes.
func (c *Compactor) footer(ctx context.Context, ref catalog.Ref) (*seg, error) {
	if s, ok := c.known.Get(ref.ID); ok && s.ref == ref {
		return s, nil
	}
	reader, err := segment.Open(ctx, storage.NewSource(c.store, ref), segment.ReaderOptions{})
	if err != nil {
		return nil, err
	}
	s := &seg{ref: ref, info: reader.Info()}
	if err := storage.CheckIdentity(ref, s.info); err != nil {
		return nil, err
	}
	c.known.Put(ref.ID, s, int64(512+48*len(s.info.MergedFrom)))
	return s, nil
}

// visit remembers when a day was found with nothing left to do, and under which rules.
type visit struct {
	at    time.Time
	rules string
}

// An old day in which nothing was left to do is not listed in every round, only in case
// that somebody backfills it: the older it is the more rarely, so that all days of a year
// together cost a tenant 180 listings a day.
const (
	oldDay    = 48 * time.Hour
	oldVisits = 32 // the part of its age after which an old day is looked at again
)

// needless reports whether a day, which ended at end, need not be visited now.
func (v visit) needless(rules string, end, now time.Time) bool {
	age := now.Sub(end)
	return age > oldDay && v.rules == rules && now.Sub(v.at) < age/oldVisits
}

// maxSteps bounds the merges of one visit per segment; more means that a merge does not
// bring what its plan promised.
const maxSteps = 4

// oneDay does what is due in a tenant's day: delete what is replaced or expired, then merge
// for as long as there is something to merge, looking anew after each.
func (r *round) oneDay(ctx context.Context, td tenantDay, keeps retention, pending []*Request) error {
	rules, err := r.rulesFor(td, keeps, pending)
	if err != nil {
		return err
	}
	if v, ok := r.visited.Get(td); r.lazy && ok && v.needless(rules.signature, rules.dayEnd, r.now()) {
		return nil
	}
	r.sum.Days++
	if rules.retention.all(rules.dayEnd, r.now()) {
		return r.expire(ctx, td)
	}
	uploaded := ""
	for step := 0; ; step++ {
		d, err := r.load(ctx, td)
		if err != nil {
			return err
		}
		if uploaded != "" && !slices.ContainsFunc(d.all, func(s *seg) bool { return s.ref.ID == uploaded }) {
			return fmt.Errorf("the listing is stale: it lacks segment %s, just uploaded; going on in the next round", uploaded)
		}
		left, err := r.removeReplaced(ctx, d)
		if err != nil {
			return err
		}
		r.metrics.waiting.WithLabelValues("live").Set(float64(len(d.live)))
		r.metrics.waiting.WithLabelValues("replaced").Set(float64(len(d.all) - len(d.live)))
		j, err := r.next(ctx, d, rules)
		if err != nil {
			return err
		}
		if j == nil {
			if err := r.dayIsDone(ctx, d, rules); err != nil {
				return err
			}
			if left == 0 {
				r.visited.Put(td, visit{r.now(), rules.signature}, 1)
			}
			return nil
		}
		if step > 10+maxSteps*len(d.all) {
			return fmt.Errorf("after %d merges there is still a %s merge to do, of %d segments; giving up for now", step, j.reason, len(j.inputs))
		}
		if uploaded, err = r.merge(ctx, d, j, rules); err != nil {
			r.noteDamage(ctx, j, err)
			return fmt.Errorf("merge %d segments (%s): %w", len(j.inputs), j.reason, err)
		}
	}
}

// noteDamage sees to it that a segment that cannot be merged does not stop the others.
func (c *Compactor) noteDamage(ctx context.Context, j *job, err error) {
	if fault.Of(err) != fault.Corrupt {
		return
	}
	for _, s := range j.inputs {
		if mentions(err, s.ref.Key) {
			c.damaged[s.ref.Key] = c.now()
			c.logger.ErrorContext(ctx, "a segment is corrupt, and is left out of compaction", "segment", s.ref.Key, "err", err)
		}
	}
}

// isDamaged reports whether a merge has found the segment corrupt; after a day it is tried
// again, since it may have been the way to it.
func (c *Compactor) isDamaged(s *seg) bool {
	at, ok := c.damaged[s.ref.Key]
	if ok && c.now().Sub(at) > 24*time.Hour {
		delete(c.damaged, s.ref.Key)
		ok = false
	}
	return ok
}

// keepEmpty is how long a segment without rows is kept after its sources are deleted: an
// ingester that was away may upload a source once more when it comes back.
const keepEmpty = 7 * 24 * time.Hour

// removeReplaced deletes the segments that others have replaced for long enough, and
// returns how many are waiting for it.
func (r *round) removeReplaced(ctx context.Context, d *dayState) (waiting int, err error) {
	present := map[string]bool{}
	old := map[string]bool{} // successors asked for with Stat
	var gone []*seg
	for _, s := range d.all {
		successors := d.successors[s.ref.ID]
		if len(successors) == 0 {
			continue
		}
		ok, err := r.anyOld(ctx, successors, old)
		if err != nil {
			return 0, err
		}
		if ok {
			gone = append(gone, s)
		} else {
			waiting++
			present[s.ref.ID] = true
		}
	}
	// Empty ones last: they must not go before what they replace.
	if len(gone) == 0 {
		for _, s := range d.live {
			if s.info.Rows > 0 {
				continue
			}
			waiting++
			if r.now().Sub(s.made()) > r.cfg.DeleteDelay+keepEmpty && !slices.ContainsFunc(s.info.MergedFrom, func(id string) bool { return present[id] }) {
				waiting--
				gone = append(gone, s)
			}
		}
	}
	return waiting, r.remove(ctx, d, gone, "replaced")
}

// anyOld reports whether one of the segments has been in the store for DeleteDelay. The id
// tells when its merge began, and the store when it appeared.
func (r *round) anyOld(ctx context.Context, segs []*seg, asked map[string]bool) (bool, error) {
	for _, s := range segs {
		if r.now().Sub(s.made()) < r.cfg.DeleteDelay {
			continue
		}
		old, ok := asked[s.ref.ID]
		if !ok {
			info, err := r.store.Stat(ctx, s.ref.Key)
			if err != nil && !errors.Is(err, object.ErrNotFound) {
				return false, err
			}
			old = err == nil && info.Size == s.ref.Size && r.now().Sub(info.Modified) >= r.cfg.DeleteDelay
			asked[s.ref.ID] = old
		}
		if old {
			return true, nil
		}
	}
	return false, nil
}

// expire deletes a day of which nothing is to be kept, without reading anything of it.
// Sources go before the segments that replaced them, so that nothing reappears on the way.
func (r *round) expire(ctx context.Context, td tenantDay) error {
	refs, err := r.fresh.Day(ctx, td.tenant, td.day)
	if err != nil {
		return err
	}
	d := &dayState{tenantDay: td}
	for _, ref := range refs {
		d.all = append(d.all, &seg{ref: ref})
	}
	slices.SortFunc(d.all, func(a, b *seg) int {
		return cmp.Or(cmp.Compare(a.ref.Level, b.ref.Level), cmp.Compare(a.ref.ID, b.ref.ID))
	})
	return r.remove(ctx, d, slices.Clone(d.all), "expired")
}

// remove deletes segments in the given order and takes them out of the day.
func (r *round) remove(ctx context.Context, d *dayState, gone []*seg, reason string) error {
	if len(gone) == 0 {
		return nil
	}
	p := Progress{Tenant: d.tenant, Day: d.day, Stage: "delete", Segments: len(gone)}
	for _, s := range gone {
		p.Bytes += s.ref.Size
	}
	r.tell(p)
	defer r.changed(d.tenantDay)
	for _, s := range gone {
		if err := r.store.Delete(ctx, s.ref.Key); err != nil {
			return err
		}
		r.sum.SegmentsDeleted++
		r.metrics.deleted.WithLabelValues(reason).Inc()
		same := func(o *seg) bool { return o == s }
		d.all, d.live = slices.DeleteFunc(d.all, same), slices.DeleteFunc(d.live, same)
	}
	r.logger.InfoContext(ctx, "deleted segments", "tenant", d.tenant, "day", d.day, "reason", reason, "count", len(gone), "bytes", p.Bytes)
	return nil
}

// changed tells the readers of this process to list a day anew.
func (c *Compactor) changed(td tenantDay) {
	if c.shared != nil {
		c.shared.Invalidate(td.tenant, td.day)
	}
}
