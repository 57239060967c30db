package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/stage"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/wire"
)

// pushSource is a server that other agents push to. It answers when the entries have been
// acknowledged by the servers behind it, so that whoever pushed may forget them then. When
// several clients are configured and one is away, the others' acknowledgement is enough.
type pushSource struct {
	job   *job
	rt    *engine
	feeds []*feed
	ln    net.Listener
	dec   *wire.Decoder
	inUse atomic.Int64 // bytes of bodies in memory
}

const (
	// ackWait bounds how long a push waits for acknowledgements before it is told to come again.
	ackWait = 10 * time.Second
	// bodies is how many bodies of the largest size may be in memory at once; bodiesMin is
	// the least memory for them, since buffers that are used again count as well.
	bodies    = 2
	bodiesMin = 64 << 20
	// labelCache is the memory for parsed labels, in bytes.
	labelCache = 1 << 20
)

func newPushSource(rt *engine, j *job, feeds []*feed) (*pushSource, error) {
	s := &pushSource{job: j, rt: rt, feeds: feeds}
	size := int64(j.Push.MaxSendMsgSize)
	s.dec = wire.NewDecoder(size, size, labelCache)
	var err error
	if s.ln, err = listenHTTP(&j.Push.Server); err != nil {
		return nil, fmt.Errorf("loki_push_api.server: %w", err)
	}
	return s, nil
}

func (s *pushSource) info() sourceInfo {
	return sourceInfo{
		Job: s.job.JobName, Type: "Push", Ready: true, Labels: labels.FromMap(s.job.Push.Labels).String(),
		Where: "http " + s.ln.Addr().String(),
	}
}

func (s *pushSource) close() error { return s.ln.Close() }

func (s *pushSource) run(ctx context.Context) {
	mux := http.NewServeMux()
	prefix := s.job.Push.Server.HTTPPathPrefix
	mux.HandleFunc("POST "+prefix+"/loki/api/v1/push", s.push)
	mux.HandleFunc("POST "+prefix+"/promtail/api/v1/raw", s.raw)
	mux.HandleFunc("GET "+prefix+"/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	serveHTTP(ctx, &s.job.Push.Server, s.ln, mux, s.rt.log)
}

// most is the memory for all pushes that are being received.
func (s *pushSource) most() int64 { return max(bodies*int64(s.job.Push.MaxSendMsgSize), bodiesMin) }

// reserve takes memory for a body.
func (s *pushSource) reserve(taken *int64) func(int64) error {
	return func(n int64) error {
		if s.inUse.Add(n) > s.most() {
			s.inUse.Add(-n)
			return fault.New(fault.RateLimited, "too many pushes at once; try again")
		}
		*taken += n
		return nil
	}
}

// room returns an empty list for n entries whose memory is taken. A body of short lines is
// small beside them.
func (s *pushSource) room(n int, taken *int64) ([]entry, error) {
	size := int64(n) * int64(unsafe.Sizeof(entry{}))
	if all := *taken + size; all > s.most() {
		return nil, fault.New(fault.TooLarge, "the push has %d entries, which with its text take %d bytes of memory, at most %d are allowed; send smaller ones", n, all, s.most())
	}
	if err := s.reserve(taken)(size); err != nil {
		return nil, err
	}
	return make([]entry, 0, n), nil
}

func (s *pushSource) push(w http.ResponseWriter, r *http.Request) {
	var taken int64
	defer func() { s.inUse.Add(-taken) }()
	b, err := s.dec.Push(wire.Body{
		ContentType: r.Header.Get("Content-Type"), ContentEncoding: r.Header.Get("Content-Encoding"),
		Length: r.ContentLength, Reader: r.Body, Reserve: s.reserve(&taken),
	})
	if err != nil {
		s.refuse(w, err)
		return
	}
	defer b.Release()
	count := 0
	for _, st := range b.Streams {
		count += len(st.Entries)
	}
	entries, err := s.room(count, &taken)
	if err != nil {
		s.refuse(w, err)
		return
	}
	now, n := time.Now().UnixNano(), 0
	for _, st := range b.Streams {
		ls, ok := s.relabel(st.Labels, r)
		for _, e := range st.Entries {
			n++
			if !ok {
				continue // other streams of the push go on
			}
			ts := now + int64(n)
			if s.job.Push.UseIncomingTimestamp {
				ts = e.Timestamp
			}
			entries = append(entries, entry{labels: ls, ts: ts, line: e.Line, meta: b.Metadata(n - 1)})
		}
	}
	s.deliver(w, r, entries)
}

func (s *pushSource) relabel(ls labels.Labels, r *http.Request) (labels.Labels, bool) {
	b := labels.NewBuilder(ls)
	for k, v := range s.job.Push.Labels {
		b.Set(k, v)
	}
	ls, ok := relabelEntry(b, s.job.Relabel, nil)
	if t := r.Header.Get("X-Scope-OrgID"); ok && t != "" {
		ls = labels.NewBuilder(ls).Set(stage.TenantLabel, t).Labels()
	}
	return ls, ok
}

// raw takes lines of text.
func (s *pushSource) raw(w http.ResponseWriter, r *http.Request) {
	limit := int64(s.job.Push.MaxSendMsgSize)
	var taken int64
	defer func() { s.inUse.Add(-taken) }()
	size := r.ContentLength
	if size < 0 {
		size = limit // as long as nobody tells
	}
	if size > limit {
		s.refuse(w, fault.New(fault.TooLarge, "the body has %d bytes, at most %d are allowed", size, limit))
		return
	}
	if err := s.reserve(&taken)(size); err != nil {
		s.refuse(w, err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			err = fault.Wrap(fault.TooLarge, err)
		} else {
			err = fault.Wrap(fault.Invalid, err)
		}
		s.refuse(w, err)
		return
	}
	ls, ok := s.relabel(labels.EmptyLabels(), r)
	count := 0
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		if len(line) > 0 {
			count++
		}
	}
	entries, err := s.room(count, &taken)
	if err != nil {
		s.refuse(w, err)
		return
	}
	now := time.Now().UnixNano()
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		if line = bytes.TrimSuffix(line, []byte{'\r'}); len(line) > 0 && ok {
			entries = append(entries, entry{labels: ls, ts: now + int64(len(entries)), line: line})
		}
	}
	s.deliver(w, r, entries)
}

// deliver hands entries on and answers when they are acknowledged.
func (s *pushSource) deliver(w http.ResponseWriter, r *http.Request, entries []entry) {
	if len(entries) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.rt.agent.metrics.entries.WithLabelValues("push").Add(float64(len(entries)))
	ctx, cancel := context.WithTimeout(r.Context(), ackWait)
	defer cancel()
	acked := make(chan struct{}, len(s.feeds))
	given := 0
	for _, f := range s.feeds {
		one := newReceipt(func() { acked <- struct{}{} })
		if f.take(ctx, entries, one, len(s.feeds) > 1) {
			given++
		}
		one.Release()
	}
	got := 0
	for got < len(s.feeds) && given > 0 {
		select {
		case <-acked:
			got++
			continue
		case <-ctx.Done():
		}
		break
	}
	// A feed that took nothing has released its receipt at once.
	if done := got - (len(s.feeds) - given); done > 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Retry-After", "5")
	http.Error(w, "the server behind this agent has not acknowledged the entries in "+ackWait.String()+"; push them again", http.StatusServiceUnavailable)
}

func (s *pushSource) refuse(w http.ResponseWriter, err error) {
	kind := fault.Of(err)
	s.rt.agent.metrics.errors.WithLabelValues("push", strconv.Itoa(fault.HTTPStatus(err))).Inc()
	if kind == fault.RateLimited {
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, err.Error(), fault.HTTPStatus(err))
}
