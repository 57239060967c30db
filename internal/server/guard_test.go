package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/rpc"
	"github.com/skaldlog/skald/internal/testkit/certs"
	"github.com/skaldlog/skald/internal/tlsconf"
)

const credentialsFile = `
credentials:
  - {name: reader, username: reader, password: pr, tenants: [a, b], permissions: [read]}
  - {name: shipper, token: shipper-token-0123, tenants: [a], permissions: [write]}
  - {name: deleter, username: deleter, password: pd, tenants: [a], permissions: [read, delete]}
  - {name: scraper, username: scraper, password: ps, permissions: [metrics]}
  - {name: ops, username: ops, password: po, permissions: [admin]}
  - {name: node, certificate: node-7, tenants: [n], permissions: [write]}
`

func openCredentials(t *testing.T) *auth.Credentials {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials.yaml")
	if err := os.WriteFile(file, []byte(credentialsFile), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := auth.Open(auth.Config{File: file, Period: time.Hour}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run serves until the test ends.
func run(t *testing.T, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func secureServer(t *testing.T, ca *certs.Authority) *Server {
	t.Helper()
	cert, key := ca.Issue(t, "skald")
	s, err := New(Config{
		Listen: "127.0.0.1:0", AuthEnabled: true, Credentials: openCredentials(t), ShutdownTimeout: time.Second, ReadTimeout: time.Minute,
		TLS: tlsconf.Server{Cert: cert, Key: key, ClientCA: ca.File, ClientOptional: true},
	}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenants, err := TenantsOf(r)
		if err != nil {
			WriteError(w, err)
			return
		}
		fmt.Fprint(w, tenants)
	})
	for _, path := range []string{"/loki/api/v1/push", "/loki/api/v1/query", "/loki/api/v1/delete", "/ready", "/flush"} {
		s.Handle(path, show)
	}
	run(t, s.Run)
	return s
}

func TestEveryDoorAsks(t *testing.T) {
	ca := certs.New(t)
	s := secureServer(t, ca)
	nodeCert, nodeKey := ca.Issue(t, "node-7")
	pair, err := tls.LoadX509KeyPair(nodeCert, nodeKey)
	if err != nil {
		t.Fatal(err)
	}
	client := func(certificates ...tls.Certificate) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool, Certificates: certificates}, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	plain, node := client(), client(pair)
	for _, tc := range []struct {
		client                     *http.Client
		method, path, who, tenants string
		status                     int
		body                       string
	}{
		{plain, "GET", "/ready", "", "", 401, "no org id"}, // reached, and has no tenant to show
		{plain, "GET", "/loki/api/v1/query", "", "a", 401, "credentials are needed"},
		{plain, "GET", "/loki/api/v1/query", "reader:wrong", "a", 401, "not valid"},
		{plain, "GET", "/loki/api/v1/query", "reader:pr", "a|b", 200, "[a b]"},
		{plain, "GET", "/loki/api/v1/query", "reader:pr", "a|c", 403, "tenant c is not open to reader"},
		{plain, "GET", "/loki/api/v1/query", "reader:pr", "", 401, "no org id"},
		{plain, "GET", "/loki/api/v1/query", "reader:pr", "..", 400, "tenant ID is"},
		{plain, "POST", "/loki/api/v1/push", "reader:pr", "a", 403, "reader has no write permission"},
		{plain, "POST", "/loki/api/v1/push", "shipper-token-0123", "", 200, "[a]"},
		{plain, "GET", "/loki/api/v1/query", "shipper-token-0123", "a", 403, "no read permission"},
		{plain, "GET", "/loki/api/v1/delete", "reader:pr", "a", 200, "[a]"},
		{plain, "POST", "/loki/api/v1/delete", "reader:pr", "a", 403, "no delete permission"},
		{plain, "POST", "/loki/api/v1/delete", "deleter:pd", "a", 200, "[a]"},
		{plain, "GET", "/flush", "deleter:pd", "a", 403, "no admin permission"},
		{plain, "GET", "/metrics", "", "", 401, "credentials are needed"},
		{plain, "GET", "/metrics", "scraper:ps", "", 200, "skald_http"},
		{plain, "GET", "/metrics", "ops:po", "", 200, "skald_http"},
		{plain, "GET", "/debug/pprof/cmdline", "scraper:ps", "", 403, "no admin permission"},
		{plain, "GET", "/debug/pprof/cmdline", "ops:po", "", 200, ""},
		{plain, "GET", "/loki/api/v1/query", "ops:po", "a", 403, "no read permission"},
		{node, "POST", "/loki/api/v1/push", "", "", 200, "[n]"},
		{node, "POST", "/loki/api/v1/push", "", "a", 403, "tenant a is not open to node"},
		{node, "GET", "/loki/api/v1/query", "", "", 403, "node has no read permission"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, "https://"+s.Addr().String()+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user, password, ok := strings.Cut(tc.who, ":"); ok {
			req.SetBasicAuth(user, password)
		} else if tc.who != "" {
			req.Header.Set("Authorization", "Bearer "+tc.who)
		}
		if tc.tenants != "" {
			req.Header.Set(TenantHeader, tc.tenants)
		}
		resp, err := tc.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(body), tc.body) {
			t.Errorf("%s %s as %q for %q: got %d %.80q (%v), want %d %q", tc.method, tc.path, tc.who, tc.tenants, resp.StatusCode, body, err, tc.status, tc.body)
		}
	}
}

// TestRoutesHaveAPermission guards the table: what is not listed is for admins.
func TestRoutesHaveAPermission(t *testing.T) {
	for pattern, want := range map[string]auth.Permission{
		"/loki/api/v1/push": auth.Write, "/otlp/v1/logs": auth.Write, "/api/prom/push": auth.Write,
		"/loki/api/v1/query_range": auth.Read, "/loki/api/v1/tail": auth.Read, "/api/prom/label": auth.Read,
		"/config": auth.Admin, "/flush": auth.Admin, "/ingester/prepare-shutdown": auth.Admin, "/ring": auth.Admin, "/unheard-of": auth.Admin,
		"/ready": auth.Public, "/{$}": auth.Public, "/metrics": auth.Metrics,
	} {
		if got := permission(pattern, "GET"); got != want {
			t.Errorf("permission(%s) is %s, want %s", pattern, got, want)
		}
	}
}

func TestGRPCAsksToo(t *testing.T) {
	ca := certs.New(t)
	cert, key := ca.Issue(t, "skald")
	g, err := NewGRPC(GRPCConfig{
		Listen: "127.0.0.1:0", MaxMessage: 1 << 20, AuthEnabled: true, Credentials: openCredentials(t), Grace: time.Second,
		TLS: tlsconf.Server{Cert: cert, Key: key, ClientCA: ca.File, ClientOptional: true}, MemberNames: "skald",
	}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	handler := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		var msg rpc.RawMessage
		if err := decode(&msg); err != nil {
			return nil, err
		}
		return intercept(ctx, &msg, &grpc.UnaryServerInfo{FullMethod: string(msg)}, func(ctx context.Context, _ any) (any, error) {
			tenant, err := TenantOfContext(ctx)
			if err != nil {
				return nil, status.Error(codes.Unauthenticated, err.Error())
			}
			return &rpc.RawMessage{byte(tenant[0])}, nil
		})
	}
	for _, name := range []string{"logproto.Pusher", "skald.Ingester"} {
		g.RegisterService(&grpc.ServiceDesc{ServiceName: name, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Push", Handler: handler}}}, g)
	}
	run(t, g.Run)
	dial := func(name string) *grpc.ClientConn {
		cfg := &tls.Config{RootCAs: ca.Pool}
		if name != "" {
			certFile, keyFile := ca.Issue(t, name)
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Certificates = []tls.Certificate{pair}
		}
		conn, err := grpc.NewClient(g.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec())))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	nobody, node, member := dial(""), dial("node-7"), dial("skald")
	for _, tc := range []struct {
		conn                   *grpc.ClientConn
		service, token, tenant string
		want                   codes.Code
	}{
		{nobody, "logproto.Pusher", "", "a", codes.Unauthenticated},
		{nobody, "logproto.Pusher", "Bearer shipper-token-0123", "a", codes.OK},
		{nobody, "logproto.Pusher", "Bearer shipper-token-0123", "b", codes.Unauthenticated},
		{node, "logproto.Pusher", "", "", codes.OK},
		{nobody, "skald.Ingester", "Bearer shipper-token-0123", "a", codes.PermissionDenied},
		{node, "skald.Ingester", "", "a", codes.PermissionDenied},
		{member, "skald.Ingester", "", "a", codes.OK},
	} {
		ctx := t.Context()
		if tc.token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", tc.token)
		}
		if tc.tenant != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-scope-orgid", tc.tenant)
		}
		method := "/" + tc.service + "/Push"
		request, answer := rpc.RawMessage(method), rpc.RawMessage{}
		if got := status.Code(tc.conn.Invoke(ctx, method, &request, &answer)); got != tc.want {
			t.Errorf("%s with token %q for tenant %q: got %s, want %s", method, tc.token, tc.tenant, got, tc.want)
		}
	}
}
