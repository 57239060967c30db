package querier

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

const (
	// recentRows is the number of rows of a generation that a merged tail remembers to tell
	// the copies of replicas; it knows the last two generations. So a replica may lag by as
	// many rows as that behind another, which is seconds at the highest rates, and a tail
	// takes at most a few megabytes, at these rates only.
	recentRows = 64 << 10
	// tailRetry is the pause before a broken subscription is tried again, and how often the
	// ring is looked at for ingesters that have come or gone.
	tailRetry = time.Second
	// tailGrace is how long too few subscriptions may stand before the tail ends: long
	// enough to come back from a blink, short enough that few rows can be missed.
	tailGrace = 5 * time.Second
)

// mergedTail is subscriptions to all replicas, whose rows come out once.
type mergedTail struct {
	owner    *Ingesters
	tenant   model.Tenant
	matchers []*labels.Matcher
	ctx      context.Context
	cancel   context.CancelFunc
	out      chan model.TailBatch // of one batch, so that slow readers slow subscriptions
	broken   chan struct{}        // closed when too few subscriptions stand
	wg       sync.WaitGroup
	mu       struct {
		sync.Mutex
		subs          map[string]*replicaTail // by address
		recent, older map[uint64]struct{}
		dropped       map[string]int // entries dropped without a name, by replica
		reported      int            // of these, the most of any replica
	}
}

// replicaTail is the subscription to one replica.
type replicaTail struct {
	replica Replica
	cancel  context.CancelFunc
	stands  bool
}

// Tail subscribes to all replicas of a tenant and returns when those that stand are
// enough. Subscriptions that break are renewed, and those to ingesters that join are
// added; when too few stand for long, Next fails.
func (g *Ingesters) Tail(ctx context.Context, tenant model.Tenant, matchers []*labels.Matcher) (model.Tail, error) {
	t := &mergedTail{owner: g, tenant: tenant, matchers: matchers, out: make(chan model.TailBatch), broken: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.mu.subs, t.mu.recent, t.mu.dropped = map[string]*replicaTail{}, map[uint64]struct{}{}, map[string]int{}
	good, _, err := ask(t.ctx, g, tenant, func(ctx context.Context, h Holder) (model.Tail, error) {
		return h.Tail(ctx, tenant, matchers)
	}, func(sub model.Tail) { sub.Close() })
	if err != nil {
		t.cancel()
		return nil, err
	}
	for _, r := range good {
		t.start(r.replica, r.value)
	}
	t.wg.Go(t.watch)
	return t, nil
}

// start follows a replica; sub is a subscription that stands, or nil.
func (t *mergedTail) start(r Replica, sub model.Tail) {
	ctx, cancel := context.WithCancel(t.ctx)
	s := &replicaTail{replica: r, cancel: cancel, stands: sub != nil}
	t.mu.Lock()
	t.mu.subs[r.Addr] = s
	t.mu.Unlock()
	t.wg.Go(func() {
		defer cancel()
		t.follow(ctx, s, sub)
	})
}

// watch follows the ring, and ends the tail when too few subscriptions stand.
func (t *mergedTail) watch() {
	tick := time.NewTicker(tailRetry)
	defer tick.Stop()
	var short time.Time // since when too few stand
	warned := false
	for {
		all := t.owner.ring.Ingesters(t.tenant)
		var missing, fresh []Replica
		t.mu.Lock()
		for _, r := range all {
			switch s := t.mu.subs[r.Addr]; {
			case s == nil:
				fresh = append(fresh, r)
				missing = append(missing, r)
			case !s.stands:
				missing = append(missing, r)
			}
		}
		for addr, s := range t.mu.subs {
			if !slices.ContainsFunc(all, func(r Replica) bool { return r.Addr == addr }) {
				s.cancel()
				delete(t.mu.subs, addr)
			}
		}
		t.mu.Unlock()
		for _, r := range fresh {
			t.start(r, nil)
		}
		switch {
		case t.owner.tolerable(all, missing):
			short, warned = time.Time{}, false
		case short.IsZero():
			short = time.Now()
		case time.Since(short) <= tailGrace || warned:
		case t.owner.cfg.Partial == partialWarn:
			warned = true
			select {
			case t.out <- model.TailBatch{Warnings: []string{"incomplete: " + t.lost()}}:
			case <-t.ctx.Done():
				return
			}
		default:
			close(t.broken)
			return
		}
		select {
		case <-tick.C:
		case <-t.ctx.Done():
			return
		}
	}
}

// follow passes on what a replica sends, and subscribes again when it breaks off.
func (t *mergedTail) follow(ctx context.Context, s *replicaTail, sub model.Tail) {
	for {
		if sub == nil {
			var err error
			if sub, err = t.owner.dial(s.replica).Tail(ctx, t.tenant, t.matchers); err != nil {
				sub = nil
			}
			t.setStands(s, sub != nil)
		}
		if sub != nil {
			t.pump(ctx, s.replica, sub)
			sub.Close()
			sub = nil
			t.setStands(s, false)
		}
		pause := time.NewTimer(tailRetry)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

func (t *mergedTail) setStands(s *replicaTail, stands bool) {
	t.mu.Lock()
	s.stands = stands
	t.mu.Unlock()
}

func (t *mergedTail) pump(ctx context.Context, r Replica, sub model.Tail) {
	for {
		batch, err := sub.Next(ctx)
		if err != nil {
			return
		}
		if batch = t.fresh(r, batch); len(batch.Streams) == 0 && len(batch.Dropped) == 0 && batch.DroppedMore == 0 {
			continue
		}
		select {
		case t.out <- batch:
		case <-ctx.Done():
			return
		}
	}
}

// fresh takes out of a batch what another replica has brought already. Entries that were
// dropped are named once; of those without a name, the replica that dropped most counts.
func (t *mergedTail) fresh(r Replica, batch model.TailBatch) model.TailBatch {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := batch.Streams[:0]
	for _, s := range batch.Streams {
		stream := s.Labels.Hash()
		entries := s.Entries[:0:0] // the entries may be shared with other tails
		for i := range s.Entries {
			e := &s.Entries[i]
			if t.news(mix(mix(stream^uint64(e.Timestamp)) ^ model.RowHash(e.Line, e.Metadata))) {
				entries = append(entries, *e)
			}
		}
		if len(entries) > 0 {
			kept = append(kept, model.Stream{Labels: s.Labels, Entries: entries})
		}
	}
	batch.Streams = kept
	batch.Dropped = slices.DeleteFunc(batch.Dropped, func(d model.Dropped) bool {
		return !t.news(mix(mix(d.Labels.Hash()^uint64(d.Timestamp)) ^ 0xd509))
	})
	t.mu.dropped[r.Addr] += batch.DroppedMore
	batch.DroppedMore = max(0, t.mu.dropped[r.Addr]-t.mu.reported)
	t.mu.reported += batch.DroppedMore
	return batch
}

// news reports whether a key has not been seen, and remembers it; called with mu held.
func (t *mergedTail) news(key uint64) bool {
	if _, known := t.mu.recent[key]; known {
		return false
	}
	if _, known := t.mu.older[key]; known {
		return false
	}
	if len(t.mu.recent) == recentRows {
		t.mu.recent, t.mu.older = map[uint64]struct{}{}, t.mu.recent
	}
	t.mu.recent[key] = struct{}{}
	return true
}

// mix spreads every bit of x over the result (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Next waits for rows.
func (t *mergedTail) Next(ctx context.Context) (model.TailBatch, error) {
	select {
	case batch := <-t.out:
		return batch, nil
	case <-t.broken:
		return model.TailBatch{}, fault.New(fault.Unavailable, "%s", t.lost())
	case <-t.ctx.Done():
		return model.TailBatch{}, fmt.Errorf("the tail is over: %w", context.Cause(t.ctx))
	case <-ctx.Done():
		return model.TailBatch{}, ctx.Err()
	}
}

// lost says which subscriptions do not stand.
func (t *mergedTail) lost() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var missing []string
	for _, s := range t.mu.subs {
		if !s.stands {
			missing = append(missing, s.replica.ID)
		}
	}
	slices.Sort(missing)
	return "the tail has lost too many ingesters, rows might be missing: " + strings.Join(missing, ", ")
}

// Close ends all subscriptions, and waits for their ends.
func (t *mergedTail) Close() {
	t.cancel()
	t.wg.Wait()
}
