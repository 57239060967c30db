package ring

import (
	"slices"
	"strings"
	"time"
)

// buildView makes the view of what is known.
func (m *Members) buildView() {
	m.build.Lock()
	defer m.build.Unlock()
	m.mu.Lock()
	list := make([]Instance, 0, len(m.mu.state))
	clear(m.mu.stale)
	now := time.Now()
	for id, in := range m.mu.state {
		if in.State == Left {
			continue
		}
		in.Seen = m.mu.seen[id]
		in.Stale = m.isStale(&in, now)
		if in.Stale {
			m.mu.stale[id] = true
		}
		in.Tokens = m.tokensOf(&in)
		list = append(list, in)
	}
	changed := m.mu.changed
	m.mu.changed = make(chan struct{})
	m.mu.Unlock()

	next := NewView(list)
	m.cfg.BeforeChange(m.view.Load(), next)
	m.view.Store(next)
	m.metrics.views.Inc()
	close(changed)
}

// isStale judges an entry; of this process it never is. The caller holds mu.
func (m *Members) isStale(in *Instance, now time.Time) bool {
	if in.Process == m.process {
		return false
	}
	return m.mu.dead[in.Process] || now.Sub(m.mu.seen[in.ID]) > m.cfg.HeartbeatTimeout
}

// tokensOf returns the tokens of an entry. The caller holds mu.
func (m *Members) tokensOf(in *Instance) []uint32 {
	if !in.Roles.Has(Ingester) || in.TokenCount == 0 {
		return nil
	}
	have, ok := m.mu.tokens[in.ID]
	if !ok {
		have = Tokens(in.Seed, in.TokenCount)
		m.mu.tokens[in.ID] = have
	}
	return have
}

// Snapshot returns the instances of the View, by which this process acts, and the ones that
// left, sorted by ID.
func (m *Members) Snapshot() []Instance {
	view := m.View()
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Instance, 0, len(m.mu.state))
	for _, in := range view.instances {
		shown := *in
		shown.Seen = m.mu.seen[in.ID]
		list = append(list, shown)
	}
	for id, in := range m.mu.state {
		if in.State == Left && view.Get(id) == nil {
			in.Seen = m.mu.seen[id]
			list = append(list, in)
		}
	}
	slices.SortFunc(list, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	return list
}
