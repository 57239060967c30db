package object

import (
	"context"
	"flag"
	"sync/atomic"
	"time"
)

// HedgeConfig says when a slow read is asked for a second time.
type HedgeConfig struct {
	// After is how long a read may take before that; 0 means never.
	After time.Duration
}

func (c *HedgeConfig) registerFlags(fs *flag.FlagSet) {
	fs.DurationVar(&c.After, "storage.hedge-after", 300*time.Millisecond, "Time after which a read that a remote object store has not answered is asked a second time, and the first answer counts; at most one read in twenty is. 0 never does it.")
}

// A read earns the right to a twentieth of a second request, and a few can be saved up: a
// store that is slow as a whole must not get twice the load.
const (
	hedgeShare = 20
	hedgeSaved = 10 * hedgeShare
	// hedgeBytes bounds the reads that are asked twice: large ones take their time.
	hedgeBytes = 4 << 20
)

type hedging struct {
	Store
	after   time.Duration
	saved   atomic.Int64 // in parts of hedgeShare
	metrics *Metrics
}

// Hedge asks a second time for reads of a range that take longer than cfg.After, and takes
// the answer that comes first; the other request is canceled.
func Hedge(s Store, cfg HedgeConfig, metrics *Metrics) Store {
	if cfg.After <= 0 {
		return s
	}
	if metrics == nil {
		metrics = NewMetrics(nil)
	}
	h := &hedging{Store: s, after: cfg.After, metrics: metrics}
	h.saved.Store(hedgeSaved)
	return h
}

func (h *hedging) Remote() bool { return Remote(h.Store) }

// spend takes what a second request costs, if it is there.
func (h *hedging) spend() bool {
	if h.saved.Add(-hedgeShare) >= 0 {
		return true
	}
	h.saved.Add(hedgeShare)
	return false
}

func (h *hedging) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	if len(p) > hedgeBytes {
		return h.Store.ReadAt(ctx, key, p, off)
	}
	if h.saved.Add(1) > hedgeSaved {
		h.saved.Add(-1)
	}
	// Each request has a context of its own, and is waited for in any case: the first one
	// writes to p, which is the caller's again when this returns.
	ask := func(p []byte) (answer chan error, cancel context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		answer = make(chan error, 1)
		go func() { answer <- h.Store.ReadAt(ctx, key, p, off) }()
		return answer, cancel
	}
	first, cancelFirst := ask(p)
	defer cancelFirst()
	timer := time.NewTimer(h.after)
	defer timer.Stop()
	select {
	case err := <-first:
		return err
	case <-timer.C:
	}
	if !h.spend() {
		return <-first
	}
	again := make([]byte, len(p))
	second, cancelSecond := ask(again)
	defer cancelSecond()
	won := "second"
	select {
	case err := <-first:
		if won = "first"; err == nil {
			cancelSecond()
			<-second
			break
		}
		// It failed; what is under way may still do.
		if <-second != nil {
			return err
		}
		won = "second"
		copy(p, again)
	case err := <-second:
		if err != nil {
			return <-first
		}
		cancelFirst()
		<-first
		copy(p, again)
	}
	h.metrics.hedged.WithLabelValues(won).Inc()
	return nil
}
