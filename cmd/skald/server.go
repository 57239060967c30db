package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/distributor"
	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/conf"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/tlsconf"
	"github.com/skaldlog/skald/querier"
	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/compact"
	"github.com/skaldlog/skald/storage/object"
)

// serverConfig is everything a server can be told. Each part declares its own settings.
type serverConfig struct {
	configFile  string
	target      string
	dataDir     string
	storageURL  string
	cacheBytes  int64
	cacheMemory int64
	log         logConfig

	http        server.Config
	grpc        server.GRPCConfig
	auth        auth.Config
	cluster     tlsconf.Member
	replication int
	distributor distributor.Config
	ingester    ingester.Config
	querier     querier.Config
	compact     compact.Config
	storage     storage.Config
	catalog     catalog.Config
	object      object.Options
	limits      limits.Limits
	overrides   limits.Config
}

func (c *serverConfig) register(fs *flag.FlagSet) {
	c.limits = limits.Defaults()
	fs.StringVar(&c.configFile, "config.file", "", "YAML `file` with settings; keys are the flags' names, and limits: holds Loki's limits")
	fs.StringVar(&c.target, "target", "all", "`roles` of this process; all is the one there is")
	fs.StringVar(&c.dataDir, "data.dir", "./skald-data", "`directory` for the write-ahead log, local segments and, without storage.url, the object store")
	fs.StringVar(&c.storageURL, "storage.url", "", "object store: file:///DIR or s3://BUCKET/PREFIX?endpoint=…&region=…; the directory objects under data.dir by default")
	fs.Int64Var(&c.cacheBytes, "cache.disk-bytes", 10<<30, "`bytes` of local disk for parts of remote segments")
	fs.Int64Var(&c.cacheMemory, "cache.memory-bytes", 64<<20, "`bytes` of memory for parts of remote segments")
	c.log.register(fs)
	c.http.RegisterFlags(fs)
	c.grpc.RegisterFlags(fs)
	c.auth.RegisterFlags(fs)
	c.cluster.RegisterFlags(fs)
	fs.IntVar(&c.replication, "replication.factor", 1, "ingesters that hold each entry; this process is one ingester, so 1")
	c.distributor.RegisterFlags(fs)
	c.ingester.RegisterFlags(fs)
	c.querier.RegisterFlags(fs)
	c.compact.RegisterFlags(fs)
	c.storage.RegisterFlags(fs)
	c.catalog.RegisterFlags(fs)
	c.object.RegisterFlags(fs)
	c.limits.RegisterFlags(fs)
	c.overrides.RegisterFlags(fs)
}

func (c *serverConfig) source() conf.Source {
	return conf.Source{
		EnvPrefix: envPrefix, FileFlag: "config.file",
		Blocks: map[string]func(*yaml.Node) error{"limits": func(n *yaml.Node) error { return n.Decode(&c.limits) }},
	}
}

// validate checks what no single part can, and fills what follows from other settings.
func (c *serverConfig) validate() error {
	if c.target != "all" {
		return fmt.Errorf("-target=%s: expected all; this version runs every role in one process", c.target)
	}
	if c.replication != 1 {
		return fmt.Errorf("-replication.factor=%d: expected 1, since this version runs a single ingester", c.replication)
	}
	if c.auth.File != "" && !c.http.AuthEnabled {
		return errors.New("-auth.credentials-file: set -auth.enabled too, since credentials open tenants")
	}
	if c.dataDir == "" {
		return errors.New("-data.dir: expected a directory")
	}
	if err := c.querier.Validate(); err != nil {
		return err
	}
	if c.storageURL == "" {
		dir, err := filepath.Abs(filepath.Join(c.dataDir, "objects"))
		if err != nil {
			return fmt.Errorf("-data.dir=%s: %w", c.dataDir, err)
		}
		c.storageURL = "file://" + dir
	}
	c.ingester.Dir = c.dataDir
	c.compact.Dir = filepath.Join(c.dataDir, "compact")
	if err := c.compact.CheckDelay(2*c.catalog.TTL + c.limits.QueryTimeout.Duration()); err != nil {
		return err
	}
	if least := 2 * c.catalog.TTL; c.ingester.KeepAfterUpload < least {
		return fmt.Errorf("-ingester.keep-after-upload=%s: expected at least twice -catalog.ttl (%s), or queries would miss rows just uploaded", c.ingester.KeepAfterUpload, least)
	}
	return nil
}

// node is a server with all roles in one process. A line comes in at the distributor's
// doors and ends in the ingester's log; the querier sees it from then on.
type node struct {
	cfg         serverConfig
	logger      *slog.Logger
	registry    *prometheus.Registry
	started     time.Time
	http        *server.Server
	grpc        *server.GRPC
	overrides   *limits.Overrides
	credentials *auth.Credentials // nil without a file of them
	distributor *distributor.Distributor
	ingester    *ingester.Ingester
	querier     *querier.Querier
	compactor   *compact.Compactor
}

// newNode builds the roles from the bottom up: store, ingester (which recovers what a crash
// left in its log), distributor, querier, doors.
func newNode(ctx context.Context, cfg serverConfig, logger *slog.Logger) (*node, error) {
	n := &node{cfg: cfg, logger: logger, registry: prometheus.NewRegistry(), started: time.Now().UTC()}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if cfg.auth.File != "" {
		if n.credentials, err = auth.Open(cfg.auth, n.registry, logger); err != nil {
			return nil, usageError{err}
		}
		cfg.http.Credentials = n.credentials
	}
	// Listening comes first: a port in use should not cost a recovery.
	if n.http, err = server.New(cfg.http, n.registry, logger); err != nil {
		return nil, listenError(err)
	}
	cfg.grpc.AuthEnabled, cfg.grpc.Credentials, cfg.grpc.Grace = cfg.http.AuthEnabled, cfg.http.Credentials, cfg.http.ShutdownTimeout
	if n.grpc, err = server.NewGRPC(cfg.grpc, logger); err != nil {
		return nil, listenError(err)
	}
	cfg.object.Registerer, cfg.object.Logger = n.registry, logger
	store, err := object.Open(ctx, cfg.storageURL, cfg.object)
	if err != nil {
		return nil, usageError{fmt.Errorf("-storage.url: %w", err)}
	}
	if n.overrides, err = limits.NewOverrides(cfg.overrides, cfg.limits, n.registry, logger); err != nil {
		return nil, err
	}
	if n.ingester, err = ingester.New(cfg.ingester, store, n.overrides, n.registry, logger); err != nil {
		return nil, err
	}
	cached, err := storage.Cached(store, object.CacheConfig{
		Dir: filepath.Join(cfg.dataDir, "cache"), DiskBytes: cfg.cacheBytes, MemoryBytes: cfg.cacheMemory,
	}, n.registry, logger)
	if err != nil {
		return nil, err
	}
	cat := catalog.New(store, cfg.catalog, n.registry, logger)
	reader := storage.NewReader(cached, cat, cfg.storage, n.registry, logger)
	n.distributor = distributor.New(cfg.distributor, n.ingester, n.overrides, n.registry, logger)
	n.querier = querier.New(cfg.querier, []querier.Source{n.ingester, reader}, n.ingester, n.overrides, n.registry, logger)
	deletes := compact.NewDeletes(cfg.compact, store, n.overrides, logger)
	n.querier.UseDeletes(deletes)
	if err := os.MkdirAll(cfg.compact.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("-data.dir: %w", err)
	}
	n.compactor = compact.New(cfg.compact, store, cat, n.overrides, deletes, querier.CompileDelete, n.registry, logger)
	n.routes()
	if n.grpc != nil {
		n.distributor.RegisterGRPC(n.grpc)
	}
	return n, nil
}

// listenError tells an address that makes no sense, which is wrong input, from one in use.
func listenError(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: is another server running there?", err)
	}
	return usageError{fmt.Errorf("%w; expected HOST:PORT or :PORT", err)}
}

func (n *node) routes() {
	n.querier.Register(n.http)
	post := []string{http.MethodPost}
	n.http.Handle("/loki/api/v1/push", http.HandlerFunc(n.distributor.ServePush), post...)
	n.http.Handle("/api/prom/push", http.HandlerFunc(n.distributor.ServePush), post...)
	n.http.Handle("/otlp/v1/logs", http.HandlerFunc(n.distributor.ServeOTLP), post...)
	n.http.Handle("/ready", http.HandlerFunc(n.serveReady), http.MethodGet)
	n.http.Handle("/flush", http.HandlerFunc(n.serveFlush), http.MethodGet, http.MethodPost)
	n.http.Handle("/config", http.HandlerFunc(n.serveConfig), http.MethodGet)
	n.statusRoutes()
	n.http.Handle("/{$}", http.HandlerFunc(n.serveHome), http.MethodGet)
}

func (n *node) serveReady(w http.ResponseWriter, _ *http.Request) {
	if err := n.ingester.Ready(); err != nil {
		http.Error(w, "Ingester not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (n *node) serveFlush(w http.ResponseWriter, r *http.Request) {
	if err := n.ingester.Flush(r.Context()); err != nil {
		server.WriteError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// serveConfig prints the settings in force in the form that -config.file reads.
func (n *node) serveConfig(w http.ResponseWriter, _ *http.Request) {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	cfg := n.cfg
	values := map[string]string{}
	var shown serverConfig
	shown.register(fs)
	shown = cfg
	fs.VisitAll(func(f *flag.Flag) { values[f.Name] = redact(f.Value.String()) })
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text, err := yaml.Marshal(values)
	if err != nil {
		server.WriteError(w, err)
		return
	}
	_, _ = w.Write(text) // the client may have gone
}

// redact hides the password of a URL.
func redact(value string) string {
	if u, err := url.Parse(value); err == nil && u.User != nil {
		return u.Redacted()
	}
	return value
}

func (n *node) serveHome(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "Skald %[1]s speaks Loki's HTTP API here.\n\n"+
		"Add %[3]s://%[2]s as a Loki data source in Grafana, or ask from a shell:\n\n"+
		"  skald --addr=%[3]s://%[2]s labels\n  skald --addr=%[3]s://%[2]s query '{job=~\".+\"}'\n\n"+
		"/ready  /metrics  /config  /debug/pprof/\n", version, n.http.Addr(), n.http.Scheme())
}

// run serves until ctx ends. The order of the end: no new requests and those in flight
// finished, then the ingester makes everything durable, then the limits' reloader.
func (n *node) run(ctx context.Context) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	ingesterCtx, stopIngester := context.WithCancel(background)
	defer stopIngester()

	var wg sync.WaitGroup
	var ingesterErr, overridesErr, compactErr, credentialsErr error
	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
	ingesterDone := make(chan struct{})
	wg.Go(func() {
		defer close(ingesterDone)
		ingesterErr = n.ingester.Run(ingesterCtx)
	})
	wg.Go(func() { overridesErr = n.overrides.Run(background) })
	if n.credentials != nil {
		wg.Go(func() { credentialsErr = n.credentials.Run(background) })
	}
	wg.Go(func() { compactErr = n.compactor.Run(serveCtx) })
	wg.Go(func() { freeMemory(background) })

	go func() {
		// An ingester that stops by itself takes the server down rather than leave one that
		// refuses everything.
		<-ingesterDone
		stopServing()
	}()
	var grpcErr error
	var grpcWait sync.WaitGroup
	if n.grpc != nil {
		grpcWait.Go(func() { grpcErr = n.grpc.Run(serveCtx) })
	}
	httpErr := n.http.Run(serveCtx)
	grpcWait.Wait()
	stopIngester()
	<-ingesterDone
	stopBackground()
	wg.Wait()
	return errors.Join(httpErr, grpcErr, ignoreCanceled(ingesterErr), ignoreCanceled(overridesErr), ignoreCanceled(credentialsErr), ignoreCanceled(compactErr))
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// freeMemory gives memory back to the system after a burst, which the runtime alone does
// only slowly, so that an idle server is small.
func freeMemory(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			debug.FreeOSMemory()
		}
	}
}

// logConfig says how the process logs about itself.
type logConfig struct {
	level, format string
	current       *slog.LevelVar // in force; /log_level changes it
}

func (c *logConfig) register(fs *flag.FlagSet) {
	c.current = new(slog.LevelVar)
	fs.StringVar(&c.level, "log.level", "info", "least `level` that is logged: debug, info, warn or error")
	fs.StringVar(&c.format, "log.format", "logfmt", "`format` of the log on standard error: logfmt or json")
}

func (c *logConfig) logger(std stdio) (*slog.Logger, error) {
	if err := c.set(c.level); err != nil {
		return nil, fmt.Errorf("-log.level=%w", err)
	}
	opts := &slog.HandlerOptions{Level: c.current}
	switch c.format {
	case "logfmt":
		return slog.New(slog.NewTextHandler(std.err, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(std.err, opts)), nil
	}
	return nil, fmt.Errorf("-log.format=%s: expected logfmt or json", c.format)
}
