package ring

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

// Members is this process's part in the gossip: it tells the others about itself, and keeps
// the View of what it hears. It is safe for concurrent use.
//
// An instance's life:
//
//	                joined, and its ID is its own           SIGTERM, or prepare-shutdown
//	start ─▶ Joining ───────────────────────────▶ Active ───────────────────────────▶ Leaving
//	            ▲                                    ▲   prepare-shutdown taken back      │
//	            │ start with data on its disk        └────────────────────────────────────┤
//	            │                                                                         │
//	 (unhealthy: killed, or cut off)                     everything is in the object store │
//	            ▲                                                                         ▼
//	            │ stopped before everything was uploaded                                Left ─▶ forgotten
//	            └───────────────────────────────── Leaving                                ▲
//	                                                                                      │
//	               unhealthy for -ring.auto-forget, or the Forget button ─────────────────┘
//
// Unhealthy is no state of the instance but the judgement of others: its heartbeat is older
// than the timeout, or its gossip does not answer probes.
type Members struct {
	cfg     Config
	logger  *slog.Logger
	metrics *metrics
	list    *memberlist.Memberlist
	queue   *memberlist.TransmitLimitedQueue
	join    []joinAddress
	process uint64 // this process
	nodes   atomic.Int64

	view   atomic.Pointer[View]
	build  sync.Mutex    // held while the next view is made
	wake   chan struct{} // capacity 1: a new view is wanted
	joined chan struct{} // closed when the ring has been seen and the ID is ours
	failed chan error    // capacity 1: why this process cannot stay

	mu struct {
		sync.Mutex
		state   state
		seen    map[string]time.Time // when the entry's last news was heard
		tokens  map[string][]uint32  // of the entry's seed
		dead    map[uint64]bool      // processes whose gossip does not answer
		stale   map[string]bool      // as in the last view
		self    Instance             // what we say of ourselves
		claimed bool                 // self may be told
		hidden  bool                 // a newcomer with no data is told when it is Active
		changed chan struct{}        // closed at the next view
	}
}

const (
	// tombstoneAge is how long a Left instance is remembered. It has to outlive the time for
	// which anybody repeats older news.
	tombstoneAge = 20 * time.Minute
	// claimPeriods is how many heartbeats a process listens for another one with its ID.
	claimPeriods = 3
	// viewGap is the shortest time between two views, so that a thousand instances that
	// start at once do not cost a thousand views.
	viewGap = 100 * time.Millisecond
	// leaveTime bounds how long the end of Run takes.
	leaveTime = 2 * time.Second
)

// New opens the gossip port. self says what this process is: its roles and addresses; an
// address without a host gets the one that the gossip is known by. The ring is joined by
// Run. A wrong setting, or a port in use, is an error.
func New(cfg Config, self Instance, reg prometheus.Registerer, logger *slog.Logger) (*Members, error) {
	if err := cfg.Prepare(); err != nil {
		return nil, err
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.BeforeChange == nil {
		cfg.BeforeChange = func(_, _ *View) {}
	}
	m := &Members{
		cfg: cfg, logger: logger, process: rand.Uint64() | 1,
		wake: make(chan struct{}, 1), joined: make(chan struct{}), failed: make(chan error, 1),
	}
	m.view.Store(NewView(nil))
	m.metrics = newMetrics(reg, m)
	m.mu.state, m.mu.seen, m.mu.tokens = state{}, map[string]time.Time{}, map[string][]uint32{}
	m.mu.dead, m.mu.stale, m.mu.changed = map[uint64]bool{}, map[string]bool{}, make(chan struct{})
	m.queue = &memberlist.TransmitLimitedQueue{RetransmitMult: 4, NumNodes: func() int { return max(1, int(m.nodes.Load())) }}
	var err error
	if m.join, err = parseJoin(cfg.Join); err != nil {
		return nil, err
	}
	mc, err := cfg.memberlistConfig()
	if err != nil {
		return nil, err
	}
	// The library's own idea of a name's owner is not used: a process that comes back with
	// another address could not have its name for a while.
	mc.Name = fmt.Sprintf("%s~%016x", cfg.InstanceID, m.process)
	mc.Delegate, mc.Events, mc.LogOutput = (*delegate)(m), (*events)(m), libraryLog{logger}
	if err := m.identify(self); err != nil {
		return nil, err
	}
	if m.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("-memberlist.bind=%s: %w", cfg.Bind, err)
	}
	if err := m.complete(); err != nil {
		return nil, errors.Join(err, m.list.Shutdown())
	}
	return m, nil
}

// identify fills in what this instance was in its last life.
func (m *Members) identify(self Instance) error {
	self.ID, self.Zone, self.Process, self.State = m.cfg.InstanceID, m.cfg.Zone, m.process, Joining
	self.Started = time.Now().UnixNano()
	m.mu.hidden = true
	if self.Roles.Has(Ingester) {
		before, err := loadIdentity(m.cfg.Dir, self.ID)
		if err != nil {
			return err
		}
		if before != nil {
			self.Seed, self.TokenCount = before.Seed, before.Tokens
			if !before.Left {
				self.Registered, self.Lost, m.mu.hidden = before.Registered, before.Lost, false
			}
		}
	}
	m.mu.self = self
	return nil
}

// complete gives addresses without a host the one of the gossip.
func (m *Members) complete() error {
	ip := m.list.LocalNode().Addr
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, addr := range []*string{&m.mu.self.Addr, &m.mu.self.HTTP} {
		host, port, err := net.SplitHostPort(*addr)
		if err != nil {
			continue // this process does not serve it
		}
		if listens := net.ParseIP(host); host == "" || listens != nil && listens.IsUnspecified() {
			if ip.IsUnspecified() {
				return errNoAddress
			}
			*addr = net.JoinHostPort(ip.String(), port)
		}
	}
	return nil
}

// GossipAddr is the address that the gossip is reached by.
func (m *Members) GossipAddr() string { return m.list.LocalNode().Address() }

// View returns the ring as it is known now.
func (m *Members) View() *View { return m.view.Load() }

// Changed returns a channel that is closed when there is a newer View than at the time of
// the call.
func (m *Members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.changed
}

// Joined returns a channel that is closed when the ring has been seen and no other process
// was found to have this one's ID.
func (m *Members) Joined() <-chan struct{} { return m.joined }

// Ready reports whether this process has seen the ring, with the reason when it has not.
func (m *Members) Ready() error {
	select {
	case <-m.joined:
		return nil
	default:
		return fmt.Errorf("the ring has not been joined yet (-memberlist.join=%s)", m.cfg.Join)
	}
}

// Self returns what this process says of itself.
func (m *Members) Self() Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.self
}

// SetState changes this instance's state and tells the others; the View has it when it
// returns. Left, once set, stays for this process; it also says that this instance's disk
// has nothing that the object store has not.
func (m *Members) SetState(s State) error {
	if err := m.setState(s); err != nil {
		return err
	}
	m.buildView()
	return nil
}

func (m *Members) setState(s State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.self.State == s || m.mu.self.State == Left {
		return nil
	}
	now := time.Now().UnixNano()
	if s == Active && m.mu.self.Registered == 0 {
		m.mu.self.Registered = now
	}
	if m.mu.self.TokenCount > 0 {
		// Before anybody hears of it: a crash right after must not make a newcomer of an
		// instance that has been given entries.
		if err := m.save(s == Left); err != nil {
			return err
		}
	}
	m.logger.Info("this instance changes its state", "instance", m.mu.self.ID, "from", m.mu.self.State, "to", s)
	m.mu.self.State = s
	m.mu.hidden = false
	m.publish()
	return nil
}

// save keeps what the next process of this instance has to know. The caller holds mu.
func (m *Members) save(left bool) error {
	self := m.mu.self
	return saveIdentity(m.cfg.Dir, identity{ID: self.ID, Seed: self.Seed, Tokens: self.TokenCount, Registered: self.Registered, Lost: self.Lost, Left: left})
}

// SetFlushed tells the others that everything this ingester held when it saw a loss, of the
// given time, is in the object store.
func (m *Members) SetFlushed(lost int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if lost > m.mu.self.Flushed {
		m.mu.self.Flushed = lost
		m.publish()
		m.refresh()
	}
}

// SetWhole takes back that copies were lost: they are in the object store now.
func (m *Members) SetWhole() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.self.Lost == 0 {
		return nil
	}
	m.mu.self.Lost = 0
	m.publish()
	m.refresh()
	return m.save(false)
}

// ForgetTokens makes the next process of this instance a newcomer: it will choose tokens anew.
func (m *Members) ForgetTokens() error { return forgetIdentity(m.cfg.Dir) }

// Forget declares an instance gone for good, with nothing left behind that anybody should
// wait for. One that lives takes no notice and comes back. An unknown ID is an error.
func (m *Members) Forget(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.mu.state[id]
	if !ok || in.State == Left {
		return fmt.Errorf("the ring has no instance %q", id)
	}
	if m.mu.claimed && id == m.mu.self.ID {
		return fmt.Errorf("instance %q lives: it is the one that was asked", id)
	}
	in.State, in.Heartbeat = Left, in.Heartbeat+1
	m.logger.Info("an instance is forgotten", "instance", id, "address", in.Addr)
	m.take(in, true)
	m.refresh()
	return nil
}

// publish tells the others about this process. The caller holds mu.
func (m *Members) publish() {
	if !m.mu.claimed || m.mu.hidden {
		return
	}
	m.mu.self.Heartbeat = max(time.Now().UnixNano(), m.mu.self.Heartbeat+1)
	if have, ok := m.mu.state[m.mu.self.ID]; ok && have.Process == m.process {
		m.mu.self.Heartbeat = max(m.mu.self.Heartbeat, have.Heartbeat+1)
	}
	self := m.mu.self
	self.Tokens, self.Seen, self.Stale = nil, time.Time{}, false
	m.take(self, true)
}

// take merges an entry, notes when it was heard, and passes news on if spread is set. It
// reports whether a new view is needed. The caller holds mu.
func (m *Members) take(in Instance, spread bool) (changed bool) {
	before, known := m.mu.state[in.ID]
	now := time.Now()
	if in.State == Left && !known && now.Sub(time.Unix(0, in.Heartbeat)) > tombstoneAge {
		return false // forgotten already, and somebody is late
	}
	if !known && len(m.mu.state) >= maxInstances {
		m.metrics.refused.Inc()
		return false
	}
	if !m.mu.state.merge(in) {
		return false
	}
	m.metrics.news.Inc()
	// Clocks are not compared, but for an entry that is new: it may be old news.
	m.mu.seen[in.ID] = now
	if at := time.Unix(0, in.Heartbeat); !known && at.Before(now) {
		m.mu.seen[in.ID] = at
	}
	if spread {
		m.queue.QueueBroadcast(broadcast{in.ID, appendState(nil, []Instance{in})})
	}
	if !known || before.Seed != in.Seed || before.TokenCount != in.TokenCount {
		delete(m.mu.tokens, in.ID)
	}
	if in.ID == m.mu.self.ID && in.Process != m.process && m.mu.claimed {
		m.contested(in)
	}
	if in.ID == m.mu.self.ID && in.Process == m.process && in.State == Left && m.mu.self.State != Left {
		// Somebody has forgotten us, but we live. Others have taken our place meanwhile.
		m.mu.self.Registered = now.UnixNano()
		m.publish()
	}
	before.Heartbeat = in.Heartbeat
	return !known || compare(&before, &in) != 0 || m.mu.stale[in.ID]
}

// contested handles the proof that a later process has our ID. The caller holds mu.
func (m *Members) contested(other Instance) {
	err := fmt.Errorf("instance id %q is in use by two processes: this one (%s) and a later one (%s), which keeps it; give each its own -ring.instance-id",
		other.ID, m.mu.self.Addr, other.Addr)
	m.logger.Error("this process has to leave the ring", "err", err)
	m.mu.claimed = false
	select {
	case m.failed <- err:
	default:
	}
}

// refresh asks for a new view.
func (m *Members) refresh() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
