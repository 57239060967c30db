package ring

import (
	"encoding/json"
	"html/template"
	"net/http"
	"strings"
	"time"
)

// Source is what a Page shows: Members, or Alone.
type Source interface {
	View() *View
	Snapshot() []Instance
	Forget(id string) error
}

// shown is an instance in the words of Loki's ring page, and a little more.
type shown struct {
	ID         string    `json:"id"`
	State      string    `json:"state"`
	Address    string    `json:"address"`
	HTTP       string    `json:"http_address"`
	Roles      string    `json:"roles"`
	Heartbeat  time.Time `json:"timestamp"`
	Registered time.Time `json:"registered_timestamp"`
	ReadOnly   bool      `json:"read_only"`
	Zone       string    `json:"zone"`
	Ownership  float64   `json:"ownership"`
	Tokens     []uint32  `json:"tokens"`
	// Lossy says that it lost its disk, and that its copies are not all uploaded by others yet.
	Lossy bool `json:"lossy"`

	Age    string `json:"-"`
	Silent bool   `json:"-"`
}

// maxForm bounds the body of a form, files in it included.
const maxForm = 64 << 10

// Page shows the ring to people, and as JSON to whoever accepts application/json. A POST
// with forget=ID declares an instance gone. replicas is the replication factor, by which
// ownership is reckoned: the part of all streams that an ingester holds.
func Page(s Source, replicas int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			id := r.FormValue("forget")
			if id == "" {
				http.Error(w, "expected the field forget with the ID of an instance", http.StatusBadRequest)
				return
			}
			if err := s.Forget(id); err != nil {
				http.Error(w, err.Error(), http.StatusNotFound)
				return
			}
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return
		}
		page := struct {
			Shards []shown   `json:"shards"`
			Now    time.Time `json:"now"`
		}{[]shown{}, time.Now().UTC()}
		view := s.View()
		owned := view.Ownership(replicas)
		for _, in := range s.Snapshot() {
			one := show(in, owned[in.ID], page.Now)
			one.Lossy = view.Lossy(&in)
			page.Shards = append(page.Shards, one)
		}
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_ = json.NewEncoder(w).Encode(page) // the client may have gone
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = pageTemplate.Execute(w, page) // the client may have gone
	})
}

func show(in Instance, owned float64, now time.Time) shown {
	s := shown{
		ID: in.ID, State: in.Health(), Address: in.Addr, HTTP: in.HTTP, Roles: in.Roles.String(), Zone: in.Zone,
		Heartbeat: in.Seen.UTC(), ReadOnly: in.State != Active, Ownership: owned, Tokens: in.Tokens, Silent: in.Stale,
		Age: now.Sub(in.Seen).Round(time.Second).String(),
	}
	if in.Registered != 0 {
		s.Registered = time.Unix(0, in.Registered).UTC()
	}
	if s.Tokens == nil {
		s.Tokens = []uint32{}
	}
	return s
}

var pageTemplate = template.Must(template.New("ring").Funcs(template.FuncMap{
	"percent": func(x float64) float64 { return 100 * x },
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><title>Ring status</title>
<style>body{font-family:sans-serif}table{border-collapse:collapse}td,th{border:1px solid #999;padding:.3em .6em;text-align:left}.UNHEALTHY{background:#fdd}.LEAVING,.JOINING{background:#ffd}.LEFT{color:#999}</style></head><body>
<h1>Ring status</h1><p>Current time: {{.Now.Format "2006-01-02 15:04:05 UTC"}}</p>
<table><thead><tr><th>Instance ID</th><th>State</th><th>Roles</th><th>Zone</th><th>gRPC</th><th>HTTP</th><th>Registered at</th><th>Last heartbeat</th><th>Tokens</th><th>Ownership</th><th></th></tr></thead>
<tbody>{{range .Shards}}<tr class="{{.State}}"><td>{{.ID}}</td><td>{{.State}}{{if .Lossy}}, copies lost{{end}}</td><td>{{.Roles}}</td><td>{{.Zone}}</td><td>{{.Address}}</td><td>{{.HTTP}}</td><td>{{if not .Registered.IsZero}}{{.Registered.Format "2006-01-02 15:04:05 UTC"}}{{end}}</td><td>{{.Age}} ago</td><td>{{len .Tokens}}</td><td>{{printf "%.1f%%" (percent .Ownership)}}</td><td>{{if .Silent}}<form method="POST"><button name="forget" value="{{.ID}}">Forget</button></form>{{end}}</td></tr>
{{end}}</tbody></table>
<p>Forget declares an instance gone for good: queries no longer wait for what only its disk may hold. One that lives comes back by itself.</p>
</body></html>
`))
