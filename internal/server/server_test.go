package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

func TestTenants(t *testing.T) {
	ask := func(auth bool, header, wantIDs, wantErr string) {
		t.Helper()
		var got []model.Tenant
		var err error
		s := &Server{cfg: Config{AuthEnabled: auth}}
		h := s.guard("/x", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, err = TenantsOf(r) }))
		r := httptest.NewRequest("GET", "/", nil)
		if header != "" {
			r.Header.Set(TenantHeader, header)
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		ids := make([]string, len(got))
		for i, id := range got {
			ids[i] = string(id)
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if (text == "no org id") != (fault.Of(err) == fault.Unauthenticated) || text != "" && text != "no org id" && fault.Of(err) != fault.Invalid {
			t.Errorf("%q: kind %d", header, fault.Of(err))
		}
		if strings.Join(ids, ",") != wantIDs || text != wantErr {
			t.Errorf("auth=%v header=%q: got %v, %q; want %q, %q", auth, header, ids, text, wantIDs, wantErr)
		}
	}
	ask(false, "", "fake", "")
	ask(false, "../x", "fake", "")
	ask(true, "", "", "no org id")
	ask(true, "b|a|b", "a,b", "")
	ask(true, "a:sub", "a", "")
	ask(true, "..", "", "tenant ID is '.' or '..'")
	ask(true, "a/b", "", "tenant ID 'a/b' contains unsupported character '/'")
	ask(true, "a|", "", "no org id")
	ask(true, strings.Repeat("a|", maxTenants-1)+"b", "a,b", "")
	ask(true, strings.Repeat("a|", maxTenants)+"b", "", "1001 tenants are named in one request, at most 1000 can be")
	ask(true, strings.Repeat("x", 151), "", "tenant ID is too long: max 150 characters")
}

func TestNamedTenant(t *testing.T) {
	for header, want := range map[string]string{"": "no org id", "a|b": "multiple org IDs present", "..": "tenant ID is '.' or '..'", "a:b": "a", "a|a": "a"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(TenantHeader, header)
		tenant, err := NamedTenant(r)
		got := string(tenant)
		if err != nil {
			if got = err.Error(); fault.Of(err) != fault.Unauthenticated {
				t.Errorf("%q: kind %d", header, fault.Of(err))
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}

// TestTailedTenant: a tail asks who calls when the id cannot be one, and calls two ids a mistake.
func TestTailedTenant(t *testing.T) {
	for header, want := range map[string]fault.Kind{"": fault.Unauthenticated, "..": fault.Unauthenticated, "a|b": fault.Invalid} {
		s := &Server{cfg: Config{AuthEnabled: true}}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(TenantHeader, header)
		s.guard("/x", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if _, err := TailedTenant(r); fault.Of(err) != want {
				t.Errorf("%q: %v of kind %d, want kind %d", header, err, fault.Of(err), want)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
}

func TestServerFinishesRequestsInFlight(t *testing.T) {
	s, err := New(Config{Listen: "127.0.0.1:0", ShutdownTimeout: 10 * time.Second}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	s.Handle("/slow", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "done")
	}))
	s.Handle("/get", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		WriteError(w, fault.New(fault.RateLimited, "slow down"))
	}), http.MethodGet)
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()

	url := "http://" + s.Addr().String()
	expectAnswer(t, url+"/get", http.MethodPost, 405, "")
	expectAnswer(t, url+"/get", http.MethodGet, 429, "slow down")
	expectAnswer(t, url+"/none", http.MethodGet, 404, "404 page not found\n")
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get(url + "/slow")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer func() { _ = res.Body.Close() }()
		body, _ := io.ReadAll(res.Body)
		answer <- string(body)
	}()
	<-entered
	stop()
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("request in flight got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func expectAnswer(t *testing.T, url, method string, status int, body string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != status || string(text) != body {
		t.Errorf("%s %s: got %d %q, want %d %q", method, url, res.StatusCode, text, status, body)
	}
}

func TestRequestIDs(t *testing.T) {
	for id, kept := range map[string]bool{"abc-123": true, "": false, "a b": false, "a\nb": false, strings.Repeat("x", 129): false, "é": false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header[RequestIDHeader] = []string{id}
		got := requestID(r)
		if (got == id) != kept || got == "" || got == requestID(httptest.NewRequest("GET", "/", nil)) {
			t.Errorf("%q became %q", id, got)
		}
	}
}
