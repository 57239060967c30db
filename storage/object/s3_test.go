package object

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	s3kit "github.com/skaldlog/skald/internal/testkit/s3"
)

// proxy stands before a real S3 server; meddle may answer a request itself.
type proxy struct {
	*httptest.Server
	mu struct {
		sync.Mutex
		meddle   func(w http.ResponseWriter, r *http.Request) (answered bool)
		requests []string // method and what it is about
		headers  []http.Header
	}
}

func newProxy(t *testing.T, target string) *proxy {
	u, err := url.Parse(target)
	must(t, err)
	p := &proxy{}
	forward := forwardTo(u)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		meddle := p.mu.meddle
		p.mu.requests = append(p.mu.requests, describe(r))
		p.mu.headers = append(p.mu.headers, r.Header.Clone())
		p.mu.Unlock()
		if meddle == nil || !meddle(w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func forwardTo(u *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorLog: log.New(io.Discard, "", 0), // tests break connections
	}
}

func describe(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case q.Has("uploads"):
		return "create"
	case q.Has("partNumber"):
		return "part " + q.Get("partNumber")
	case q.Has("uploadId") && r.Method == http.MethodPost:
		return "complete"
	case q.Has("uploadId"):
		return "abort"
	}
	return r.Method
}

// set installs meddle and forgets past requests.
func (p *proxy) set(meddle func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.meddle, p.mu.requests, p.mu.headers = meddle, nil, nil
}

func (p *proxy) count(what string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.mu.requests {
		if r == what {
			n++
		}
	}
	return n
}

func s3Error(w http.ResponseWriter, status int, code string) bool {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>as the test wants</Message></Error>", code)
	return true
}

// openS3Proxy returns a store behind a proxy, without and with retries.
func openS3Proxy(t *testing.T) (*S3, Store, *proxy) {
	server := s3kit.Start(t)
	server.Bucket(t, "bucket", "")
	p := newProxy(t, server.Endpoint)
	s, err := NewS3(t.Context(), S3Config{Bucket: "bucket", Prefix: "some/where", Endpoint: p.URL, PathStyle: true})
	must(t, err)
	return s, Retry(s, RetryConfig{MaxAttempts: 3}, nil, nil), p
}

// plainSeeker hides ReadAt, so that parts go one after the other.
type plainSeeker struct{ io.ReadSeeker }

func TestS3Multipart(t *testing.T) {
	s, _, p := openS3Proxy(t)
	s.partSize = 5 << 20 // the least that S3 allows
	data := make([]byte, 12<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	for name, body := range map[string]io.ReadSeeker{"parallel": bytes.NewReader(data), "sequential": plainSeeker{bytes.NewReader(data)}} {
		t.Run(name, func(t *testing.T) {
			key := Key("multi/" + name)
			p.set(nil)
			must(t, s.Put(t.Context(), key, body, int64(len(data))))
			for _, what := range []string{"create", "part 1", "part 2", "part 3", "complete", "HEAD"} {
				if p.count(what) != 1 {
					t.Errorf("%d requests %q, want 1", p.count(what), what)
				}
			}
			got, err := ReadAll(t.Context(), s, key, int64(len(data)))
			must(t, err)
			if !bytes.Equal(got, data) {
				t.Error("read back other bytes")
			}
		})
	}

	t.Run("a part that fails is sent again, alone", func(t *testing.T) {
		var once sync.Once
		p.set(func(w http.ResponseWriter, r *http.Request) (answered bool) {
			if describe(r) == "part 2" {
				once.Do(func() { answered = s3Error(w, 503, "SlowDown") })
			}
			return answered
		})
		must(t, s.Put(t.Context(), "multi/again", bytes.NewReader(data), int64(len(data))))
		if p.count("part 1") != 1 || p.count("part 2") != 2 || p.count("complete") != 1 {
			t.Errorf("got requests %q", p.mu.requests)
		}
		got, err := ReadAll(t.Context(), s, "multi/again", int64(len(data)))
		must(t, err)
		if !bytes.Equal(got, data) {
			t.Error("read back other bytes")
		}
	})

	t.Run("failure aborts", func(t *testing.T) {
		for _, failing := range []string{"part 3", "complete"} {
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				return describe(r) == failing && s3Error(w, 403, "AccessDenied")
			})
			err := s.Put(t.Context(), "multi/failed", bytes.NewReader(data), int64(len(data)))
			if err == nil || !strings.Contains(err.Error(), "AccessDenied") || IsTransient(err) {
				t.Errorf("%s: got %v, want a permanent AccessDenied", failing, err)
			}
			if p.count("abort") != 1 {
				t.Errorf("%s: %d aborts, want 1", failing, p.count("abort"))
			}
			if _, err := s.Stat(t.Context(), "multi/failed"); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: a part of the object is visible: %v", failing, err)
			}
		}
	})

	t.Run("cancel aborts", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if describe(r) == "part 1" {
				cancel()
			}
			return false
		})
		err := s.Put(ctx, "multi/canceled", bytes.NewReader(data), int64(len(data)))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
		if p.count("abort") != 1 {
			t.Errorf("%d aborts, want 1", p.count("abort"))
		}
	})
}

func TestS3Errors(t *testing.T) {
	plain, retried, p := openS3Proxy(t)
	put(t, plain, "a/b", "data")
	for _, tt := range []struct {
		name      string
		meddle    func(http.ResponseWriter, *http.Request) bool
		transient bool
		text      string
	}{
		{"throttled", func(w http.ResponseWriter, _ *http.Request) bool { return s3Error(w, 503, "SlowDown") }, true, "SlowDown"},
		{"internal", func(w http.ResponseWriter, _ *http.Request) bool { return s3Error(w, 500, "InternalError") }, true, "InternalError"},
		{"bad gateway", func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "<html>nginx</html>", http.StatusBadGateway)
			return true
		}, true, ""},
		{"denied", func(w http.ResponseWriter, _ *http.Request) bool { return s3Error(w, 403, "AccessDenied") }, false, "AccessDenied"},
		{"no bucket", func(w http.ResponseWriter, _ *http.Request) bool { return s3Error(w, 404, "NoSuchBucket") }, false, "NoSuchBucket"},
		{"hangs up", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }, true, ""},
		{"cut short", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", "4")
			w.Header().Set("Content-Range", "bytes 0-3/4")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "da")
			return true
		}, true, ""},
		{"range ignored", func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(w, "data and more")
			return true
		}, false, "Content-Range"},
		{"other range", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Range", "bytes 4-7/100")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "data")
			return true
		}, false, "Content-Range"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.set(tt.meddle)
			err := plain.ReadAt(t.Context(), "a/b", make([]byte, 4), 0)
			if err == nil || IsTransient(err) != tt.transient || !strings.Contains(err.Error(), tt.text) || errors.Is(err, ErrNotFound) {
				t.Errorf("got %v (transient %v), want transient %v", err, IsTransient(err), tt.transient)
			}
			failures := 2
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				if failures == 0 {
					return false
				}
				failures--
				return tt.meddle(w, r)
			})
			got := make([]byte, 4)
			err = retried.ReadAt(t.Context(), "a/b", got, 0)
			if (err == nil) != tt.transient || err == nil && string(got) != "data" {
				t.Errorf("with retries: got %q, %v", got, err)
			}
		})
	}
}

func TestS3SmallPagesAndHeaders(t *testing.T) {
	s, _, p := openS3Proxy(t)
	s.cfg.SSE, s.cfg.SSEKMSKeyID = "aws:kms", "key-1"
	p.set(nil)
	// The server of the tests does not encrypt; what counts is what we ask for.
	_ = s.Put(t.Context(), "x", strings.NewReader("data"), 4)
	p.mu.Lock()
	h := p.mu.headers[0]
	p.mu.Unlock()
	for name, want := range map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key-1", "X-Amz-Checksum-Crc32c": "rth90Q=="} {
		if got := h.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	s.cfg.SSE, s.cfg.SSEKMSKeyID = "", ""
	for i := range 25 {
		put(t, s, Key(fmt.Sprintf("page/%02d/x", i)), "x")
	}
	s.pageSize = 4
	p.set(nil)
	if got := keys(t, s, "page/"); len(got) != 25 || !slices.IsSorted(got) || p.count("GET") != 7 {
		t.Errorf("listed %d of 25 in %d requests, want 7", len(got), p.count("GET"))
	}
	if got := collect(t, s.ListPrefixes(t.Context(), "page/")); len(got) != 25 || got[24] != "page/24/" {
		t.Errorf("got folders %v", got)
	}
}

// TestS3CustomCA reaches a server over TLS whose certificate only ca_file knows.
func TestS3CustomCA(t *testing.T) {
	server := s3kit.Start(t)
	server.Bucket(t, "bucket", "")
	u, err := url.Parse(server.Endpoint)
	must(t, err)
	tls := httptest.NewUnstartedServer(forwardTo(u))
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}), 0o600))

	base := "s3://bucket/?path_style=true&endpoint=" + url.QueryEscape(tls.URL)
	s, err := Open(t.Context(), base+"&ca_file="+url.QueryEscape(ca), Options{Retry: RetryConfig{MaxAttempts: 1}})
	must(t, err)
	put(t, s, "a", "x")
	got, err := ReadAll(t.Context(), s, "a", 1)
	if string(got) != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	stranger, err := Open(t.Context(), base, Options{Retry: RetryConfig{MaxAttempts: 1}})
	must(t, err)
	if _, err := stranger.Stat(t.Context(), "a"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown certificate: got %v", err)
	}
}
