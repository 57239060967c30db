package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/internal/server"
)

// routes opens the doors of the roles that this process plays, and of what every process
// tells about itself.
func (n *node) routes() {
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	if n.querier != nil {
		n.querier.Register(n.http)
	}
	if n.distributor != nil {
		n.http.Handle("/loki/api/v1/push", http.HandlerFunc(n.distributor.ServePush), post...)
		n.http.Handle("/api/prom/push", http.HandlerFunc(n.distributor.ServePush), post...)
		n.http.Handle("/otlp/v1/logs", http.HandlerFunc(n.distributor.ServeOTLP), post...)
	}
	if n.ingester != nil {
		n.http.Handle("/flush", http.HandlerFunc(n.serveFlush), http.MethodGet, http.MethodPost)
		prepare := []string{http.MethodGet, http.MethodPost, http.MethodDelete}
		n.http.Handle("/ingester/prepare-shutdown", http.HandlerFunc(n.servePrepareShutdown), prepare...)
		n.http.Handle("/ingester/prepare_shutdown", http.HandlerFunc(n.servePrepareShutdown), prepare...)
	}
	n.http.Handle("/ready", http.HandlerFunc(n.serveReady), get...)
	n.http.Handle("/services", http.HandlerFunc(n.serveServices), get...)
	n.http.Handle("/config", http.HandlerFunc(n.serveConfig), http.MethodGet)
	n.http.Handle("/config/tenant/v1/limits", http.HandlerFunc(n.serveLimits), get...)
	n.http.Handle("/log_level", http.HandlerFunc(n.serveLogLevel), http.MethodGet, http.MethodPost)
	n.http.Handle("/ring", ring.Page(n.ring, n.cfg.replication), append(get, post...)...)
	n.http.Handle("/{$}", http.HandlerFunc(n.serveHome), http.MethodGet)
}

// serveReady says whether this process should be given work, for those who route it. It
// waits for the ring to be seen, but not for others to be well: a ring whose members wait
// for each other would never begin.
func (n *node) serveReady(w http.ResponseWriter, _ *http.Request) {
	if err := n.ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (n *node) ready() error {
	if n.ingester != nil {
		if err := n.ingester.Ready(); err != nil {
			return fmt.Errorf("Ingester not ready: %w", err)
		}
	}
	if n.members != nil {
		if err := n.members.Ready(); err != nil {
			return err
		}
		if s := n.members.Self().State; s != ring.Active {
			return fmt.Errorf("this instance is %s", s)
		}
	}
	return nil
}

func (n *node) serveFlush(w http.ResponseWriter, r *http.Request) {
	if err := n.ingester.Flush(r.Context()); err != nil {
		server.WriteError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
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
