package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// server is a `skald serve` that may be killed, stopped and started again.
type server struct {
	*process
	dir     string // data.dir
	args    []string
	addr    string
	url     string
	logPath string
	client  *http.Client
	netns   string // network namespace that it runs in; empty for the test's own
}

// roomy are limits that no test reaches by accident.
var roomy = []string{
	"-limits.ingestion_rate_mb=4096", "-limits.ingestion_burst_size_mb=4096",
	"-limits.per_stream_rate_limit=4GB", "-limits.per_stream_rate_limit_burst=4GB",
	"-limits.max_global_streams_per_user=100000", "-limits.max_query_series=100000",
}

// startServer starts a server on a free port with a data directory of its own and waits
// until it is ready.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	home := tempDir(t, "server")
	s := &server{dir: filepath.Join(home, "data"), args: args, logPath: filepath.Join(home, "log"),
		client: &http.Client{Timeout: 5 * time.Minute}}
	t.Cleanup(s.client.CloseIdleConnections)
	watchLog(t, "the server", s.logPath)
	// Another process may take the port between finding and using it; then try another.
	const attempts = 5
	for range attempts {
		s.addr = freeAddr(t)
		s.url = "http://" + s.addr
		s.launch(t)
		if s.becomesReady() {
			return s
		}
		if text, _ := os.ReadFile(s.logPath); !strings.Contains(string(text), "address already in use") {
			break
		}
	}
	t.Fatalf("the server did not start: %v", s.err)
	return nil
}

func (s *server) launch(t testing.TB) {
	t.Helper()
	args := append([]string{"serve", "-http.listen=" + s.addr, "-grpc.listen=127.0.0.1:0", "-data.dir=" + s.dir}, s.args...)
	if s.netns != "" {
		s.process = startCommand(t, "server", s.logPath, exec.Command("ip", append([]string{"netns", "exec", s.netns, program}, args...)...))
		return
	}
	s.process = startProcess(t, "server", s.logPath, args...)
}

// becomesReady waits until /ready says so; false when the process ends instead.
func (s *server) becomesReady() bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if res, err := s.client.Get(s.url + "/ready"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-s.exited:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// start runs the server again after kill or stop, on the same port and data directory.
func (s *server) start() {
	s.t.Helper()
	s.launch(s.t)
	if !s.becomesReady() {
		s.t.Fatalf("the server did not come back: %v", s.err)
	}
}

// freeAddr returns a loopback address on which nothing listens.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// do sends a request and returns its whole answer.
func (s *server) do(method, path string, header http.Header, body []byte) (status int, answer []byte, err error) {
	status, _, answer, err = s.exchange(method, path, header, body)
	return status, answer, err
}

// exchange is do for whoever looks at the answer's header, too.
func (s *server) exchange(method, path string, header http.Header, body []byte) (status int, got http.Header, answer []byte, err error) {
	req, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	if header != nil {
		req.Header = header
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, res.Header, answer, err
}

// get returns the answer to a GET that must succeed.
func (s *server) get(path string, params url.Values) []byte {
	s.t.Helper()
	if len(params) > 0 {
		path += "?" + params.Encode()
	}
	status, answer, err := s.do(http.MethodGet, path, nil, nil)
	if err != nil {
		s.t.Fatalf("GET %s: %v", path, err)
	}
	if status != http.StatusOK {
		s.t.Fatalf("GET %s: %d %s", path, status, answer)
	}
	return answer
}

// flush puts everything into the object store.
func (s *server) flush() {
	s.t.Helper()
	if status, answer, err := s.do(http.MethodPost, "/flush", nil, nil); err != nil || status != http.StatusNoContent {
		s.t.Fatalf("POST /flush: %d %s %v", status, answer, err)
	}
}

// sample is one element of a vector.
type sample struct {
	Metric map[string]string  `json:"metric"`
	Value  [2]json.RawMessage `json:"value"`
}

// vector evaluates a metric query at one time.
func (s *server) vector(query string, at time.Time) ([]sample, error) {
	params := url.Values{"query": {query}, "time": {strconv.FormatInt(at.UnixNano(), 10)}}
	status, answer, err := s.do(http.MethodGet, "/loki/api/v1/query?"+params.Encode(), nil, nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %s", query, status, answer)
	}
	var body struct {
		Data struct {
			ResultType string
			Result     []sample
		}
	}
	if err := json.Unmarshal(answer, &body); err != nil {
		return nil, fmt.Errorf("%s: %w in %s", query, err, answer)
	}
	if body.Data.ResultType != "vector" {
		return nil, fmt.Errorf("%s: result type %q, want vector", query, body.Data.ResultType)
	}
	return body.Data.Result, nil
}

// count is the value of a query that counts everything; 0 when there is nothing.
func (s *server) count(query string, at time.Time) (int, error) {
	v, err := s.vector(query, at)
	if err != nil || len(v) == 0 {
		return 0, err
	}
	if len(v) > 1 {
		return 0, fmt.Errorf("%s: %d series, want one", query, len(v))
	}
	return v[0].int()
}

func (s sample) int() (int, error) {
	var text string
	if err := json.Unmarshal(s.Value[1], &text); err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// settled waits until a count has reached want, as long as it makes progress.
func (s *server) settled(query string, at time.Time, want int) {
	s.t.Helper()
	last, lastErr, deadline := -1, error(nil), time.Now().Add(patience)
	for time.Now().Before(deadline) {
		var n int
		if n, lastErr = s.count(query, at); lastErr == nil {
			if n == want {
				return
			}
			if n != last {
				last, deadline = n, time.Now().Add(patience)
			}
			if n > want {
				break
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	s.t.Errorf("%s is %d and stays so (last error: %v), want %d", query, last, lastErr, want)
}

// metric returns the sum of a metric's samples whose labels contain a text; 0 when absent.
func (s *server) metric(name, labels string) float64 {
	s.t.Helper()
	sum := 0.0
	for line := range strings.Lines(string(s.get("/metrics", nil))) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if bare, _, _ := strings.Cut(series, "{"); !ok || bare != name || !strings.Contains(series, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			s.t.Fatalf("/metrics: %q: %v", line, err)
		}
		sum += v
	}
	return sum
}
