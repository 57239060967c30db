package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// open writes the file, and a file token beside it.
func open(t *testing.T, text, token string) (*Credentials, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Config{File: file, Period: 5 * time.Millisecond}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c, file
}

func TestIdentify(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret:with colon"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("a-token-that-is-long-enough"))
	c, _ := open(t, fmt.Sprintf(`
credentials:
  - {name: plain, username: ann, password: "pass", tenants: [a], permissions: [read]}
  - {name: hashed, username: bob, password_hash: "%s", tenants: [a, b], permissions: [write]}
  - {name: machine, token_sha256: %s, tenants: ["*"], permissions: [read, write]}
  - {name: fromfile, token_file: token, tenants: [f], permissions: [read]}
  - {name: host, certificate: host-1, tenants: [h], permissions: [write]}
  - {name: ops, username: ops, password: "pw", permissions: [admin]}
`, hash, hex.EncodeToString(sum[:])), "token-in-a-file-0123\n")
	cert := func(cn string, dns ...string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn}, DNSNames: dns}
	}
	for _, tc := range []struct {
		header string
		cert   *x509.Certificate
		want   string
	}{
		{header: basic("ann", "pass"), want: "plain"},
		{header: "basic  " + strings.TrimPrefix(basic("ann", "pass"), "Basic "), want: "plain"},
		{header: basic("bob", "s3cret:with colon"), want: "hashed"},
		{header: basic("bob", "s3cret:with colon"), want: "hashed"}, // from the cache
		{header: "Bearer a-token-that-is-long-enough", want: "machine"},
		{header: "Bearer token-in-a-file-0123", want: "fromfile"},
		{cert: cert("host-1"), want: "host"},
		{cert: cert("x", "host-1"), want: "host"},
		{header: basic("ann", "wrong")},
		{header: basic("ann", "")},
		{header: basic("nobody", "pass")},
		{header: basic("bob", "s3cret")},
		{header: "Bearer "},
		{header: "Bearer wrong"},
		{header: "Basic !!!"},
		{header: "Digest x"},
		{cert: cert("host-2")},
		{header: "Bearer wrong", cert: cert("host-1")}, // a wrong header is not saved by the certificate
		{},
	} {
		id, err := c.Identify(tc.header, tc.cert)
		switch {
		case tc.want == "" && (err == nil || fault.Of(err) != fault.Unauthenticated):
			t.Errorf("Identify(%q): got %v, %v; want Unauthenticated", tc.header, id, err)
		case tc.want != "" && (err != nil || id.Name != tc.want):
			t.Errorf("Identify(%q): got %v, %v; want %s", tc.header, id, err, tc.want)
		}
	}
}

func TestResolve(t *testing.T) {
	one := &Identity{Name: "one", Tenants: []model.Tenant{"a"}}
	two := &Identity{Name: "two", Tenants: []model.Tenant{"a", "b"}}
	all := &Identity{Name: "all", Any: true}
	for _, tc := range []struct {
		id   *Identity
		ask  []model.Tenant
		kind fault.Kind
		ok   bool
	}{
		{one, nil, 0, true}, {one, []model.Tenant{"a"}, 0, true}, {one, []model.Tenant{"b"}, fault.Forbidden, false},
		{two, nil, fault.Unauthenticated, false}, {two, []model.Tenant{"a", "b"}, 0, true}, {two, []model.Tenant{"a", "c"}, fault.Forbidden, false},
		{all, nil, fault.Unauthenticated, false}, {all, []model.Tenant{"z"}, 0, true},
	} {
		got, err := tc.id.Resolve(tc.ask)
		if (err == nil) != tc.ok || (!tc.ok && fault.Of(err) != tc.kind) || (tc.ok && len(got) == 0) {
			t.Errorf("%s.Resolve(%v): got %v, %v", tc.id.Name, tc.ask, got, err)
		}
	}
}

func TestFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"credential: []": "field credential not found",
		"credentials:\n  - {name: a, pasword: x}":                                                                                                                    `line 2: field "pasword" is not known`,
		"credentials:\n  - {username: a, password: x, tenants: [t], permissions: [read]}":                                                                            "line 2: name is missing",
		"credentials:\n  - {name: a, username: a, password: x, permissions: [read]}":                                                                                 "tenants is missing",
		"credentials:\n  - {name: a, username: a, password: x, tenants: [t]}":                                                                                        "permissions is missing",
		"credentials:\n  - {name: a, username: a, password: x, tenants: [t], permissions: [root]}":                                                                   `"root" is not known`,
		"credentials:\n  - {name: a, username: a, password: x, tenants: [../t], permissions: [read]}":                                                                "unsupported character",
		"credentials:\n  - {name: a, tenants: [t], permissions: [read]}":                                                                                             "0 secrets are given",
		"credentials:\n  - {name: a, username: a, password: x, token: y, tenants: [t], permissions: [read]}":                                                         "2 secrets are given",
		"credentials:\n  - {name: a, password: x, tenants: [t], permissions: [read]}":                                                                                "belong together",
		"credentials:\n  - {name: a, username: a, token: 0123456789abcdef, tenants: [t], permissions: [read]}":                                                       "belong together",
		"credentials:\n  - {name: a, token: short, tenants: [t], permissions: [read]}":                                                                               "expected at least 16",
		"credentials:\n  - {name: a, token_sha256: xyz, tenants: [t], permissions: [read]}":                                                                          "64 hexadecimal digits",
		"credentials:\n  - {name: a, username: a, password_hash: x, tenants: [t], permissions: [read]}":                                                              "not a bcrypt hash",
		"credentials:\n  - {name: a, username: a, password_file: nowhere, tenants: [t], permissions: [read]}":                                                        "password_file",
		"credentials:\n  - {name: a, username: 'a:b', password: x, tenants: [t], permissions: [read]}":                                                               "colon",
		"credentials:\n  - {name: a, certificate: c, permissions: [admin]}\n  - {name: b, certificate: c, permissions: [admin]}":                                     "line 3",
		"credentials:\n  - {name: a, certificate: c, permissions: [admin]}\n  - {name: a, certificate: d, permissions: [admin]}":                                     "is taken in line 2",
		"credentials:\n  - {name: a, username: u, password: topsecret, permissions: [admin]}\n  - {name: b, username: u, password: topsecret, permissions: [admin]}": "stands twice",
	} {
		_, err := parse([]byte(text), func(string) (string, error) { return "", os.ErrNotExist })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q): got %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

func TestReload(t *testing.T) {
	const entry = "credentials:\n  - {name: %s, username: u, password: p, tenants: [t], permissions: [read]}\n"
	c, file := open(t, fmt.Sprintf(entry, "first"), "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	defer func() { cancel(); <-done }()
	name := func() string {
		id, err := c.Identify(basic("u", "p"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return id.Name
	}
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	replace("credentials: [broken")
	replace(fmt.Sprintf(entry, "second"))
	for name() != "second" {
		time.Sleep(time.Millisecond)
	}
	replace("credentials: [broken")
	time.Sleep(50 * time.Millisecond)
	if got := name(); got != "second" {
		t.Errorf("after a broken file: %s, want the last good one", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("credentials:\n  - {name: a, username: a, password: x, tenants: [t], permissions: [read]}", basic("a", "x"))
	f.Add("credentials: [{}]", "Bearer x")
	f.Fuzz(func(t *testing.T, text, header string) {
		tab, err := parse([]byte(text), func(string) (string, error) { return "0123456789abcdef", nil })
		if err == nil {
			_, _ = tab.identify(header, nil)
		}
	})
}
