package compact

import (
	"context"
	"slices"
	"time"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
)

// pendingRequests returns the delete requests that are to be applied to a tenant's objects
// now: those that can no longer be canceled. By then ingesters have uploaded the rows that
// they had when the request was made.
func (r *round) pendingRequests(ctx context.Context, tenant model.Tenant) ([]*Request, error) {
	if r.deletes == nil || r.compile == nil || !r.cfg.Retention || r.deletes.mode(tenant) != "filter-and-delete" {
		return nil, nil
	}
	list, err := r.deletes.load(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var pending []*Request
	for i := range list {
		q := &list[i]
		switch {
		case q.Processed > 0:
			if r.now().Sub(time.Unix(0, q.Processed)) > keepProcessed {
				if err := r.deletes.forget(ctx, tenant, q.ID); err != nil {
					return nil, err
				}
			}
		case r.now().Sub(time.Unix(0, q.Created)) < max(r.cfg.CancelPeriod, r.cfg.DeleteDelay):
		default:
			pending = append(pending, q)
		}
	}
	return pending, nil
}

// dayIsDone notes, for the requests among the rules, that no live segment of the day holds
// a row of theirs. That of a damaged segment nobody knows.
func (r *round) dayIsDone(ctx context.Context, d *dayState, u *rules) error {
	if slices.ContainsFunc(d.live, r.isDamaged) {
		return nil
	}
	for _, q := range u.requests {
		q.DaysDone = append(q.DaysDone, d.day)
		if err := r.saveState(ctx, d.tenant, q); err != nil {
			return err
		}
	}
	return nil
}

// daysAmong returns those days that have timestamps of the request.
func (q *Request) daysAmong(days []string) (found []string) {
	for _, day := range days {
		if span, err := catalog.DayRange(day); err == nil && span.Overlaps(q.Start, q.End) {
			found = append(found, day)
		}
	}
	return found
}

// finishRequests marks the requests that have been applied to all of the tenant's days.
func (r *round) finishRequests(ctx context.Context, tenant model.Tenant, pending []*Request, days []string) error {
	for _, q := range pending {
		total, done := 0, 0
		for _, day := range q.daysAmong(days) {
			total++
			if slices.Contains(q.DaysDone, day) {
				done++
			}
		}
		changed := q.Days != total
		q.Days = total
		if done == total {
			changed, q.Processed = true, r.now().UnixNano()
		}
		if !changed {
			continue
		}
		if err := r.saveState(ctx, tenant, q); err != nil {
			return err
		}
		if q.Processed > 0 {
			r.metrics.requests.Inc()
			r.logger.InfoContext(ctx, "delete request processed", "tenant", tenant, "id", q.ID, "days", total)
		}
	}
	return nil
}

// saveState adds to what is stored: other compactors note the days that they look after.
// Two that write at once may lose a day, which its owner then notes in its next round.
func (r *round) saveState(ctx context.Context, tenant model.Tenant, q *Request) error {
	var stored state
	if _, err := r.deletes.get(ctx, stateKey(tenant, q.ID), &stored); err != nil {
		return err
	}
	q.DaysDone = append(q.DaysDone, stored.DaysDone...)
	slices.Sort(q.DaysDone)
	q.DaysDone = slices.Compact(q.DaysDone)
	return r.deletes.put(ctx, tenant, stateKey(tenant, q.ID), state{q.DaysDone, q.Days, q.Processed})
}
