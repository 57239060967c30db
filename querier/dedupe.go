package querier

import (
	"cmp"
	"context"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/turns"
)

// markDuplicates finds rows that stand in more than one part and marks all but those of
// the first part as dead. A row is a stream, a timestamp, a line and metadata; inside a
// part rows are unique already. A block without a live row is given back at once.
//
// The price is a merge of timestamps, paid only where two parts hold the same stream at
// overlapping times, and the contents of rows (by RowHash) only where timestamps are
// equal too:
//
//  1. find the blocks that overlap a block of another part in time, and group their runs
//     by stream;
//  2. read the timestamps of those that share a stream with such a block, and merge runs
//     that overlap, to learn which blocks have equal timestamps at all;
//  3. read the row hashes of those, merge again and mark.
//
// With several replicas everything overlaps, so nothing is kept per pair of runs: memory
// grows with the number of runs only. The order of marking does not matter, because the
// first of equal rows is never marked, whoever marks the others. What is read counts in the
// budget, and is not kept for the query itself.
func markDuplicates(ctx context.Context, parts []model.Part, stats *model.Stats, budget *dedupeBudget, inTurn inTurnFunc) error {
	if len(parts) < 2 {
		return nil
	}
	groups := groupByStream(parts)
	if len(groups) == 0 {
		return nil
	}
	release, err := budget.take(ctx, groups)
	if err != nil {
		return err
	}
	defer release()
	if err := load(ctx, groups, inTurn, func(*dedupeBlock) bool { return true }, func(ctx context.Context, d *dedupeBlock) (err error) {
		d.times, err = d.Block.Times(ctx)
		return err
	}); err != nil {
		return err
	}
	var equal []group
	for _, g := range groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		found := false
		g.eachPair(func(keep, drop *runRef) {
			eachEqualTime(keep, drop, func(_, _, _, _ int) bool {
				found, keep.block.compared, drop.block.compared = true, true, true
				return false
			})
		})
		if found {
			equal = append(equal, g)
		}
	}
	if err := load(ctx, equal, inTurn, func(d *dedupeBlock) bool { return d.compared }, func(ctx context.Context, d *dedupeBlock) (err error) {
		d.hashes, err = d.Block.Hashes(ctx)
		return err
	}); err != nil {
		return err
	}
	for _, g := range equal {
		if err := ctx.Err(); err != nil {
			return err
		}
		g.eachPair(mark)
	}
	install(parts, equal, stats)
	return nil
}

// markDuplicates reads blocks in the tenant's turn.
func (q *Querier) markDuplicates(ctx context.Context, tenant model.Tenant, parts []model.Part, stats *model.Stats) error {
	return markDuplicates(ctx, parts, stats, q.dedupe, func(ctx context.Context, work func() error) error {
		return q.queues.turns.Do(ctx, string(tenant), turns.Queries, work)
	})
}

// dedupeBlock is a block with what the merge has learned about it. It takes the block's
// place in the selection when some of its rows are dead.
type dedupeBlock struct {
	model.Block
	times    []int64
	hashes   []uint64
	compared bool // some row has a time that a row of another part has
	dead     model.Bitmap
}

func (d *dedupeBlock) Dead() model.Bitmap { return d.dead }

// runRef is a run of one stream, and the block it stands in.
type runRef struct {
	part        int
	block       *dedupeBlock
	run         model.Run
	first, last int64
}

// group is the runs of one stream.
type group []runRef

// interval is a closed range of time.
type interval struct{ first, last int64 }

// covers are the times that the blocks of each part cover, as intervals that follow each
// other without touching.
func covers(parts []model.Part) [][]interval {
	out := make([][]interval, len(parts))
	for i := range parts {
		var all []interval
		for _, b := range parts[i].Blocks {
			first, last := b.Bounds()
			all = append(all, interval{first, last})
		}
		slices.SortFunc(all, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
		joined := all[:0]
		for _, next := range all {
			if n := len(joined); n > 0 && next.first <= joined[n-1].last {
				joined[n-1].last = max(joined[n-1].last, next.last)
				continue
			}
			joined = append(joined, next)
		}
		out[i] = joined
	}
	return out
}

// meets reports whether one of the intervals overlaps a block.
func meets(covered []interval, b model.Block) bool {
	first, last := b.Bounds()
	i := sort.Search(len(covered), func(i int) bool { return covered[i].last >= first })
	return i < len(covered) && covered[i].first <= last
}

// groupByStream returns the runs of each stream that has some in several parts. Streams
// are found by hash and told apart by their labels.
func groupByStream(parts []model.Part) []group {
	covered := covers(parts)
	byHash := map[uint64]group{}
	for i := range parts {
		for _, b := range parts[i].Blocks {
			alone := true
			for j := range parts {
				alone = alone && (i == j || !meets(covered[j], b))
			}
			if alone {
				continue // the usual case: parts follow each other in time
			}
			d := &dedupeBlock{Block: b, dead: b.Dead()}
			for _, run := range b.Runs() {
				byHash[run.Hash] = append(byHash[run.Hash], runRef{part: i, block: d, run: run})
			}
		}
	}
	var groups []group
	for _, g := range byHash {
		if g[0].part != g[len(g)-1].part {
			groups = append(groups, g)
		}
	}
	return groups
}

// inTurnFunc runs work in the tenant's turn.
type inTurnFunc func(ctx context.Context, work func() error) error

// load reads a column of the groups' blocks, each once and in its turn, on all cores.
func load(ctx context.Context, groups []group, inTurn inTurnFunc, wanted func(*dedupeBlock) bool, read func(context.Context, *dedupeBlock) error) error {
	seen := map[*dedupeBlock]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cores.Count())
	for _, runs := range groups {
		for i := range runs {
			if d := runs[i].block; !seen[d] && wanted(d) {
				seen[d] = true
				g.Go(func() error {
					return inTurn(ctx, func() error { return read(ctx, d) })
				})
			}
		}
	}
	return g.Wait()
}

// eachPair calls f for the runs of different parts that overlap in time, the earlier part
// first.
func (g group) eachPair(f func(keep, drop *runRef)) {
	for i := range g {
		r := &g[i]
		r.first, r.last = r.block.times[r.run.Start], r.block.times[r.run.End-1]
	}
	slices.SortFunc(g, func(a, b runRef) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.part, b.part)) })
	for i := range g {
		a := &g[i]
		for j := i + 1; j < len(g) && g[j].first <= a.last; j++ {
			b := &g[j]
			switch {
			case a.part == b.part || !labels.Equal(a.run.Labels, b.run.Labels):
			case a.part < b.part:
				f(a, b)
			default:
				f(b, a)
			}
		}
	}
}

// eachEqualTime calls f for every timestamp that both runs hold, with the rows [k0, k1) of
// the one kept and [d0, d1) of the other; f returns false to stop.
func eachEqualTime(keep, drop *runRef, f func(k0, k1, d0, d1 int) bool) {
	kt, dt := keep.block.times, drop.block.times
	k, kEnd := keep.run.Start, keep.run.End
	d, dEnd := drop.run.Start, drop.run.End
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

// mark kills the rows of a run that another one, of an earlier part, holds too.
func mark(keep, drop *runRef) {
	kh, dh := keep.block.hashes, drop.block.hashes
	if kh == nil || dh == nil {
		return // no equal times
	}
	eachEqualTime(keep, drop, func(k0, k1, d0, d1 int) bool {
		for d := d0; d < d1; d++ {
			if slices.Contains(kh[k0:k1], dh[d]) {
				kill(drop.block, d)
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

// install puts the blocks that have dead rows in the place of the originals, and gives
// back those that have no other rows.
func install(parts []model.Part, groups []group, stats *model.Stats) {
	replaced := map[model.Block]*dedupeBlock{}
	for _, g := range groups {
		for i := range g {
			if d := g[i].block; d.dead != nil {
				replaced[d.Block] = d
			}
		}
	}
	for i := range parts {
		kept := parts[i].Blocks[:0]
		for _, b := range parts[i].Blocks {
			d := replaced[b]
			if d == nil {
				kept = append(kept, b)
				continue
			}
			dead := d.dead.Count()
			if stats != nil {
				stats.RowsDuplicate.Add(int64(dead))
			}
			if dead == selectedRows(b) {
				b.Release()
				continue
			}
			// Lines of dead rows need not come from another process.
			if far, ok := b.(interface{ Skip(model.Bitmap) }); ok {
				far.Skip(d.dead)
			}
			kept = append(kept, d)
		}
		parts[i].Blocks = kept
	}
}

// selectedRows is the number of rows in the block's runs.
func selectedRows(b model.Block) (n int) {
	for _, run := range b.Runs() {
		n += run.End - run.Start
	}
	return n
}
