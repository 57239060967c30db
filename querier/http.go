package querier

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzhttp"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/logql/scan"
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

// writeJSON sends an answer. Until the client has taken it, it counts among what all queries hold:
// those who do not read would have any number of answers wait in memory. When it is ended for
// that it is refused or, once begun, broken off.
func (q *Querier) writeJSON(w http.ResponseWriter, r *http.Request, body []byte) error {
	return q.pool.Within(r.Context(), func(ctx context.Context) error {
		scan.Hold(ctx, int64(cap(body)))
		if err := ctx.Err(); err != nil {
			return err
		}
		if held, ok := ctx.Value(heldKey{}).(*heldWriter); ok {
			defer context.AfterFunc(ctx, held.end)()
		}
		_, _ = setJSON(w).Write(body) // the client has gone, or was too slow
		return nil
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
		held := &heldWriter{ResponseWriter: w, control: http.NewResponseController(w)}
		wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(&turnWriter{ResponseWriter: w, q: q, r: r, held: held}, r)
		})).ServeHTTP(held, r.WithContext(context.WithValue(r.Context(), heldKey{}, held)))
		_ = held.send() // the client has gone
		if !held.ended.Load() {
			_ = held.control.SetWriteDeadline(time.Time{})
		}
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
	var n int
	err = w.q.queues.turns.Do(w.r.Context(), queueKey(tenants), turns.Queries, func() (err error) {
		n, err = w.ResponseWriter.Write(p)
		return err
	})
	return n, errors.Join(err, w.held.send())
}

// heldWriter keeps what is written until send.
type heldWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	body    []byte
	ended   atomic.Bool
}

type heldKey struct{} // of a request's context

// sendTime is how long a client may take for a piece of an answer, of which turnBytes were
// compressed: far longer than who reads at all.
const sendTime = 30 * time.Second

func (w *heldWriter) Write(p []byte) (int, error) {
	w.body = append(w.body, p...)
	return len(p), nil
}

func (w *heldWriter) send() error {
	if len(w.body) == 0 {
		return nil
	}
	_ = w.control.SetWriteDeadline(time.Now().Add(sendTime)) // what has no deadlines has no client
	if w.ended.Load() {
		w.end()
	}
	_, err := w.ResponseWriter.Write(w.body)
	w.body = w.body[:0]
	return err
}

// end breaks off what is being sent, and what would be.
func (w *heldWriter) end() {
	w.ended.Store(true)
	_ = w.control.SetWriteDeadline(time.Now())
}
