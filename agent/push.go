package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/common/config"

	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/wire"
)

// httpPusher sends entries to a server's push API. They come from deliver.Sender; they are
// durable when the server answers with a success.
type httpPusher struct {
	encoded  prometheus.Counter // bytes of bodies that were accepted; may be nil
	url      string
	headers  http.Header
	client   *http.Client
	encoders sync.Pool
}

func newHTTPPusher(c *Client) (*httpPusher, error) {
	if c.URL.URL == nil {
		return nil, errors.New("url is required")
	}
	client, err := promconfig.NewClientFromConfig(c.HTTP, "skald-agent", promconfig.WithHTTP2Disabled())
	if err != nil {
		return nil, err
	}
	p := &httpPusher{url: c.URL.String(), headers: http.Header{}, client: client}
	p.encoders.New = func() any { return new(wire.Encoder) }
	for k, v := range c.Headers {
		p.headers.Set(k, v)
	}
	p.headers.Set("Content-Type", wire.ContentTypeProto)
	p.headers.Set("User-Agent", userAgent())
	return p, nil
}

// userAgent names the program and its version.
func userAgent() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return "skald-agent/" + info.Main.Version
	}
	return "skald-agent/dev"
}

// Push implements deliver.Pusher.
func (p *httpPusher) Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error {
	enc, _ := p.encoders.Get().(*wire.Encoder) // the pool holds nothing else
	body := &sharedBody{text: enc.Push(streams), free: func() { p.encoders.Put(enc) }}
	body.users.Store(1)
	defer body.done()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, body.reader())
	if err != nil {
		return err
	}
	req.ContentLength = int64(len(body.text))
	req.GetBody = func() (io.ReadCloser, error) { return body.reader(), nil }
	for k, v := range p.headers {
		req.Header[k] = v
	}
	if tenant != "" {
		req.Header.Set("X-Scope-OrgID", string(tenant))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
		if p.encoded != nil {
			p.encoded.Add(float64(req.ContentLength))
		}
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what can be read of an error is enough
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	line, _, _ := strings.Cut(string(text), "\n")
	return &deliver.StatusError{Code: resp.StatusCode, Message: line, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// sharedBody is an encoded push. The transport may go on reading it after a request has
// failed, so the buffer is used again only when every reader has been closed.
type sharedBody struct {
	text  []byte
	users atomic.Int32
	free  func()
}

func (b *sharedBody) done() {
	if b.users.Add(-1) == 0 {
		b.free()
	}
}

func (b *sharedBody) reader() io.ReadCloser {
	b.users.Add(1)
	return &sharedReader{Reader: bytes.NewReader(b.text), close: sync.OnceFunc(b.done)}
}

type sharedReader struct {
	*bytes.Reader
	close func()
}

// Close implements io.Closer.
func (r *sharedReader) Close() error {
	r.close()
	return nil
}

// retryAfter reads the header's two forms, seconds and a date; 0 when there is none.
func retryAfter(h string, now time.Time) time.Duration {
	if s, err := strconv.ParseFloat(h, 64); err == nil && s > 0 && s < 1e6 {
		return time.Duration(s * float64(time.Second))
	}
	if t, err := http.ParseTime(h); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// printer writes entries as text, for -dry-run.
type printer struct {
	mu    sync.Mutex
	w     io.Writer
	color bool
}

// Push implements deliver.Pusher.
func (p *printer) Push(_ context.Context, _ model.Tenant, streams []model.Stream) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range streams {
		name := s.Labels.String()
		for _, e := range s.Entries {
			t := time.Unix(0, e.Timestamp).Format("2006-01-02T15:04:05.999999999-0700")
			format := "%s\t%s\t%s\n"
			if p.color {
				format = "\x1b[2m%s\x1b[0m\t\x1b[33m%s\x1b[0m\t%s\n"
			}
			if _, err := fmt.Fprintf(p.w, format, t, name, e.Line); err != nil {
				return err
			}
		}
	}
	return nil
}
