package server

import (
	"io"
	"net/http"
	"time"
)

// A client that sends a byte now and then would hold a connection, a goroutine and, once
// its push is being decoded, memory. So a body must keep a pace: a while to begin with, and
// then at least minBodyRate on average.
const (
	bodyGrace   = 10 * time.Second
	minBodyRate = 16 << 10 // bytes per second
)

// withPace holds bodies to their pace. net/http takes the deadline off when a body has been
// read to its end, so that it does not bound the answer.
func withPace(most time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			body := &pacedBody{ReadCloser: r.Body, control: http.NewResponseController(w), start: time.Now(), most: most}
			body.extend()
			r.Body = body
		}
		h.ServeHTTP(w, r)
	})
}

type pacedBody struct {
	io.ReadCloser
	control *http.ResponseController
	start   time.Time
	most    time.Duration // for all of the body; 0 is any time
	n, at   int64         // bytes read, and those the deadline was made for
}

// Read reads and moves the deadline by what came.
func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if err == nil && b.n-b.at >= minBodyRate {
		b.extend()
	}
	return n, err
}

func (b *pacedBody) extend() {
	b.at = b.n
	_ = b.control.SetReadDeadline(b.deadline()) // a connection without deadlines has no pace
}

// deadline is when the next byte must be there.
func (b *pacedBody) deadline() time.Time {
	allowed := bodyGrace + time.Duration(b.n)*time.Second/minBodyRate
	if b.most > 0 {
		allowed = min(allowed, b.most)
	}
	return b.start.Add(allowed)
}
