package agent

import (
	"context"
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// prefix is what stands before every path, by http_path_prefix or external_url.
func (a *Agent) prefix() string {
	p := a.server.HTTPPathPrefix
	if u, err := url.Parse(a.server.ExternalURL); p == "" && err == nil {
		p = u.Path
	}
	if p = strings.TrimRight(p, "/"); p != "" && p[0] != '/' {
		p = "/" + p
	}
	return p
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	prefix := a.prefix()
	mux.HandleFunc("GET "+prefix+"/{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, prefix+"/targets", http.StatusSeeOther)
	})
	mux.HandleFunc("GET "+prefix+"/ready", a.serveReady)
	mux.HandleFunc("GET "+prefix+"/targets", a.serveTargets)
	mux.HandleFunc("GET "+prefix+"/service-discovery", a.serveDiscovery)
	mux.HandleFunc("GET "+prefix+"/config", a.serveConfig)
	mux.HandleFunc("GET "+prefix+"/why", a.serveWhy)
	if a.server.EnableRuntimeReload {
		mux.HandleFunc("POST "+prefix+"/reload", a.serveReload)
	}
	if r := a.server.RegisterInstrumentation; r == nil || *r {
		mux.Handle("GET "+prefix+"/metrics", a.metricsHandler())
	}
	if a.server.ProfilingEnabled {
		mux.HandleFunc(prefix+"/debug/pprof/", pprof.Index)
		mux.HandleFunc(prefix+"/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc(prefix+"/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc(prefix+"/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// serveReady answers as Promtail does, and says more when nothing is read.
func (a *Agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	rt := a.engine()
	if h := a.server.HealthCheckTarget; h != nil && !*h || rt.reading() {
		fmt.Fprintln(w, "Ready")
		return
	}
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintln(w, "Not ready: Unable to find any logs to tail. Please verify permissions, volumes, scrape_config, etc.")
	for _, line := range rt.nothing() {
		fmt.Fprintln(w, line)
	}
}

// reading reports whether at least one source gives lines, or could.
func (rt *engine) reading() bool {
	for _, s := range rt.sources() {
		if s.info().Ready {
			return true
		}
	}
	for _, l := range rt.lanes {
		if len(l.tailer.Logs()) > 0 {
			return true
		}
	}
	return false
}

// sources are all sources that are no files.
func (rt *engine) sources() []source {
	out := append([]source(nil), rt.shared...)
	for _, l := range rt.lanes {
		out = append(out, l.sources...)
	}
	return out
}

// nothing explains, a line for each target, why nothing is read.
func (rt *engine) nothing() []string {
	var out []string
	for _, j := range rt.jobs {
		jt := rt.targets.snapshot(j)
		if len(jt.active) == 0 && len(jt.dropped) == 0 && j.files() {
			out = append(out, fmt.Sprintf("job %s: nothing has been discovered yet", j.JobName))
		}
		for i, d := range jt.dropped {
			if i == 20 {
				out = append(out, fmt.Sprintf("job %s: … and %d more", j.JobName, len(jt.dropped)-i))
				break
			}
			out = append(out, fmt.Sprintf("job %s, %s: %s", j.JobName, d.found.Source, d.why))
		}
	}
	for _, s := range rt.sources() {
		if i := s.info(); i.Problem != "" {
			out = append(out, fmt.Sprintf("job %s, %s: %s", i.Job, i.Where, i.Problem))
		}
	}
	if len(rt.lanes) > 0 {
		for _, t := range rt.lanes[0].tailer.Targets() {
			why := t.Why
			if t.Matches == 0 {
				why += explainPattern(t.Path)
			}
			out = append(out, fmt.Sprintf("job %s, %s: %s", t.Job, t.Path, why))
		}
	}
	return out
}

// targetCounts are the targets by kind of source.
func (rt *engine) targetCounts() map[string]int {
	out := map[string]int{"File": 0}
	for _, j := range rt.jobs {
		out["File"] += len(rt.targets.snapshot(j).active)
	}
	for _, s := range rt.shared {
		out[s.info().Type]++
	}
	if len(rt.lanes) > 0 {
		for _, s := range rt.lanes[0].sources {
			out[s.info().Type]++
		}
	}
	return out
}

// serveConfig shows the configuration in force, defaults included, without secrets.
func (a *Agent) serveConfig(w http.ResponseWriter, _ *http.Request) {
	text, err := a.engine().cfg.YAML()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(text) // the client may have gone
}

// YAML is the configuration in force, defaults included, without secrets.
func (c *Config) YAML() ([]byte, error) { return yaml.Marshal(c) }

// reloadTimeout bounds a reload: the old clients deliver what they hold, within StopTimeout.
const reloadTimeout = time.Minute

func (a *Agent) serveReload(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), reloadTimeout)
	defer cancel()
	if err := a.Reload(ctx); err != nil {
		http.Error(w, "failed to reload config: "+err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "reloaded")
}

func acceptsHTML(r *http.Request) bool {
	return r.URL.Query().Get("format") != "text" && strings.HasPrefix(r.Header.Get("Accept"), "text/html")
}
