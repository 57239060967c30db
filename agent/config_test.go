package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const fullConfig = `
global: {file_watch_config: {min_poll_frequency: 250ms, max_poll_frequency: 250ms}}
server:
  http_listen_port: 9080
  grpc_listen_port: 0
  log_level: info
positions:
  filename: /tmp/positions.yaml
  sync_period: 5s
clients:
  - url: http://loki:3100/loki/api/v1/push
    tenant_id: team
    batchwait: 2s
    external_labels: {cluster: eu}
    basic_auth: {username: u, password: p}
    tls_config: {insecure_skip_verify: true}
    backoff_config: {min_period: 100ms, max_period: 10s, max_retries: 20}
tracing: {enabled: false}
limits_config: {max_line_size: 256kb}
target_config: {sync_period: 10s}
scrape_configs:
  - job_name: system
    static_configs:
      - targets: [localhost]
        labels: {job: varlogs, __path__: /var/log/*log, dropme: x}
      - targets: [localhost]
        labels: {job: other, __path__: /var/log/other/*, env: dev}
    relabel_configs:
      - {action: labeldrop, regex: dropme}
      - {source_labels: [env], regex: dev, action: drop}
      - {source_labels: [job], target_label: app, replacement: "app-$1"}
    pipeline_stages:
      - match:
          selector: '{job="varlogs"} |= "x"'
          stages:
            - regex: {expression: '(?P<level>\w+)'}
            - labels: {level: }
`

func TestConfig(t *testing.T) {
	cfg := mustParse(t, fullConfig)
	c := cfg.Clients[0]
	if c.BatchWait != 2*time.Second || c.TenantID != "team" || c.HTTP.BasicAuth.Username != "u" || cfg.Limits.MaxLineSize != 256<<10 {
		t.Errorf("got %+v", c)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "max_retries") {
		t.Errorf("warnings: %q", cfg.Warnings)
	}
	if err := Check(cfg, nil); err != nil {
		t.Error(err)
	}
	active, dropped := relabeled(t, cfg, 0)
	if len(active) != 1 || active[0].labels.String() != `{app="app-varlogs", job="varlogs"}` || active[0].path != "/var/log/*log" {
		t.Errorf("targets: %+v", active)
	}
	if len(dropped) != 1 || dropped[0].why != "relabel_configs[1] (drop) dropped it" {
		t.Errorf("dropped: %+v", dropped)
	}
}

func TestConfigErrors(t *testing.T) {
	const ok = "clients: [{url: 'http://h/push'}]\n"
	for _, c := range []struct{ text, want string }{
		{ok + "scrape_config: []\n", "line 2: unknown key scrape_config"},
		{ok + "server:\n  http_port: 1\n", "line 3: unknown key http_port"},
		{"clients:\n- url: http://h/push\n  batch_wait: 1s\n", "line 3: unknown key batch_wait"},
		{"clients:\n- url: h/push\n", "line 2: url \"h/push\" is not of the form http://host/path"},
		{"clients:\n- batchwait: 1s\n", "clients[0]: url is required"},
		{"clients:\n- url: http://h/push\n  basic_auth: {username: u}\n  bearer_token: x\n", "at most one of basic_auth"},
		{ok + "scrape_configs:\n- job_name: k8s\n  kubernetes_sd_configs: [{role: house}]\n", "line 4: unknown Kubernetes SD role \"house\""},
		{ok + "scrape_configs:\n- job_name: k8s\n  kubernetes_sd_configs:\n  - {role: pod}\n  - {rolle: pod}\n", "line 6: unknown key rolle"},
		{ok + "scrape_configs:\n- job_name: j\n  kafka: {}\n", "line 4: not supported by Skald: kafka; let a collector"},
		{ok + "scrape_configs:\n- job_name: j\n  journal: {max_age: 1h, lables: {}}\n", "line 4: unknown key lables"},
		{ok + "scrape_configs:\n- job_name: j\n  syslog: {listen_protocol: udp}\n", "line 4: syslog: listen_address is required"},
		{ok + "scrape_configs:\n- job_name: j\n  syslog: {listen_address: ':1', syslog_format: raw}\n", "line 4: syslog: syslog_format is \"raw\", want rfc5424 or rfc3164"},
		{ok + "scrape_configs:\n- job_name: j\n  file_sd_configs: [{files: [x.txt]}]\n", "line 4: path name \"x.txt\" is not valid"},
		{ok + "scrape_configs:\n- job_name: j\n", "job j: no source: want static_configs"},
		{ok + "scrape_configs:\n- job_name: j\n  static_configs: [{}]\n  relabel_configs:\n  - action: replace\n    target_label: x\n  - action: kepp\n", "line 8: unknown relabel action \"kepp\""},
		{ok + "limits_config: {readline_rate_enabled: true, readline_rate: 0}\n", "limits_config: readline_rate is 0"},
		{ok + "scrape_configs:\n- static_configs: []\n", "scrape_configs[0]: job_name is required"},
		{ok + "scrape_configs:\n- job_name: a\n  static_configs: [{}]\n- job_name: a\n", "a second job named \"a\""},
		{ok + "scrape_configs:\n- job_name: a\n  static_configs: [{}]\n  relabel_configs: [{action: replace}]\n", "requires 'target_label'"},
		{ok + "positions:\n  filename: [\n", "line 3: did not find"},
		{ok + "limits_config:\n  max_line_size: 3 apples\n", "line 3: \"3 apples\" is not a size"},
		{ok + "server: {log_level: info}\nserver: {log_level: info}\n", "line 3: mapping key \"server\" already defined at line 2"},
	} {
		if _, err := parseConfig([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("config\n%s\ngot error %v, want %s", c.text, err, c.want)
		}
	}
}

// Every key that is refused says so with its line and what to do instead, and docs/agent.md
// lists it.
func TestRefused(t *testing.T) {
	doc, err := os.ReadFile("../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "### Refused")
	section, _, _ = strings.Cut(section, "## Looking inside")
	for key, instead := range refused {
		text := "clients: [{url: 'http://h/push'}]\nscrape_configs:\n- job_name: j\n  " + key + ": {}\n"
		if _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), "line 4: not supported by Skald: "+key+"; "+instead) {
			t.Errorf("%s: got error %v", key, err)
		}
		short := strings.TrimSuffix(key, "sd_configs")
		if !strings.Contains(section, "`"+key+"`") && (short == key || !strings.Contains(section, "`"+short+"`")) {
			t.Errorf("docs/agent.md does not list %s among what is refused", key)
		}
	}
}

// Errors that only building finds.
func TestCheck(t *testing.T) {
	stages := func(s string) string {
		return "clients: [{url: 'http://h/push'}]\nscrape_configs:\n- job_name: j\n  static_configs: [{labels: {__path__: /x}}]\n  pipeline_stages:\n  - " + s + "\n"
	}
	for _, c := range []struct{ text, want string }{
		{"scrape_configs: []\n", "at least one client config must be provided"},
		{stages("regex: {expression: '('}"), "line 6: pipeline stage regex: expression: error parsing regexp"},
		{stages("nonsense: {}"), `line 6: unknown pipeline stage "nonsense"`},
		{stages("metrics: {}"), `line 6: pipeline stage metrics: at least one metric is required`},
		{stages("metrics: {n: {type: counter, config: {action: set}}}"), `metric n: action of a counter is "set", want inc or add`},
		{stages("limit: {rate: 1}"), `pipeline stage limit: burst is 0`},
		{stages("geoip: {db: /nowhere, source: ip, db_type: city}"), `pipeline stage geoip: db: `},
		{stages("{json: {}, cri: {}}"), "line 6: a pipeline stage must be a map with exactly one key"},
		{stages("match: {selector: '{}'}"), "want the name of a label"},
		{stages("timestamp: {source: t}"), "format is required"},
		{stages("template: {source: t, template: '{{ .x'}"), "pipeline stage template"},
		{"clients: [{url: 'http://h/push', tls_config: {ca_file: /nowhere}}]\n", "clients[0]: "},
	} {
		cfg, err := parseConfig([]byte(c.text))
		if err == nil {
			err = Check(cfg, nil)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("config\n%s\ngot error %v, want %s", c.text, err, c.want)
		}
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"V": "value", "E": "", "P": "a/b/c.log"}
	lookup := func(s string) (string, bool) { v, ok := env[s]; return v, ok }
	for _, c := range []struct{ in, want string }{
		{"x ${V} y", "x value y"}, {"${NO}", ""}, {"$V", "$V"}, {"${V:-d}", "value"}, {"${E:-d}", "d"}, {"${NO:=d}", "d"}, {"${NO=d}", "d"},
		{"${NO:-${V}}", "value"}, {"${V:d}", "value"}, {"${NO:d}", ""}, {"${V:1}", "alue"}, {"${V:1:2}", "al"}, {"${V^}", "Value"},
		{"${V^^}", "VALUE"}, {"${P##*/}", "c.log"}, {"${P#*/}", "b/c.log"}, {"${P%.log}", "a/b/c"}, {"${V/l/L}", "vaLue"}, {"${#V}", "5"}, {"$$", "$"},
		{"$${1}", "${1}"}, {`\\d`, `\d`}, {`\d\s`, `\d\s`}, {`\/`, "/"},
	} {
		got, _, err := expand(c.in, lookup)
		if err != nil || got != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"${", "${}", "a\n${V", "${V-d}", "${V+x}"} {
		if _, _, err := expand(in, lookup); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
	_, warnings, _ := expand("${HOST:localhost} ${1}", lookup)
	if len(warnings) != 2 {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.yaml")
	t.Setenv("SKALD_TEST_TENANT", "from-env")
	if err := os.WriteFile(path, []byte("clients: [{url: 'http://h/push', tenant_id: '${SKALD_TEST_TENANT}'}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for expandEnv, want := range map[bool]string{true: "from-env", false: "${SKALD_TEST_TENANT}"} {
		cfg, err := LoadConfig(filepath.Join(dir, "missing.yaml")+","+path, expandEnv, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, cfg.Clients[0].TenantID); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := LoadConfig(filepath.Join(dir, "missing.yaml"), false, nil); err == nil {
		t.Error("no error for a missing file")
	}
}

// FuzzConfig checks that no text makes loading or building panic.
func FuzzConfig(f *testing.F) {
	f.Add(fullConfig)
	f.Add("scrape_configs: [{job_name: a, pipeline_stages: [{json: {expressions: {a: b.c}}}, {multiline: {firstline: x}}]}]")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		expanded, _, err := expand(text, func(string) (string, bool) { return "x", true })
		if err != nil {
			expanded = text
		}
		cfg, err := parseConfig([]byte(expanded))
		if err != nil {
			return
		}
		for i := range cfg.Clients { // files named in it are not read
			cfg.Clients[i].HTTP.TLSConfig.CAFile, cfg.Clients[i].HTTP.TLSConfig.CertFile, cfg.Clients[i].HTTP.TLSConfig.KeyFile = "", "", ""
		}
		_ = Check(cfg, nil)
	})
}

func mustParse(tb testing.TB, text string) *Config {
	tb.Helper()
	cfg, err := parseConfig([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// relabeled returns what becomes of a job's static targets.
func relabeled(tb testing.TB, cfg *Config, job int) ([]*target, []unwanted) {
	tb.Helper()
	a := &Agent{opts: Options{Logger: testLogger(tb)}, log: testLogger(tb)}
	a.opts.defaults()
	a.metrics = newMetrics(nil, a)
	rt, err := newEngine(a, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return rt.targets.relabel(rt.jobs[job], rt.staticTargets(rt.jobs[job]))
}
