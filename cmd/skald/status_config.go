package main

import (
	"flag"
	"net/http"

	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/server"
)

// serveConfig prints the settings in force in the form that -config.file reads. With
// mode=defaults it prints what they would be if nothing were set, with mode=diff those
// that are not so.
func (n *node) serveConfig(w http.ResponseWriter, r *http.Request) {
	values, defaults := settings(&n.cfg), settings(nil)
	switch mode := r.URL.Query().Get("mode"); mode {
	case "":
	case "defaults":
		values = defaults
	case "diff":
		for name, v := range values {
			if defaults[name] == v {
				delete(values, name)
			}
		}
	default:
		server.WriteError(w, fault.New(fault.Invalid, "mode=%.40s: expected diff or defaults", mode))
		return
	}
	text, err := yaml.Marshal(values)
	if err != nil {
		server.WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(text) // the client may have gone
}

// settings lists every setting of a server with its value, without secrets; those of nil
// are the defaults.
func settings(cfg *serverConfig) map[string]string {
	var shown serverConfig
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	shown.register(fs)
	if cfg != nil {
		shown = *cfg
	}
	values := map[string]string{}
	fs.VisitAll(func(f *flag.Flag) { values[f.Name] = redact(f.Value.String()) })
	return values
}
