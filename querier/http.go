package querier

import (
	"errors"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzhttp"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/turns"
)

// answer turns a handler's error into Loki's answer: plain text and the status of its kind.
func (q *Querier) answer(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		if r.Context().Err() != nil && fault.Of(err) != fault.Timeout {
			err = fault.New(fault.Canceled, "the request was cancelled by the client")
		}
		switch kind := fault.Of(err); kind {
		case fault.Internal, fault.Corrupt:
			q.logger.Error("query failed", "path", r.URL.Path, "query", r.Form.Get("query"), "err", err)
		case fault.Unavailable:
			if untold, ok := q.failures.Now(time.Now()); ok {
				q.logger.Warn("query failed", "path", r.URL.Path, "err", err, "more_before", untold)
			}
		}
		server.WriteError(w, err)
	})
}

// compress answers in gzip when the client accepts it. Errors stay plain: they are short,
// and Grafana does not unpack them.
//
// What a handler writes is compressed in the tenant's turns, piece by piece, into memory, and
// sent when the turn is over: a slow client must not keep a turn.
func (q *Querier) compress(h http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(1024), gzhttp.CompressionLevel(1), gzhttp.ContentTypes([]string{"application/json"}))
	if err != nil {
		panic(err) // the options are constants
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := &heldWriter{ResponseWriter: w}
		wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(&turnWriter{ResponseWriter: w, q: q, r: r, held: held}, r)
		})).ServeHTTP(held, r)
		_ = held.send() // the client has gone
	})
}

// turnBytes are compressed in a turn: a millisecond of work.
const turnBytes = 128 << 10

// turnWriter writes large answers in turns.
type turnWriter struct {
	http.ResponseWriter // compresses into held
	q                   *Querier
	r                   *http.Request
	held                *heldWriter
}

func (w *turnWriter) Write(p []byte) (written int, err error) {
	for err == nil && len(p)-written > turnBytes {
		var n int
		n, err = w.writeTurn(p[written : written+turnBytes])
		written += n
	}
	if err != nil {
		return written, err
	}
	n, err := w.ResponseWriter.Write(p[written:])
	return written + n, err
}

func (w *turnWriter) writeTurn(p []byte) (int, error) {
	tenants, err := server.TenantsOf(w.r)
	if err != nil {
		return 0, err
	}
	leave, err := w.q.queues.turns.Enter(w.r.Context(), queueKey(tenants), turns.Queries)
	if err != nil {
		return 0, err
	}
	n, err := w.ResponseWriter.Write(p)
	leave()
	return n, errors.Join(err, w.held.send())
}

// heldWriter keeps what is written until send.
type heldWriter struct {
	http.ResponseWriter
	body []byte
}

func (w *heldWriter) Write(p []byte) (int, error) {
	w.body = append(w.body, p...)
	return len(p), nil
}

func (w *heldWriter) send() error {
	if len(w.body) == 0 {
		return nil
	}
	_, err := w.ResponseWriter.Write(w.body)
	w.body = w.body[:0]
	return err
}
