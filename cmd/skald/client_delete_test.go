package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The texts are logcli's, because scripts look for them.
func TestDelete(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Scope-OrgID") == "none":
			http.NotFound(w, r)
		case r.Method == http.MethodGet:
			fmt.Fprint(w, `[{"request_id":"a1","start_time":1700000000,"end_time":1700003600,"query":"{a=\"b\"}","status":"received","created_at":1700009000.12},
				{"request_id":"a2","start_time":1700000000.5,"end_time":1700003600,"query":"{a=\"c\"}","status":"processed","created_at":1700009001}]`)
		default:
			w.Header().Set("X-Delete-Request-ID", "a3")
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer srv.Close()
	for _, test := range []struct {
		args           string
		status         int
		stdout, stderr string
	}{
		{"delete create {} -z UTC", 0, "Delete request created successfully\n", "Request ID: a3\n"},
		{"delete --quiet create {}", 0, "", ""},
		{"delete list -z UTC", 0, `Found 2 delete requests:
Query: {a="b"}
Start Time: 2023-11-14T22:13:20Z
End Time: 2023-11-14T23:13:20Z
Status: received
Request ID: a1
---
Query: {a="c"}
Start Time: 2023-11-14T22:13:20Z
End Time: 2023-11-14T23:13:20Z
Status: processed
Request ID: a2
`, ""},
		{"delete cancel --request-id=a1", 0, "Delete request a1 cancelled successfully\n", ""},
		{"delete list --org-id=none", 1, "", "skald: Error listing delete requests: this server does not delete log lines (404)\n"},
		{"delete list x", 2, "", "skald: delete list takes no arguments, got [\"x\"]\n"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), stdio{in: strings.NewReader(""), out: &stdout, err: &stderr}, append(strings.Fields(test.args), "--addr="+srv.URL))
		if status != test.status || stdout.String() != test.stdout || stderr.String() != test.stderr {
			t.Errorf("%s: status %d\nstdout:\n%s\nstderr:\n%s", test.args, status, &stdout, &stderr)
		}
	}
}
