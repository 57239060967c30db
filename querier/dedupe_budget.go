package querier

import (
	"context"
	"math"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/semaphore"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// dedupeBudget is the memory of all queries that look for duplicates at a time. A query takes
// once, before it reads, what it can come to need, so that no two wait for each other.
type dedupeBudget struct {
	limit int64 // of all
	most  int64 // of one; one that needs more than the limit is alone
	free  *semaphore.Weighted
}

func newDedupeBudget(cfg Config) *dedupeBudget {
	limit := cfg.DedupeBytes
	if limit <= 0 {
		limit = math.MaxInt64
	}
	return &dedupeBudget{limit: limit, most: max(limit, cfg.MaxMemory), free: semaphore.NewWeighted(limit)}
}

// rowBytes is what a row takes: its time, and its hash.
const rowBytes = 8 + 8

// take waits until the groups' columns fit, and returns what gives the memory back.
func (b *dedupeBudget) take(ctx context.Context, groups []group) (release func(), err error) {
	rows := int64(0)
	seen := map[*dedupeBlock]bool{}
	for _, g := range groups {
		for i := range g {
			if d := g[i].block; !seen[d] {
				seen[d] = true
				rows += int64(d.Rows())
			}
		}
	}
	need := rows * rowBytes
	if need > b.most {
		return nil, fault.New(fault.Invalid, "the query selects %s rows of streams that several replicas or segments hold at the same times; to compare them takes %s of memory, more than %s; "+
			"reduce the time range, select fewer streams, or raise -querier.dedupe-bytes", humanize.Comma(rows), humanize.IBytes(uint64(need)), humanize.IBytes(uint64(b.most)))
	}
	taken := min(need, b.limit)
	if err := b.free.Acquire(ctx, taken); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() {
		// A little may stay where it is: to read it twice would cost more.
		if need > b.limit/64 {
			for d := range seen {
				d.times, d.hashes = nil, nil
				model.Forget(d.Block)
			}
		}
		b.free.Release(taken)
	}, nil
}
