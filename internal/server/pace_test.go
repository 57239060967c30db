package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener for connections inside the process, whose deadlines follow the
// clock of a test.
type pipes struct{ conns chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p.conns); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestSlowBodiesAreCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		chunk int           // sent each second
		size  int           // of the body
		work  time.Duration // after it was read
		ok    bool
		after time.Duration // until a slow one is cut off
	}{
		"a byte a second":         {chunk: 1, size: 100, after: bodyGrace},
		"slow after a good start": {chunk: 12 << 10, size: 1 << 20, after: 40 * time.Second},
		"steady":                  {chunk: 20 << 10, size: 400 << 10, ok: true},
		"too long in all":         {chunk: 17 << 10, size: 10 << 20, after: time.Minute},
		"long work":               {chunk: 1 << 10, size: 1 << 10, work: 10 * time.Minute, ok: true},
		"long work, no body":      {work: 10 * time.Minute, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				type result struct {
					err, ctx error
					took     time.Duration
				}
				results := make(chan result, 1)
				h := withPace(time.Minute, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					start := time.Now()
					_, err := io.Copy(io.Discard, r.Body)
					took := time.Since(start)
					select {
					case <-time.After(c.work):
					case <-r.Context().Done():
					}
					results <- result{err, r.Context().Err(), took}
				}))
				srv := &http.Server{Handler: h, ReadTimeout: time.Minute}
				listener := pipes{make(chan net.Conn)}
				served := make(chan error, 1)
				go func() { served <- srv.Serve(listener) }()
				client, conn := net.Pipe()
				listener.conns <- conn
				fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", c.size)
				go func() {
					for sent := 0; sent < c.size; sent += c.chunk {
						if _, err := client.Write(make([]byte, min(c.chunk, c.size-sent))); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				}()
				go func() { _, _ = http.ReadResponse(bufio.NewReader(client), nil) }()
				res := <-results
				if ok := res.err == nil && res.ctx == nil; ok != c.ok {
					t.Errorf("reading: %v; context: %v", res.err, res.ctx)
				}
				if !c.ok && (res.took < c.after-4*time.Second || res.took > c.after+time.Second) {
					t.Errorf("cut off after %s, want about %s", res.took, c.after)
				}
				_ = srv.Close()
				_ = client.Close()
				<-served
				time.Sleep(2 * time.Second) // the sender notices
			})
		})
	}
}
