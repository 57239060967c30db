package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/agent/tail"
)

// helmConfig is the job that Promtail's Helm chart makes by default; what differs is where
// the pods' logs and the API are.
const helmConfig = `
server: {log_level: info, log_format: logfmt, http_listen_address: 127.0.0.1, http_listen_port: 0}
clients:
- url: %[1]s/loki/api/v1/push
  batchwait: 20ms
positions: {filename: %[2]s/run/positions.yaml}
scrape_configs:
- job_name: kubernetes-pods
  pipeline_stages:
  - cri: {}
  kubernetes_sd_configs:
  - role: pod
    api_server: %[3]s
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_controller_name], regex: '([0-9a-z-.]+?)(-[0-9a-f]{8,10})?', action: replace, target_label: __tmp_controller_name}
  - source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_name, __meta_kubernetes_pod_label_app, __tmp_controller_name, __meta_kubernetes_pod_name]
    regex: ^;*([^;]+)(;.*)?$
    action: replace
    target_label: app
  - {source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance, __meta_kubernetes_pod_label_instance], regex: '^;*([^;]+)(;.*)?$', action: replace, target_label: instance}
  - {source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_component, __meta_kubernetes_pod_label_component], regex: '^;*([^;]+)(;.*)?$', action: replace, target_label: component}
  - {action: replace, source_labels: [__meta_kubernetes_pod_node_name], target_label: node_name}
  - {action: replace, source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {action: replace, replacement: $1, separator: /, source_labels: [namespace, app], target_label: job}
  - {action: replace, source_labels: [__meta_kubernetes_pod_name], target_label: pod}
  - {action: replace, source_labels: [__meta_kubernetes_pod_container_name], target_label: container}
  - {action: replace, replacement: '%[2]s/pods/*$1/*.log', separator: /, source_labels: [__meta_kubernetes_pod_uid, __meta_kubernetes_pod_container_name], target_label: __path__}
  - action: replace
    regex: true/(.*)
    replacement: '%[2]s/pods/*$1/*.log'
    separator: /
    source_labels: [__meta_kubernetes_pod_annotationpresent_kubernetes_io_config_hash, __meta_kubernetes_pod_annotation_kubernetes_io_config_hash, __meta_kubernetes_pod_container_name]
    target_label: __path__
limits_config:
tracing: {enabled: false}
`

type object = map[string]any

// fakeAPI is an API server that knows pods.
type fakeAPI struct {
	*httptest.Server
	mu struct {
		sync.Mutex
		pods     map[string]object
		version  int
		watchers map[chan object]bool
		asked    []string // field selectors
		silent   bool
	}
}

func newFakeAPI(t *testing.T) *fakeAPI {
	a := &fakeAPI{}
	a.mu.pods, a.mu.watchers = map[string]object{}, map[chan object]bool{}
	a.Server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(func() {
		a.CloseClientConnections()
		a.Close()
	})
	return a
}

func (a *fakeAPI) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	a.mu.Lock()
	silent := a.mu.silent
	a.mu.asked = append(a.mu.asked, q.Get("fieldSelector"))
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case silent:
		<-r.Context().Done()
	case r.URL.Path != "/api/v1/pods":
		http.NotFound(w, r)
	case q.Get("sendInitialEvents") == "true":
		w.WriteHeader(http.StatusUnprocessableEntity) // as older servers do; the client lists
		_ = json.NewEncoder(w).Encode(object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422})
	case q.Get("watch") != "":
		a.watch(w, r)
	default:
		a.mu.Lock()
		defer a.mu.Unlock()
		_ = json.NewEncoder(w).Encode(object{
			"kind": "PodList", "apiVersion": "v1", "metadata": object{"resourceVersion": fmt.Sprint(a.mu.version)},
			"items": slices.Collect(maps.Values(a.mu.pods)),
		})
	}
}

func (a *fakeAPI) watch(w http.ResponseWriter, r *http.Request) {
	events := make(chan object, 1000)
	a.mu.Lock()
	a.mu.watchers[events] = true
	a.mu.Unlock()
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			_ = json.NewEncoder(w).Encode(e)
			w.(http.Flusher).Flush()
		}
	}
}

// pod makes a pod with one container.
func pod(namespace, name, uid, container string, meta object) object {
	m := object{"namespace": namespace, "name": name, "uid": uid}
	maps.Copy(m, meta)
	return object{
		"kind": "Pod", "apiVersion": "v1", "metadata": m,
		"spec":   object{"nodeName": hostname(), "containers": []object{{"name": container, "image": "i"}}},
		"status": object{"podIP": "10.0.0.1", "phase": "Running"},
	}
}

func (a *fakeAPI) put(p object) { a.change("ADDED", p) }

func (a *fakeAPI) remove(p object) { a.change("DELETED", p) }

func (a *fakeAPI) change(kind string, p object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.version++
	m := p["metadata"].(object)
	m["resourceVersion"] = fmt.Sprint(a.mu.version)
	key := fmt.Sprint(m["namespace"], "/", m["name"])
	if kind == "DELETED" {
		delete(a.mu.pods, key)
	} else {
		a.mu.pods[key] = p
	}
	for w := range a.mu.watchers {
		w <- object{"type": kind, "object": p}
	}
}

func (a *fakeAPI) setSilent(v bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.silent = v
}

// criFile writes lines as a container runtime does.
func criFile(tb testing.TB, dir, podDir, container string, lines ...string) string {
	tb.Helper()
	path := filepath.Join(dir, "pods", podDir, container, "0.log")
	var b strings.Builder
	for i, l := range lines {
		fmt.Fprintf(&b, "2024-05-01T10:00:00.%09dZ stdout F %s\n", i+1, l)
	}
	appendFile(tb, path, b.String())
	return path
}

func helm(t *testing.T, s *sink, dir, api string) *Config {
	return mustParse(t, fmt.Sprintf(helmConfig, s.URL, dir, api))
}

// where returns the streams that hold a line.
func (s *sink) where(line string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for key, set := range s.mu.entries {
		for e := range set {
			if e.line == line {
				out = append(out, key)
			}
		}
	}
	return out
}

func podOptions(dir string) Options {
	return Options{PodLogs: filepath.Join(dir, "pods"), LabelWait: time.Minute}
}

// The chart's configuration gives the labels that its documentation names.
func TestHelmChart(t *testing.T) {
	s, dir, api := newSink(t), t.TempDir(), newFakeAPI(t)
	web := pod("shop", "web-5d8f7c9b4-x2x4z", "uid-1", "nginx", object{
		"labels":          object{"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "web-prod", "component": "front"},
		"ownerReferences": []object{{"kind": "ReplicaSet", "name": "web-5d8f7c9b4", "controller": true, "apiVersion": "apps/v1", "uid": "x"}},
	})
	bare := pod("shop", "worker-77f6d5c9bd-abcde", "uid-2", "main", object{
		"ownerReferences": []object{{"kind": "ReplicaSet", "name": "worker-77f6d5c9bd", "controller": true, "apiVersion": "apps/v1", "uid": "x"}},
	})
	static := pod("kube-system", "etcd-node", "uid-3", "etcd", object{
		"annotations": object{"kubernetes.io/config.hash": "0123456789abcdef0123456789abcdef"},
	})
	for _, p := range []object{web, bare, static} {
		api.put(p)
	}
	f1 := criFile(t, dir, "shop_web-5d8f7c9b4-x2x4z_uid-1", "nginx", "from web")
	f2 := criFile(t, dir, "shop_worker-77f6d5c9bd-abcde_uid-2", "main", "from worker")
	f3 := criFile(t, dir, "kube-system_etcd-node_0123456789abcdef0123456789abcdef", "etcd", "from etcd")
	f4 := criFile(t, dir, "shop_web-5d8f7c9b4-x2x4z_uid-1", "debugger", "from an ephemeral container")
	_, stop := start(t, helm(t, s, dir, api.URL), podOptions(dir))
	defer stop()
	eventually(t, "four lines", func() bool { return len(s.lines()) == 4 })
	node := hostname()
	want := map[string]string{
		"from web":                    fmt.Sprintf(`{app="web", component="front", container="nginx", filename=%q, instance="web-prod", job="shop/web", namespace="shop", node_name=%q, pod="web-5d8f7c9b4-x2x4z", stream="stdout"}`, f1, node),
		"from worker":                 fmt.Sprintf(`{app="worker", container="main", filename=%q, job="shop/worker", namespace="shop", node_name=%q, pod="worker-77f6d5c9bd-abcde", stream="stdout"}`, f2, node),
		"from etcd":                   fmt.Sprintf(`{app="etcd-node", container="etcd", filename=%q, job="kube-system/etcd-node", namespace="kube-system", node_name=%q, pod="etcd-node", stream="stdout"}`, f3, node),
		"from an ephemeral container": fmt.Sprintf(`{app="web", component="front", container="debugger", filename=%q, instance="web-prod", job="shop/web", namespace="shop", node_name=%q, pod="web-5d8f7c9b4-x2x4z", stream="stdout"}`, f4, node),
	}
	for line, labels := range want {
		if diff := cmp.Diff([]string{labels}, s.where(line)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	for _, sel := range api.mu.asked {
		if sel != "spec.nodeName="+node {
			t.Errorf("the API was asked with fieldSelector=%q", sel)
		}
	}
}

// While the API says nothing, lines go out with what the path tells, after a bounded wait;
// when it answers, with what it says.
func TestAPIServerAway(t *testing.T) {
	s, dir, api := newSink(t), t.TempDir(), newFakeAPI(t)
	api.setSilent(true)
	criFile(t, dir, "shop_web-0_uid-1", "nginx", "early")
	opts := podOptions(dir)
	opts.LabelWait = 300 * time.Millisecond
	_, stop := start(t, helm(t, s, dir, api.URL), opts)
	defer stop()
	eventually(t, "the early line", func() bool { return len(s.lines()) == 1 })
	if got := s.where("early"); len(got) != 1 || !strings.Contains(got[0], `app="web-0", container="nginx"`) || !strings.Contains(got[0], `job="shop/web-0", namespace="shop"`) {
		t.Errorf("early: %v", got)
	}
	api.put(pod("shop", "web-0", "uid-1", "nginx", object{"labels": object{"app": "shopfront"}}))
	api.setSilent(false)
	api.CloseClientConnections()
	n := 0
	eventually(t, "labels of the API", func() bool {
		n++
		criFile(t, dir, "shop_web-0_uid-1", "nginx", fmt.Sprintf("late %d", n))
		time.Sleep(20 * time.Millisecond)
		return len(s.stream(`app="shopfront"`)) > 0
	})
	eventually(t, "all lines", func() bool { return len(s.lines()) == n+1 })
	if _, repeats := s.counts(); repeats > 0 {
		t.Errorf("%d lines were sent twice", repeats)
	}
}

// Pods that live for moments lose nothing, whether the API knows them in time or never.
func TestShortLivedPods(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known %v", known), func(t *testing.T) {
			s, dir, api := newSink(t), t.TempDir(), newFakeAPI(t)
			if err := os.MkdirAll(filepath.Join(dir, "pods"), 0o755); err != nil {
				t.Fatal(err)
			}
			opts := podOptions(dir)
			if !known {
				opts.LabelWait = time.Second // longer than any pod lives
			}
			a, stop := start(t, helm(t, s, dir, api.URL), opts)
			defer stop()
			eventually(t, "the API is watched", func() bool {
				api.mu.Lock()
				defer api.mu.Unlock()
				return len(api.mu.watchers) > 0
			})
			const pods, lines = 12, 20
			for i := range pods {
				name, uid := fmt.Sprintf("job-%d", i), fmt.Sprintf("uid-%d", i)
				p := pod("batch", name, uid, "main", object{"labels": object{"app": "batch"}})
				var text []string
				for k := range lines {
					text = append(text, fmt.Sprintf("pod %d line %d", i, k))
				}
				if known {
					api.put(p)
				}
				path := criFile(t, dir, "batch_"+name+"_"+uid, "main", text...)
				eventually(t, "the file is open", func() bool {
					return slices.ContainsFunc(a.engine().lanes[0].tailer.Logs(), func(l tail.LogInfo) bool { return l.Path == path && l.Size > 0 })
				})
				if err := os.RemoveAll(filepath.Join(dir, "pods", "batch_"+name+"_"+uid)); err != nil {
					t.Fatal(err)
				}
				if known {
					api.remove(p)
				}
			}
			eventually(t, "all lines", func() bool { return len(s.lines()) == pods*lines })
			if !known && !testing.Short() { // it takes half a minute; for those that the API knows see discover's TestPodsGo
				eventually(t, "the targets go with the directories", func() bool { return len(a.engine().targets.snapshot(a.engine().jobs[0]).active) == 0 })
			}
			want := `app="batch"`
			if !known {
				want = `app="job-`
			}
			if n := len(s.stream(want)); n != pods*lines {
				t.Errorf("%d of %d lines have %s", n, pods*lines, want)
			}
		})
	}
}

// A rule that drops by labels that only the API knows is not guessed at while it is silent.
func TestFilterWaitsForTheAPI(t *testing.T) {
	s, dir, api := newSink(t), t.TempDir(), newFakeAPI(t)
	api.setSilent(true)
	quiet := pod("shop", "quiet", "uid-1", "c", object{"annotations": object{"logs": "false"}})
	api.put(quiet)
	api.put(pod("shop", "loud", "uid-2", "c", nil))
	criFile(t, dir, "shop_quiet_uid-1", "c", "secret")
	criFile(t, dir, "shop_loud_uid-2", "c", "public")
	cfg := helm(t, s, dir, api.URL)
	drop := mustParse(t, `
scrape_configs:
- job_name: x
  static_configs: [{}]
  relabel_configs: [{action: drop, source_labels: [__meta_kubernetes_pod_annotation_logs], regex: "false"}]
`).ScrapeConfigs[0].Relabel
	cfg.ScrapeConfigs[0].Relabel = append(drop, cfg.ScrapeConfigs[0].Relabel...)
	opts := podOptions(dir)
	opts.LabelWait = 50 * time.Millisecond
	a, stop := start(t, cfg, opts)
	defer stop()
	eventually(t, "both pods are found", func() bool { return len(a.engine().targets.snapshot(a.engine().jobs[0]).active) == 2 })
	time.Sleep(300 * time.Millisecond)
	if got := s.lines(); len(got) != 0 {
		t.Errorf("sent before the API answered: %v", got)
	}
	api.setSilent(false)
	api.CloseClientConnections()
	eventually(t, "the line that may go", func() bool { return s.lines()["public"] == 1 })
	if s.lines()["secret"] != 0 {
		t.Error("a line went out that a rule drops")
	}
}
