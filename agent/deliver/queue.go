package deliver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// tenantQueue holds a tenant's batches. Its fields are guarded by Sender.mu. A goroutine
// sends them in order; it ends when the tenant has been silent for a while.
type tenantQueue struct {
	s       *Sender
	tenant  string
	current *batch   // being filled
	closed  []*batch // full
	waiting int64    // cost of all, and of what is being sent
	notify  chan struct{}
}

// idleTenant is how long a tenant's goroutine waits for entries before it ends.
const idleTenant = time.Minute

func (s *Sender) queue(tenant string) *tenantQueue {
	q := s.mu.tenants[tenant]
	if q == nil {
		q = &tenantQueue{s: s, tenant: tenant, notify: make(chan struct{}, 1)}
		s.mu.tenants[tenant] = q
		if s.mu.ctx != nil {
			q.start()
		}
	}
	return q
}

// start begins to send; the sender's mutex is held.
func (q *tenantQueue) start() {
	ctx := q.s.mu.ctx
	q.s.wg.Go(func() { q.run(ctx) })
}

func (q *tenantQueue) wake() {
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// close ends the batch being filled.
func (q *tenantQueue) close() {
	q.closed = append(q.closed, q.current)
	q.current = nil
	q.wake()
}

func (q *tenantQueue) run(ctx context.Context) {
	for {
		b, ok := q.next(ctx)
		if !ok {
			return
		}
		if q.send(ctx, b.streams) {
			q.s.delivered(q, b)
		} else if ctx.Err() != nil || q.s.isStopping() {
			return
		}
	}
}

func (s *Sender) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// next waits for a batch that is full or old enough; false when the queue is over.
func (q *tenantQueue) next(ctx context.Context) (*batch, bool) {
	for {
		stopping := q.s.isStopping()
		q.s.mu.Lock()
		b, wait := q.pick(stopping)
		q.s.mu.Unlock()
		if b != nil || stopping {
			return b, b != nil
		}
		if wait == 0 {
			wait = idleTenant
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, false
		case <-q.s.stopping:
		case <-q.notify:
		case <-timer.C:
			if wait == idleTenant && q.endIdle() {
				return nil, false
			}
		}
		timer.Stop()
	}
}

// endIdle takes the queue out of the sender when nothing is in it.
func (q *tenantQueue) endIdle() bool {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	if q.current != nil || len(q.closed) > 0 || q.waiting > 0 {
		return false
	}
	delete(q.s.mu.tenants, q.tenant)
	return true
}

// pick takes a batch that is due, or says how long to wait for one; 0 when there is none.
func (q *tenantQueue) pick(now bool) (*batch, time.Duration) {
	if len(q.closed) > 0 {
		b := q.closed[0]
		q.closed = q.closed[1:]
		return b, 0
	}
	if q.current == nil {
		return nil, 0
	}
	wait := time.Until(q.current.born.Add(q.s.cfg.BatchWait))
	if wait > 0 && !now {
		return nil, wait
	}
	b := q.current
	q.current = nil
	return b, 0
}

// verdict is what to do after a push.
type verdict uint8

const (
	retry verdict = iota
	split
	drop
)

// StatusError is an answer of a server that is not a success.
type StatusError struct {
	Code       int
	Message    string
	RetryAfter time.Duration // 0 when the server did not say
}

func (e *StatusError) Error() string { return fmt.Sprintf("server answered %d: %s", e.Code, e.Message) }

func (q *tenantQueue) judge(err error) (v verdict, after time.Duration, cause string) {
	var se *StatusError
	if !errors.As(err, &se) {
		switch kind := fault.Of(err); kind {
		case fault.Invalid, fault.Unprocessable:
			return split, 0, "refused"
		case fault.TooLarge:
			return split, 0, "too_large"
		case fault.RateLimited:
			return q.limited(), 0, "rate_limited"
		}
		return retry, 0, "failed"
	}
	switch se.Code {
	case 400, 422:
		return split, 0, "refused"
	case 413:
		return split, 0, "too_large"
	case 429:
		return q.limited(), se.RetryAfter, "rate_limited"
	}
	return retry, se.RetryAfter, fmt.Sprint(se.Code)
}

func (q *tenantQueue) limited() verdict {
	if q.s.cfg.DropRateLimited {
		return drop
	}
	return retry
}

// send delivers streams, whatever it takes. It returns false when the sender is stopped
// before that.
func (q *tenantQueue) send(ctx context.Context, streams []model.Stream) bool {
	backoff := q.s.cfg.MinBackoff
	for {
		err := q.push(ctx, streams)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		v, after, cause := q.judge(err)
		switch v {
		case split:
			return q.bisect(ctx, streams, cause, err)
		case drop:
			q.reject(streams, cause, err)
			return true
		}
		q.s.cfg.Metrics.retries.WithLabelValues(q.s.cfg.Name, cause).Inc()
		pause := backoff/2 + rand.N(backoff/2+1)
		if after > 0 {
			pause = min(after, maxRetryAfter) + rand.N(backoff/2+1)
		}
		q.s.log.Warn("push failed; it will be tried again", "tenant", q.tenant, "err", err, "pause", pause)
		backoff = min(2*backoff, q.s.cfg.MaxBackoff)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-q.s.stopping:
			timer.Stop()
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// maxRetryAfter bounds how long a server can silence an agent.
const maxRetryAfter = 10 * time.Minute

func (q *tenantQueue) push(ctx context.Context, streams []model.Stream) error {
	s := q.s
	s.cfg.BeforeSend()
	s.cfg.Step("before push")
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	start := time.Now()
	err := s.pusher.Push(ctx, model.Tenant(q.tenant), streams)
	result := "ok"
	if err != nil {
		_, _, result = q.judge(err)
	}
	s.cfg.Metrics.duration.WithLabelValues(s.cfg.Name, result).Observe(time.Since(start).Seconds())
	s.mu.Lock()
	s.mu.last, s.mu.lastAt = err, time.Now()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	count, size := 0, 0
	for i := range streams {
		count += len(streams[i].Entries)
		for j := range streams[i].Entries {
			size += entrySize(&streams[i].Entries[j])
		}
	}
	s.cfg.Metrics.sentEntries.WithLabelValues(s.cfg.Name).Add(float64(count))
	s.cfg.Metrics.sentBytes.WithLabelValues(s.cfg.Name).Add(float64(size))
	return nil
}

// bisect sends the halves of what was refused as a whole.
func (q *tenantQueue) bisect(ctx context.Context, streams []model.Stream, cause string, err error) bool {
	a, b := halves(streams)
	if b == nil {
		q.reject(streams, cause, err)
		return true
	}
	return q.send(ctx, a) && q.send(ctx, b)
}

// halves cuts between streams, or inside the only one; b is nil when there is one entry.
func halves(streams []model.Stream) (a, b []model.Stream) {
	if n := len(streams); n > 1 {
		return streams[:n/2], streams[n/2:]
	}
	es := streams[0].Entries
	n := len(es)
	if n < 2 {
		return streams, nil
	}
	ls := streams[0].Labels
	return []model.Stream{{Labels: ls, Entries: es[:n/2]}}, []model.Stream{{Labels: ls, Entries: es[n/2:]}}
}

// reject gives up entries that the server will never take.
func (q *tenantQueue) reject(streams []model.Stream, reason string, err error) {
	for i := range streams {
		for _, e := range streams[i].Entries {
			q.s.cfg.Metrics.dropped.WithLabelValues(q.s.cfg.Name, reason).Inc()
			q.s.cfg.Metrics.droppedBytes.WithLabelValues(q.s.cfg.Name, reason).Add(float64(len(e.Line)))
			q.s.log.Error("the server refuses an entry; it is skipped", "tenant", q.tenant, "stream", streams[i].Labels.String(),
				"time", time.Unix(0, e.Timestamp).UTC(), "bytes", len(e.Line), "line", excerpt(e.Line), "err", err)
			if d := q.s.cfg.DeadLetter; d != nil {
				if err := d.Write(q.s.cfg.Name, q.tenant, streams[i].Labels, e, err.Error()); err != nil {
					q.s.log.Error("the entry could not be written to the file of dead letters", "file", d.path, "err", err)
				}
			}
		}
	}
}

func excerpt(line []byte) string {
	if len(line) > 200 {
		return string(line[:200]) + "…"
	}
	return string(line)
}
