package distributor

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/wire"
)

// ServePush serves POST /loki/api/v1/push and /api/prom/push. It answers 204, or an error
// as one line of text.
func (d *Distributor) ServePush(w http.ResponseWriter, r *http.Request) {
	err := d.serve(r, "loki", func(_ model.Tenant, body wire.Body) (*wire.Batch, error) { return d.decoder.Push(body) })
	status := answerStatus(err)
	d.metrics.requests.WithLabelValues("loki", strconv.Itoa(status)).Inc()
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	header(w, status)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, err.Error()+"\n")
}

// ServeOTLP serves POST /otlp/v1/logs. It answers 204, or an error as a google.rpc.Status
// that has only its message.
func (d *Distributor) ServeOTLP(w http.ResponseWriter, r *http.Request) {
	err := d.serve(r, "otlp", func(id model.Tenant, body wire.Body) (*wire.Batch, error) {
		l := d.limits.For(id)
		return d.decoder.OTLP(body, wire.OTLPOptions{Config: l.OTLPConfig, ServiceNames: l.DiscoverServiceName, Now: d.cfg.Now})
	})
	status := answerStatus(err)
	if status == http.StatusInternalServerError {
		status = http.StatusServiceUnavailable // OTLP clients retry 503 and give up on 500
	}
	d.metrics.requests.WithLabelValues("otlp", strconv.Itoa(status)).Inc()
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	if fault.Of(err) == fault.Unauthenticated {
		server.WriteError(w, err) // noticed before the protocol is
		return
	}
	header(w, status)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(status)
	const message = 2
	_, _ = w.Write(protowire.AppendString(protowire.AppendTag(nil, message, protowire.BytesType), err.Error()))
}

// serve decodes and pushes the request's body.
func (d *Distributor) serve(r *http.Request, format string, decode func(model.Tenant, wire.Body) (*wire.Batch, error)) error {
	id, err := server.TenantOf(r)
	if err != nil {
		return err
	}
	if err := d.cfg.Overloaded(); err != nil {
		return err // before the body is read
	}
	memory := share{of: &d.inflight, own: d.tenant(id).inflight, now: d.cfg.Now}
	defer memory.release()
	t, size := turn{d.cfg.Turns, id}, 0
	batch, err := decode(id, wire.Body{
		ContentType: r.Header.Get("Content-Type"), ContentEncoding: r.Header.Get("Content-Encoding"),
		Length: r.ContentLength, Reader: r.Body, Legacy: isLegacy(r.RequestURI), Reserve: memory.reserve,
		InTurn: func(bytes int, work func() error) error {
			size = bytes
			return t.do(r.Context(), size, work)
		},
	})
	if err != nil {
		return err
	}
	defer batch.Release()
	d.metrics.received.Add(float64(batch.Size()))
	ctx := r.Context()
	if a := batch.Arrival(); len(a.Packed) > 0 {
		ctx = model.WithArrival(ctx, a)
	}
	err = d.push(ctx, id, batch.Streams, r.Header.Get(policyHeader), batch.Known, batch.Metadata, func(work func() error) error {
		return t.do(ctx, size, work)
	})
	if err != nil && !refusal(err) {
		if untold, ok := d.failures.Now(time.Now()); ok {
			d.logger.Warn("push failed", "tenant", id, "format", format, "err", err, "more_before", untold)
		}
	}
	if wait := time.Duration(d.limits.For(id).SimulatedPushLatency); wait > 0 {
		pause(r.Context(), wait)
	}
	return err
}

// refusal reports whether a push failed for a reason that lies with the client: it is told,
// and the counters say how often.
func refusal(err error) bool {
	switch fault.Of(err) {
	case fault.Invalid, fault.Unprocessable, fault.TooLarge, fault.RateLimited:
		return true
	}
	return false
}

func pause(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// answerStatus returns the status for the outcome of a push.
func answerStatus(err error) int {
	var b *blockedError
	switch {
	case err == nil:
		return http.StatusNoContent
	case !errors.As(err, &b):
		return fault.HTTPStatus(err)
	case b.status == http.StatusOK: // the operator wants clients not to notice
		return http.StatusNoContent
	}
	return b.status
}

// header sets what all refusals share.
func header(w http.ResponseWriter, status int) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
}
