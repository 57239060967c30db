package querier

import (
	"context"
	"runtime"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
)

// markDuplicates finds rows that stand in more than one part and marks all but the first
// as dead. A row is a stream, a timestamp, a line and metadata; inside a part rows are
// unique already.
//
// The price is a merge of timestamps, paid only where two parts hold the same stream at
// overlapping times, and the contents of rows (by RowHash) only where timestamps are
// equal too:
//
//  1. group the runs of all blocks by stream, and keep the pairs of runs that come from
//     different parts and whose blocks overlap in time;
//  2. read the timestamps of those blocks and merge each pair, to learn which blocks have
//     equal timestamps at all;
//  3. read the row hashes of those, merge again and mark.
func markDuplicates(ctx context.Context, parts []model.Part, stats *model.Stats) error {
	if len(parts) < 2 {
		return nil
	}
	pairs := overlappingPairs(parts)
	if len(pairs) == 0 {
		return nil
	}
	if err := load(ctx, pairs, func(ctx context.Context, d *dedupeBlock) (err error) {
		d.times, err = d.Block.Times(ctx)
		return err
	}); err != nil {
		return err
	}
	var equal []pair
	for _, p := range pairs {
		if err := ctx.Err(); err != nil {
			return err
		}
		found := false
		eachEqualTime(p, func(_, _, _, _ int) bool { found = true; return false })
		if found {
			equal = append(equal, p)
		}
	}
	if err := load(ctx, equal, func(ctx context.Context, d *dedupeBlock) (err error) {
		d.hashes, err = d.Block.Hashes(ctx)
		return err
	}); err != nil {
		return err
	}
	for _, p := range equal {
		if err := ctx.Err(); err != nil {
			return err
		}
		markPair(p)
	}
	install(parts, equal, stats)
	return nil
}

// dedupeBlock is a block with what the merge has learned about it. It takes the block's
// place in the selection when some of its rows are dead.
type dedupeBlock struct {
	model.Block
	times  []int64
	hashes []uint64
	dead   model.Bitmap
}

func (d *dedupeBlock) Dead() model.Bitmap { return d.dead }

// runRef is a run of one stream, and the block it stands in.
type runRef struct {
	part  int
	block *dedupeBlock
	run   model.Run
}

// pair is two runs of one stream that may hold equal rows; those of the later part die.
type pair struct{ keep, drop runRef }

// overlappingPairs returns the pairs whose blocks overlap in time, ordered so that a part
// is settled before it settles others.
func overlappingPairs(parts []model.Part) []pair {
	if !anyOverlap(parts) {
		return nil
	}
	streams := groupByStream(parts)
	var pairs []pair
	for _, group := range streams {
		if group[0].part == group[len(group)-1].part {
			continue
		}
		pairs = appendPairs(pairs, group)
	}
	sort.SliceStable(pairs, func(i, j int) bool { return pairs[i].drop.part < pairs[j].drop.part })
	return pairs
}

// anyOverlap spares the grouping when parts follow each other in time, the usual case.
func anyOverlap(parts []model.Part) bool {
	type span struct{ first, last int64 }
	spans := make([]span, 0, len(parts))
	for _, p := range parts {
		if len(p.Blocks) == 0 {
			continue
		}
		s := span{first: 1<<63 - 1, last: -1 << 63}
		for _, b := range p.Blocks {
			first, last := b.Bounds()
			s.first, s.last = min(s.first, first), max(s.last, last)
		}
		spans = append(spans, s)
	}
	sort.Slice(spans, func(i, j int) bool { return spans[i].first < spans[j].first })
	for i := 1; i < len(spans); i++ {
		if spans[i].first <= spans[i-1].last {
			return true
		}
		spans[i].last = max(spans[i].last, spans[i-1].last)
	}
	return false
}

// groupByStream lists each stream's runs in order of parts. Streams are found by hash and
// told apart by their labels.
func groupByStream(parts []model.Part) map[uint64][]runRef {
	groups := map[uint64][]runRef{}
	for i := range parts {
		for _, b := range parts[i].Blocks {
			d := &dedupeBlock{Block: b, dead: b.Dead()}
			for _, run := range b.Runs() {
				groups[run.Hash] = append(groups[run.Hash], runRef{part: i, block: d, run: run})
			}
		}
	}
	return groups
}

func appendPairs(pairs []pair, group []runRef) []pair {
	for i, a := range group {
		firstA, lastA := a.block.Bounds()
		for _, b := range group[i+1:] {
			if a.part == b.part {
				continue
			}
			firstB, lastB := b.block.Bounds()
			if firstA <= lastB && firstB <= lastA && labels.Equal(a.run.Labels, b.run.Labels) {
				pairs = append(pairs, pair{keep: a, drop: b})
			}
		}
	}
	return pairs
}

// load reads a column of every block of the pairs, each once, on all cores.
func load(ctx context.Context, pairs []pair, read func(context.Context, *dedupeBlock) error) error {
	seen := map[*dedupeBlock]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range pairs {
		for _, d := range []*dedupeBlock{p.keep.block, p.drop.block} {
			if !seen[d] {
				seen[d] = true
				g.Go(func() error { return read(ctx, d) })
			}
		}
	}
	return g.Wait()
}

// eachEqualTime calls f for every timestamp that both runs hold, with the rows [k0, k1) of
// the one kept and [d0, d1) of the other; f returns false to stop.
func eachEqualTime(p pair, f func(k0, k1, d0, d1 int) bool) {
	kt, dt := p.keep.block.times, p.drop.block.times
	k, kEnd := p.keep.run.Start, p.keep.run.End
	d, dEnd := p.drop.run.Start, p.drop.run.End
	for k < kEnd && d < dEnd {
		switch {
		case kt[k] < dt[d]:
			k = seek(kt, k, kEnd, dt[d])
		case kt[k] > dt[d]:
			d = seek(dt, d, dEnd, kt[k])
		default:
			ts, k0, d0 := kt[k], k, d
			for k < kEnd && kt[k] == ts {
				k++
			}
			for d < dEnd && dt[d] == ts {
				d++
			}
			if !f(k0, k, d0, d) {
				return
			}
		}
	}
}

// seek returns the first index in [i, end) whose time is not before ts, by galloping: runs
// that interleave move in small steps, runs that do not in large ones.
func seek(times []int64, i, end int, ts int64) int {
	step := 1
	for i+step < end && times[i+step] < ts {
		i += step
		step *= 2
	}
	hi := min(i+step, end)
	return i + sort.Search(hi-i, func(n int) bool { return times[i+n] >= ts })
}

func markPair(p pair) {
	kh, dh := p.keep.block.hashes, p.drop.block.hashes
	eachEqualTime(p, func(k0, k1, d0, d1 int) bool {
		for d := d0; d < d1; d++ {
			for k := k0; k < k1; k++ {
				if kh[k] == dh[d] {
					kill(p.drop.block, d)
					break
				}
			}
		}
		return true
	})
}

func kill(d *dedupeBlock, row int) {
	if d.dead == nil {
		d.dead = model.NewBitmap(d.Rows())
	}
	d.dead.Set(row)
}

// install puts the blocks that have dead rows in the place of the originals.
func install(parts []model.Part, pairs []pair, stats *model.Stats) {
	replaced := map[model.Block]*dedupeBlock{}
	for _, p := range pairs {
		if d := p.drop.block; d.dead != nil {
			replaced[d.Block] = d
		}
	}
	if stats != nil {
		for _, d := range replaced {
			stats.RowsDuplicate.Add(int64(d.dead.Count()))
		}
	}
	for i := range parts {
		for j, b := range parts[i].Blocks {
			if d := replaced[b]; d != nil {
				parts[i].Blocks[j] = d
			}
		}
	}
}
