package deliver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// Pusher takes entries for good when it returns nil. Errors are judged by their kind, see
// package fault, or by StatusError.
type Pusher interface {
	Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error
}

// Config configures a Sender. The zero value of each field means the default.
type Config struct {
	// Name is the client's name in logs and metrics.
	Name string
	// Tenant is used for entries without a tenant of their own; it may be empty.
	Tenant string
	// External labels are added to every stream that does not have them.
	External labels.Labels
	// BatchSize is the size of lines and metadata, in bytes, at which a batch is sent. Default 1 MiB.
	BatchSize int
	// BatchWait is the age at which a batch is sent. Default 250 ms.
	BatchWait time.Duration
	// Timeout bounds one request. Default 10 s.
	Timeout time.Duration
	// MinBackoff and MaxBackoff bound the pause before another attempt. Default 500 ms and 1 min.
	MinBackoff, MaxBackoff time.Duration
	// DropRateLimited drops what a 429 refuses instead of trying again. Somebody must have
	// asked for it.
	DropRateLimited bool
	// Budget bounds the memory of what is not yet acknowledged, in bytes. Default 16 MiB.
	Budget int64
	// BeforeSend is called before each request, for what must be on disk by then; AfterSend
	// when origins have been released.
	BeforeSend, AfterSend func()
	// OnRoom is called when there is room again.
	OnRoom func()
	// DeadLetter receives each entry that the server will not take. It may be nil.
	DeadLetter *DeadLetter
	// Step is called at places where a kill would be worst, with a name for the place; it is
	// for tests. Nil ignores.
	Step    func(place string)
	Logger  *slog.Logger
	Metrics *Metrics
}

func (c *Config) defaults() {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&c.BatchWait, 250*time.Millisecond)
	set(&c.Timeout, 10*time.Second)
	set(&c.MinBackoff, 500*time.Millisecond)
	set(&c.MaxBackoff, time.Minute)
	c.MaxBackoff = max(c.MaxBackoff, c.MinBackoff)
	if c.BatchSize <= 0 {
		c.BatchSize = 1 << 20
	}
	if c.Budget <= 0 {
		c.Budget = 16 << 20
	}
	for _, f := range []*func(){&c.BeforeSend, &c.AfterSend, &c.OnRoom} {
		if *f == nil {
			*f = func() {}
		}
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
}

// Metrics are shared by the senders of an agent.
type Metrics struct {
	sentEntries, sentBytes, dropped, droppedBytes, retries *prometheus.CounterVec

	duration *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
}

// NewMetrics registers the metrics of delivery; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, ls ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "skald_agent_" + name, Help: help}, ls)
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	m := &Metrics{
		sentEntries:  counter("sent_entries_total", "Entries that the server acknowledged.", "client"),
		sentBytes:    counter("sent_bytes_total", "Bytes of lines and metadata that the server acknowledged.", "client"),
		dropped:      counter("dropped_entries_total", "Entries that the server refused for good, by reason.", "client", "reason"),
		droppedBytes: counter("dropped_bytes_total", "Bytes of lines that the server refused for good, by reason.", "client", "reason"),
		retries:      counter("retries_total", "Requests that were tried again, by cause.", "client", "cause"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "skald_agent_request_duration_seconds", Help: "Duration of pushes, by result.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"client", "result"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "skald_agent_unacknowledged_bytes", Help: "Memory of entries that are not yet acknowledged.",
		}, []string{"client"}),
	}
	if reg != nil {
		reg.MustRegister(m.duration, m.inflight)
	}
	return m
}

// begin sets a client's counters to 0: the rate of one that begins with its first increase does not show it.
func (m *Metrics) begin(client string) {
	m.sentEntries.WithLabelValues(client)
	m.sentBytes.WithLabelValues(client)
	for _, reason := range []string{"refused", "too_large", "rate_limited"} {
		m.dropped.WithLabelValues(client, reason)
		m.droppedBytes.WithLabelValues(client, reason)
	}
	m.retries.WithLabelValues(client, "failed")
}

// Sender delivers to one server.
type Sender struct {
	cfg    Config
	pusher Pusher
	log    *slog.Logger

	stopping chan struct{}  // closed when nothing more is committed
	wg       sync.WaitGroup // the tenants' goroutines

	mu struct {
		sync.Mutex
		ctx      context.Context // of requests; nil before Start
		tenants  map[string]*tenantQueue
		inflight int64
		full     bool          // Room has said no
		room     chan struct{} // closed when there is room; nil while nobody waits
		last     error
		lastAt   time.Time
		spare    []*batch
	}
}

// New returns a sender. What is committed before Start waits for it.
func New(cfg Config, pusher Pusher) *Sender {
	cfg.defaults()
	cfg.Metrics.begin(cfg.Name)
	s := &Sender{cfg: cfg, pusher: pusher, log: cfg.Logger.With("client", cfg.Name), stopping: make(chan struct{})}
	s.mu.tenants = map[string]*tenantQueue{}
	return s
}

// Start lets requests be made until Stop, at the latest until ctx ends.
func (s *Sender) Start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.ctx = ctx
	for _, q := range s.mu.tenants {
		q.start()
	}
}

// Stop sends what is waiting, each batch with one attempt, and returns when that is done or
// the context of Start ends. What could not be sent stays unacknowledged.
func (s *Sender) Stop() {
	close(s.stopping)
	s.wg.Wait()
}

// Room reports whether more should be read for a tenant.
func (s *Sender) Room(tenant string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := s.mu.inflight < s.cfg.Budget
	if q := s.mu.tenants[s.tenant(tenant)]; ok && q != nil && len(s.mu.tenants) > 1 {
		// Tenants whose entries are not taken must leave room for the others: a tenant may have
		// as much as is left free, so that n such tenants leave 1/(n+1) of the budget.
		ok = q.waiting < s.cfg.Budget-s.mu.inflight
	}
	if !ok {
		s.mu.full = true
	}
	return ok
}

// Await returns when there is room for a tenant's entries; an error is the context's. It is
// for sources that are not files and can be made to wait.
func (s *Sender) Await(ctx context.Context, tenant string) error {
	for {
		s.mu.Lock()
		if s.mu.room == nil {
			s.mu.room = make(chan struct{})
		}
		room := s.mu.room
		s.mu.Unlock()
		if s.Room(tenant) {
			return nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Status is how many bytes are not yet acknowledged, and when the last request ended and
// with what error, nil when it succeeded.
func (s *Sender) Status() (unacknowledged int64, at time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.inflight, s.mu.lastAt, s.mu.last
}

func (s *Sender) tenant(t string) string {
	if t == "" {
		return s.cfg.Tenant
	}
	return t
}

// external adds the client's labels; an entry's own label wins.
func (s *Sender) external(ls labels.Labels) labels.Labels {
	if s.cfg.External.IsEmpty() {
		return ls
	}
	b := labels.NewBuilder(ls)
	s.cfg.External.Range(func(l labels.Label) {
		if !ls.Has(l.Name) {
			b.Set(l.Name, l.Value)
		}
	})
	return b.Labels()
}

// Commit makes staged entries part of batches and empties the staging. It never blocks.
func (s *Sender) Commit(st *Staging) {
	if st.Empty() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.mu.inflight
	for i := range st.streams {
		s.commit(st, &st.streams[i])
	}
	// Origins that were held for earlier lines come with the last entries of the turn;
	// every batch that holds a part of the turn holds them as well.
	for _, o := range st.held {
		o.Release()
	}
	st.reset()
	s.cfg.Metrics.inflight.WithLabelValues(s.cfg.Name).Add(float64(s.mu.inflight - before))
}

func (s *Sender) commit(st *Staging, stream *staged) {
	q := s.queue(s.tenant(stream.tenant))
	var into *model.Stream
	var current *batch
	for i := range stream.entries {
		e := &stream.entries[i]
		if q.current != nil && q.current.count > 0 && q.current.size+entrySize(e) > s.cfg.BatchSize {
			q.close()
		}
		if q.current == nil {
			q.current = s.spareBatch()
			q.current.born = time.Now()
			q.wake()
		}
		if current != q.current {
			current = q.current
			into = current.stream(stream, s.external)
			current.hold(st)
		}
		was := current.cost()
		current.add(into, e)
		s.mu.inflight += current.cost() - was
		q.waiting += current.cost() - was
	}
}

// hold retains the origins of a turn for a batch.
func (b *batch) hold(st *Staging) {
	for _, list := range [][]Origin{st.origins, st.held} {
		for _, o := range list {
			o.Retain()
			b.origins = append(b.origins, o)
		}
	}
}

// maxSpare is how many delivered batches are kept for use again.
const maxSpare = 4

func (s *Sender) spareBatch() *batch {
	if n := len(s.mu.spare); n > 0 {
		b := s.mu.spare[n-1]
		s.mu.spare = s.mu.spare[:n-1]
		return b
	}
	return newBatch()
}

// delivered ends the life of a batch.
func (s *Sender) delivered(q *tenantQueue, b *batch) {
	cost := b.cost()
	s.cfg.Step("acknowledged")
	b.release()
	s.cfg.Step("released")
	s.cfg.AfterSend()
	b.reset()
	s.mu.Lock()
	s.mu.inflight -= cost
	q.waiting -= cost
	if len(s.mu.spare) < maxSpare {
		s.mu.spare = append(s.mu.spare, b)
	}
	room := s.mu.full
	s.mu.full = false
	if s.mu.room != nil {
		close(s.mu.room)
		s.mu.room = nil
	}
	s.mu.Unlock()
	s.cfg.Metrics.inflight.WithLabelValues(s.cfg.Name).Sub(float64(cost))
	if room {
		s.cfg.OnRoom()
	}
}
