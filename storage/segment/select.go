package segment

import (
	"context"
	"slices"
	"sort"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// Select returns the blocks that may hold rows of the request. It is called by the
// ingester for local segments and by storage for those in the object store, and goes
// from the cheap to the dear: labels by postings, blocks by their streams and time,
// needles, and only then the stream table. Columns are read when the blocks are.
//
// Considered segments are counted by the caller, who lists them; all else is counted
// here. The blocks must be released.
func (r *Reader) Select(ctx context.Context, req *model.Request) (model.Part, error) {
	stats := req.Stats
	if stats == nil {
		stats = new(model.Stats)
	}
	part := model.Part{Segment: r.footer.id, MergedFrom: r.footer.mergedFrom}
	if r.footer.rows == 0 || !req.Range.Overlaps(r.footer.minTime, r.footer.maxTime) {
		stats.SegmentsPrunedTime.Add(1)
		return part, nil
	}
	wanted, err := r.match(ctx, req.Matchers, stats)
	if err != nil {
		return part, err
	}
	if wanted != nil && wanted.IsEmpty() {
		stats.SegmentsPrunedLabels.Add(1)
		return part, nil
	}
	blocks, err := r.prune(ctx, req, wanted, stats)
	if err != nil || len(blocks) == 0 {
		return part, err
	}
	t, err := r.streams(ctx, stats)
	if err != nil {
		return part, err
	}
	for _, i := range blocks {
		runs := r.runs(t, i, wanted, req.Range)
		if len(runs) == 0 {
			stats.BlocksPrunedLabels.Add(1)
			continue
		}
		part.Blocks = append(part.Blocks, newBlock(r, i, runs, &req.Columns, stats))
	}
	return part, nil
}

// match returns the streams that all matchers accept; nil means all streams.
func (r *Reader) match(ctx context.Context, matchers []*labels.Matcher, stats *model.Stats) (*roaring.Bitmap, error) {
	var wanted *roaring.Bitmap
	for _, m := range matchers {
		p, err := r.postings(ctx, m.Name, stats)
		if err != nil {
			return nil, err
		}
		found := p.match(m, r.footer.streams)
		if wanted == nil {
			wanted = found
		} else {
			wanted.And(found)
		}
		if wanted.IsEmpty() {
			break
		}
	}
	if wanted != nil && wanted.GetCardinality() == uint64(r.footer.streams) {
		return nil, nil
	}
	return wanted, nil
}

// prune returns the numbers of the blocks that may have rows of the request, as far as
// block index and needle index can tell.
func (r *Reader) prune(ctx context.Context, req *model.Request, wanted *roaring.Bitmap, stats *model.Stats) ([]int, error) {
	stats.BlocksConsidered.Add(int64(r.footer.blocks))
	if wanted == nil && len(req.Needles) > 0 && req.Range.Covers(r.footer.minTime, r.footer.maxTime) {
		left, err := r.pruneNeedles(ctx, req.Needles, nil, stats)
		stats.BlocksPrunedNeedle.Add(int64(r.footer.blocks - len(left)))
		return left, err
	}
	all, err := r.blocks()
	if err != nil {
		return nil, err
	}
	left := make([]int, 0, len(all))
	for i := range all {
		if req.Range.Overlaps(all[i].first, all[i].last) {
			left = append(left, i)
		}
	}
	stats.BlocksPrunedTime.Add(int64(len(all) - len(left)))
	before := len(left)
	if wanted != nil {
		// Blocks are in the order of streams, so one walk over the wanted ones suffices.
		next := wanted.Iterator()
		left = slices.DeleteFunc(left, func(i int) bool {
			next.AdvanceIfNeeded(uint32(all[i].stream))
			return !next.HasNext() || int(next.PeekNext()) >= all[i].stream+all[i].streams
		})
	}
	stats.BlocksPrunedLabels.Add(int64(before - len(left)))
	before = len(left)
	left, err = r.pruneNeedles(ctx, req.Needles, left, stats)
	if err != nil {
		return nil, err
	}
	stats.BlocksPrunedNeedle.Add(int64(before - len(left)))
	return left, nil
}

// runs returns the wanted streams' rows in a block. Streams that have no row in the
// time range are left out.
func (r *Reader) runs(t *streamTable, block int, wanted *roaring.Bitmap, span model.TimeRange) []model.Run {
	b := &r.index.blocks[block]
	end := b.row + int64(b.rows)
	var runs []model.Run
	add := func(s int) {
		if !span.Overlaps(t.first[s], t.last[s]) {
			return
		}
		l := t.get(s)
		runs = append(runs, model.Run{Labels: l.labels, Hash: l.hash,
			Start: int(max(t.starts[s], b.row) - b.row), End: int(min(t.starts[s+1], end) - b.row)})
	}
	last := b.stream + b.streams - 1
	if wanted == nil {
		runs = make([]model.Run, 0, b.streams)
		for s := b.stream; s <= last; s++ {
			add(s)
		}
		return runs
	}
	it := wanted.Iterator()
	it.AdvanceIfNeeded(uint32(b.stream))
	for it.HasNext() {
		s := int(it.Next())
		if s > last {
			break
		}
		add(s)
	}
	return runs
}

// Series describes the streams that the request's matchers accept and that have rows in
// its time range, from the indexes alone, sorted by labels. Where a block lies partly in
// the range, its rows are taken to be spread evenly over its time.
func (r *Reader) Series(ctx context.Context, req *model.Request) ([]model.Series, error) {
	if r.footer.rows == 0 || !req.Range.Overlaps(r.footer.minTime, r.footer.maxTime) {
		return nil, nil
	}
	stats := req.Stats
	if stats == nil {
		stats = new(model.Stats)
	}
	wanted, err := r.match(ctx, req.Matchers, stats)
	if err != nil || wanted != nil && wanted.IsEmpty() {
		return nil, err
	}
	t, err := r.streams(ctx, stats)
	if err != nil {
		return nil, err
	}
	each := func(fn func(s int)) {
		if wanted == nil {
			for s := range t.len() {
				fn(s)
			}
			return
		}
		for it := wanted.Iterator(); it.HasNext(); {
			fn(int(it.Next()))
		}
	}
	n := 0
	each(func(s int) {
		if req.Range.Overlaps(t.first[s], t.last[s]) {
			n++
		}
	})
	out := make([]model.Series, 0, n)
	each(func(s int) {
		if req.Range.Overlaps(t.first[s], t.last[s]) {
			out = append(out, r.series(t, s, req.Range))
		}
	})
	return out, nil
}

// series describes one stream inside the range.
func (r *Reader) series(t *streamTable, s int, span model.TimeRange) model.Series {
	out := model.Series{Labels: t.get(s).labels, First: max(t.first[s], span.From), Last: min(t.last[s], span.Through-1)}
	rows := t.starts[s+1] - t.starts[s]
	whole := span.Covers(t.first[s], t.last[s])
	blocks := r.index.blocks
	i := sort.Search(len(blocks), func(i int) bool { return blocks[i].row+int64(blocks[i].rows) > t.starts[s] })
	entries := 0.0
	for ; i < len(blocks) && blocks[i].row < t.starts[s+1]; i++ {
		b := &blocks[i]
		first, last := max(b.first, t.first[s]), min(b.last, t.last[s])
		if !span.Overlaps(first, last) {
			continue
		}
		out.Blocks++
		here := min(t.starts[s+1], b.row+int64(b.rows)) - max(t.starts[s], b.row)
		entries += float64(here) * overlap(first, last, span)
	}
	share := min(1, entries/float64(rows))
	if whole {
		share = 1
	}
	out.Entries = int64(float64(rows)*share + 0.5)
	out.Bytes = int64(float64(t.bytes[s])*share + 0.5)
	return out
}

// overlap returns which part of the closed interval [first, last] lies in the range.
func overlap(first, last int64, span model.TimeRange) float64 {
	if span.Covers(first, last) {
		return 1
	}
	from, through := max(first, span.From), min(last, span.Through-1)
	return (float64(through-from) + 1) / (float64(last-first) + 1)
}
