package ingester

import (
	"context"
	"fmt"

	"github.com/skaldlog/skald/internal/model"
)

// The querier calls Select and Series, in process or over gRPC, for what the object store
// does not have yet, or has had for too short a time to be listed everywhere. Rows come
// from memtables and local segments; a part carries its segment's id, so that the querier
// can leave out what it also finds in the store.

// Select answers with one part for each memtable and local segment that may hold wanted
// rows. Every acknowledged row is in exactly one of them. The caller must Release the
// selection.
func (i *Ingester) Select(ctx context.Context, name model.Tenant, req *model.Request) (*model.Selection, error) {
	v, err := i.view(name, req.Range)
	if err != nil {
		return nil, err
	}
	defer v.release() // blocks have pins of their own
	if req.Stats != nil {
		req.Stats.SegmentsConsidered.Add(int64(v.listed))
		req.Stats.SegmentsPrunedTime.Add(int64(v.listed - len(v.segments)))
	}
	sel := &model.Selection{}
	for _, s := range v.segments {
		part, err := s.selectPart(ctx, req)
		if err != nil {
			sel.Release()
			return nil, fmt.Errorf("local segment %s: %w", s.path, err)
		}
		// Also without blocks: the object store need not look into its copy then.
		sel.Parts = append(sel.Parts, part)
	}
	reading := &reader{memory: i.memory}
	for _, g := range v.generations {
		if err := ctx.Err(); err != nil {
			sel.Release()
			return nil, err
		}
		if blocks := g.selectBlocks(name, req, reading); len(blocks) > 0 {
			sel.Parts = append(sel.Parts, model.Part{Blocks: blocks})
		}
	}
	i.memory.remember(reading)
	return sel, nil
}

func (g *generation) selectBlocks(name model.Tenant, req *model.Request, reading *reader) []model.Block {
	t := g.table(name)
	if t == nil {
		return nil
	}
	lease := reading.lease(g)
	defer lease.done()
	snap := t.snapshot()
	rows := snap.sorted(snap.match(req.Matchers), req.Range)
	if req.Stats != nil {
		req.Stats.MemtableRows.Add(int64(len(rows.refs)))
	}
	return rows.blocks(lease)
}

func (s *localSegment) selectPart(ctx context.Context, req *model.Request) (model.Part, error) {
	part, err := s.reader.Select(ctx, req)
	if err != nil {
		return model.Part{}, err
	}
	part.Segment, part.MergedFrom = s.info.ID, s.info.MergedFrom
	for b := range part.Blocks {
		s.pin()
		part.Blocks[b] = &pinnedBlock{Block: part.Blocks[b], segment: s}
	}
	return part, nil
}

// pinnedBlock keeps its segment's file open until it is released.
type pinnedBlock struct {
	model.Block
	segment *localSegment
}

// Forget implements model.Forgetter.
func (b *pinnedBlock) Forget() { model.Forget(b.Block) }

func (b *pinnedBlock) Release() {
	b.Block.Release()
	if b.segment != nil {
		b.segment.unpin()
		b.segment = nil
	}
}

// Series describes the tenant's streams in the request's range, from indexes alone, sorted
// by labels. A stream is described once, with the sums over memtables and segments; counts
// include rows that were pushed more than once.
func (i *Ingester) Series(ctx context.Context, name model.Tenant, req *model.Request) ([]model.Series, error) {
	v, err := i.view(name, req.Range)
	if err != nil {
		return nil, err
	}
	defer v.release()
	var lists [][]model.Series
	for _, s := range v.segments {
		series, err := s.reader.Series(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("local segment %s: %w", s.path, err)
		}
		lists = append(lists, series)
	}
	for _, g := range v.generations {
		if t := g.table(name); t != nil {
			lists = append(lists, t.series(req))
		}
	}
	return model.MergeSeries(lists), nil
}

// series describes the table's streams, sorted by labels.
func (t *table) series(req *model.Request) []model.Series {
	// Statistics that are newer than the snapshot may know more streams than it.
	snap := t.snapshot()
	_, stats := t.streamStats()
	out := make([]model.Series, 0, len(snap.streams))
	for _, id := range snap.match(req.Matchers) {
		st := &stats[id]
		if st.rows == 0 || !req.Range.Overlaps(st.first, st.last) {
			continue
		}
		share := overlap(req.Range, st.first, st.last)
		out = append(out, model.Series{
			Labels:  snap.streams[id].labels,
			Entries: int64(float64(st.rows)*share + 0.5), Bytes: int64(float64(st.bytes)*share + 0.5),
			Blocks: 1, First: st.first, Last: st.last,
		})
	}
	return out
}

// overlap returns the share of the closed interval [first, last] that lies in r.
func overlap(r model.TimeRange, first, last int64) float64 {
	if r.Covers(first, last) {
		return 1
	}
	whole := float64(last) - float64(first) + 1
	return (float64(min(last, r.Through-1)) - float64(max(first, r.From)) + 1) / whole
}
