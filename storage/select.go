package storage

import (
	"context"
	"slices"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// Select returns a part for each segment of the tenant that may hold rows of the request,
// in the order of their keys. It comes from the querier; what it returns reads its columns
// from the object store when they are asked for. No row stands in two parts because of a
// merge; a row pushed twice, or kept by two replicas, still may.
func (r *Reader) Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error) {
	pieces, warnings, err := r.query(ctx, tenant, req, segment.NewProbe(req.Needles), func(ctx context.Context, p *piece) (err error) {
		if info := p.reader.Info(); slices.Contains(req.Held, info.ID) {
			p.part = model.Part{Segment: info.ID, MergedFrom: info.MergedFrom}
			return nil
		}
		p.part, err = p.reader.Select(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	selection := &model.Selection{Warnings: warnings}
	for _, p := range pieces {
		if _, cached := r.store.(*object.Cache); cached && req.Stats != nil {
			for i, b := range p.part.Blocks {
				p.part.Blocks[i] = &block{b, req.Stats}
			}
		}
		// Without blocks a part still says which segments of the ingesters it replaces.
		if len(p.part.Blocks) > 0 || len(p.part.MergedFrom) > 0 {
			selection.Parts = append(selection.Parts, p.part)
		}
	}
	return selection, nil
}

// Series describes the tenant's streams that the request selects, sorted by labels, each
// once, from the indexes alone. A row that several segments hold is counted several times.
func (r *Reader) Series(ctx context.Context, tenant model.Tenant, req *model.Request) ([]model.Series, error) {
	pieces, warnings, err := r.query(ctx, tenant, req, nil, func(ctx context.Context, p *piece) (err error) {
		p.series, err = p.reader.Series(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, text := range warnings {
		if req.Warn != nil {
			req.Warn(text)
		}
	}
	lists := make([][]model.Series, 0, len(pieces))
	for _, p := range pieces {
		if len(p.series) > 0 {
			lists = append(lists, p.series)
		}
	}
	return model.MergeSeries(lists), nil
}

// query lists the segments of a request, opens those that the probe does not exclude, reads each that no
// other replaces, and does it all once more when one of these was gone, because the listing was older than a
// merge. What is still missing then, or is corrupt, is an error or a warning.
func (r *Reader) query(ctx context.Context, tenant model.Tenant, req *model.Request, probe *segment.Probe, read readFunc) ([]*piece, []string, error) {
	for attempt := 1; ; attempt++ {
		pieces, err := r.openAll(ctx, tenant, req, probe)
		if err != nil {
			return nil, nil, err
		}
		pieces = withoutReplaced(pieces, req.Range)
		err = r.each(ctx, pieces, func(ctx context.Context, p *piece) error {
			return read(accounted(ctx, req.Stats, false), p)
		})
		if err != nil {
			release(pieces)
			return nil, nil, err
		}
		if attempt == 1 && slices.ContainsFunc(pieces, (*piece).missing) {
			release(pieces)
			r.metrics.relisted.Inc()
			continue // the listing and the readers of what is gone have been forgotten
		}
		warnings, err := r.judge(ctx, pieces)
		if err != nil {
			release(pieces)
			return nil, nil, err
		}
		return pieces, warnings, nil
	}
}

// judge turns damaged segments into warnings, or, without SkipDamaged, into an error.
func (r *Reader) judge(ctx context.Context, pieces []*piece) (warnings []string, err error) {
	for _, p := range pieces {
		if p.damage == nil {
			continue
		}
		r.metrics.damaged.Inc()
		r.logger.ErrorContext(ctx, "a segment cannot be read", "segment", p.ref.Key, "skipped", r.cfg.SkipDamaged, "err", p.damage)
		if !r.cfg.SkipDamaged {
			return nil, p.damage
		}
		warnings = append(warnings, "a segment was left out, the answer may lack rows: "+p.damage.Error())
	}
	return warnings, nil
}

func release(pieces []*piece) {
	for _, p := range pieces {
		for _, b := range p.part.Blocks {
			b.Release()
		}
		p.part = model.Part{}
	}
}
