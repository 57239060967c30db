package agent

import (
	"fmt"
	"html/template"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/tail"
)

// laneView is what the page shows about a client.
type laneView struct {
	Name    string
	Waiting string
	Failure string
	Targets []tail.TargetInfo
	Logs    []tail.LogInfo
	Sources []sourceInfo
}

func (rt *engine) views() []laneView {
	var out []laneView
	for _, l := range rt.lanes {
		v := laneView{Name: l.name, Targets: l.tailer.Targets(), Logs: l.tailer.Logs()}
		for _, s := range append(append([]source(nil), rt.shared...), l.sources...) {
			v.Sources = append(v.Sources, s.info())
		}
		bytes, since, err := l.sender.Status()
		v.Waiting = humanize.IBytes(uint64(max(bytes, 0)))
		if err != nil {
			v.Failure = fmt.Sprintf("%v (at %s)", err, since.Format(time.RFC3339))
		}
		out = append(out, v)
	}
	return out
}

func (a *Agent) serveTargets(w http.ResponseWriter, r *http.Request) {
	views := a.engine().views()
	if acceptsHTML(r) {
		render(w, targetsPage, page{a.prefix(), "Targets", views})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, v := range views {
		fmt.Fprintf(w, "client %s: %s not yet acknowledged\n", v.Name, v.Waiting)
		if v.Failure != "" {
			fmt.Fprintf(w, "  last push failed: %s\n", v.Failure)
		}
		for _, s := range v.Sources {
			fmt.Fprintf(w, "  job %s  %s  %s  %s  %s\n", s.Job, s.Type, s.Where, s.Labels, s.Problem)
		}
		for _, t := range v.Targets {
			fmt.Fprintf(w, "  job %s  %s  %s  %s\n", t.Job, t.Path, t.Labels, t.Why)
		}
		for _, l := range v.Logs {
			fmt.Fprintf(w, "    %s  read %d of %d  lag %d bytes, %s  %s\n", l.Path, l.Read, l.Size, l.Lag, l.Behind, l.Problem)
		}
	}
}

// discoveryView is what the page shows about a job.
type discoveryView struct {
	Job     string
	Active  []discoveredView
	Dropped []discoveredView
	Total   int // dropped ones, shown or not
}

type discoveredView struct {
	Source     string
	Discovered []string
	Result     string // labels, or the reason
	Path       string
	Note       string
}

// shownDropped bounds the dropped targets that are shown for each job.
const shownDropped = 100

func (rt *engine) discovered() []discoveryView {
	var out []discoveryView
	for _, j := range rt.jobs {
		if !j.files() {
			continue
		}
		jt := rt.targets.snapshot(j)
		v := discoveryView{Job: j.JobName, Total: len(jt.dropped)}
		for _, t := range jt.active {
			d := discoveredView{Source: t.found.Source, Discovered: labelLines(t.found.Labels), Result: t.labels.String(), Path: t.path}
			if t.found.Guess != nil {
				d.Note = "known by its directory only"
				if h := t.hold.Load(); h > clock.Now() {
					d.Note += "; its lines wait for the Kubernetes API"
				}
			}
			v.Active = append(v.Active, d)
		}
		for _, u := range jt.dropped[:min(len(jt.dropped), shownDropped)] {
			v.Dropped = append(v.Dropped, discoveredView{Source: u.found.Source, Discovered: labelLines(u.found.Labels), Result: u.why})
		}
		out = append(out, v)
	}
	return out
}

func labelLines(ls labels.Labels) []string {
	var out []string
	ls.Range(func(l labels.Label) { out = append(out, fmt.Sprintf("%s=%q", l.Name, l.Value)) })
	sort.Strings(out)
	return out
}

func (a *Agent) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	views := a.engine().discovered()
	if acceptsHTML(r) {
		render(w, discoveryPage, page{a.prefix(), "Service discovery", views})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, v := range views {
		fmt.Fprintf(w, "job %s: %d followed, %d dropped\n", v.Job, len(v.Active), v.Total)
		for _, d := range v.Active {
			fmt.Fprintf(w, "  followed  %s  %s  %s\n    from %s\n    %s\n", d.Path, d.Result, d.Note, d.Source, strings.Join(d.Discovered, " "))
		}
		for _, d := range v.Dropped {
			fmt.Fprintf(w, "  dropped   %s\n    from %s\n    %s\n", d.Result, d.Source, strings.Join(d.Discovered, " "))
		}
	}
}

type page struct {
	Prefix, Title string
	Data          any
}

func render(w http.ResponseWriter, t *template.Template, p page) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = t.Execute(w, p) // the client may have gone
}

func pageTemplate(body string) *template.Template {
	return template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{.Title}} – Skald agent</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin-bottom:1rem}td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b00020}.l{font:12px/1.4 ui-monospace,monospace;word-break:break-all}nav a{margin-right:1rem}</style>
<nav><a href="{{.Prefix}}/targets">Targets</a><a href="{{.Prefix}}/service-discovery">Service discovery</a><a href="{{.Prefix}}/config">Configuration</a><a href="{{.Prefix}}/metrics">Metrics</a></nav>
<h1>{{.Title}}</h1>
` + body + `</html>
`))
}

var targetsPage = pageTemplate(`<form action="{{.Prefix}}/why"><label>Why is nothing read from <input name="q" size="60" placeholder="a path, or the name of a pod"></label> <button>Explain</button></form>
{{range .Data}}<h2>Client {{.Name}}</h2>
<p>{{.Waiting}} read and not yet acknowledged.{{with .Failure}} <span class="bad">Last push failed: {{.}}</span>{{end}}</p>
{{with .Sources}}<table><tr><th>Job<th>Type<th>Where<th>Labels<th>Problem</tr>
{{range .}}<tr><td>{{.Job}}<td>{{.Type}}<td>{{.Where}}<td class="l">{{.Labels}}<td class="bad">{{.Problem}}</tr>{{end}}</table>{{end}}
<table><tr><th>Job<th>Files<th>Labels<th>State</tr>
{{range .Targets}}<tr><td>{{.Job}}<td>{{.Path}}<td class="l">{{.Labels}}<td>{{.Why}}</tr>{{end}}</table>
<table><tr><th>File<th>Job<th>Read<th>Size<th>Lag, bytes<th>Lag<th>Last turn<th>Problem</tr>
{{range .Logs}}<tr><td>{{.Path}}<td>{{.Job}}<td class="n">{{.Read}}<td class="n">{{.Size}}<td class="n">{{.Lag}}<td>{{.Behind}}<td>{{.Age}}<td class="bad">{{.Problem}}</tr>{{end}}</table>
{{end}}`)

var discoveryPage = pageTemplate(`{{range .Data}}<h2>{{.Job}}</h2>
<p>{{len .Active}} followed, {{.Total}} dropped.</p>
<table><tr><th>Discovered<th>Labels after relabelling<th>Files</tr>
{{range .Active}}<tr><td class="l">{{range .Discovered}}{{.}}<br>{{end}}<i>{{.Source}}</i><td class="l">{{.Result}}<td>{{.Path}}{{with .Note}}<br><i>{{.}}</i>{{end}}</tr>{{end}}</table>
{{with .Dropped}}<h3>Dropped</h3><table><tr><th>Discovered<th>Why</tr>
{{range .}}<tr><td class="l">{{range .Discovered}}{{.}}<br>{{end}}<i>{{.Source}}</i><td>{{.Result}}</tr>{{end}}</table>{{end}}
{{end}}`)
