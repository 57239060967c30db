package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/internal/server"
)

// These pages tell about the node, in the forms of Loki's pages of the same paths.

// serveServices lists the roles of this process.
func (n *node) serveServices(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, "server => Running\n")
	if n.members != nil {
		state := "Running"
		if n.members.Ready() != nil {
			state = "Starting"
		}
		fmt.Fprintf(w, "memberlist => %s\n", state)
	}
	for _, role := range strings.Split(n.cfg.roles.String(), ",") {
		state := "Running"
		if role == ring.Ingester.String() && n.ready() != nil {
			state = "Starting"
			if n.members != nil && n.members.Self().State >= ring.Leaving {
				state = "Stopping"
			}
		}
		fmt.Fprintf(w, "%s => %s\n", role, state)
	}
}

// maxForm bounds the body of a form, files in it included, which would else go to the disk.
const maxForm = 64 << 10

// serveLogLevel tells the level of the process's own log, or sets it until the next start.
func (n *node) serveLogLevel(w http.ResponseWriter, r *http.Request) {
	var answer struct {
		Status  string `json:"status,omitempty"`
		Message string `json:"message"`
	}
	status := http.StatusOK
	if r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
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
	tenant, err := server.NamedTenant(r)
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
