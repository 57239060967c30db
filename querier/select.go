package querier

import (
	"context"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/logql/scan"
)

// Source is a place that holds rows: an ingester, or the object store. The context of
// Select must live until the selection is released: blocks may be read over a call that
// ends with it. Series returns each stream once, sorted by labels.
type Source interface {
	Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error)
	Series(ctx context.Context, tenant model.Tenant, req *model.Request) ([]model.Series, error)
}

// Select gathers the blocks of every source and marks the rows that stand twice, so that
// each row of the answer is live exactly once. The rows came here from the ingester's
// memory and local segments and from the object store; they go on to the LogQL engine.
//
// Sources are asked in order, ingesters first: a segment that moves from an ingester to
// the object store meanwhile is then seen twice rather than not at all.
func (q *Querier) Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error) {
	all := &model.Selection{}
	// Delete requests may have to be read too, and are read meanwhile.
	var prepared sync.WaitGroup
	if q.deletes != nil {
		prepared.Go(func() { q.deletes.Prepare(ctx, tenant) })
	}
	defer prepared.Wait()
	asked := *req // of each source, with what those before it have
	for _, src := range q.sources {
		sel, err := src.Select(ctx, tenant, &asked)
		if err != nil {
			all.Release()
			return nil, err
		}
		for _, p := range sel.Parts {
			if p.Segment != "" {
				asked.Held = append(slices.Clip(asked.Held), p.Segment)
			}
		}
		all.Parts = append(all.Parts, sel.Parts...)
		all.Warnings = append(all.Warnings, sel.Warnings...)
	}
	dropMerged(all)
	err := q.markDuplicates(ctx, tenant, all.Parts, req.Stats)
	if err == nil {
		prepared.Wait()
		err = q.hide(ctx, tenant, req, all)
	}
	if err != nil {
		all.Release()
		return nil, err
	}
	return all, nil
}

// dropMerged removes each part that another part was merged from, and each second part of
// one segment: an ingester's local file may be visible beside the object it became.
func dropMerged(sel *model.Selection) {
	merged := map[string]bool{}
	for _, p := range sel.Parts {
		for _, id := range p.MergedFrom {
			merged[id] = true
		}
	}
	kept := sel.Parts[:0]
	for _, p := range sel.Parts {
		if p.Segment == "" || !merged[p.Segment] {
			kept = append(kept, p)
			if p.Segment != "" {
				merged[p.Segment] = true
			}
			continue
		}
		for _, b := range p.Blocks {
			b.Release()
		}
	}
	sel.Parts = kept
}

// boundSelector is a Querier for the tenants of one request; it is what the engine reads.
type boundSelector struct {
	q       *Querier
	tenants []model.Tenant
	// turns has the engine's work done in turns with that of other tenants.
	turns bool
}

// Select answers for one tenant, or for several with the label __tenant_id__ added.
func (s boundSelector) Select(ctx context.Context, req *model.Request) (*model.Selection, error) {
	if len(s.tenants) == 1 {
		return s.q.Select(ctx, s.tenants[0], req)
	}
	wanted, inner := splitTenantMatchers(s.tenants, req)
	selections := make([]*model.Selection, len(wanted))
	var g errgroup.Group // without a context, which would end before the blocks are read
	g.SetLimit(maxTenantsAtOnce)
	for i, tenant := range wanted {
		g.Go(func() (err error) {
			selections[i], err = s.q.Select(ctx, tenant, inner)
			return err
		})
	}
	all := &model.Selection{}
	err := g.Wait()
	for i, sel := range selections {
		if sel == nil {
			continue
		}
		labelTenant(sel, wanted[i])
		all.Parts = append(all.Parts, sel.Parts...)
		all.Warnings = append(all.Warnings, sel.Warnings...)
	}
	if err != nil {
		all.Release()
		return nil, err
	}
	return all, nil
}

// InTurn implements scan.TurnTaker.
func (s boundSelector) InTurn(ctx context.Context, work func() error) error {
	if !s.turns {
		return work()
	}
	return s.q.queues.turns.Do(ctx, queueKey(s.tenants), turns.Queries, work)
}

// maxTenantsAtOnce bounds how many tenants of one query are read in parallel.
const maxTenantsAtOnce = 4

// StreamLabel implements scan.LabelKnower from the indexes of all sources. Streams of
// several tenants have __tenant_id__ besides.
func (s boundSelector) StreamLabel(ctx context.Context, matchers []*labels.Matcher, r model.TimeRange, name string) (bool, error) {
	if len(s.tenants) > 1 && (name == tenantLabel || name == originalTenantLabel) {
		return true, nil
	}
	present := labels.MustNewMatcher(labels.MatchNotEqual, name, "")
	list, err := s.q.series(ctx, s.tenants, &model.Request{
		Matchers: append(slices.Clip(matchers), present), Range: r, Stats: &model.Stats{},
		Warn: func(string) {}, // the selection that follows says so, too
	})
	return len(list) > 0, err
}

var (
	_ scan.LabelKnower = boundSelector{}
	_ scan.TurnTaker   = boundSelector{}
)
