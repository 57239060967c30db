package querier

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

const (
	maxTailDelay    = 5 * time.Second
	tailPing        = time.Second
	tailWriteWait   = 10 * time.Second
	maxFrameEntries = 100
)

// tailCount bounds the tails of each tenant.
type tailCount struct {
	mu struct {
		sync.Mutex
		open map[model.Tenant]int
	}
}

func (c *tailCount) enter(tenant model.Tenant, limit int) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.mu.open[tenant]; limit > 0 && n+1 > limit {
		return nil, fault.New(fault.Invalid, "max concurrent tail requests limit exceeded, count > limit (%d > %d)", n+1, limit)
	}
	c.mu.open[tenant]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.mu.open[tenant]--; c.mu.open[tenant] == 0 {
			delete(c.mu.open, tenant)
		}
	}, nil
}

// tailRequest is a checked request for a live tail.
type tailRequest struct {
	tenant     model.Tenant
	expr       *syntax.LogExpr
	query      string
	limit      int
	start      int64
	delay      time.Duration
	flags      []string
	categorize bool
}

func (q *Querier) readTail(w http.ResponseWriter, r *http.Request) (t tailRequest, metric bool, err error) {
	p, err := readParams(w, r)
	if err != nil {
		return t, false, err
	}
	if t.start, _, err = p.bounds(); err != nil {
		return t, false, err
	}
	if t.limit, err = p.limit("limit", defaultLimit); err != nil {
		return t, false, err
	}
	if text := p.get("delay_for"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return t, false, fault.Wrap(fault.Invalid, err)
		}
		if t.delay = time.Duration(n) * time.Second; t.delay > maxTailDelay {
			return t, false, fault.New(fault.Invalid, "delay_for can't be greater than 5")
		}
	}
	t.query = p.get("query")
	expr, err := syntax.Parse(t.query)
	if err != nil {
		return t, false, err
	}
	log, isLog := expr.(*syntax.LogExpr)
	if isLog {
		if _, err := pipeline.New(log.Stages, pipeline.Options{}); err != nil {
			return t, false, err
		}
	}
	t.expr = log
	t.flags, t.categorize = encodingFlags(r)
	t.tenant, err = server.TenantOf(r)
	return t, !isLog, err
}

// serveTail upgrades to a websocket, sends the newest entries from before now, and then
// every entry as it is acknowledged. Mistakes in the parameters are answered in HTTP; what
// fails later is a close frame with the reason.
func (q *Querier) serveTail(w http.ResponseWriter, r *http.Request) error {
	t, metric, err := q.readTail(w, r)
	if err != nil {
		return err
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // any Origin, as Loki: there are no cookies to protect
	if err != nil {
		return nil //nolint:nilerr // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithTimeoutCause(conn.CloseRead(r.Context()), q.cfg.TailMaxDuration, errTailTooOld)
	defer cancel()
	if metric {
		err = fault.New(fault.Invalid, "only log selector is supported")
	} else {
		err = q.tail(ctx, conn, t)
	}
	switch {
	case errors.Is(context.Cause(ctx), errTailTooOld):
		err = errTailTooOld
	case ctx.Err() != nil || err == nil:
		return nil
	}
	reason := err.Error()
	_ = conn.Close(websocket.StatusInternalError, reason[:min(len(reason), maxCloseReason)])
	return nil
}

// maxCloseReason is what a close frame can hold besides its code (RFC 6455, 5.5).
const maxCloseReason = 123

var errTailTooOld = errors.New("reached tail max duration limit")

// tail joins history and live entries: it subscribes first and then reads history, so no
// entry falls between; an entry that comes both ways is sent once.
func (q *Querier) tail(ctx context.Context, conn *websocket.Conn, t tailRequest) error {
	leave, err := q.tails.enter(t.tenant, q.limits.For(t.tenant).MaxConcurrentTailRequests)
	if err != nil {
		return err
	}
	defer leave()
	q.metrics.tails.Inc()
	defer q.metrics.tails.Dec()

	sub, err := q.tailer.Tail(ctx, t.tenant, t.expr.Matchers)
	if err != nil {
		return err
	}
	defer sub.Close()
	now := time.Now().UnixNano()
	history, err := q.history(ctx, t, now)
	if err != nil {
		return err
	}
	out := &tailWriter{conn: conn, req: t}
	live, err := newLiveTail(t, history)
	if err != nil {
		return err
	}
	if err := out.send(ctx, historyEntries(history, t.categorize), nil); err != nil {
		return err
	}
	return q.follow(ctx, conn, sub, live, out)
}

// history reads the newest entries up to the request's limit. It reaches a little into the
// future, because clocks of senders differ.
func (q *Querier) history(ctx context.Context, t tailRequest, now int64) ([]scan.Stream, error) {
	lim := q.engineLimits(q.limits.For(t.tenant), false)
	result, err := q.engine.Evaluate(ctx, boundSelector{q, []model.Tenant{t.tenant}}, lim, engine.Params{
		Query: t.query, Start: t.start, End: now + int64(time.Hour), Limit: t.limit, Step: time.Hour,
	}, t.expr)
	if err != nil {
		return nil, err
	}
	return result.Streams, nil
}

// follow passes live entries on until the client goes, with a ping when all is quiet.
func (q *Querier) follow(ctx context.Context, conn *websocket.Conn, sub Tail, live *liveTail, out *tailWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pings := make(chan error, 1)
	go func() { pings <- ping(ctx, conn) }()
	err := func() error {
		for {
			wait := ctx
			cancelWait := context.CancelFunc(func() {})
			if d, ok := live.due(time.Now()); ok {
				wait, cancelWait = context.WithTimeout(ctx, d)
			}
			streams, dropped, err := sub.Next(wait)
			cancelWait()
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil && !errors.Is(err, context.DeadlineExceeded):
				return err
			}
			live.add(streams)
			q.metrics.tailDrop.Add(float64(len(dropped)))
			if err := out.send(ctx, live.take(time.Now()), dropped); err != nil {
				return err
			}
		}
	}()
	cancel()
	<-pings
	return err
}

func ping(ctx context.Context, conn *websocket.Conn) error {
	tick := time.NewTicker(tailPing)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			wait, cancel := context.WithTimeout(ctx, tailWriteWait)
			err := conn.Ping(wait)
			cancel()
			if err != nil {
				_ = conn.CloseNow()
				return err
			}
		}
	}
}
