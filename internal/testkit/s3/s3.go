// Package s3 starts a real S3 server over a temporary folder, for tests: versitygw, from
// $VERSITYGW, the PATH, or where "go install" puts it. Without it a test is skipped, unless
// SKALD_REQUIRE_S3=1 says that it must not be (CI does).
package s3

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Install is the command that puts the server where it is found.
const Install = "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0"

// The one account of the server.
const (
	AccessKey = "skald-test"
	SecretKey = "skald-test-secret"
)

// Server is a running S3 server.
type Server struct {
	// Endpoint is its base URL.
	Endpoint string
	// Dir holds a folder per bucket; objects are files in it.
	Dir string
}

// Find returns the path of the server's program, "" when there is none.
func Find() string {
	if path := os.Getenv("VERSITYGW"); path != "" {
		return path
	}
	if path, err := exec.LookPath("versitygw"); err == nil {
		return path
	}
	out, err := exec.Command("go", "env", "GOPATH").Output()
	if err != nil {
		return ""
	}
	for _, dir := range filepath.SplitList(strings.TrimSpace(string(out))) {
		path := filepath.Join(dir, "bin", "versitygw")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Start starts a server on a free port of 127.0.0.1, sets the AWS credentials in the
// test's environment, and ends the server with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	program := Find()
	if program == "" {
		const missing = "no versitygw in $VERSITYGW, the PATH or GOPATH/bin; get it with: " + Install
		if os.Getenv("SKALD_REQUIRE_S3") == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")

	// Between finding a free port and using it another process may take it; then try again.
	const attempts = 5
	var err error
	for range attempts {
		var s *Server
		if s, err = start(t, program); err == nil {
			return s
		}
	}
	t.Fatalf("versitygw did not start: %v", err)
	return nil
}

func start(t testing.TB, program string) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--access", AccessKey, "--secret", SecretKey,
		"--quiet", "--keep-alive", "--port", fmt.Sprintf("127.0.0.1:%d", port), "posix", dir)
	cmd.WaitDelay = 5 * time.Second
	var output lockedBuffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	stop := func() {
		cancel()
		<-exited
	}
	s := &Server{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", port), Dir: dir}
	if err := s.waitReady(exited); err != nil {
		stop()
		return nil, fmt.Errorf("%w; it wrote: %s", err, output.String())
	}
	t.Cleanup(stop)
	return s, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// waitReady asks until the server answers anything, even a refusal.
func (s *Server) waitReady(exited <-chan struct{}) error {
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if resp, err := client.Get(s.Endpoint); err == nil {
			return resp.Body.Close()
		}
		select {
		case <-exited:
			return fmt.Errorf("it exited")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("it did not answer within 20 s")
}

// Bucket makes a bucket and returns the storage URL of a folder in it.
func (s *Server) Bucket(t testing.TB, name, prefix string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(s.Dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
	query := url.Values{"endpoint": {s.Endpoint}, "region": {"us-east-1"}, "path_style": {"true"}}
	return "s3://" + name + "/" + prefix + "?" + query.Encode()
}

// lockedBuffer collects what the server prints.
type lockedBuffer struct {
	mu struct {
		sync.Mutex
		bytes.Buffer
	}
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.Buffer.String()
}
