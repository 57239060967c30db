package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/skaldlog/skald/distributor"
	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/memlimit"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/querier"
	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/compact"
	"github.com/skaldlog/skald/storage/object"
)

// node is a server with the roles that -target names; those it does not play are nil. A
// line comes in at a distributor's doors and ends in the ingesters' logs; queriers see it
// from then on.
type node struct {
	cfg         serverConfig
	logger      *slog.Logger
	registry    *prometheus.Registry
	started     time.Time
	http        *server.Server
	grpc        *server.GRPC
	overrides   *limits.Overrides
	catalog     *catalog.Catalog
	credentials *auth.Credentials // nil without a file of them

	ring       ringOf
	members    *ring.Members           // nil when this process is alone
	pool       *remote.Pool            // nil when this process is alone
	replicator *distributor.Replicator // nil when pushes go straight to the ingester

	distributor *distributor.Distributor
	ingester    *ingester.Ingester
	querier     *querier.Querier
	cache       *object.Cache // nil when the object store is at hand
	compactor   *compact.Compactor
	leaving     leaving
}

// newNode builds the roles from the bottom up: doors, store, ring, ingester (which recovers
// what a crash left in its log), distributor, querier, compactor.
func newNode(ctx context.Context, cfg serverConfig, logger *slog.Logger) (*node, error) {
	n := &node{cfg: cfg, logger: logger, registry: prometheus.NewRegistry(), started: time.Now().UTC()}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	cores.Overcommit()
	memory := memlimit.Apply(cfg.memory, logger)
	cfg.fitMemory(memory.Limit(), logger)
	cfg.fitFiles(openFiles(), logger)
	cfg.distributor.Turns = turns.ForCores()
	cfg.querier.Turns, cfg.replicator.Turns = cfg.distributor.Turns, cfg.distributor.Turns
	n.cfg = cfg
	n.cfg.distributor.Overloaded, n.cfg.remoteServer.Overloaded, n.cfg.querier.Overloaded = memory.Check, memory.Check, memory.Check
	n.cfg.grpc.Overloaded = memory.Check
	// Listening comes first: a port in use should not cost a recovery.
	if err := n.openDoors(); err != nil {
		return nil, err
	}
	// Before the object store, which may be in it.
	if err := os.MkdirAll(cfg.dataDir, 0o750); err != nil {
		return nil, usageError{fmt.Errorf("-data.dir: %w", err)}
	}
	cfg.object.Registerer, cfg.object.Logger = n.registry, logger
	store, err := object.Open(ctx, cfg.storageURL, cfg.object)
	if err != nil {
		return nil, usageError{fmt.Errorf("-storage.url: %w", err)}
	}
	if n.overrides, err = limits.NewOverrides(cfg.overrides, cfg.limits, n.registry, logger); err != nil {
		return nil, err
	}
	cat := catalog.New(store, cfg.catalog, n.registry, logger)
	n.catalog = cat
	if err := n.openRing(); err != nil {
		return nil, err
	}
	if n.members != nil {
		n.expectations(logger)
		if err := n.openPool(); err != nil {
			return nil, err
		}
	}
	if cfg.roles.Has(ring.Ingester) {
		if err := n.openIngester(store); err != nil {
			return nil, err
		}
	}
	if cfg.roles.Has(ring.Distributor) {
		if err := n.openDistributor(); err != nil {
			return nil, err
		}
	}
	deletes := compact.NewDeletes(cfg.compact, store, n.overrides, logger)
	if cfg.roles.Has(ring.Querier) {
		if err := n.openQuerier(store, cat, deletes); err != nil {
			return nil, err
		}
	}
	if cfg.roles.Has(ring.Compactor) {
		if err := os.MkdirAll(cfg.compact.Dir, 0o750); err != nil {
			return nil, fmt.Errorf("-data.dir: %w", err)
		}
		cfg.compact.Owner = n.ownsDay
		n.compactor = compact.New(cfg.compact, store, cat, n.overrides, deletes, querier.CompileDelete, n.registry, logger)
	}
	n.routes()
	return n, nil
}

// openDoors listens for HTTP and gRPC.
func (n *node) openDoors() (err error) {
	cfg := &n.cfg
	if cfg.auth.File != "" {
		if n.credentials, err = auth.Open(cfg.auth, n.registry, n.logger); err != nil {
			return usageError{err}
		}
		cfg.http.Credentials = n.credentials
	}
	if n.http, err = server.New(cfg.http, n.registry, n.logger); err != nil {
		return listenError(err)
	}
	if !cfg.clustered && !cfg.roles.Has(ring.Distributor) {
		return nil // nobody would call
	}
	cfg.grpc.AuthEnabled, cfg.grpc.Credentials, cfg.grpc.Grace = cfg.http.AuthEnabled, cfg.http.Credentials, cfg.http.ShutdownTimeout
	if n.grpc, err = server.NewGRPC(cfg.grpc, n.registry, n.logger); err != nil {
		return listenError(err)
	}
	return nil
}

// listenError tells an address that makes no sense, which is wrong input, from one in use.
func listenError(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: is another server running there?", err)
	}
	return usageError{fmt.Errorf("%w; expected HOST:PORT or :PORT", err)}
}

func (n *node) openIngester(store object.Store) (err error) {
	n.cfg.ingester.Share = n.streamShare
	if n.ingester, err = ingester.New(n.cfg.ingester, store, n.overrides, n.registry, n.logger); err != nil {
		return err
	}
	if n.members != nil {
		remote.Register(n.grpc, lateIngester{n.ingester, n}, n.cfg.remoteServer, n.registry)
	}
	return n.leaving.open(n.cfg.dataDir, n.ingester)
}

func (n *node) openDistributor() error {
	n.cfg.distributor.Instances = n.distributors
	var next distributor.Pusher = n.ingester
	if n.members != nil {
		if err := n.openReplicator(); err != nil {
			return err
		}
		next = n.replicator
	}
	n.distributor = distributor.New(n.cfg.distributor, next, n.overrides, n.registry, n.logger)
	if n.grpc != nil {
		n.distributor.RegisterGRPC(n.grpc)
	}
	return nil
}

func (n *node) openQuerier(store object.Store, cat *catalog.Catalog, deletes *compact.Deletes) error {
	cached, err := storage.Cached(store, object.CacheConfig{
		Dir: filepath.Join(n.cfg.dataDir, "cache"), DiskBytes: n.cfg.cacheBytes, MemoryBytes: n.cfg.cacheMemory,
	}, n.registry, n.logger)
	if err != nil {
		return err
	}
	n.cache, _ = cached.(*object.Cache)
	reader := storage.NewReader(cached, cat, n.cfg.storage, n.registry, n.logger)
	var recent querier.Holder = n.ingester
	if n.members != nil {
		recent = n.openIngesters()
	}
	n.querier = querier.New(n.cfg.querier, []querier.Source{recent, reader}, recent, n.overrides, n.registry, n.logger)
	n.querier.UseDeletes(deletes)
	if n.members != nil && n.grpc != nil {
		n.querier.UsePeers(queriers{n}, n.pool.Conn)
		n.querier.RegisterGRPC(n.grpc)
	}
	return nil
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return host
}

func isFile(storageURL string) bool {
	return strings.HasPrefix(storageURL, "file:") || !strings.Contains(storageURL, "://")
}
