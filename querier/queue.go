package querier

import (
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
	// turns are the right to keep a core busy. A query takes one for every block, so that a
	// small one does not wait for large ones.
	turns *turns.Cores
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
