// Package client asks questions of any Loki-compatible server over HTTP. It is what the
// command line uses; it has logcli's settings and environment variables, so that a
// command written for logcli works unchanged. Beyond single requests it pages through
// results of any size, follows a live tail over lost connections, and downloads a long
// range in parts that survive an interruption. Everything ends promptly with its context.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Config says where the server is and who asks.
type Config struct {
	Addr                         string
	Username, Password           string
	BearerToken, BearerTokenFile string
	AuthHeader                   string
	CACert, Cert, Key            string
	TLSSkipVerify                bool
	OrgID, QueryTags             string
	NoCache, Compress, EnvProxy  bool
	ProxyURL                     string
	Retries                      int
	MinBackoff, MaxBackoff       int // seconds
	Headers                      Strings
	// UserAgent is sent with every request.
	UserAgent string
}

// Strings is a flag that may be given several times.
type Strings []string

// String joins the values with commas.
func (s *Strings) String() string { return strings.Join(*s, ",") }

// Set adds a value.
func (s *Strings) Set(v string) error { *s = append(*s, v); return nil }

// RegisterFlags declares logcli's connection flags.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Addr, "addr", "http://localhost:3100", "server's `URL`")
	fs.StringVar(&c.Username, "username", "", "`name` for HTTP basic authentication")
	fs.StringVar(&c.Password, "password", "", "`password` for HTTP basic authentication")
	fs.StringVar(&c.CACert, "ca-cert", "", "`file` with the certificate authority to trust")
	fs.BoolVar(&c.TLSSkipVerify, "tls-skip-verify", false, "do not check the server's certificate")
	fs.StringVar(&c.Cert, "cert", "", "`file` with the client certificate")
	fs.StringVar(&c.Key, "key", "", "`file` with the client certificate's key")
	fs.StringVar(&c.OrgID, "org-id", "", "`tenant` to ask for, sent as X-Scope-OrgID")
	fs.StringVar(&c.QueryTags, "query-tags", "", "`k=v,…` sent as X-Query-Tags")
	fs.BoolVar(&c.NoCache, "nocache", false, "ask the server not to answer from a cache")
	fs.StringVar(&c.BearerToken, "bearer-token", "", "`token` for the authorization header")
	fs.StringVar(&c.BearerTokenFile, "bearer-token-file", "", "`file` with the token, read for each request")
	fs.IntVar(&c.Retries, "retries", 0, "how often to retry a request that failed")
	fs.IntVar(&c.MinBackoff, "min-backoff", 0, "first wait between retries, in `seconds`")
	fs.IntVar(&c.MaxBackoff, "max-backoff", 0, "longest wait between retries, in `seconds`")
	fs.StringVar(&c.AuthHeader, "auth-header", "Authorization", "`header` that carries the credentials")
	fs.StringVar(&c.ProxyURL, "proxy-url", "", "`URL` of an HTTP proxy")
	fs.BoolVar(&c.Compress, "compress", false, "ask for compressed answers")
	fs.BoolVar(&c.EnvProxy, "envproxy", false, "use the proxy named by HTTP_PROXY and its like")
	fs.Var(&c.Headers, "header", "extra `Name: value` header; may be repeated")
}

// EnvNames are the environment variables of the flags, logcli's names.
var EnvNames = map[string]string{
	"addr": "LOKI_ADDR", "username": "LOKI_USERNAME", "password": "LOKI_PASSWORD",
	"ca-cert": "LOKI_CA_CERT_PATH", "tls-skip-verify": "LOKI_TLS_SKIP_VERIFY",
	"cert": "LOKI_CLIENT_CERT_PATH", "key": "LOKI_CLIENT_KEY_PATH", "org-id": "LOKI_ORG_ID",
	"query-tags": "LOKI_QUERY_TAGS", "nocache": "LOKI_NO_CACHE", "bearer-token": "LOKI_BEARER_TOKEN",
	"bearer-token-file": "LOKI_BEARER_TOKEN_FILE", "retries": "LOKI_CLIENT_RETRIES",
	"min-backoff": "LOKI_CLIENT_MIN_BACKOFF", "max-backoff": "LOKI_CLIENT_MAX_BACKOFF",
	"auth-header": "LOKI_AUTH_HEADER", "proxy-url": "LOKI_HTTP_PROXY_URL",
	"compress": "LOKI_HTTP_COMPRESSION", "envproxy": "LOKI_ENV_PROXY",
}

// Client sends requests. It is safe for concurrent use.
type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
	// reconnectUnit is a second, except in tests.
	reconnectUnit time.Duration
}

// New checks the settings.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("--addr: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("--addr=%s: expected a URL such as http://localhost:3100", cfg.Addr)
	}
	if cfg.Username != "" && cfg.Password != "" && (cfg.BearerToken != "" || cfg.BearerTokenFile != "") {
		return nil, errors.New("at most one of HTTP basic auth (username/password), bearer-token & bearer-token-file is allowed to be configured")
	}
	if cfg.BearerToken != "" && cfg.BearerTokenFile != "" {
		return nil, errors.New("at most one of the options bearer-token & bearer-token-file is allowed to be configured")
	}
	for _, h := range cfg.Headers {
		if !strings.Contains(h, ":") {
			return nil, fmt.Errorf("invalid header format: %q. Expected format: 'Header-Name: value'", h)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = !cfg.Compress
	transport.Proxy = nil
	if cfg.EnvProxy {
		transport.Proxy = http.ProxyFromEnvironment
	}
	if cfg.ProxyURL != "" {
		proxy, err := url.Parse(cfg.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("--proxy-url: %w", err)
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	if transport.TLSClientConfig, err = cfg.tls(); err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{Transport: transport}}, nil
}

func (c *Config) tls() (*tls.Config, error) {
	t := &tls.Config{InsecureSkipVerify: c.TLSSkipVerify, MinVersion: tls.VersionTLS12} //nolint:gosec // asked for by a flag
	if c.CACert != "" {
		pem, err := os.ReadFile(c.CACert)
		if err != nil {
			return nil, fmt.Errorf("--ca-cert: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-cert: %s holds no PEM certificate", c.CACert)
		}
	}
	if c.Cert != "" || c.Key != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// URL returns the address of a path with parameters.
func (c *Client) URL(path string, params url.Values) string {
	u := c.base.JoinPath(path)
	u.RawQuery = params.Encode()
	return u.String()
}

// headers are the ones that say who asks; they are the same for HTTP and websockets.
func (c *Client) headers() (http.Header, error) {
	h := http.Header{}
	h.Set("User-Agent", c.cfg.UserAgent)
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("X-Scope-OrgID", c.cfg.OrgID)
	set("X-Query-Tags", c.cfg.QueryTags)
	if c.cfg.NoCache {
		h.Set("Cache-Control", "no-cache")
	}
	if c.cfg.Username != "" && c.cfg.Password != "" {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(c.cfg.Username, c.cfg.Password)
		h.Set(c.cfg.AuthHeader, r.Header.Get("Authorization"))
	}
	token := c.cfg.BearerToken
	if c.cfg.BearerTokenFile != "" {
		text, err := os.ReadFile(c.cfg.BearerTokenFile)
		if err != nil {
			return nil, fmt.Errorf("--bearer-token-file: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	if token != "" {
		h.Set(c.cfg.AuthHeader, "Bearer "+token)
	}
	for _, line := range c.cfg.Headers {
		name, value, _ := strings.Cut(line, ":")
		h.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h, nil
}

// StatusError is an answer that is not 2xx.
type StatusError struct {
	Status int
	Body   string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d %s: %s", e.Status, http.StatusText(e.Status), strings.TrimSpace(e.Body))
}

// Do sends a request and decodes the JSON answer into out, if out is not nil. It retries
// network errors, 429 and 5xx as configured.
func (c *Client) Do(ctx context.Context, method, path string, params url.Values, out any) error {
	_, err := c.send(ctx, method, path, params, out)
	return err
}

// send is Do that also returns the answer's header.
func (c *Client) send(ctx context.Context, method, path string, params url.Values, out any) (http.Header, error) {
	wait := time.Duration(c.cfg.MinBackoff) * time.Second
	longest := time.Duration(c.cfg.MaxBackoff) * time.Second
	if longest <= 0 {
		longest = defaultMaxBackoff
	}
	for attempt := 0; ; attempt++ {
		header, err := c.once(ctx, method, path, params, out)
		var status *StatusError
		switch {
		case err == nil:
			return header, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &status) && status.Status < 500 && status.Status != http.StatusTooManyRequests:
			return nil, err
		case attempt >= c.cfg.Retries && attempt > 0:
			return nil, fmt.Errorf("%w (attempt %d of %d)", err, attempt+1, c.cfg.Retries+1)
		case attempt >= c.cfg.Retries:
			return nil, err
		}
		if err := sleep(ctx, min(wait, longest)); err != nil {
			return nil, err
		}
		wait *= 2
	}
}

// defaultMaxBackoff bounds the doubling waits when no --max-backoff is given.
const defaultMaxBackoff = time.Minute

func sleep(ctx context.Context, d time.Duration) error {
	if d > 0 {
		d = d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// maxErrorBody bounds how much of an error answer is kept.
const maxErrorBody = 64 << 10

func (c *Client) once(ctx context.Context, method, path string, params url.Values, out any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL(path, params), nil)
	if err != nil {
		return nil, err
	}
	if req.Header, err = c.headers(); err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode/100 != 2 {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
		return nil, &StatusError{Status: res.StatusCode, Body: string(body)}
	}
	if out == nil {
		return res.Header, nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", req.URL.Redacted(), err)
	}
	return res.Header, nil
}

// unreachable says what a network error means for the person at the keyboard.
func (c *Client) unreachable(err error) error {
	var netErr *url.Error
	if errors.As(err, &netErr) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("cannot reach %s: %w; is the server running, and is --addr (or LOKI_ADDR) right?", c.base.Redacted(), netErr.Err)
	}
	return err
}
