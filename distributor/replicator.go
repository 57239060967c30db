package distributor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/turns"
)

// ReplicatorConfig says how entries are spread over ingesters.
type ReplicatorConfig struct {
	// Factor is the number of ingesters that hold each entry.
	Factor int
	// Timeout is how long one ingester may take to store what it was sent.
	Timeout time.Duration
	// QueueBytes and QueuePushes bound what one ingester has not answered yet. Beyond them
	// it is left out, and another one takes its place.
	QueueBytes  int64
	QueuePushes int
	// MemoryBytes bounds what is on its way to all ingesters. Beyond it pushes are refused.
	MemoryBytes int64
	// Turns are the turns to keep a core busy that this process hands out; nil means that
	// it is the replicator's alone.
	Turns *turns.Cores
	// Compression of entries on their way.
	Compression remote.Compression
}

// MaxFactor is the largest replication factor.
const MaxFactor = 7

// RegisterFlags declares the settings with their defaults, but for the factor and the
// compression, which others need too.
func (c *ReplicatorConfig) RegisterFlags(fs *flag.FlagSet) {
	fs.DurationVar(&c.Timeout, "distributor.replica-timeout", 5*time.Second, "How long an ingester may take to store what a distributor sent. One that is silent for half of it is left out until it answers.")
	fs.Int64Var(&c.QueueBytes, "distributor.replica-queue-bytes", 64<<20, "Bytes on their way to one ingester that it has not acknowledged. Beyond it the ingester is left out, and the next one on the ring takes its place.")
	fs.IntVar(&c.QueuePushes, "distributor.replica-queue-pushes", 2000, "The same as a number of pushes.")
	fs.Int64Var(&c.MemoryBytes, "distributor.replica-memory-bytes", 256<<20, "Memory for all entries on their way to ingesters, those included that were acknowledged at quorum and still go to a slow one. Beyond it pushes get 503 and Retry-After.")
}

// Validate checks the settings.
func (c *ReplicatorConfig) Validate() error {
	switch {
	case c.Factor < 1 || c.Factor > MaxFactor:
		return fmt.Errorf("replication.factor: got %d, want 1 to %d", c.Factor, MaxFactor)
	case c.Timeout <= 0:
		return fmt.Errorf("distributor.replica-timeout: got %s, want more than 0", c.Timeout)
	case c.QueueBytes <= 0:
		return fmt.Errorf("distributor.replica-queue-bytes: got %d, want more than 0", c.QueueBytes)
	case c.QueuePushes <= 0:
		return fmt.Errorf("distributor.replica-queue-pushes: got %d, want more than 0", c.QueuePushes)
	case c.MemoryBytes <= 0:
		return fmt.Errorf("distributor.replica-memory-bytes: got %d, want more than 0", c.MemoryBytes)
	}
	return nil
}

// RemotePusher is an ingester in another process. *remote.Client is one.
type RemotePusher interface {
	PushParts(ctx context.Context, tenant model.Tenant, parts []*remote.Part) error
}

// Cluster is what a Replicator knows of the others.
type Cluster struct {
	// View returns the ring as it is now.
	View func() *ring.View
	// Remote returns the ingester at an address.
	Remote func(addr string) RemotePusher
	// Self is the ID of this process, and Local its ingester; nil when it has none.
	Self  string
	Local Pusher
}

// Replicator is the Pusher in front of a ring: it sends every stream to its replicas at
// once, and returns when a quorum of them has it durably. What is still on its way then
// goes on in the background.
//
//   - Acknowledged means stored on at least ⌊Factor/2⌋+1 ingesters.
//   - An error of kind fault.Unavailable names the streams that are on fewer, and why; a
//     retry is safe, because an entry is stored once however often it is pushed.
//   - Any other error is the ingesters' own refusal of some streams, while all others are
//     stored.
//
// It is safe for concurrent use. Its goroutines end with the deliveries they carry, which
// Run waits for.
type Replicator struct {
	cfg     ReplicatorConfig
	cluster Cluster
	limits  limits.Source
	logger  *slog.Logger
	metrics *replicatorMetrics
	hot     hotStreams
	memory  atomic.Int64

	// base is what deliveries in the background live under: clients come and go.
	base   context.Context
	cancel context.CancelFunc

	mu struct {
		sync.Mutex
		peers   map[string]*peer // by instance ID
		running int              // deliveries
		stopped bool
		idle    chan struct{} // closed when stopped and nothing runs
	}
}

// NewReplicator returns a Replicator. Run looks after it.
func NewReplicator(cfg ReplicatorConfig, cluster Cluster, lim limits.Source, reg prometheus.Registerer, logger *slog.Logger) (*Replicator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Turns == nil {
		cfg.Turns = turns.ForCores()
	}
	r := &Replicator{cfg: cfg, cluster: cluster, limits: lim, logger: logger}
	r.base, r.cancel = context.WithCancel(context.Background())
	r.mu.peers = map[string]*peer{}
	r.mu.idle = make(chan struct{})
	r.metrics = newReplicatorMetrics(reg, r)
	return r, nil
}

// peersKept is how often the state of ingesters that left the ring is dropped.
const peersKept = 30 * time.Second

// Run forgets ingesters that leave, until ctx ends. Then it takes no more pushes, waits for
// the deliveries under way, and returns.
func (r *Replicator) Run(ctx context.Context) error {
	defer r.cancel()
	tick := time.NewTicker(peersKept)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			r.forgetPeers(r.cluster.View())
		}
	}
	r.mu.Lock()
	r.mu.stopped = true
	if r.mu.running == 0 {
		close(r.mu.idle)
	}
	r.mu.Unlock()
	grace := time.NewTimer(2 * r.cfg.Timeout)
	defer grace.Stop()
	select {
	case <-r.mu.idle:
	case <-grace.C:
		r.cancel()
		<-r.mu.idle
	}
	return nil
}

// begin counts a delivery, and end uncounts it.
func (r *Replicator) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.stopped {
		return fault.New(fault.Unavailable, "distributor is stopping")
	}
	r.mu.running++
	return nil
}

func (r *Replicator) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.running--; r.mu.running == 0 && r.mu.stopped {
		close(r.mu.idle)
	}
}

// quorum is the number of ingesters that make an entry safe.
func (r *Replicator) quorum() int { return r.cfg.Factor/2 + 1 }

// peer returns what is known about an instance.
func (r *Replicator) peer(in *ring.Instance) *peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.mu.peers[in.ID]
	if p == nil || p.addr != in.Addr {
		p = newPeer(in, r)
		r.mu.peers[in.ID] = p
	}
	return p
}

// Returned says that an instance is back: what was held against it is forgotten.
func (r *Replicator) Returned(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.mu.peers[id]; p != nil {
		p.forgive()
	}
}

// forgetPeers drops those that are not in the view any more.
func (r *Replicator) forgetPeers(view *ring.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.mu.peers {
		if view.Get(id) == nil {
			delete(r.mu.peers, id)
			r.metrics.forget(id)
		}
	}
}

// Push makes streams durable on a quorum of their replicas.
func (r *Replicator) Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error {
	var failed failures
	place := placer{r: r, tenant: tenant, limits: r.limits.For(tenant)}
	place.view = r.cluster.View()
	if size := place.limits.IngestionTenantShardSize; size > 0 {
		place.view = place.view.Subring(tenant, max(size, r.cfg.Factor))
	}
	defer place.release()
	// Large pushes go in pieces, one after the other, so that one push holds a bounded part
	// of the memory and of the ingesters' queues.
	for more := true; more; {
		more = place.next(streams)
		if err := r.deliver(ctx, &place, &failed); err != nil {
			return err
		}
		if len(failed.unavailable) > 0 {
			break // the whole push will come again
		}
	}
	return failed.error(r, streams)
}

// deliver sends what place has gathered and waits for the quorum. Failures of streams are
// added to failed; an error is that of the whole push.
func (r *Replicator) deliver(ctx context.Context, place *placer, failed *failures) error {
	if len(place.groups) == 0 {
		return nil
	}
	var d *delivery
	err := turn{r.cfg.Turns, place.tenant}.do(ctx, place.size, func() (err error) {
		d, err = r.newDelivery(place)
		return err
	})
	if err != nil {
		return err
	}
	defer d.release()
	d.start()
	timer := time.NewTimer(2 * r.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-d.decided:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	d.collect(failed)
	return nil
}

// refused reports whether an ingester's error says that it will not store the entries,
// however often they come and wherever they go.
func refused(err error) bool {
	var call *remote.CallError
	if errors.As(err, &call) && fault.Of(err) != fault.TooLarge {
		return false
	}
	switch fault.Of(err) {
	case fault.Invalid, fault.TooLarge, fault.Unprocessable, fault.RateLimited, fault.Forbidden:
		return true
	}
	return false
}

// unreached reports whether an ingester gave no answer, so that it may be down for long.
// Being late is not that.
func unreached(err error) bool {
	var call *remote.CallError
	return errors.As(err, &call) && fault.Of(err) != fault.Timeout
}

// refusedStreams returns the streams that an ingester refused while it stored all others.
func refusedStreams(err error) (streams []int, partial bool) {
	var p interface{ RefusedStreams() []int }
	if !errors.As(err, &p) {
		return nil, false
	}
	return p.RefusedStreams(), true
}
