// Package gossiptls carries memberlist's gossip over mutual TLS, in place of plain UDP and
// TCP. A connection begins with one byte that says what it is for: 's' is a memberlist
// stream and belongs to memberlist from then on; 'p' carries packets in one direction, each
// behind its length as four bytes, big endian.
//
// Packets stay what memberlist expects them to be, best effort: when a peer is slow or
// away, those that do not fit its short queue are dropped and counted. One connection per
// peer carries them, and is closed when unused.
package gossiptls

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	kindStream = 's'
	kindPacket = 'p'

	// maxPacket bounds a received packet; memberlist's own are below 64 KiB.
	maxPacket = 1 << 16
	// queuedPackets wait for one peer.
	queuedPackets = 64
	// maxIncoming bounds the connections that others hold open here.
	maxIncoming = 4096

	handshakeTimeout = 5 * time.Second
	idleTimeout      = 2 * time.Minute
)

// Config says how to listen and whom to believe.
type Config struct {
	// Listen is the address to bind, host:port.
	Listen string
	// Server and Client are the two ends of a connection; both show a certificate.
	Server, Client *tls.Config
	Logger         *slog.Logger
}

// Transport is a memberlist.NodeAwareTransport.
type Transport struct {
	cfg      Config
	listener net.Listener
	packets  chan *memberlist.Packet
	streams  chan net.Conn
	dropped  atomic.Int64

	ctx  context.Context
	stop context.CancelFunc
	wait sync.WaitGroup
	mu   struct {
		sync.Mutex
		peers    map[string]chan []byte
		incoming map[net.Conn]struct{}
	}
}

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// New listens, and serves until Shutdown.
func New(cfg Config) (*Transport, error) {
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("gossip: listen on %s: %w", cfg.Listen, err)
	}
	t := &Transport{cfg: cfg, listener: l, packets: make(chan *memberlist.Packet, queuedPackets), streams: make(chan net.Conn)}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.mu.peers, t.mu.incoming = map[string]chan []byte{}, map[net.Conn]struct{}{}
	t.wait.Go(t.accept)
	return t, nil
}

// Port is the port that is listened on.
func (t *Transport) Port() int { return t.listener.Addr().(*net.TCPAddr).Port }

// Dropped counts packets that were not sent, because a peer was away or too slow.
func (t *Transport) Dropped() int64 { return t.dropped.Load() }

// FinalAdvertiseAddr returns the address that others shall use.
func (t *Transport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	if port == 0 {
		port = t.Port()
	}
	if ip == "" {
		ip = t.listener.Addr().(*net.TCPAddr).IP.String()
	}
	parsed := net.ParseIP(ip)
	if parsed == nil {
		return nil, 0, fmt.Errorf("gossip: %q is no IP address to advertise", ip)
	}
	if parsed.IsUnspecified() {
		var err error
		if parsed, err = privateAddress(); err != nil {
			return nil, 0, err
		}
	}
	return parsed, port, nil
}

// privateAddress is the first address of this machine that only its network reaches.
func privateAddress() (net.IP, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("gossip: this machine's addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsPrivate() {
			return n.IP, nil
		}
	}
	return nil, errors.New("gossip: this machine has no private address, so the one to advertise must be given")
}

// PacketCh delivers received packets.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh delivers accepted streams.
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo queues a packet for a peer.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	packet := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	packet = append(packet, b...)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return time.Time{}, net.ErrClosed
	}
	queue, ok := t.mu.peers[addr]
	if !ok {
		queue = make(chan []byte, queuedPackets)
		t.mu.peers[addr] = queue
		t.wait.Go(func() { t.send(addr, queue) })
	}
	select {
	case queue <- packet:
	default:
		t.dropped.Add(1)
	}
	return time.Now(), nil
}

// WriteToAddress is WriteTo.
func (t *Transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, addr.Addr)
}

// DialTimeout opens a stream.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.dial(addr, timeout, kindStream)
}

// DialAddressTimeout is DialTimeout.
func (t *Transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(addr.Addr, timeout)
}

// Shutdown closes everything and waits for the transport's goroutines.
func (t *Transport) Shutdown() error {
	t.stop()
	err := t.listener.Close()
	t.mu.Lock()
	for conn := range t.mu.incoming {
		_ = conn.Close() // their readers end with an error, which nobody needs
	}
	t.mu.Unlock()
	t.wait.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil // memberlist calls Shutdown twice
	}
	return err
}

func (t *Transport) dial(addr string, timeout time.Duration, kind byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: t.cfg.Client}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("gossip with %s: %w", addr, err)
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		_ = conn.Close() // the write's error says it all
		return nil, fmt.Errorf("gossip with %s: %w", addr, err)
	}
	return conn, nil
}

// send writes one peer's packets until none came for a while.
func (t *Transport) send(addr string, queue chan []byte) {
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close() // nothing is unsent
		}
	}()
	idle := time.NewTimer(idleTimeout)
	defer idle.Stop()
	for {
		var packet []byte
		select {
		case <-t.ctx.Done():
			return
		case <-idle.C:
			if t.forget(addr, queue) {
				return
			}
			idle.Reset(idleTimeout)
			continue
		case packet = <-queue:
			idle.Reset(idleTimeout)
		}
		// A connection that the peer closed fails at the write: one more try on a new one.
		for try := range 2 {
			fresh := conn == nil
			if fresh {
				var err error
				if conn, err = t.dial(addr, handshakeTimeout, kindPacket); err != nil {
					t.cfg.Logger.Debug("gossip packet dropped", "peer", addr, "err", err)
					conn = nil
					t.dropped.Add(1)
					break
				}
			}
			_ = conn.SetWriteDeadline(time.Now().Add(handshakeTimeout)) // fails only on a closed connection, as the write will
			if _, err := conn.Write(packet); err == nil {
				break
			}
			_ = conn.Close() // broken already
			conn = nil
			if fresh || try == 1 {
				t.dropped.Add(1)
				break
			}
		}
	}
}

// forget ends a peer's queue if it is empty.
func (t *Transport) forget(addr string, queue chan []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(queue) > 0 {
		return false
	}
	delete(t.mu.peers, addr)
	return true
}

func (t *Transport) accept() {
	for {
		conn, err := t.listener.Accept()
		if t.ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // too late
			}
			return
		}
		if err != nil {
			t.cfg.Logger.Warn("gossip: accept failed", "err", err)
			select {
			case <-t.ctx.Done():
			case <-time.After(100 * time.Millisecond): // out of descriptors, most likely
			}
			continue
		}
		if !t.admit(conn) {
			t.cfg.Logger.Warn("gossip: too many connections", "limit", maxIncoming, "from", conn.RemoteAddr())
			_ = conn.Close() // not wanted
			continue
		}
		t.wait.Go(func() { t.serve(conn) })
	}
}

func (t *Transport) admit(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil || len(t.mu.incoming) >= maxIncoming {
		return false
	}
	t.mu.incoming[conn] = struct{}{}
	return true
}

// serve finds out what a connection is for. A stream is handed over, packets are read.
func (t *Transport) serve(raw net.Conn) {
	release := func() {
		t.mu.Lock()
		delete(t.mu.incoming, raw)
		t.mu.Unlock()
	}
	defer release()
	conn := tls.Server(raw, t.cfg.Server)
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout)) // fails only on a closed connection, as the read will
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		t.cfg.Logger.Debug("gossip: a connection was refused", "from", raw.RemoteAddr(), "err", err)
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	switch kind[0] {
	case kindStream:
		select {
		case t.streams <- conn: // memberlist closes it
		case <-t.ctx.Done():
			_ = conn.Close()
		}
	case kindPacket:
		t.receive(conn)
		_ = conn.Close()
	default:
		t.cfg.Logger.Debug("gossip: a connection of unknown kind", "from", raw.RemoteAddr(), "kind", strconv.Itoa(int(kind[0])))
		_ = conn.Close()
	}
}

// receive reads packets until the peer has none for long, or breaks the rules.
func (t *Transport) receive(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(2 * idleTimeout)) // fails only on a closed connection, as the read will
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > maxPacket {
			t.cfg.Logger.Warn("gossip: a packet is too large", "from", conn.RemoteAddr(), "bytes", size, "limit", maxPacket)
			return
		}
		buf := make([]byte, size)
		if _, err := io.ReadFull(r, buf); err != nil {
			return
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: buf, From: conn.RemoteAddr(), Timestamp: time.Now()}:
		case <-t.ctx.Done():
			return
		}
	}
}
