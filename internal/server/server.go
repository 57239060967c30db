// Package server is the HTTP plumbing under every door of Skald: it listens, finds the
// tenant, counts and logs requests, serves the pages about the process itself (/metrics,
// /debug/pprof) and stops in order: no new requests, then those in flight are finished.
// It knows no endpoint's meaning.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/tlsconf"
)

// Config says how to listen.
type Config struct {
	// Listen is host:port; port 0 takes any free one.
	Listen string
	// AuthEnabled requires X-Scope-OrgID on every request for data. Without it the tenant
	// is always "fake" and the header is ignored.
	AuthEnabled bool
	// ReadTimeout bounds reading one request with its body, so that a slow client cannot
	// hold a connection for ever.
	ReadTimeout time.Duration
	// IdleTimeout closes connections that no request used for so long.
	IdleTimeout time.Duration
	// MaxConnections bounds the open connections; 0 is any number.
	MaxConnections int
	// ShutdownTimeout is how long requests in flight may take once the server stops.
	ShutdownTimeout time.Duration
	// TLS turns TLS on, and may ask for client certificates.
	TLS tlsconf.Server
	// Credentials, when not nil, must be shown on every request that is not public.
	Credentials *auth.Credentials
}

// RegisterFlags declares the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Listen, "http.listen", ":3100", "`address` of the HTTP server, host:port; port 0 takes a free one")
	fs.BoolVar(&c.AuthEnabled, "auth.enabled", false, "require the tenant header X-Scope-OrgID; without, all data belongs to tenant \"fake\"")
	fs.DurationVar(&c.ReadTimeout, "http.read-timeout", time.Minute, "longest time to read one request with its body, which must also come at 16 KiB/s on average after ten seconds")
	fs.DurationVar(&c.IdleTimeout, "http.idle-timeout", 2*time.Minute, "close connections unused for so long")
	fs.IntVar(&c.MaxConnections, "http.max-connections", 8192, "open connections at most. Beyond it the one that has been idle for longest is closed for a new one; if none is idle, the new one. 0 is any number")
	c.TLS.RegisterFlags(fs, "http")
	fs.DurationVar(&c.ShutdownTimeout, "http.shutdown-timeout", 10*time.Second, "how long requests in flight may take when the server stops")
}

// Server is one HTTP listener with the routes that the roles register on it.
type Server struct {
	cfg      Config
	logger   *slog.Logger
	mux      *http.ServeMux
	routes   []Route
	listener boundedListener
	tls      *tls.Config // nil without TLS
	requests *prometheus.HistogramVec
	inflight prometheus.Gauge
}

// New listens at once, so that a port in use is an error before anything else starts.
func New(cfg Config, reg *prometheus.Registry, logger *slog.Logger) (*Server, error) {
	secure, err := cfg.TLS.Config("h2", "http/1.1")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("-http.listen=%s: %w", cfg.Listen, err)
	}
	s := &Server{
		cfg: cfg, logger: logger, mux: http.NewServeMux(), tls: secure,
		listener: boundedListener{l, newConnections(cfg.MaxConnections, "http", reg)},
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "skald_http_request_seconds", Help: "Time to answer HTTP requests, by route and status.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"route", "method", "status"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "skald_http_inflight_requests", Help: "HTTP requests being answered now.",
		}),
	}
	reg.MustRegister(s.requests, s.inflight)
	s.routes = append(s.routes, Route{"/metrics", []string{http.MethodGet, http.MethodHead}})
	s.mux.Handle("GET /metrics", s.guard("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg})))
	for path, page := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		s.routes = append(s.routes, Route{Pattern: path})
		s.mux.Handle(path, s.guard(path, page))
	}
	return s, nil
}

// Route is a pattern of net/http.ServeMux without a method, and the methods that it takes.
type Route struct {
	Pattern string
	Methods []string // none: all
}

// Routes lists what was registered by Handle, and the pages of the server's own.
func (s *Server) Routes() []Route { return slices.Clone(s.routes) }

// Handle adds a route; pattern is one of net/http.ServeMux without a method. Requests with
// a method that is not listed get 405 with an empty body; no methods means all of them.
func (s *Server) Handle(pattern string, h http.Handler, methods ...string) {
	s.routes = append(s.routes, Route{pattern, methods})
	s.mux.Handle(pattern, s.observe(pattern, s.guard(pattern, allow(methods, h))))
}

// Addr is the address the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Scheme is http or https.
func (s *Server) Scheme() string {
	if s.tls != nil {
		return "https"
	}
	return "http"
}

// Run serves until ctx ends, then stops accepting, waits for the requests in flight for at
// most ShutdownTimeout, and returns. Requests have a context of their own, which ends with
// the client's connection.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           withPace(s.cfg.ReadTimeout, s.mux),
		TLSConfig:         s.tls,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       s.cfg.ReadTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    1 << 20,
		ConnState:         s.listener.conns.follow,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() {
		if s.tls != nil {
			served <- srv.ServeTLS(s.listener, "", "")
			return
		}
		served <- srv.Serve(s.listener)
	}()
	select {
	case err := <-served:
		return fmt.Errorf("http server on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownTimeout)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		s.logger.Warn("requests still in flight were cut off", "after", s.cfg.ShutdownTimeout)
		err = srv.Close()
	}
	<-served
	return err
}

func allow(methods []string, h http.Handler) http.Handler {
	if len(methods) == 0 {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, m := range methods {
			if m == r.Method {
				h.ServeHTTP(w, r)
				return
			}
		}
		w.WriteHeader(http.StatusMethodNotAllowed)
	})
}

func (s *Server) observe(route string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.inflight.Inc()
		defer s.inflight.Dec()
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		id := requestID(r)
		w.Header().Set(RequestIDHeader, id)
		start := time.Now()
		h.ServeHTTP(sw, r)
		took := time.Since(start)
		s.requests.WithLabelValues(route, r.Method, strconv.Itoa(sw.status)).Observe(took.Seconds())
		level := slog.LevelDebug
		if sw.status >= 500 && sw.status != http.StatusServiceUnavailable {
			level = slog.LevelWarn
		}
		s.logger.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path, "status", sw.status, "took", took, "id", id)
	})
}

// statusWriter remembers the status. Unwrap lets http.ResponseController, and with it
// websockets and flushing, reach the real writer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
