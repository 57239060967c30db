package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// node is a `skald agent` that may be killed and started again.
type node struct {
	*process
	config  string
	logPath string
}

// startAgent follows the CRI files under logs and delivers to the server.
func startAgent(t testing.TB, s *server, logs string) *node {
	t.Helper()
	home := tempDir(t, "agent")
	a := &node{config: filepath.Join(home, "promtail.yaml"), logPath: filepath.Join(home, "log")}
	text := fmt.Sprintf(`
server:
  http_listen_address: 127.0.0.1
  http_listen_port: 0
positions:
  filename: %s/state/positions.yaml
clients:
  - url: %s/loki/api/v1/push
    batchwait: 20ms
    backoff_config:
      min_period: 50ms
      max_period: 500ms
scrape_configs:
  - job_name: pods
    pipeline_stages:
      - cri: {}
    static_configs:
      - targets: [localhost]
        labels:
          job: cri
          __path__: %s/*/*.log
`, home, s.url, logs)
	if err := os.WriteFile(a.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	watchLog(t, "the agent", a.logPath)
	a.start(t)
	return a
}

// heard reports whether the Kubernetes API has told the agent about a pod.
func (a *node) heard(uid string) bool {
	log, err := os.ReadFile(a.logPath)
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(log, []byte(`msg="agent started" http=`))
	addr, _, _ := bytes.Cut(rest, []byte(" "))
	resp, err := http.Get("http://" + string(addr) + "/why?q=" + uid)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return err == nil && bytes.Contains(text, []byte("is followed as")) && !bytes.Contains(text, []byte("API has not told about it"))
}

func (a *node) start(t testing.TB) {
	t.Helper()
	a.process = startProcess(t, "agent", a.logPath, "agent", "-config.file="+a.config)
}
