package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// jobConfig is a configuration with one job.
func jobConfig(tb testing.TB, url, dir, job string) *Config {
	return mustParse(tb, fmt.Sprintf(`
server: {http_listen_address: 127.0.0.1, http_listen_port: 0}
positions: {filename: %s/state/positions.yaml}
clients: [{url: %s/loki/api/v1/push, batchwait: 20ms, backoff_config: {min_period: 5ms, max_period: 50ms}}]
scrape_configs:
- job_name: test
%s`, dir, url, job))
}

func (a *Agent) syslogAddr() string { return a.engine().shared[0].(*syslogSource).addr() }

const syslogRules = `
  relabel_configs:
  - {source_labels: [__syslog_message_hostname], target_label: host}
  - {source_labels: [__syslog_message_severity], target_label: level}
  - {source_labels: [__syslog_connection_ip_address], target_label: from}
  - {source_labels: [__syslog_message_sd_ex_1_user], target_label: user}
`

func TestSyslog(t *testing.T) {
	const msg = `<165>1 2023-10-11T22:14:15.003Z web app 12 ID [ex@1 user="bob"] hello`
	const labels = `{from="127.0.0.1", host="web", job="syslog", level="notice", user="bob"}`
	for _, c := range []struct{ name, options, send, line string }{
		{"newline", "listen_protocol: tcp", msg + "\n" + `<1>1 - - - - - -` + "\n", "hello"},
		{"octets", "listen_protocol: tcp", fmt.Sprintf("%d %s", len(msg), msg), "hello"},
		{"udp", "listen_protocol: udp", msg + "\n", "hello"},
		{"whole", "use_rfc5424_message: true", msg + "\n", msg},
		{"too long before", "max_message_length: 100", "<1>1 " + strings.Repeat("x", 9000) + "\n" + msg + "\n", "hello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSink(t)
			a, stop := start(t, jobConfig(t, s.URL, t.TempDir(), `
  syslog:
    listen_address: 127.0.0.1:0
    `+c.options+`
    use_incoming_timestamp: true
    label_structured_data: true
    labels: {job: syslog}
`+syslogRules), Options{})
			defer stop()
			conn, err := net.Dial(a.engine().jobs[0].Syslog.ListenProtocol, a.syslogAddr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.send); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a line", func() bool { return len(s.lines()) > 0 })
			if diff := cmp.Diff([]string{labels + " 22:14:15.003000000"}, utc(s.times(c.line))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func utc(list []string) []string {
	_, offset := time.Now().Zone()
	if offset != 0 {
		return list // the test machine's zone would have to be taken off
	}
	return list
}

func TestSyslog3164(t *testing.T) {
	s := newSink(t)
	a, stop := start(t, jobConfig(t, s.URL, t.TempDir(), `
  syslog: {listen_address: '127.0.0.1:0', syslog_format: rfc3164, labels: {job: old}}
`+syslogRules), Options{})
	defer stop()
	conn, err := net.Dial("tcp", a.syslogAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "<34>Oct 11 22:14:15 mymachine su: failed\n")
	eventually(t, "a line", func() bool { return len(s.lines()) > 0 })
	if got := s.where("failed"); len(got) != 1 || got[0] != `{from="127.0.0.1", host="mymachine", job="old", level="critical"}` {
		t.Errorf("got %v", got)
	}
}

// authority makes certificates for tests.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "ca", nil)
	return a
}

func (a *authority) issue(t *testing.T, name string, parent *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	signer, signKey := tmpl, key
	if parent != nil {
		signer, signKey = parent, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, signer, &key.PublicKey, signKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for ext, b := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(a.dir, name+ext), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// With a CA, a syslog listener takes messages only from senders with a certificate.
func TestSyslogTLS(t *testing.T) {
	ca := newAuthority(t)
	ca.issue(t, "server", ca.cert)
	ca.issue(t, "client", ca.cert)
	s := newSink(t)
	a, stop := start(t, jobConfig(t, s.URL, t.TempDir(), fmt.Sprintf(`
  syslog:
    listen_address: 127.0.0.1:0
    labels: {job: tls}
    tls_config: {cert_file: %s, key_file: %s, ca_file: %s}
`, ca.path("server.crt"), ca.path("server.key"), ca.path("ca.crt"))), Options{})
	defer stop()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	send := func(text string, certs ...tls.Certificate) {
		conn, err := tls.Dial("tcp", a.syslogAddr(), &tls.Config{RootCAs: pool, Certificates: certs, MinVersion: tls.VersionTLS12})
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "<1>1 - - - - - - %s\n", text)
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn) // waits until the server has judged
	}
	pair, err := tls.LoadX509KeyPair(ca.path("client.crt"), ca.path("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	send("stranger")
	send("friend", pair)
	eventually(t, "the friend's line", func() bool { return s.lines()["friend"] == 1 })
	if s.lines()["stranger"] != 0 {
		t.Error("a sender without a certificate was heard")
	}
}

func (a *Agent) pushURL() string {
	return "http://" + a.engine().shared[0].(*pushSource).ln.Addr().String()
}

func TestPushAPI(t *testing.T) {
	s := newSink(t)
	a, stop := start(t, jobConfig(t, s.URL, t.TempDir(), `
  loki_push_api:
    server: {http_listen_address: 127.0.0.1, http_listen_port: 0}
    labels: {via: agent}
    use_incoming_timestamp: true
    max_send_msg_size: 100kb
  relabel_configs:
  - {action: drop, source_labels: [app], regex: noise}
  - {action: labeldrop, regex: secret}
`), Options{})
	defer stop()
	post := func(path, kind, body string) int {
		resp, err := http.Post(a.pushURL()+path, kind, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	body := `{"streams":[{"stream":{"app":"noise"},"values":[["1700000000000000001","dropped"]]},
		{"stream":{"app":"x","secret":"s"},"values":[["1700000000000000002","kept",{"trace":"1"}]]}]}`
	if code := post("/loki/api/v1/push", "application/json", body); code != http.StatusNoContent {
		t.Fatalf("push: %d", code)
	}
	// 204 means acknowledged: it is there now.
	if diff := cmp.Diff([]string{`{app="x", via="agent"}`}, s.where("kept")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.lines()["dropped"] != 0 {
		t.Error("a stream was kept that relabelling drops")
	}
	if code := post("/promtail/api/v1/raw", "text/plain", "one\n\ntwo\r\n"); code != http.StatusNoContent {
		t.Fatalf("raw: %d", code)
	}
	if s.lines()["one"] != 1 || s.lines()["two"] != 1 || len(s.lines()) != 3 {
		t.Errorf("lines: %v", s.lines())
	}
	for _, body := range []string{"{", `{"streams":[` + strings.Repeat(" ", 200<<10) + `]}`} {
		if code := post("/loki/api/v1/push", "application/json", body); code != http.StatusBadRequest {
			t.Errorf("%.20s: got %d, want 400", body, code)
		}
	}
	if code := post("/promtail/api/v1/raw", "text/plain", strings.Repeat("x", 200<<10)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d, want 413", code)
	}
}

// A small body of many short lines takes much memory as entries, and is refused before it does.
func TestPushOfManyLines(t *testing.T) {
	a, stop := start(t, jobConfig(t, newSink(t).URL, t.TempDir(), `
  loki_push_api:
    server: {http_listen_address: 127.0.0.1, http_listen_port: 0}
    max_send_msg_size: 8mb
`), Options{})
	defer stop()
	resp, err := http.Post(a.pushURL()+"/promtail/api/v1/raw", "text/plain", strings.NewReader(strings.Repeat("a\n", 2<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d, want 413", resp.StatusCode)
	}
	if n := a.engine().shared[0].(*pushSource).inUse.Load(); n != 0 {
		t.Errorf("%d bytes are still taken", n)
	}
}

// A push is not answered with a success before the server behind has taken it.
func TestPushIsAcknowledged(t *testing.T) {
	s := newSink(t)
	var mu sync.Mutex
	open := false
	s.setJudge(func([]string) (int, time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if open {
			return 0, 0
		}
		return http.StatusServiceUnavailable, 0
	})
	a, stop := start(t, jobConfig(t, s.URL, t.TempDir(), `
  loki_push_api: {server: {http_listen_address: 127.0.0.1, http_listen_port: 0}}
`), Options{})
	defer stop()
	answered := make(chan int, 1)
	go func() {
		resp, err := http.Post(a.pushURL()+"/promtail/api/v1/raw", "text/plain", strings.NewReader("x"))
		if err != nil {
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	select {
	case code := <-answered:
		t.Fatalf("answered %d while the server refused", code)
	case <-time.After(300 * time.Millisecond):
	}
	mu.Lock()
	open = true
	mu.Unlock()
	if code := <-answered; code != http.StatusNoContent {
		t.Errorf("answered %d", code)
	}
}

// fakeJournal prints entries after the cursor it is given.
func fakeJournal(t *testing.T, total int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journalctl")
	text := fmt.Sprintf(`#!/bin/sh
i=1
for a in "$@"; do case "$a" in --after-cursor=c*) i=$((${a#--after-cursor=c}+1));; esac; done
while [ $i -le %d ]; do
  echo '{"__CURSOR":"c'$i'","__REALTIME_TIMESTAMP":"'$((1700000000000000+i))'","MESSAGE":"line '$i'","_SYSTEMD_UNIT":"cron.service","PRIORITY":"3"}'
  i=$((i+1))
done
exec sleep 60
`, total)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// The journal's cursor is that of the last entry that was acknowledged, and the first one is
// Promtail's.
func TestJournal(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o755); err != nil {
		t.Fatal(err)
	}
	old := "positions:\n  cursor-test: c10\n"
	if err := os.WriteFile(filepath.Join(dir, "state/positions.yaml"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := jobConfig(t, s.URL, dir, `
  journal: {max_age: 12h, labels: {job: journal}}
  relabel_configs:
  - {source_labels: [__journal__systemd_unit], target_label: unit}
  - {source_labels: [__journal_priority_keyword], target_label: level}
`)
	s.setJudge(func([]string) (int, time.Duration) { return http.StatusServiceUnavailable, 0 })
	opts := Options{Journalctl: fakeJournal(t, 200), StopTimeout: 50 * time.Millisecond}
	_, stop := start(t, cfg, opts)
	eventually(t, "a push", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.mu.judged >= 0 })
	time.Sleep(100 * time.Millisecond)
	stop()
	s.setJudge(nil)
	for range 2 { // the second run must repeat nothing
		_, stop = start(t, cfg, opts)
		eventually(t, "all entries", func() bool { return len(s.lines()) == 190 })
		stop()
	}
	if diff := cmp.Diff([]string{`{job="journal", level="error", unit="cron.service"}`}, s.where("line 11")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, repeats := s.counts(); repeats > 0 {
		t.Errorf("%d entries came twice", repeats)
	}
}

// fakeDocker is a Docker API with one container.
func fakeDocker(t *testing.T) *httptest.Server {
	frame := func(w io.Writer, stream byte, text string) {
		var head [8]byte
		head[0] = stream
		binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
		_, _ = w.Write(append(head[:], text...))
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		path := r.URL.Path
		if i := strings.Index(path[1:], "/"); strings.HasPrefix(path, "/v1.") {
			path = path[i+1:]
		}
		switch {
		case path == "/_ping":
		case path == "/containers/json":
			_ = json.NewEncoder(w).Encode([]object{{
				"Id": "abc", "Names": []string{"/web"}, "Labels": object{"team": "a"}, "HostConfig": object{"NetworkMode": "bridge"},
				"NetworkSettings": object{"Networks": object{"bridge": object{"NetworkID": "n1", "IPAddress": "172.17.0.2"}}},
			}})
		case path == "/networks":
			_ = json.NewEncoder(w).Encode([]object{{"Id": "n1", "Name": "bridge", "Scope": "local"}})
		case path == "/containers/abc/json":
			_ = json.NewEncoder(w).Encode(object{"Id": "abc", "State": object{"Running": true}, "Config": object{"Tty": false}})
		case path == "/containers/abc/logs":
			frame(w, 1, "2024-05-01T10:00:00.000000001Z first\n")
			frame(w, 2, "2024-05-01T10:00:00.000000002Z to stderr\n")
			frame(w, 1, "2024-05-01T10:00:00.000000003Z a line ")
			frame(w, 1, "2024-05-01T10:00:00.000000004Z in two\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv
}

func TestDocker(t *testing.T) {
	s, dir, api := newSink(t), t.TempDir(), fakeDocker(t)
	cfg := jobConfig(t, s.URL, dir, fmt.Sprintf(`
  docker_sd_configs: [{host: 'tcp://%s', refresh_interval: 5s}]
  relabel_configs:
  - {source_labels: [__meta_docker_container_name], regex: /(.*), target_label: container}
  - {source_labels: [__meta_docker_container_log_stream], target_label: stream}
`, strings.TrimPrefix(api.URL, "http://")))
	for range 2 { // a restart repeats nothing
		_, stop := start(t, cfg, Options{})
		eventually(t, "all lines", func() bool { return len(s.lines()) == 3 })
		time.Sleep(200 * time.Millisecond)
		stop()
	}
	if diff := cmp.Diff([]string{"first", "a line in two"}, s.stream(`{container="web", stream="stdout"}`)); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"to stderr"}, s.stream(`stream="stderr"`)); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
	if _, repeats := s.counts(); repeats > 0 {
		t.Errorf("%d lines came twice", repeats)
	}
}

func TestStdin(t *testing.T) {
	s := newSink(t)
	cfg := jobConfig(t, s.URL, t.TempDir(), `
  static_configs: [{labels: {job: piped, __path__: /never}}]
  pipeline_stages: [{regex: {expression: '(?P<level>\w+) '}}, {labels: {level: }}]
`)
	in := strings.NewReader("info one\r\n\nerror two\n" + strings.Repeat("x", 3<<20) + "\nlast")
	a, err := New(cfg, Options{Stdin: in, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"info one": 1, "error two": 1, strings.Repeat("x", 1<<20): 1, "last": 1}
	if diff := cmp.Diff(want, s.lines()); diff != "" {
		t.Errorf("(-want +got):\n%.300s", diff)
	}
	if diff := cmp.Diff([]string{`{__path__="/never", job="piped", level="info"}`}, s.where("info one")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A file_sd file changes while files are followed: a log goes on under its new labels.
func TestFileSD(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	sd := filepath.Join(dir, "targets.yml")
	write := func(team string) {
		tmp := sd + ".tmp"
		text := fmt.Sprintf("- labels: {team: %s, __path__: %q}\n  targets: [localhost]\n", team, dir+"/logs/*.log")
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, sd); err != nil {
			t.Fatal(err)
		}
	}
	write("a")
	log := filepath.Join(dir, "logs/x.log")
	appendFile(t, log, "one\n")
	_, stop := start(t, jobConfig(t, s.URL, dir, fmt.Sprintf("  file_sd_configs: [{files: [%s], refresh_interval: 1s}]\n", sd)), Options{})
	defer stop()
	eventually(t, "the first line", func() bool { return s.lines()["one"] == 1 })
	write("b")
	n := 0
	eventually(t, "the new label", func() bool {
		n++
		appendFile(t, log, fmt.Sprintf("more %d\n", n))
		time.Sleep(20 * time.Millisecond)
		return len(s.stream(`team="b"`)) > 0
	})
	eventually(t, "all lines", func() bool { return len(s.lines()) == n+1 })
	if _, repeats := s.counts(); repeats > 0 {
		t.Errorf("%d lines came twice", repeats)
	}
}

func TestReload(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	path, log := filepath.Join(dir, "agent.yaml"), filepath.Join(dir, "logs/a.log")
	write := func(stages string) {
		text := fmt.Sprintf(`
server: {http_listen_address: 127.0.0.1, http_listen_port: 0, enable_runtime_reload: true}
positions: {filename: %s/state/positions.yaml}
clients: [{url: %s/loki/api/v1/push, batchwait: 20ms}]
scrape_configs:
- job_name: test
  static_configs: [{labels: {job: test, __path__: "%s/logs/*.log"}}]
  pipeline_stages: %s
`, dir, s.URL, dir, stages)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func() (*Config, error) { return LoadConfig(path, false, nil) }
	write("[]")
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	a, stop := start(t, cfg, Options{Load: load})
	defer stop()
	reload := func() int {
		resp, err := http.Post("http://"+a.Addr()+"/reload", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	appendFile(t, log, "one\n")
	eventually(t, "one", func() bool { return s.lines()["one"] == 1 })
	write("[{regex: {expression: '('}}]") // a bad configuration changes nothing
	if code := reload(); code != http.StatusInternalServerError {
		t.Errorf("reload of a bad regular expression: %d", code)
	}
	appendFile(t, log, "two\n")
	eventually(t, "two", func() bool { return s.lines()["two"] == 1 })
	write("[{static_labels: {v: new}}]")
	if code := reload(); code != http.StatusOK {
		t.Errorf("reload: %d", code)
	}
	appendFile(t, log, "three\n")
	eventually(t, "three", func() bool { return s.lines()["three"] == 1 })
	if got := s.where("three"); len(got) != 1 || !strings.Contains(got[0], `v="new"`) {
		t.Errorf("three is in %v", got)
	}
	if _, repeats := s.counts(); repeats > 0 || len(s.lines()) != 3 {
		t.Errorf("%d repeats, lines %v", repeats, s.lines())
	}
	metrics := get(t, "http://"+a.Addr()+"/metrics")
	host := strings.TrimPrefix(s.URL, "http://")
	for _, name := range []string{"dropped_entries", "dropped_bytes"} { // they begin with 0
		for _, reason := range []string{"ingester_error", "line_too_long", "rate_limited"} {
			if want := fmt.Sprintf("promtail_%s_total{host=%q,reason=%q,tenant=\"\"} 0", name, host, reason); !strings.Contains(metrics, want) {
				t.Errorf("/metrics lacks %s", want)
			}
		}
	}
	for _, want := range []string{
		fmt.Sprintf(`promtail_batch_retries_total{host=%q,tenant=""} 0`, host), fmt.Sprintf(`promtail_mutated_bytes_total{host=%q,reason="line_too_long",tenant=""} 0`, host),
		"promtail_config_reload_success_total 1", "promtail_config_reload_fail_total 1",
		fmt.Sprintf(`promtail_read_bytes_total{path=%q} 14`, log), fmt.Sprintf(`promtail_file_bytes_total{path=%q} 14`, log),
		"promtail_files_active_total 1", fmt.Sprintf(`promtail_sent_entries_total{host=%q} 3`, host),
		"promtail_request_duration_seconds_count{host=", `status_code="204"`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if t.Failed() {
		t.Log(metrics)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Why explains the faults that keep files from being read.
func TestWhy(t *testing.T) {
	s, dir := newSink(t), t.TempDir()
	for _, d := range []string{"logs", "empty", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	appendFile(t, filepath.Join(dir, "logs/a.log"), "x\n")
	appendFile(t, filepath.Join(dir, "logs/skip.log"), "x\n")
	if err := os.Symlink(filepath.Join(dir, "nowhere/x.log"), filepath.Join(dir, "logs/link.log")); err != nil {
		t.Fatal(err)
	}
	a, stop := start(t, jobConfig(t, s.URL, dir, fmt.Sprintf(`
  static_configs:
  - {labels: {job: a, __path__: %[1]q, __path_exclude__: %[2]q}}
  - {labels: {job: drop, __path__: %[3]q}}
  - {labels: {job: host, __host__: elsewhere, __path__: %[4]q}}
  relabel_configs: [{action: drop, source_labels: [job], regex: drop}]
`, dir+"/logs/*.log", dir+"/logs/skip.log", dir+"/other/dropped.log", dir+"/other/host.log")), Options{})
	defer stop()
	eventually(t, "a line", func() bool { return len(s.lines()) == 1 })
	ask := func(q string, want ...string) {
		t.Helper()
		got := get(t, "http://"+a.Addr()+"/why?q="+q)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("why %s: no %q in\n%s", q, w, got)
			}
		}
	}
	ask(dir+"/logs/a.log", "is followed for client", "2 of 2 bytes read", "the last push succeeded")
	ask(dir+"/logs/skip.log", "__path_exclude__", "it can be read")
	ask(dir+"/logs/link.log", "is a link to", "is what it leads to mounted?")
	ask(dir+"/logs/b.log", "matches, with labels", "b.log does not exist")
	ask(dir+"/empty/x.log", "no target's __path__ matches", "is it mounted?")
	ask(dir+"/other/dropped.log", "relabel_configs[0] (drop) dropped it")
	ask(dir+"/other/host.log", "__host__ is elsewhere")
	ask(dir+"/logs", "no regular file")
	ask("web-0", "no target is about a pod called web-0", "HOSTNAME")
	s.setJudge(always(http.StatusTooManyRequests))
	appendFile(t, filepath.Join(dir, "logs/a.log"), "y\n")
	eventually(t, "the server's refusal is told", func() bool {
		return strings.Contains(get(t, "http://"+a.Addr()+"/why?q="+dir+"/logs/a.log"), "read and not yet acknowledged; the last push failed: ")
	})
	s.setJudge(nil)
}

// Why explains what becomes of pods: known by their directory alone, waiting for the API,
// dropped by a rule, without files, followed.
func TestWhyPods(t *testing.T) {
	s, dir, api := newSink(t), t.TempDir(), newFakeAPI(t)
	api.setSilent(true)
	criFile(t, dir, "shop_web-0_uid-1", "nginx", "x")
	cfg := helm(t, s, dir, api.URL)
	cfg.ScrapeConfigs[0].Relabel = append(cfg.ScrapeConfigs[0].Relabel, mustParse(t, `
scrape_configs:
- job_name: x
  static_configs: [{}]
  relabel_configs:
  - {action: replace, source_labels: [__meta_kubernetes_pod_name], regex: nowhere-0, target_label: __path__, replacement: ""}
  - {action: drop, source_labels: [namespace], regex: secret}
`).ScrapeConfigs[0].Relabel...)
	a, stop := start(t, cfg, podOptions(dir))
	defer stop()
	ask := func(q string, want ...string) {
		t.Helper()
		eventually(t, q+": "+strings.Join(want, ", "), func() bool {
			got := get(t, "http://"+a.Addr()+"/why?q="+q)
			for _, w := range want {
				if !strings.Contains(got, w) {
					return false
				}
			}
			return true
		})
	}
	ask("web-0", "the Kubernetes API has not told about it", "its lines wait for the API's labels")
	for _, p := range []object{
		pod("shop", "web-0", "uid-1", "nginx", nil), pod("shop", "fileless-0", "uid-2", "c", nil),
		pod("shop", "nowhere-0", "uid-3", "c", nil), pod("secret", "vault-0", "uid-4", "c", nil),
	} {
		api.put(p)
	}
	api.setSilent(false)
	api.CloseClientConnections()
	ask("shop/web-0", "container nginx is followed as", `app="web-0"`, "behind for")
	ask("uid-2", "container c is followed as", "no file matches")
	ask("nowhere-0", "is not followed: relabelling left no __path__ label")
	ask("vault-0", "is not followed: relabel_configs[12] (drop) dropped it")
}

// What an unreachable server and a bad file do to the others: nothing.
func TestSourcesWithADeadClient(t *testing.T) {
	s := newSink(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	cfg := jobConfig(t, s.URL, t.TempDir(), `
  loki_push_api: {server: {http_listen_address: 127.0.0.1, http_listen_port: 0}}
`)
	if err := cfg.AddClient("http://" + dead.Addr().String() + "/push"); err != nil {
		t.Fatal(err)
	}
	a, stop := start(t, cfg, Options{Budget: 1 << 10, StopTimeout: 50 * time.Millisecond})
	defer stop()
	for i := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*ackWait)
		body := bytes.NewReader([]byte(strings.Repeat(fmt.Sprintf("line %d\n", i), 1) + strings.Repeat("y", 2000)))
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.pushURL()+"/promtail/api/v1/raw", body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("push %d: %s", i, resp.Status)
		}
		if s.lines()[fmt.Sprintf("line %d", i)] != 1 {
			t.Errorf("line %d is not there", i)
		}
	}
}
