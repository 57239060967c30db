package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skaldlog/skald/internal/testkit/kube"
)

// podsPerSecond are created, and as many deleted.
const podsPerSecond = 5

// TestKubernetes: the agent, configured and authorised by the manifests in deploy/, beside a
// real API server whose pods come and go at five a second. Every line of every pod must be in
// the store once, with the labels of the chart's configuration.
func TestKubernetes(t *testing.T) {
	pods := size(50, 300, 1500)
	runPods(t, pods, nil)
}

// TestKubernetesServerKilled: the same while the API server is killed and comes back. Pods
// that it could not tell about in time wait for their labels as long as the agent is told to;
// they live until it has told, since a client that was turned away asks again after seconds,
// and of what came and went in between nobody ever hears.
func TestKubernetesServerKilled(t *testing.T) {
	pods := size(30, 100, 300)
	runPods(t, pods, func(plane *kube.ControlPlane) {
		plane.KillServer()
		plane.StartServer()
	}, "-kubernetes.label-wait="+patience.String())
}

// runPods lets pods come and go; half-way there is trouble with the API server, if wanted.
func runPods(t *testing.T, pods int, trouble func(*kube.ControlPlane), args ...string) {
	plane := kube.Start(t)
	plane.Apply("skald", manifest(t, "skald.yaml")) // nobody runs it, but the API server must like it
	plane.Apply(agentNamespace, manifest(t, "agent.yaml"))
	for _, name := range []string{"shop", "batch"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := plane.Admin.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s := startServer(t, roomy...)
	n := &kubelet{api: plane.Admin, node: testNode, logs: tempDir(t, "pods")}
	a := startNodeAgent(t, s, plane, n.logs, args...)
	began := time.Now()
	halfway := func() {}
	if trouble != nil {
		n.heard = a.heard
		halfway = func() { trouble(plane) }
	}
	logs := churn(t, n, pods, halfway)
	took, lines := time.Since(began), 0
	for _, l := range logs {
		lines += l.lines
	}
	s.settled(`sum(count_over_time({node_name="`+testNode+`"}[1h]))`, time.Now(), lines)
	verifyLogs(t, s, logs, began)
	_, peak, _ := a.memory()
	a.stop()
	t.Logf("%d pods in %s, %d files, %d lines; the agent used %s of CPU and %d MiB at most", pods, took.Round(time.Second), len(logs), lines,
		a.cmd.ProcessState.UserTime()+a.cmd.ProcessState.SystemTime(), peak>>20)
}

// churn lets so many pods live, all kinds in turn, and returns their logs.
func churn(t *testing.T, n *kubelet, pods int, halfway func()) []*criLog {
	t.Helper()
	rng := newRand(t)
	var found struct {
		sync.Mutex
		logs []*criLog
	}
	var lives sync.WaitGroup
	tick := time.NewTicker(time.Second / podsPerSecond)
	defer tick.Stop()
	started := 0
	start := func(kind podKind, number int) {
		own := rand.New(rand.NewPCG(rng.Uint64(), 1))
		started += kind.lives
		lives.Go(func() {
			for range kind.lives {
				logs, err := n.live(t.Context(), kind, number, own)
				if err != nil {
					t.Error(err)
				}
				found.Lock()
				found.logs = append(found.logs, logs...)
				found.Unlock()
			}
		})
	}
	for number := 0; started < pods; number++ {
		before := started
		start(podKinds[number%len(podKinds)], number)
		if before < pods/2 && started >= pods/2 {
			halfway()
		}
		for range started - before {
			<-tick.C
		}
	}
	lives.Wait()
	return found.logs
}

// verifyLogs reads everything back and demands each line once, with its labels.
func verifyLogs(t testing.TB, s *server, logs []*criLog, began time.Time) {
	t.Helper()
	cmd := exec.Command(program, "query", "--addr="+s.url, "--quiet", "--limit=0", "--batch=5000", "--forward", "--output=jsonl",
		"--from="+began.Add(-time.Minute).Format(time.RFC3339Nano), "--to="+time.Now().Format(time.RFC3339Nano), `{node_name="`+testNode+`"}`)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("skald query: %v\n%s", err, stderr.String())
	}
	byText, seen := map[string]*criLog{}, map[string]int{}
	for _, l := range logs {
		byText[l.text] = l
	}
	complaints := 0
	complain := func(format string, args ...any) {
		if complaints++; complaints <= 20 {
			t.Errorf(format, args...)
		}
	}
	for rows := bufio.NewScanner(bytes.NewReader(out)); rows.Scan(); {
		var e struct {
			Labels map[string]string
			Line   string
		}
		if err := json.Unmarshal(rows.Bytes(), &e); err != nil {
			t.Fatalf("%v in %q", err, rows.Text())
		}
		text, rest, _ := strings.Cut(e.Line, " seq=")
		l, seq := byText[text], 0
		if _, err := fmt.Sscanf(rest, "%d ", &seq); err != nil || l == nil || seq >= l.lines {
			complain("a line that nobody wrote: %q", e.Line)
			continue
		}
		want, stream := l.line(seq)
		if e.Line != want {
			complain("line %d of %s is %q, want %q", seq, l.path, e.Line, want)
		}
		labels := maps.Clone(l.labels)
		labels["stream"] = stream
		if diff := cmp.Diff(labels, e.Labels); diff != "" {
			complain("labels of line %d of %s (-want +got):\n%s", seq, l.path, diff)
		}
		if seen[e.Line]++; seen[e.Line] == 2 {
			complain("%q is there twice", e.Line)
		}
	}
	for _, l := range logs {
		missing, first := 0, 0
		for seq := range l.lines {
			if text, _ := l.line(seq); seen[text] == 0 {
				if missing++; missing == 1 {
					first = seq
				}
			}
		}
		if missing > 0 {
			complain("%d of %d lines of %s are missing, the first is %d", missing, l.lines, l.path, first)
		}
	}
	if complaints > 20 {
		t.Errorf("and %d complaints more", complaints-20)
	}
}
