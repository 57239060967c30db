package integration

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/testkit/certs"
)

// TestSecured runs server, agent and client with TLS and credentials: lines go in with a
// client certificate, come out with a password, and nobody else gets anything.
func TestSecured(t *testing.T) {
	ca := certs.New(t)
	serverCert, serverKey := ca.Issue(t, "localhost")
	nodeCert, nodeKey := ca.Issue(t, "node-7")
	dir := tempDir(t, "secured")
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	credentials := file("credentials.yaml", `
credentials:
  - {name: node, certificate: node-7, tenants: [shop], permissions: [write]}
  - {name: ann, username: ann, password: wonder, tenants: [shop, ops], permissions: [read]}
  - {name: ops, token: ops-token-0123456789, permissions: [admin]}
`)
	addr, logPath := freeAddr(t), filepath.Join(dir, "log")
	watchLog(t, "the server", logPath)
	s := startProcess(t, "server", logPath, "serve", "-http.listen="+addr, "-grpc.listen=127.0.0.1:0", "-data.dir="+filepath.Join(dir, "data"),
		"-auth.enabled", "-auth.credentials-file="+credentials, "-auth.reload-period=50ms",
		"-http.tls.cert-file="+serverCert, "-http.tls.key-file="+serverKey, "-http.tls.client-ca-file="+ca.File, "-http.tls.client-optional")
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}}, Timeout: time.Minute}
	t.Cleanup(web.CloseIdleConnections)
	status := func(path, token string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := web.Do(req)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	eventually(t, "the server is ready", func() bool { return status("/ready", "") == http.StatusOK || !s.alive() })

	logs := file("shop.log", "one\ntwo\nthree\n")
	agentLog := filepath.Join(dir, "agent-log")
	watchLog(t, "the agent", agentLog)
	config, err := json.Marshal(map[string]any{ // JSON is YAML
		"server":    map[string]any{"http_listen_address": "127.0.0.1", "http_listen_port": 0},
		"positions": map[string]any{"filename": filepath.Join(dir, "positions.yaml")},
		"clients": []any{map[string]any{"url": "https://" + addr + "/loki/api/v1/push",
			"tls_config": map[string]any{"ca_file": ca.File, "cert_file": nodeCert, "key_file": nodeKey}}},
		"scrape_configs": []any{map[string]any{"job_name": "shop", "static_configs": []any{map[string]any{
			"targets": []string{"localhost"}, "labels": map[string]string{"job": "shop", "__path__": logs}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	agent := startProcess(t, "agent", agentLog, "agent", "-config.file="+file("agent.yaml", string(config)))
	ask := func(tenant, password string) string {
		cmd := exec.Command(program, "query", "--addr=https://"+addr, "--ca-cert="+ca.File, "--org-id="+tenant,
			"--username=ann", "--password="+password, "--quiet", "--output=raw", `{job="shop"}`)
		out, _ := cmd.CombinedOutput() // a refusal is part of what is asked for
		return string(out)
	}
	eventually(t, "the agent's lines are there", func() bool { return ask("shop", "wonder") == "one\ntwo\nthree\n" || !agent.alive() })
	if got := ask("shop", "wonder"); got != "one\ntwo\nthree\n" {
		t.Errorf("query: %q", got)
	}
	for _, tc := range []struct{ tenant, password, want string }{
		{"shop", "wrong", "401"}, {"other", "wonder", "403"},
	} {
		if got := ask(tc.tenant, tc.password); !strings.Contains(got, tc.want) {
			t.Errorf("query of tenant %s with password %s: %q, want %s", tc.tenant, tc.password, got, tc.want)
		}
	}
	if got := ask("ops", "wonder"); got != "" {
		t.Errorf("another tenant has the lines: %q", got)
	}
	if got := status("/config", ""); got != http.StatusUnauthorized {
		t.Errorf("/config without credentials: %d", got)
	}
	if got := status("/config", "ops-token-0123456789"); got != http.StatusOK {
		t.Errorf("/config for an admin: %d", got)
	}
	file("credentials.yaml", "credentials:\n  - {name: ops, token: ops-token-9876543210, permissions: [admin]}\n")
	eventually(t, "the new token counts", func() bool { return status("/config", "ops-token-9876543210") == http.StatusOK || !s.alive() })
	if got := status("/config", "ops-token-0123456789"); got != http.StatusUnauthorized {
		t.Errorf("/config with the old token: %d", got)
	}
	if got := ask("shop", "wonder"); !strings.Contains(got, "401") {
		t.Errorf("query after the user is gone: %q", got)
	}
	agent.stop()
	s.stop()
}
