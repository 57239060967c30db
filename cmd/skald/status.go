package main

import (
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
)

// These pages tell about the node, in the forms of Loki's pages of the same paths.

func (n *node) statusRoutes() {
	get := []string{http.MethodGet, http.MethodHead}
	n.http.Handle("/services", http.HandlerFunc(n.serveServices), get...)
	n.http.Handle("/log_level", http.HandlerFunc(n.serveLogLevel), http.MethodGet, http.MethodPost)
	n.http.Handle("/config/tenant/v1/limits", http.HandlerFunc(n.serveLimits), get...)
	n.http.Handle("/ring", http.HandlerFunc(n.serveRing), get...)
}

// serveServices lists the roles of this process.
func (n *node) serveServices(w http.ResponseWriter, _ *http.Request) {
	ingesterState := "Running"
	if n.ingester.Ready() != nil {
		ingesterState = "Starting"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "server => Running\ndistributor => Running\ningester => %s\nquerier => Running\n", ingesterState)
}

// serveLogLevel tells the level of the process's own log, or sets it until the next start.
func (n *node) serveLogLevel(w http.ResponseWriter, r *http.Request) {
	var answer struct {
		Status  string `json:"status,omitempty"`
		Message string `json:"message"`
	}
	status := http.StatusOK
	if r.Method == http.MethodPost {
		text := r.FormValue("log_level")
		if err := n.cfg.log.set(text); err != nil {
			status, answer.Status, answer.Message = http.StatusBadRequest, "failed", "log_level="+err.Error()
		} else {
			answer.Status, answer.Message = "success", "Log level set to "+text
			n.logger.Info("log level set", "level", text)
		}
	} else {
		answer.Message = "Current log level is " + strings.ToLower(n.cfg.log.current.Level().String())
	}
	writeStatus(w, status, answer)
}

// serveLimits shows the limits in force for the tenant of the header, which it wants even
// where the header does not count otherwise.
func (n *node) serveLimits(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(server.TenantHeader)
	if id == "" {
		http.Error(w, "no org id", http.StatusUnauthorized)
		return
	}
	tenant, err := model.ParseTenant(id)
	if err != nil {
		server.WriteError(w, err)
		return
	}
	text, err := yaml.Marshal(n.overrides.For(tenant))
	if err != nil {
		server.WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(text) // the client may have gone
}

// ringMember is an ingester in the words of Loki's ring page.
type ringMember struct {
	ID         string    `json:"id"`
	State      string    `json:"state"`
	Address    string    `json:"address"`
	Heartbeat  time.Time `json:"timestamp"`
	Registered time.Time `json:"registered_timestamp"`
	ReadOnly   bool      `json:"read_only"`
	Zone       string    `json:"zone"`
	Tokens     []uint32  `json:"tokens"`
}

// serveRing lists the ingesters that hold recent entries: in this process, one.
func (n *node) serveRing(w http.ResponseWriter, r *http.Request) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	now := time.Now().UTC()
	member := ringMember{ID: host, State: "ACTIVE", Address: n.http.Addr().String(), Heartbeat: now, Registered: n.started, Tokens: []uint32{}}
	if n.ingester.Ready() != nil {
		member.State = "JOINING"
	}
	ring := struct {
		Shards []ringMember `json:"shards"`
		Now    time.Time    `json:"now"`
	}{[]ringMember{member}, now}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeStatus(w, http.StatusOK, ring)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = ringPage.Execute(w, ring) // the client may have gone
}

var ringPage = template.Must(template.New("ring").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><title>Ring status</title></head><body>
<h1>Ring status</h1><p>Current time: {{.Now}}</p>
<table border="1"><thead><tr><th>Instance ID</th><th>State</th><th>Address</th><th>Registered at</th><th>Last heartbeat</th></tr></thead>
<tbody>{{range .Shards}}<tr><td>{{.ID}}</td><td>{{.State}}</td><td>{{.Address}}</td><td>{{.Registered}}</td><td>{{.Heartbeat}}</td></tr>{{end}}</tbody></table>
</body></html>
`))

func writeStatus(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // the client may have gone
}

// set changes the level of every logger made by logger.
func (c *logConfig) set(text string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("%s: expected debug, info, warn or error", text)
	}
	c.current.Set(level)
	return nil
}
