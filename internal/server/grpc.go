package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
	"github.com/skaldlog/skald/internal/tlsconf"
)

// GRPCConfig says how to listen for gRPC.
type GRPCConfig struct {
	// Listen is host:port; port 0 takes any free one.
	Listen string
	// MaxMessage is the largest message received, in bytes.
	MaxMessage int
	// MaxReceiving bounds the bytes of all messages being received; 0 is any number.
	MaxReceiving int64
	// MaxConnections bounds the open connections; 0 is any number.
	MaxConnections int
	// ReceiveTimeout is how long a call's message may be on its way; 0 is any time.
	ReceiveTimeout time.Duration
	// Overloaded returns why memory is short, or nil; nil means that it never is.
	Overloaded func() error
	// TLS turns TLS on, and may ask for client certificates.
	TLS tlsconf.Server
	// MemberNames are names, separated by commas, of the certificates whose owners may make
	// the calls that members of a ring make to each other.
	MemberNames string

	// AuthEnabled, Credentials and Grace are the HTTP server's.
	AuthEnabled bool
	Credentials *auth.Credentials
	Grace       time.Duration
}

// RegisterFlags declares the settings with their defaults.
func (c *GRPCConfig) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Listen, "grpc.listen", DefaultGRPCListen, "`address` of the gRPC server, host:port; port 0 takes a free one. If the default is taken, the server runs without gRPC")
	c.TLS.RegisterFlags(fs, "grpc")
	fs.StringVar(&c.MemberNames, "grpc.tls.member-names", "", "`names`, separated by commas: only client certificates with one of them may make the calls of ring members; any that grpc.tls.client-ca-file signed by default")
	fs.DurationVar(&c.ReceiveTimeout, "grpc.receive-timeout", time.Minute, "longest `time` to receive the message of a call, after which the call is ended; 0 is any time")
	fs.IntVar(&c.MaxMessage, "grpc.max-message-bytes", 100<<20, "largest message received, in `bytes`")
	fs.Int64Var(&c.MaxReceiving, "grpc.max-receiving-bytes", 256<<20, "`bytes` of all messages being received. Beyond it the calls that have sent most are ended with UNAVAILABLE; 0 is any number")
	fs.IntVar(&c.MaxConnections, "grpc.max-connections", 2048, "open connections at most. Beyond it the one that has been without calls for longest is closed for a new one; if all have calls, the new one. 0 is any number")
}

// Validate checks the settings.
func (c *GRPCConfig) Validate() error {
	if c.MaxReceiving > 0 && c.MaxReceiving < int64(c.MaxMessage) {
		return fmt.Errorf("grpc.max-receiving-bytes: got %d, expected at least -grpc.max-message-bytes (%d), or 0 for any number", c.MaxReceiving, c.MaxMessage)
	}
	return nil
}

// DefaultGRPCListen is Loki's port.
const DefaultGRPCListen = ":9095"

// GRPC is a gRPC listener. It carries bytes, by rpc.Codec: services decode their messages
// themselves, so that the hot path needs no generated code.
type GRPC struct {
	*grpc.Server
	listener net.Listener
	health   *health.Server
	incoming *receiving
	conns    *connections
	logger   *slog.Logger
	grace    time.Duration
}

// NewGRPC listens at once, so that a port in use is an error before anything else starts;
// but for the default port, which nobody asked for, it is a warning and a nil GRPC.
func NewGRPC(cfg GRPCConfig, reg prometheus.Registerer, logger *slog.Logger) (*GRPC, error) {
	secure, err := cfg.TLS.Config("h2")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil && cfg.Listen == DefaultGRPCListen {
		logger.Warn("gRPC is off: its default port is in use; set -grpc.listen to another", "err", err)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("-grpc.listen=%s: %w", cfg.Listen, err)
	}
	guard := &grpcGuard{header: cfg.AuthEnabled, credentials: cfg.Credentials, strict: cfg.Credentials != nil || cfg.TLS.ClientCA != ""}
	if cfg.MemberNames != "" {
		guard.members = strings.Split(cfg.MemberNames, ",")
	}
	incoming := newReceiving(cfg, reg)
	conns := newConnections(cfg.MaxConnections, "grpc", reg)
	doorman := &doorman{insecure.NewCredentials(), conns, incoming}
	if secure != nil {
		doorman.TransportCredentials = credentials.NewTLS(secure)
	}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(rpc.Codec()),
		grpc.MaxRecvMsgSize(cfg.MaxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.StaticStreamWindowSize(rpc.StreamWindow), grpc.StaticConnWindowSize(connectionWindow),
		grpc.InTapHandle(incoming.begin),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(connectTimeout),
		grpc.SharedWriteBuffer(true),
		grpc.Creds(doorman),
		grpc.ChainUnaryInterceptor(guard.unary),
		grpc.ChainStreamInterceptor(incoming.stream, guard.stream),
	}
	g := &GRPC{listener: l, health: health.NewServer(), incoming: incoming, conns: conns, logger: logger, grace: cfg.Grace, Server: grpc.NewServer(options...)}
	healthpb.RegisterHealthServer(g, g.health)
	return g, nil
}

// RegisterService adds a service, and has its calls' messages counted while they come.
func (g *GRPC) RegisterService(desc *grpc.ServiceDesc, impl any) {
	watched := *desc
	watched.Methods = slices.Clone(desc.Methods)
	for i := range watched.Methods {
		watched.Methods[i].Handler = g.incoming.unary(desc.Methods[i].Handler)
	}
	g.Server.RegisterService(&watched, impl)
}

// Addr is the address the server listens on.
func (g *GRPC) Addr() net.Addr { return g.listener.Addr() }

// Run serves until ctx ends, then lets the calls in flight finish within the grace time.
func (g *GRPC) Run(ctx context.Context) error {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx)) // until the last call has ended
	var watched sync.WaitGroup
	watched.Go(func() { g.incoming.watch(watching) })
	defer watched.Wait()
	defer stop()
	served := make(chan error, 1)
	go func() { served <- g.Serve(g.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("grpc server on %s: %w", g.Addr(), err)
	case <-ctx.Done():
	}
	g.health.Shutdown()
	cut := time.AfterFunc(g.grace, func() {
		g.logger.Warn("gRPC calls still in flight were cut off", "after", g.grace)
		g.Stop()
	})
	g.GracefulStop()
	cut.Stop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// TenantOfContext is TenantOf for a gRPC call.
func TenantOfContext(ctx context.Context) (model.Tenant, error) {
	var header string
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if values := md.Get(TenantHeader); len(values) > 0 {
			header = values[0]
		}
	}
	return one(accessOf(ctx).tenants(header))
}
