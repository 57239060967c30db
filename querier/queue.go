package querier

import (
	"context"
	"math"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/turns"
)

// queues are the places that a querier hands out.
type queues struct {
	// queries are evaluated; slices are parts of queries, of this and other queriers. They
	// are counted apart, because a query waits for its slices.
	queries, slices *turns.Queue
	// turns are the right to keep a core busy. A query gives its turn back after every block,
	// so that a small one does not wait for large ones.
	turns *turns.Queue
}

func newQueues(cfg Config, reg prometheus.Registerer) queues {
	q := queues{
		queries: turns.New(cfg.MaxConcurrent, max(1, cfg.MaxOutstanding), turns.LeavingRoom),
		slices:  turns.New(max(4, 2*cores.Count()), math.MaxInt, turns.LeavingOne),
		turns:   cfg.Turns,
	}
	if q.turns == nil {
		q.turns = turns.ForCores()
	}
	gauge := func(name, help string, value func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "skald_querier_" + name, Help: help}, func() float64 { return float64(value()) }))
	}
	gauge("waiting_queries", "Queries waiting for their turn.", func() int { n, _ := q.queries.Sizes(); return n })
	gauge("running_queries", "Queries being evaluated.", func() int { _, n := q.queries.Sizes(); return n })
	gauge("waiting_slices", "Slices of queries waiting for their turn.", func() int { n, _ := q.slices.Sizes(); return n })
	gauge("running_slices", "Slices of queries being evaluated.", func() int { _, n := q.slices.Sizes(); return n })
	gauge("reading_blocks", "Turns to keep a core busy that are held: blocks being read, answers being printed, in a process with both roles also pushes being decoded.", func() int { _, n := q.turns.Sizes(); return n })
	return q
}

// queueKey names the tenants of a query in queues.
func queueKey(tenants []model.Tenant) string {
	names := make([]string, len(tenants))
	for i, t := range tenants {
		names[i] = string(t)
	}
	return strings.Join(names, "|")
}

// takeTurns has the engine read the blocks of a selection in turns.
func (q *Querier) takeTurns(sel *model.Selection, key string) {
	for i := range sel.Parts {
		for j, b := range sel.Parts[i].Blocks {
			sel.Parts[i].Blocks[j] = &turnBlock{Block: b, turns: q.queues.turns, key: key}
		}
	}
}

// turnBlock is a block that is read in its tenant's turn: from when its times are there until
// it is released. Whoever reads it must hold no other block in the same goroutine, or turns
// could run out while all wait.
type turnBlock struct {
	model.Block
	turns *turns.Queue
	key   string
	leave func()
}

func (b *turnBlock) enter(ctx context.Context) (err error) {
	if b.leave == nil {
		b.leave, err = b.turns.Enter(ctx, b.key, turns.Queries)
	}
	return err
}

// Times is what is read first. It fetches the block's columns, or a first one, which may
// mean to wait for the object store or another process; the turn begins after that, so
// that those who wait for bytes do not keep those who have some from the cores.
func (b *turnBlock) Times(ctx context.Context) ([]int64, error) {
	times, err := b.Block.Times(ctx)
	if err == nil {
		err = b.enter(ctx)
	}
	return times, err
}

func (b *turnBlock) Offsets(ctx context.Context) ([]uint32, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	return b.Block.Offsets(ctx)
}

func (b *turnBlock) Lines(ctx context.Context) ([]byte, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	return b.Block.Lines(ctx)
}

func (b *turnBlock) Metadata(ctx context.Context, name string) (model.Column, error) {
	if err := b.enter(ctx); err != nil {
		return model.Column{}, err
	}
	return b.Block.Metadata(ctx, name)
}

// Release gives the turn back too.
func (b *turnBlock) Release() {
	b.Block.Release()
	if b.leave != nil {
		b.leave()
		b.leave = nil
	}
}
