package ring

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

// network is a world of gossip without sockets, so that synctest can run its hours in a
// blink. Between two sides that are cut, packets are lost and connections fail.
type network struct {
	mu struct {
		sync.Mutex
		ports map[string]*port
		cut   func(from, to string) bool
	}
}

func newNetwork() *network {
	n := &network{}
	n.mu.ports = map[string]*port{}
	n.mu.cut = func(_, _ string) bool { return false }
	return n
}

// partition cuts everything between the addresses of the set and all others; no addresses
// heal the network.
func (n *network) partition(set ...string) {
	in := map[string]bool{}
	for _, a := range set {
		in[a] = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cut = func(from, to string) bool { return in[from] != in[to] }
}

type port struct {
	net     *network
	addr    *net.TCPAddr
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (n *network) listen(ip string) *port {
	p := &port{net: n, addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 7946}, packets: make(chan *memberlist.Packet, 1000), streams: make(chan net.Conn, 100)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.ports[p.addr.String()] = p
	return p
}

func (p *port) to(addr string) *port {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.net.mu.ports[p.addr.String()] != p || p.net.mu.cut(p.addr.String(), addr) {
		return nil
	}
	return p.net.mu.ports[addr]
}

func (p *port) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.addr.IP, p.addr.Port, nil
}
func (p *port) WriteTo(b []byte, addr string) (time.Time, error) {
	if to := p.to(addr); to != nil {
		select {
		case to.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: p.addr, Timestamp: time.Now()}:
		default:
		}
	}
	return time.Now(), nil
}
func (p *port) PacketCh() <-chan *memberlist.Packet { return p.packets }
func (p *port) StreamCh() <-chan net.Conn           { return p.streams }
func (p *port) DialTimeout(addr string, _ time.Duration) (net.Conn, error) {
	to := p.to(addr)
	if to == nil {
		return nil, fmt.Errorf("%s does not answer", addr)
	}
	here, there := net.Pipe()
	to.streams <- named{there, p.addr}
	return named{here, to.addr}, nil
}
func (p *port) Shutdown() error {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if addr := p.addr.String(); p.net.mu.ports[addr] == p {
		delete(p.net.mu.ports, addr)
	}
	return nil
}

type named struct {
	net.Conn
	remote net.Addr
}

func (n named) RemoteAddr() net.Addr { return n.remote }

// member is a process of the ring under test.
type member struct {
	*Members
	stop func()
	done chan struct{}
	err  error
}

// crash ends a process as kill -9 would: nobody hears of it.
func (m *member) crash(n *network) {
	n.mu.Lock()
	delete(n.mu.ports, m.GossipAddr())
	n.mu.Unlock()
	m.stop()
	<-m.done
}

func (m *member) leave() {
	m.stop()
	<-m.done
}

// start begins a process and, when it has joined, makes it Active.
func (n *network) start(t *testing.T, id, ip, join string, change ...func(*Config, *Instance)) *member {
	t.Helper()
	cfg := Config{
		Bind: DefaultBind, Join: join, RejoinInterval: 15 * time.Second, InstanceID: id, Tokens: 16,
		HeartbeatPeriod: 5 * time.Second, HeartbeatTimeout: 30 * time.Second, AutoForget: 10 * time.Minute, Transport: n.listen(ip),
	}
	self := Instance{Roles: All, Addr: ":9095", HTTP: ":3100"}
	for _, f := range change {
		f(&cfg, &self)
	}
	members, err := New(cfg, self, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &member{Members: members, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		m.err = m.Run(ctx)
	}()
	go func() {
		select {
		case <-m.Joined():
			if m.Self().State == Joining {
				_ = m.SetState(Active)
			}
		case <-m.done:
		}
	}()
	t.Cleanup(func() {
		m.leave()
		time.Sleep(10 * time.Second) // for the library's last probes
	})
	synctest.Wait()
	return m
}
