package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// A connection costs a descriptor, goroutines and buffers, whether anything is asked over it or
// not, so there is a bound on them. Clients keep connections for later, and hostile ones open
// them for nothing: beyond the bound the one that has been idle for longest gives way to a new
// one. When none is idle, the new one is closed.

// connections are those of one listener.
type connections struct {
	most             int // 0 is any number
	gaveWay, refused prometheus.Counter
	mu               struct {
		sync.Mutex
		open int
		idle *list.List // of *connection, those that have been idle for longest first
	}
}

func newConnections(most int, kind string, reg prometheus.Registerer) *connections {
	cs := &connections{most: most}
	cs.mu.idle = list.New()
	closed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "skald_" + kind + "_closed_connections_total",
		Help: "Connections closed because there were too many: idle ones that gave way, and new ones when none was idle.",
	}, []string{"which"})
	cs.gaveWay, cs.refused = closed.WithLabelValues("idle"), closed.WithLabelValues("new")
	reg.MustRegister(closed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "skald_" + kind + "_connections", Help: "Open connections.",
	}, func() float64 {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		return float64(cs.mu.open)
	}))
	return cs
}

// connection is one that counts.
type connection struct {
	net.Conn
	raw net.Conn // below TLS
	of  *connections
	// guarded by of.mu
	calls int           // under way over it; of gRPC
	place *list.Element // among the idle
	gone  bool
}

// admit counts a new connection, which is idle at first; false when there is no room for it.
func (cs *connections) admit(raw net.Conn) (*connection, bool) {
	c := &connection{Conn: raw, raw: raw, of: cs}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.most > 0 && cs.mu.open >= cs.most {
		oldest := cs.mu.idle.Front()
		if oldest == nil {
			cs.refused.Inc()
			return nil, false
		}
		cs.gaveWay.Inc()
		old := oldest.Value.(*connection)
		cs.leave(old)
		_ = old.raw.Close() // it is of no more use
	}
	cs.mu.open++
	c.place = cs.mu.idle.PushBack(c)
	return c, true
}

// leave forgets a connection; called with mu held.
func (cs *connections) leave(c *connection) {
	if c.gone {
		return
	}
	c.gone = true
	cs.mu.open--
	c.rest(false)
}

// rest puts a connection among the idle or takes it away; called with mu held.
func (c *connection) rest(idle bool) {
	switch {
	case idle && c.place == nil && !c.gone:
		c.place = c.of.mu.idle.PushBack(c)
	case !idle && c.place != nil:
		c.of.mu.idle.Remove(c.place)
		c.place = nil
	}
}

// call notes that a call has begun or, with -1, ended.
func (c *connection) call(change int) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.calls += change
	c.rest(c.calls == 0)
}

// follow is http.Server's ConnState. A connection whose header has not come is idle, too.
func (cs *connections) follow(conn net.Conn, state http.ConnState) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	c := conn.(*connection)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch state {
	case http.StateActive, http.StateHijacked:
		c.rest(false)
	case http.StateIdle:
		c.rest(true)
	}
}

// Close closes the connection.
func (c *connection) Close() error {
	c.of.mu.Lock()
	c.of.leave(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// boundedListener accepts as many connections as may be open.
type boundedListener struct {
	net.Listener
	conns *connections
}

// Accept returns a *connection.
func (l boundedListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, ok := l.conns.admit(raw); ok {
			return c, nil
		}
		_ = raw.Close()
	}
}
