package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/skaldlog/skald/internal/testkit/kube"
)

// kubelet plays a node: for each pod it does to the API and to the directory of logs what a
// kubelet and its runtime do, and it remembers what the containers printed.
type kubelet struct {
	api  kubernetes.Interface
	node string
	logs string // in place of /var/log/pods
	// heard, when set, is waited for before a pod is deleted: that the API has told about it.
	heard func(uid string) bool
}

// podKind is a sort of pods: what is special about its object, and the labels that the
// chart's configuration makes of that.
type podKind struct {
	namespace, name string // a number is appended to the name
	owner           string // kind and name of the controller; its name may hold the pod's
	labels          map[string]string
	static          bool
	containers      []string
	lives           int // how often a pod of the same name comes, one after the other
	want            map[string]string
}

const testNode = "worker-1.example"

var podKinds = []podKind{
	{
		namespace: "shop", name: "web-5d8f7c9b4", owner: "ReplicaSet/web-5d8f7c9b4", containers: []string{"nginx", "proxy"}, lives: 1,
		labels: map[string]string{"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "web-prod", "app.kubernetes.io/component": "front"},
		want:   map[string]string{"app": "web", "instance": "web-prod", "component": "front", "job": "shop/web"},
	},
	{
		namespace: "shop", name: "worker-77f6d5c9bd", owner: "ReplicaSet/worker-77f6d5c9bd", containers: []string{"main"}, lives: 1,
		labels: map[string]string{"pod-template-hash": "77f6d5c9bd"},
		want:   map[string]string{"app": "worker", "job": "shop/worker"},
	},
	{
		namespace: "shop", name: "db", owner: "StatefulSet/db", containers: []string{"postgres"}, lives: 2,
		labels: map[string]string{"app": "database", "instance": "main", "component": "store"},
		want:   map[string]string{"app": "database", "instance": "main", "component": "store", "job": "shop/database"},
	},
	{
		namespace: "batch", name: "nightly-28000000", owner: "Job/nightly-28000000", containers: []string{"import"}, lives: 1,
		want: map[string]string{"app": "nightly", "job": "batch/nightly"},
	},
	{
		namespace: "batch", name: "alone", containers: []string{"sh"}, lives: 1,
		want: map[string]string{"app": "<pod>", "job": "batch/<pod>"},
	},
	{
		namespace: "kube-system", name: "etcd-" + testNode, owner: "Node/" + testNode, containers: []string{"etcd"}, static: true, lives: 1,
		labels: map[string]string{"component": "etcd", "tier": "control-plane"},
		want:   map[string]string{"app": testNode, "component": "etcd", "job": "kube-system/" + testNode},
	},
}

// criLog is one file of a container's log with the lines that it has got.
type criLog struct {
	path   string
	labels map[string]string // of its streams, without "stream"
	lines  int
	text   string // begins each line
}

// line is what a container printed, on stderr now and then.
func (l *criLog) line(seq int) (text, stream string) {
	stream = "stdout"
	if seq%7 == 3 {
		stream = "stderr"
	}
	return fmt.Sprintf("%s seq=%06d level=info msg=\"GET /api/v1/items/%d\"", l.text, seq, seq*7919%100003), stream
}

// write appends n lines in the runtime's format, some of them in two records.
func (l *criLog) write(n int) error {
	var b strings.Builder
	for range n {
		text, stream := l.line(l.lines)
		now := time.Now().UTC().Format(time.RFC3339Nano)
		if l.lines%31 == 0 {
			fmt.Fprintf(&b, "%s %s P %s\n", now, stream, text[:20])
			text = text[20:]
		}
		fmt.Fprintf(&b, "%s %s F %s\n", now, stream, text)
		l.lines++
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}

// object makes the pod's object.
func (k podKind) object(node, name, hash string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: name, Labels: k.labels}, Spec: corev1.PodSpec{NodeName: node}}
	if kind, owner, ok := strings.Cut(k.owner, "/"); ok {
		version := map[string]string{"ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1", "Node": "v1"}[kind]
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: owner, UID: "0f0e0d0c-0000-4000-8000-000000000000", Controller: &yes}}
	}
	if k.static {
		p.Annotations = map[string]string{"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash, "kubernetes.io/config.source": "file"}
	}
	for _, c := range k.containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Image: "registry.example/" + c})
	}
	return p
}

// live takes a pod from its creation to the end of its directory, and returns its logs.
func (n *kubelet) live(ctx context.Context, kind podKind, number int, rng *rand.Rand) ([]*criLog, error) {
	name := fmt.Sprintf("%s-%05d", kind.name, number)
	hash := fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64())
	pods := n.api.CoreV1().Pods(kind.namespace)
	var pod *corev1.Pod
	if err := n.insist(ctx, func() (err error) {
		pod, err = pods.Create(ctx, kind.object(n.node, name, hash), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // an earlier attempt did it, and its answer was lost
			pod, err = pods.Get(ctx, name, metav1.GetOptions{})
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}

	// The runtime makes the directory and starts the containers; then the API hears of it.
	id := string(pod.UID)
	if kind.static {
		id = hash
	}
	dir := filepath.Join(n.logs, kind.namespace+"_"+name+"_"+id)
	var logs []*criLog
	for _, c := range kind.containers {
		if err := os.MkdirAll(filepath.Join(dir, c), 0o755); err != nil {
			return nil, err
		}
		logs = append(logs, n.newLog(kind, dir, pod, c, 0))
	}
	chatter := func() error {
		for _, l := range logs {
			if err := l.write(1 + rng.IntN(20)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := chatter(); err != nil {
		return nil, err
	}
	status := fmt.Sprintf(`{"status":{"phase":"Running","hostIP":"10.0.0.1","podIP":"10.1.%d.%d","podIPs":[{"ip":"10.1.%d.%d"}]}}`,
		number/250, number%250+1, number/250, number%250+1)
	if err := n.insist(ctx, func() error {
		_, err := pods.Patch(ctx, name, types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status")
		return err
	}); err != nil {
		return nil, fmt.Errorf("status of %s: %w", name, err)
	}

	// It works for one to four seconds; one of three logs is rotated, one of four containers
	// is started again, which gives it another file.
	rounds := 4 + rng.IntN(12)
	rotateAt, restartAt := rng.IntN(3*rounds), rng.IntN(4*rounds)
	for round := range rounds {
		time.Sleep(250 * time.Millisecond)
		if round == rotateAt {
			if err := os.Rename(logs[0].path, logs[0].path+"."+time.Now().UTC().Format("20060102-150405")); err != nil {
				return nil, err
			}
		}
		if round == restartAt {
			next := n.newLog(kind, dir, pod, kind.containers[0], 1)
			if err := next.write(1); err != nil {
				return nil, err
			}
			logs = append(logs, next)
		}
		if err := chatter(); err != nil {
			return nil, err
		}
	}
	return logs, n.end(ctx, kind, pod, dir, chatter)
}

// collectAfter is when the directory of a deleted pod goes. A kubelet collects its garbage once
// a minute; a file that is gone twelve milliseconds after its first line nobody can follow.
const collectAfter = 500 * time.Millisecond

// end deletes the pod: it is asked to stop and says its last words, then the API forgets it,
// and then its directory goes.
func (n *kubelet) end(ctx context.Context, kind podKind, pod *corev1.Pod, dir string, lastWords func() error) error {
	for deadline := time.Now().Add(patience); n.heard != nil && !n.heard(string(pod.UID)) && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	pods := n.api.CoreV1().Pods(kind.namespace)
	for _, grace := range []int64{30, 0} {
		err := n.insist(ctx, func() error {
			err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
			if apierrors.IsNotFound(err) {
				return nil // an earlier attempt did it, and its answer was lost
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("delete %s: %w", pod.Name, err)
		}
		if err := lastWords(); err != nil {
			return err
		}
	}
	time.Sleep(collectAfter)
	return os.RemoveAll(dir)
}

// insist repeats a request while the API server is away.
func (n *kubelet) insist(ctx context.Context, request func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := request()
		if err == nil || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (n *kubelet) newLog(kind podKind, dir string, pod *corev1.Pod, container string, restarts int) *criLog {
	l := &criLog{
		path: filepath.Join(dir, container, fmt.Sprintf("%d.log", restarts)),
		text: fmt.Sprintf("uid=%s container=%s restarts=%d", pod.UID, container, restarts),
	}
	l.labels = map[string]string{"namespace": kind.namespace, "pod": pod.Name, "container": container, "node_name": n.node, "filename": l.path}
	for k, v := range kind.want {
		l.labels[k] = strings.ReplaceAll(v, "<pod>", pod.Name)
	}
	// What the server finds out by itself.
	l.labels["service_name"], l.labels["detected_level"] = l.labels["app"], "info"
	return l
}

// agentNamespace is where deploy/kubernetes/agent.yaml lives.
const agentNamespace = "skald-agent"

func manifest(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "kubernetes", file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// chartConfig returns the agent's configuration from the manifests.
func chartConfig(t testing.TB) string {
	t.Helper()
	docs := yaml.NewDecoder(bytes.NewReader(manifest(t, "agent.yaml")))
	for {
		var object struct {
			Kind string
			Data map[string]string
		}
		if err := docs.Decode(&object); err != nil {
			t.Fatalf("deploy/kubernetes/agent.yaml has no configuration: %v", err)
		}
		if text := object.Data["promtail.yaml"]; object.Kind == "ConfigMap" && text != "" {
			return text
		}
	}
}

// startNodeAgent runs the agent as the manifests in deploy/ do: with their configuration, and
// with the rights of their service account.
func startNodeAgent(t testing.TB, s *server, plane *kube.ControlPlane, logs string, args ...string) *node {
	t.Helper()
	home, text := tempDir(t, "agent"), chartConfig(t)
	for _, change := range []struct{ from, to string }{
		{"http://skald-write.skald.svc:3100", s.url},
		{"http_listen_port: 3101", "http_listen_address: 127.0.0.1\n  http_listen_port: 0"},
		{"/run/skald/positions.yaml", filepath.Join(home, "positions.yaml")},
		{"- role: pod", "- role: pod\n        kubeconfig_file: " + plane.Kubeconfig(agentNamespace, "skald-agent")},
		{"/var/log/pods/", logs + "/"},
	} {
		if !strings.Contains(text, change.from) {
			t.Fatalf("the chart's configuration has no %q to change:\n%s", change.from, text)
		}
		text = strings.ReplaceAll(text, change.from, change.to)
	}
	a := &node{config: filepath.Join(home, "promtail.yaml"), logPath: filepath.Join(home, "log")}
	if err := os.WriteFile(a.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	watchLog(t, "the agent", a.logPath)
	cmd := exec.Command(program, append([]string{"agent", "-config.file=" + a.config, "-kubernetes.pod-logs-dir=" + logs}, args...)...)
	cmd.Env = append(os.Environ(), "HOSTNAME="+testNode)
	a.process = startCommand(t, "agent", a.logPath, cmd)
	return a
}
