// Package kube starts a real control plane of Kubernetes for tests: etcd and kube-apiserver on
// loopback addresses, without controllers, scheduler or nodes, which a test plays itself. The
// programs come from the module in tools, as `make test-kubernetes` builds them; the folder
// that holds them is in SKALD_KUBERNETES, and without it a test is skipped.
package kube

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skaldlog/skald/internal/testkit/certs"
)

const (
	adminToken = "the-administrator"
	patience   = 2 * time.Minute
)

// ControlPlane is a running API server with its store.
type ControlPlane struct {
	// Admin may do everything.
	Admin kubernetes.Interface

	t         testing.TB
	dir       string // of the programs
	home      string // of what they write
	ca        *certs.Authority
	etcd, url string
	args      []string
	server    *program
}

// Start starts a control plane that ends with the test.
func Start(t testing.TB) *ControlPlane {
	t.Helper()
	dir := os.Getenv("SKALD_KUBERNETES")
	if dir == "" {
		t.Skip("SKALD_KUBERNETES names no folder with etcd and kube-apiserver: make test-kubernetes builds them")
	}
	c := &ControlPlane{t: t, dir: dir, home: t.TempDir(), ca: certs.New(t), etcd: "http://" + freeAddr(t)}
	peer := "http://" + freeAddr(t)
	c.run("etcd", "--name=test", "--data-dir="+filepath.Join(c.home, "etcd-data"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+c.etcd, "--advertise-client-urls="+c.etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=test="+peer)

	cert, key := c.ca.Issue(t, "kube-apiserver")
	accountCert, accountKey := c.ca.Issue(t, "service-accounts")
	addr := freeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	c.url = "https://" + addr
	c.args = []string{
		"--etcd-servers=" + c.etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + port,
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/24", "--allow-privileged",
		"--tls-cert-file=" + cert, "--tls-private-key-file=" + key,
		"--token-auth-file=" + c.write("tokens.csv", adminToken+`,admin,admin,"system:masters"`+"\n"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + accountCert,
		"--service-account-signing-key-file=" + accountKey,
		// It wants an account in each namespace, which a controller would make.
		"--disable-admission-plugins=ServiceAccount",
	}
	config := &rest.Config{Host: c.url, BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{CAFile: c.ca.File}, QPS: 1000, Burst: 1000}
	if c.Admin, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	c.StartServer()
	return c
}

// StartServer starts the API server, again after KillServer, and waits until it is ready.
func (c *ControlPlane) StartServer() {
	c.t.Helper()
	c.server = c.run("kube-apiserver", c.args...)
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := c.Admin.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(c.t.Context()).Error()
		switch {
		case err == nil:
			return
		case c.server.ended():
			c.t.Fatalf("kube-apiserver ended: %v", c.server.err)
		case time.Now().After(deadline):
			c.t.Fatalf("kube-apiserver is not ready after %s: %v", patience, err)
		}
	}
}

// KillServer is kill -9 of the API server; what it has stored stays.
func (c *ControlPlane) KillServer() { c.server.kill() }

// Apply creates what a file of manifests holds, in order. Objects without a namespace that
// need one get the one given.
func (c *ControlPlane) Apply(namespace string, manifests []byte) {
	c.t.Helper()
	docs := yaml.NewDecoder(bytes.NewReader(manifests))
	for {
		var doc yaml.Node
		err := docs.Decode(&doc)
		if err == io.EOF {
			return
		}
		var object struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string
			Metadata   struct{ Name, Namespace string }
		}
		if err == nil {
			err = doc.Decode(&object)
		}
		text, marshalErr := yaml.Marshal(&doc)
		if err != nil || marshalErr != nil {
			c.t.Fatalf("manifests: %v, %v", err, marshalErr)
		}
		path := resource(object.APIVersion, object.Kind, cmp.Or(object.Metadata.Namespace, namespace))
		err = c.Admin.CoreV1().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/yaml").
			Param("fieldValidation", "Strict").Body(text).Do(c.t.Context()).Error()
		if err != nil {
			c.t.Fatalf("POST %s %s to %s: %v", object.Kind, object.Metadata.Name, path, err)
		}
	}
}

// resource is the path of a kind of objects.
func resource(apiVersion, kind, namespace string) string {
	path := "/apis/" + apiVersion
	if !strings.Contains(apiVersion, "/") {
		path = "/api/" + apiVersion
	}
	if kind != "Namespace" && !strings.HasPrefix(kind, "Cluster") {
		path += "/namespaces/" + namespace
	}
	plural := strings.ToLower(kind) + "s"
	if stem, y := strings.CutSuffix(kind, "y"); y {
		plural = strings.ToLower(stem) + "ies"
	}
	return path + "/" + plural
}

// Kubeconfig writes a file for a client that is a service account, and returns its path.
func (c *ControlPlane) Kubeconfig(namespace, account string) string {
	c.t.Helper()
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{"https://kubernetes.default.svc"}}}
	token, err := c.Admin.CoreV1().ServiceAccounts(namespace).CreateToken(c.t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatalf("a token for %s/%s: %v", namespace, account, err)
	}
	return c.write("kubeconfig-"+account, fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
`, c.url, c.ca.File, token.Status.Token))
}

func (c *ControlPlane) write(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.home, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// program is one run of a program of the control plane.
type program struct {
	stop context.CancelFunc
	done chan struct{} // closed when err is set
	err  error
}

func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *program) kill() {
	p.stop()
	<-p.done
}

// run starts a program, which is killed at the latest when the test ends. The end of what it
// printed is shown when the test fails.
func (c *ControlPlane) run(name string, args ...string) *program {
	c.t.Helper()
	log, err := os.OpenFile(filepath.Join(c.home, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close() // the program has its own descriptor
	ctx, stop := context.WithCancel(context.WithoutCancel(c.t.Context()))
	cmd := exec.CommandContext(ctx, filepath.Join(c.dir, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		stop()
		c.t.Fatal(err)
	}
	p := &program{stop: stop, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	c.t.Cleanup(func() {
		p.kill()
		if text, err := os.ReadFile(log.Name()); err == nil && c.t.Failed() {
			c.t.Logf("the end of what %s wrote:\n%s", name, text[max(0, len(text)-2000):])
		}
	})
	return p
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
