package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/skaldlog/skald/agent/tail"
)

// listen opens the port of the server block.
func (a *Agent) listen() error {
	s := &a.cfg.Server
	if s.Disable {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.HTTPListenAddress, strconv.Itoa(s.HTTPListenPort)))
	if err != nil {
		return fmt.Errorf("server.http_listen_port: %w", err)
	}
	if s.HTTPTLS.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(s.HTTPTLS.CertFile, s.HTTPTLS.KeyFile)
		if err != nil {
			return errors.Join(fmt.Errorf("server.http_tls_config: %w", err), l.Close())
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	}
	a.listener = l
	return nil
}

// serve answers HTTP requests until the context ends.
func (a *Agent) serve(ctx context.Context) {
	if a.listener == nil {
		return
	}
	srv := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(a.listener) }()
	select {
	case err := <-done:
		a.log.Error("the HTTP server failed", "err", err)
	case <-ctx.Done():
		shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(shut) != nil {
			_ = srv.Close() // there is nothing to save
		}
		<-done
	}
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	prefix := a.cfg.Server.HTTPPathPrefix
	mux.HandleFunc("GET "+prefix+"/{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, prefix+"/targets", http.StatusSeeOther)
	})
	mux.HandleFunc("GET "+prefix+"/ready", a.serveReady)
	mux.HandleFunc("GET "+prefix+"/targets", a.serveTargets)
	if g, ok := a.opts.Registerer.(prometheus.Gatherer); ok {
		mux.Handle("GET "+prefix+"/metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	} else {
		mux.Handle("GET "+prefix+"/metrics", promhttp.Handler())
	}
	if a.cfg.Server.ProfilingEnabled {
		mux.HandleFunc(prefix+"/debug/pprof/", pprof.Index)
		mux.HandleFunc(prefix+"/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc(prefix+"/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc(prefix+"/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (a *Agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	if h := a.cfg.Server.HealthCheckTarget; h != nil && !*h || a.tailing() {
		fmt.Fprintln(w, "Ready")
		return
	}
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintln(w, "Not ready: Unable to find any logs to tail. Please verify permissions, volumes, scrape_config, etc.")
	for _, l := range a.lanes {
		for _, t := range l.tailer.Targets() {
			fmt.Fprintf(w, "job %s, %s: %s\n", t.Job, t.Path, t.Why)
		}
	}
}

func (a *Agent) tailing() bool {
	for _, l := range a.lanes {
		if len(l.tailer.Logs()) > 0 {
			return true
		}
	}
	return false
}

// laneView is what the page shows about a client.
type laneView struct {
	Name    string
	Waiting string
	Failure string
	Targets []tail.TargetInfo
	Logs    []tail.LogInfo
}

func (a *Agent) views() []laneView {
	var out []laneView
	for _, l := range a.lanes {
		v := laneView{Name: l.name, Targets: l.tailer.Targets(), Logs: l.tailer.Logs()}
		bytes, err, since := l.sender.Status()
		v.Waiting = humanize.IBytes(uint64(max(bytes, 0)))
		if err != nil {
			v.Failure = fmt.Sprintf("%v (at %s)", err, since.Format(time.RFC3339))
		}
		out = append(out, v)
	}
	return out
}

func (a *Agent) serveTargets(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") != "text" && acceptsHTML(r) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = targetsPage.Execute(w, a.views()) // the client may have gone
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, v := range a.views() {
		fmt.Fprintf(w, "client %s: %s not yet acknowledged\n", v.Name, v.Waiting)
		if v.Failure != "" {
			fmt.Fprintf(w, "  last push failed: %s\n", v.Failure)
		}
		for _, t := range v.Targets {
			fmt.Fprintf(w, "  job %s  %s  %s  %s\n", t.Job, t.Path, t.Labels, t.Why)
		}
		for _, l := range v.Logs {
			fmt.Fprintf(w, "    %s  read %d of %d  lag %d bytes  %s\n", l.Path, l.Read, l.Size, l.Lag, l.Problem)
		}
	}
}

func acceptsHTML(r *http.Request) bool {
	for _, a := range r.Header.Values("Accept") {
		if len(a) >= 9 && a[:9] == "text/html" {
			return true
		}
	}
	return false
}

var targetsPage = template.Must(template.New("targets").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Targets – Skald agent</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b00020}</style>
<h1>Targets</h1>
{{range .}}<h2>Client {{.Name}}</h2>
<p>{{.Waiting}} read and not yet acknowledged.{{with .Failure}} <span class="bad">Last push failed: {{.}}</span>{{end}}</p>
<table><tr><th>Job<th>Files<th>Labels<th>State</tr>
{{range .Targets}}<tr><td>{{.Job}}<td>{{.Path}}<td>{{.Labels}}<td>{{.Why}}</tr>{{end}}</table>
<table><tr><th>File<th>Job<th>Read<th>Size<th>Lag, bytes<th>Last turn<th>Problem</tr>
{{range .Logs}}<tr><td>{{.Path}}<td>{{.Job}}<td class="n">{{.Read}}<td class="n">{{.Size}}<td class="n">{{.Lag}}<td>{{.Age}}<td class="bad">{{.Problem}}</tr>{{end}}</table>
{{end}}</html>
`))
