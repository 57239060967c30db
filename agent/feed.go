package agent

import (
	"context"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
	"github.com/skaldlog/skald/agent/stage"
)

// feed brings the entries of a source that is no file through a job's stages into one lane.
// As with files, a pipeline belongs to one sequence of lines: those that come with the same
// labels. Many goroutines may use a feed.
type feed struct {
	lane    *lane
	job     *job
	stuck   atomic.Bool  // give has waited in vain
	blocked atomic.Int64 // a limit stage wants no entries before then; see package clock
	mu      struct {
		sync.Mutex
		pipes map[uint64]*feedPipe
		clock uint64
		out   outlet
	}
}

type feedPipe struct {
	*stage.Pipeline
	labels labels.Labels
	used   uint64
	due    int64 // of its next flush
}

// maxPipes bounds the pipelines of a feed; the ones used last are kept.
const maxPipes = 1024

func newFeed(l *lane, j *job) *feed {
	f := &feed{lane: l, job: j}
	f.mu.pipes = map[uint64]*feedPipe{}
	f.mu.out.lane = l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.feeds = append(l.mu.feeds, f)
	return f
}

// entry is what a source reads.
type entry struct {
	labels labels.Labels
	ts     int64 // ns since 1970
	line   []byte
	meta   []labels.Label
}

// add sends entries through the stages and makes what comes out part of batches. The caller
// holds the origin; whoever needs it longer retains it.
func (f *feed) add(entries []entry, o stage.Origin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		p := f.pipe(e.labels)
		f.mu.out.given = 0
		p.Entry(e.line, e.ts, e.meta, o)
		p.due = 0
		if b := p.Blocked(); b > f.blocked.Load() {
			f.blocked.Store(b)
		}
	}
	f.lane.sender.Commit(&f.mu.out.staging)
}

func (f *feed) pipe(ls labels.Labels) *feedPipe {
	f.mu.clock++
	h := ls.Hash()
	p := f.mu.pipes[h]
	if p != nil && !labels.Equal(p.labels, ls) {
		p.Flush(math.MaxInt64, true) // two sets with one hash: the other goes
		p = nil
	}
	if p == nil {
		f.evict()
		p = &feedPipe{Pipeline: f.job.program.New(ls, &f.mu.out, f.lane.pipeline()), labels: ls}
		f.mu.pipes[h] = p
	}
	p.used = f.mu.clock
	return p
}

// evict makes place for a pipeline.
func (f *feed) evict() {
	if len(f.mu.pipes) < maxPipes {
		return
	}
	oldest, at := uint64(math.MaxUint64), uint64(0)
	for h, p := range f.mu.pipes {
		if p.used < oldest {
			oldest, at = p.used, h
		}
	}
	f.mu.pipes[at].Flush(math.MaxInt64, true)
	delete(f.mu.pipes, at)
}

// flush sends on what stages have kept back for long enough.
func (f *feed) flush(now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.mu.pipes {
		if p.due <= now && p.Pending() {
			p.due = p.Flush(now, false)
		}
	}
	f.lane.sender.Commit(&f.mu.out.staging)
}

// end sends on everything: no more will come.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.mu.pipes {
		p.Flush(math.MaxInt64, true)
	}
	f.lane.sender.Commit(&f.mu.out.staging)
}

// wait waits for room in the lane; false when the context ends.
func (f *feed) wait(ctx context.Context) bool {
	if d := clock.Until(f.blocked.Load()); d > 0 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
		}
	}
	return f.lane.waitRoom(ctx, "")
}

// receipt is an origin that tells when nobody holds it any more: all it stands for has been
// delivered, or dropped on purpose.
type receipt struct {
	refs atomic.Int32
	done func()
}

// newReceipt returns a receipt that the caller holds once.
func newReceipt(done func()) *receipt {
	r := &receipt{done: done}
	r.refs.Store(1)
	return r
}

// Retain implements stage.Origin.
func (r *receipt) Retain() { r.refs.Add(1) }

// Release implements stage.Origin.
func (r *receipt) Release() {
	if r.refs.Add(-1) == 0 {
		r.done()
	}
}

// Covers implements stage.Origin.
func (r *receipt) Covers(later stage.Origin) bool { return later == stage.Origin(r) }

// nothing is the origin of entries that nobody could read again.
type nothing struct{}

// Retain implements stage.Origin.
func (nothing) Retain() {}

// Release implements stage.Origin.
func (nothing) Release() {}

// Covers implements stage.Origin.
func (nothing) Covers(stage.Origin) bool { return true }

// cursor is the position of a source that counts in words: it moves over a piece when that
// piece and all before it have been delivered.
type cursor struct {
	store *positions.Store
	name  string
	mu    struct {
		sync.Mutex
		pending []*piece
	}
}

type piece struct {
	cursor string
	done   bool
}

// newCursor returns the cursor of a job, or of a container, for a lane. The first client's has
// Promtail's name.
func newCursor(l *lane, name string) *cursor {
	name = "cursor-" + name
	if l.key != "" {
		name += " " + l.key
	}
	return &cursor{store: l.rt.store, name: name}
}

func (c *cursor) get() string { return c.store.Cursor(c.name) }

// begin returns the origin of a piece that ends at a cursor, held once by the caller.
func (c *cursor) begin(at string) *receipt {
	p := &piece{cursor: at}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.pending = append(c.mu.pending, p)
	return newReceipt(func() { c.settle(p) })
}

func (c *cursor) settle(p *piece) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.done = true
	n := 0
	for n < len(c.mu.pending) && c.mu.pending[n].done {
		n++
	}
	if n > 0 {
		c.store.SetCursor(c.name, c.mu.pending[n-1].cursor)
		c.mu.pending = append(c.mu.pending[:0], c.mu.pending[n:]...)
	}
}

// relabelEntry applies a job's rules to what a source knows about an entry, and removes what
// is only known inside; false drops the entry. The fixed labels are added at last.
func relabelEntry(b *labels.Builder, rules []*relabel.Config, fixed map[string]string) (labels.Labels, bool) {
	if !relabel.ProcessBuilder(b, rules...) {
		return labels.EmptyLabels(), false
	}
	b.Range(func(l labels.Label) {
		if strings.HasPrefix(l.Name, "__") && l.Name != stage.TenantLabel {
			b.Del(l.Name)
		}
	})
	for k, v := range fixed {
		b.Set(k, v)
	}
	return b.Labels(), true
}

// give adds entries to all feeds. With one, it waits for room. With several, one that has no
// room for a while, because its server is away, misses the entries, so that the others go on.
func give(ctx context.Context, feeds []*feed, entries []entry, o stage.Origin) bool {
	for _, f := range feeds {
		f.take(ctx, entries, o, len(feeds) > 1)
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// take adds entries when there is room, now or soon; false when they are missed.
func (f *feed) take(ctx context.Context, entries []entry, o stage.Origin, others bool) bool {
	ok := f.lane.sender.Room("") && f.blocked.Load() <= clock.Now()
	if !ok && !f.stuck.Load() {
		wait, cancel := ctx, func() {}
		if others {
			wait, cancel = context.WithTimeout(ctx, patience)
		}
		ok = f.wait(wait)
		cancel()
	}
	f.stuck.Store(!ok && others && ctx.Err() == nil)
	if !ok {
		f.lane.rt.agent.metrics.noRoom(f.lane, entries)
		return false
	}
	f.add(entries, o)
	return true
}

// patience is how long a source waits for one of several clients, once; then that one misses
// entries until it has room again.
const patience = 2 * time.Second
