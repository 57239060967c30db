package querier

import (
	"net/http"
	"time"

	"github.com/klauspost/compress/gzhttp"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/server"
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
func compress(h http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(1024), gzhttp.CompressionLevel(1), gzhttp.ContentTypes([]string{"application/json"}))
	if err != nil {
		panic(err) // the options are constants
	}
	return wrap(h)
}
