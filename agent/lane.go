package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/agent/tail"
)

// lane is all that belongs to one client: it shares nothing with the others but the CPU, so
// that none can hold up another.
type lane struct {
	rt      *engine
	name    string // unique
	addr    string // of the server, for metrics
	tenant  string // the client's
	key     string // distinguishes positions and cursors of several clients
	first   bool   // counts what is counted once for all clients
	tailer  *tail.Tailer
	sender  *deliver.Sender
	sources []source // that have a reading for each client
	limiter *rate.Limiter
	blocked atomic.Int64 // readline_rate allows no lines before then; see package clock

	mu struct {
		sync.Mutex
		room  chan struct{} // closed when there is room again
		due   int64         // of the next call of onRoom by resumeAt, 0 when there is none
		feeds []*feed
	}
}

func (rt *engine) addLane(key, host string, cfg deliver.Config, pusher deliver.Pusher) error {
	a := rt.agent
	base := cfg.Name
	for n := 2; rt.hasLane(cfg.Name); n++ {
		cfg.Name = fmt.Sprintf("%s#%d", base, n)
	}
	l := &lane{rt: rt, name: cfg.Name, addr: host, tenant: cfg.Tenant, key: key, first: len(rt.lanes) == 0}
	l.mu.room = make(chan struct{})
	if c := rt.cfg.Limits; c.ReadlineRateEnabled {
		l.limiter = rate.NewLimiter(rate.Limit(c.ReadlineRate), c.ReadlineBurst)
	}
	cfg.Budget = a.opts.Budget
	cfg.Logger, cfg.Step, cfg.DeadLetter = rt.log, a.opts.Step, a.opts.DeadLetter
	cfg.Metrics = a.metrics.deliver
	// Times that the agent gave to lines must be in the journal before the server sees them,
	// and acknowledgements as soon as it has: then a kill repeats exactly what is unsettled.
	cfg.BeforeSend, cfg.AfterSend = rt.store.Flush, rt.store.Flush
	cfg.OnRoom = l.onRoom
	l.sender = deliver.New(cfg, pusher)

	tc := a.opts.Tail
	tc.Client, tc.Logger = key, rt.log.With("client", cfg.Name)
	tc.Step, tc.Now = a.opts.Step, a.opts.Now
	tc.Lost = func(reason string) { a.metrics.lost.WithLabelValues(cfg.Name, reason).Inc() }
	if tc.Scan == 0 {
		tc.Scan = rt.cfg.TargetConfig.SyncPeriod
	}
	var err error
	if l.tailer, err = tail.New(tc, nil, rt.store); err != nil {
		return err
	}
	a.metrics.begin(l)
	rt.lanes = append(rt.lanes, l)
	return nil
}

func (rt *engine) hasLane(name string) bool {
	return slices.ContainsFunc(rt.lanes, func(l *lane) bool { return l.name == name })
}

// onRoom lets readers go on that waited for room.
func (l *lane) onRoom() {
	l.tailer.Resume()
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.mu.room)
	l.mu.room = make(chan struct{})
}

// block makes readers wait until a time of package clock.
func (l *lane) block(until int64) {
	l.blocked.Store(until)
	l.resumeAt(until)
}

// resumeAt lets readers that wait go on at a time of package clock.
func (l *lane) resumeAt(at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.due != 0 && l.mu.due <= at {
		return // they will ask again
	}
	l.mu.due = at
	time.AfterFunc(clock.Until(at), func() {
		l.mu.Lock()
		l.mu.due = 0
		l.mu.Unlock()
		l.onRoom()
	})
}

// waitRoom waits until there is room for a tenant's entries; false when the context ends.
func (l *lane) waitRoom(ctx context.Context, tenant string) bool {
	for {
		l.mu.Lock()
		room := l.mu.room
		l.mu.Unlock()
		if l.blocked.Load() <= clock.Now() && l.sender.Room(tenant) {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-room:
		}
	}
}

// run works until the context ends and the shared sources have ended, then delivers what has
// been read. stopSending ends the requests of its sender, which has been started.
func (l *lane) run(ctx context.Context, stopSending func(), sourcesDone <-chan struct{}, stopTimeout time.Duration) {
	defer stopSending()
	var wg sync.WaitGroup
	for _, s := range l.sources {
		wg.Go(func() { s.run(ctx) })
	}
	flushing, stopFlushing := context.WithCancel(context.WithoutCancel(ctx))
	var flusher sync.WaitGroup
	flusher.Go(func() { l.flushFeeds(flushing) })
	_ = l.tailer.Run(ctx) // ends with ctx and nothing else
	wg.Wait()
	<-sourcesDone
	stopFlushing()
	flusher.Wait()
	for _, f := range l.allFeeds() {
		f.end()
	}
	timer := time.AfterFunc(stopTimeout, stopSending)
	defer timer.Stop()
	l.sender.Stop()
}

func (l *lane) allFeeds() []*feed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.feeds
}

// flushFeeds sends on what stages of feeds have kept back for long enough.
func (l *lane) flushFeeds(ctx context.Context) {
	if len(l.allFeeds()) == 0 {
		return
	}
	tick := time.NewTicker(feedTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, f := range l.allFeeds() {
				f.flush(clock.Now())
			}
		}
	}
}

// feedTick is how exactly max_wait_time of a multiline stage is kept for entries that come
// from no file.
const feedTick = 250 * time.Millisecond
