package remote

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/rpc"
)

// Config says how ingesters in other processes are called.
type Config struct {
	// Compression of pushes: none, snappy or zstd.
	Compression string
	// MaxMessageBytes bounds an answer that is received.
	MaxMessageBytes int
}

// RegisterFlags declares the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Compression, "ingester.client.compression", "snappy", "Compression of entries on their way to ingesters: none, snappy or zstd. They are packed once for all replicas; snappy saves three quarters of the network for little CPU, zstd more for more.")
	fs.IntVar(&c.MaxMessageBytes, "ingester.client.max-message-bytes", 100<<20, "Largest message received from an ingester, in bytes.")
}

// Validate checks the settings.
func (c *Config) Validate() error {
	_, err := ParseCompression(c.Compression)
	return err
}

// Pool holds one connection to each ingester, made when it is first used. It is safe for
// concurrent use.
type Pool struct {
	cfg         Config
	creds       credentials.TransportCredentials
	compression Compression
	traffic     *traffic

	mu struct {
		sync.Mutex
		clients map[string]*Client
		closed  bool
	}
}

// NewPool returns a pool without connections. Nil creds means no TLS. The caller must
// Close it.
func NewPool(cfg Config, creds credentials.TransportCredentials, reg prometheus.Registerer) (*Pool, error) {
	compression, err := ParseCompression(cfg.Compression)
	if err != nil {
		return nil, fmt.Errorf("ingester.client.compression: %w", err)
	}
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	p := &Pool{cfg: cfg, creds: creds, compression: compression, traffic: newTraffic(reg)}
	p.mu.clients = map[string]*Client{}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "skald_ingester_client_connections", Help: "Ingesters in other processes to which a connection is held.",
	}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(len(p.mu.clients))
	})
	return p, nil
}

// Compression is how pushes are to be packed.
func (p *Pool) Compression() Compression { return p.compression }

// Client returns the client for an address, host:port. It does not wait for a connection;
// calls on an address that cannot be reached fail.
func (p *Pool) Client(addr string) *Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.mu.clients[addr]; c != nil {
		return c
	}
	c := &Client{addr: addr, compression: p.compression}
	if p.mu.closed {
		c.err = fault.New(fault.Unavailable, "this process is stopping")
		return c
	}
	var err error
	if c.conn, err = p.dial(addr); err != nil {
		c.err = fault.Wrap(fault.Unavailable, err)
		return c // not kept: the next call may do better
	}
	p.mu.clients[addr] = c
	return c
}

const (
	// Fixed windows instead of gRPC's probing, which costs pings; large enough that a
	// request of some megabytes is not cut into round trips.
	streamWindow     = 1 << 20
	connectionWindow = 8 << 20
	ioBuffer         = 128 << 10
)

func (p *Pool) dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(p.creds),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec()), grpc.MaxCallRecvMsgSize(p.cfg.MaxMessageBytes)),
		grpc.WithStatsHandler(p.traffic),
		grpc.WithDisableRetry(), // who calls knows better where to try again
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connectionWindow),
		grpc.WithReadBufferSize(ioBuffer), grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		// A peer that was cut off, or stopped, is found out without waiting for TCP. Servers allow
		// a ping every ten seconds; twice that leaves room for jitter.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}))
}

// Returned says that an address can be reached again: the next call tries at once instead of
// waiting for its turn.
func (p *Pool) Returned(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.mu.clients[addr]; c != nil {
		c.conn.ResetConnectBackoff()
	}
}

// Keep closes the connections to addresses that are not wanted any more: those of
// ingesters that left the ring. Calls under way on them fail.
func (p *Pool) Keep(wanted func(addr string) bool) {
	p.mu.Lock()
	var gone []*Client
	for addr, c := range p.mu.clients {
		if !wanted(addr) {
			gone = append(gone, c)
			delete(p.mu.clients, addr)
		}
	}
	p.mu.Unlock()
	for _, c := range gone {
		_ = c.conn.Close() // it can only say that it was closed before
	}
}

// Close closes all connections, and makes no new ones.
func (p *Pool) Close() {
	p.mu.Lock()
	p.mu.closed = true
	p.mu.Unlock()
	p.Keep(func(string) bool { return false })
}

// Client calls one ingester. Obtain one from Pool.Client, for each call anew.
type Client struct {
	addr        string
	conn        *grpc.ClientConn
	compression Compression
	err         error // why there is no connection
}

// CallError says that a call got no answer from the ingester: there is no connection, or it
// broke, or time was up. Whether the ingester did what it was asked is not known.
type CallError struct {
	Addr  string
	cause error
}

// NewCallError returns the error of a call on an address; cause has a kind.
func NewCallError(addr string, cause error) *CallError { return &CallError{addr, cause} }

func (e *CallError) Error() string { return "ingester " + e.Addr + ": " + e.cause.Error() }

// Unwrap returns the cause, which has a kind.
func (e *CallError) Unwrap() error { return e.cause }

// invoke makes a unary call. Its error is a *CallError.
func (c *Client) invoke(ctx context.Context, method string, req, res any) error {
	if c.err != nil {
		return &CallError{c.addr, c.err}
	}
	return c.fault(c.conn.Invoke(ctx, "/"+serviceName+"/"+method, req, res))
}

// fault turns the error of a call into one with a kind that names the address.
func (c *Client) fault(err error) error {
	if err == nil {
		return nil
	}
	return &CallError{c.addr, rpc.Fault(err)}
}

// traffic counts the bytes of messages, as they cross the wire.
type traffic struct{ sent, received prometheus.Counter }

func newTraffic(reg prometheus.Registerer) *traffic {
	f := promauto.With(reg)
	return &traffic{
		sent: f.NewCounter(prometheus.CounterOpts{
			Name: "skald_ingester_client_sent_bytes_total", Help: "Bytes of messages sent to ingesters in other processes, as packed.",
		}),
		received: f.NewCounter(prometheus.CounterOpts{
			Name: "skald_ingester_client_received_bytes_total", Help: "Bytes of messages received from ingesters in other processes, as packed.",
		}),
	}
}

func (*traffic) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*traffic) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*traffic) HandleConn(context.Context, stats.ConnStats)                       {}

// HandleRPC counts one message.
func (t *traffic) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch m := s.(type) {
	case *stats.OutPayload:
		t.sent.Add(float64(m.WireLength))
	case *stats.InPayload:
		t.received.Add(float64(m.WireLength))
	}
}

// Conn is the connection to an address, for services beside the ingester's.
func (p *Pool) Conn(addr string) (grpc.ClientConnInterface, error) {
	c := p.Client(addr)
	return c.conn, c.err
}
