package ring

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"
)

// Run joins the ring and stays in it until ctx ends: it sends heartbeats, judges those of
// others, looks for instances that it has lost, and forgets the dead. At its end the gossip
// port is closed; the instance's state stays what SetState made it. It returns an error when
// another process has this one's ID.
func (m *Members) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { m.watch(ctx) })
	defer func() {
		cancel()
		wg.Wait()
		m.close()
	}()
	// 1. Find the others.
	if err := m.joinFirst(ctx); err != nil {
		return nil // stopped before
	}
	// 2. Make sure that the ID is ours.
	if err := m.claim(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	m.buildView() // who is ready knows the ring it is ready for
	close(m.joined)
	// 3. Stay.
	wg.Go(func() { m.rejoin(ctx) })
	beat := time.NewTicker(m.cfg.HeartbeatPeriod)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-m.failed:
			return err
		case <-beat.C:
			m.mu.Lock()
			m.publish()
			m.mu.Unlock()
		}
	}
}

// close says goodbye, so that others need not wait for a timeout, and closes the port. What
// is still queued has to go out first: perhaps that we have Left.
func (m *Members) close() {
	deadline := time.Now().Add(leaveTime / 2)
	for m.list.NumMembers() > 1 && m.queue.NumQueued() > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if err := m.list.Leave(leaveTime / 2); err != nil {
		m.logger.Debug("leaving the gossip", "err", err)
	}
	if err := m.list.Shutdown(); err != nil {
		m.logger.Warn("closing the gossip port", "err", err)
	}
}

// joinFirst returns when one of the addresses to join has answered, be it this process.
func (m *Members) joinFirst(ctx context.Context) error {
	for wait := 200 * time.Millisecond; len(m.join) > 0; wait = min(2*wait, 5*time.Second) {
		addrs, err := resolve(ctx, m.cfg.Resolver, m.join, m.defaultPort())
		if len(addrs) > 0 {
			n, joinErr := m.list.Join(addrs)
			if n > 0 {
				m.logger.Info("joined the ring", "asked", len(addrs), "answered", n)
				return nil
			}
			err = errors.Join(err, joinErr)
		}
		m.logger.Warn("nobody to join the ring with yet, will try again", "join", m.cfg.Join, "err", err)
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
	return nil
}

// defaultPort is the port of addresses that name none.
func (m *Members) defaultPort() int { return int(m.list.LocalNode().Port) }

// claim makes the ID ours, or says who has it. An entry that another process left there
// under another address counts only while its heartbeat goes on.
func (m *Members) claim(ctx context.Context) error {
	m.mu.Lock()
	other, taken := m.mu.state[m.mu.self.ID]
	m.mu.Unlock()
	if taken && other.State != Left && other.Addr != m.mu.self.Addr {
		m.logger.Info("another process had this instance id; listening whether it lives", "instance", other.ID, "address", other.Addr)
		until := time.Now().Add(claimPeriods * m.cfg.HeartbeatPeriod)
		for time.Now().Before(until) {
			if !sleep(ctx, m.cfg.HeartbeatPeriod/4) {
				return ctx.Err()
			}
			m.mu.Lock()
			now := m.mu.state[other.ID]
			m.mu.Unlock()
			if now.State != Left && (now.Process != other.Process || now.Heartbeat > other.Heartbeat) {
				return fmt.Errorf("instance id %q is in use by a living process at %s; give this one its own -ring.instance-id", now.ID, now.Addr)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	self := &m.mu.self
	if other, taken = m.mu.state[self.ID]; taken {
		self.Started = max(self.Started, other.Started+1)
	}
	if self.Roles.Has(Ingester) && self.TokenCount == 0 && taken && other.State != Left && other.TokenCount > 0 {
		// The others know this instance with tokens, so it was given entries; its disk knows
		// nothing. It takes its place again, and says what has happened.
		self.Seed, self.TokenCount, self.Registered = other.Seed, other.TokenCount, other.Registered
		self.Lost = max(time.Now().UnixNano(), other.Lost+1)
		m.logger.Error("this instance's disk is empty, but the ring knows it as one that held entries; the other ingesters will put their copies into the object store",
			"instance", self.ID)
	}
	if self.Roles.Has(Ingester) && self.TokenCount == 0 {
		self.TokenCount = m.cfg.Tokens
		self.Seed = ChooseSeed(self.ID, self.Zone, m.cfg.Tokens, m.known())
	}
	m.mu.claimed = true
	m.publish()
	return nil
}

// known is a view of this moment. The caller holds mu.
func (m *Members) known() *View {
	list := make([]Instance, 0, len(m.mu.state))
	for _, in := range m.mu.state {
		in.Tokens = m.tokensOf(&in)
		list = append(list, in)
	}
	return NewView(list)
}

// watch keeps the view up to date, and the map tidy.
func (m *Members) watch(ctx context.Context) {
	tick := time.NewTicker(max(min(time.Second, m.cfg.HeartbeatTimeout/10), viewGap))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-tick.C:
			if !m.tidy(time.Now()) {
				continue
			}
		}
		m.buildView()
		if !sleep(ctx, viewGap) {
			return
		}
	}
}

// tidy finds what time alone has changed, and reports whether a new view is needed: entries
// whose health differs from the last view's, instances to forget, tombstones to drop.
func (m *Members) tidy(now time.Time) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	healthy, known := 0, 0
	for id, in := range m.mu.state {
		switch {
		case in.State != Left:
			known++
			stale := m.isStale(&in, now)
			if !stale {
				healthy++
			}
			changed = changed || stale != m.mu.stale[id]
		case now.Sub(m.mu.seen[id]) > tombstoneAge && in.Process != m.process:
			delete(m.mu.state, id)
			delete(m.mu.seen, id)
			delete(m.mu.tokens, id)
			delete(m.mu.dead, in.Process)
		}
	}
	// Whoever sees less than half of the ring may be the one that is cut off.
	if m.cfg.AutoForget == 0 || 2*healthy <= known {
		return changed
	}
	for id, in := range m.mu.state {
		silence := now.Sub(m.mu.seen[id])
		if in.State == Left || in.Process == m.process || silence < m.cfg.AutoForget {
			continue
		}
		in.State, in.Heartbeat = Left, in.Heartbeat+1
		m.logger.Warn("an instance that was silent for long is forgotten", "instance", id, "address", in.Addr, "silence", silence)
		m.metrics.forgotten.Inc()
		changed = m.take(in, true) || changed
	}
	return changed
}

// rejoin looks for instances that are not connected, for ever: after a long partition the
// library no longer does.
func (m *Members) rejoin(ctx context.Context) {
	for sleep(ctx, m.cfg.RejoinInterval/2+rand.N(m.cfg.RejoinInterval/2+1)) {
		addrs, err := resolve(ctx, m.cfg.Resolver, m.join, m.defaultPort())
		if err != nil {
			m.logger.Info("looking for others", "join", m.cfg.Join, "err", err)
		}
		have := map[string]bool{}
		for _, n := range m.list.Members() {
			have[net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))] = true
		}
		for _, addr := range addrs {
			if have[addr] || ctx.Err() != nil {
				continue
			}
			if _, err := m.list.Join([]string{addr}); err != nil {
				m.logger.Debug("an address of the ring does not answer", "address", addr, "err", err)
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
