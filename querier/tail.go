package querier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

const (
	maxTailDelay    = 5 * time.Second
	tailPing        = time.Second
	tailWriteWait   = time.Minute // a reader that takes nothing for so long is cut off
	tailPongWait    = time.Minute // a slow reader gets to the ping only after what was sent before it
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
	legacy     bool // frames are those of /api/prom/tail
}

func readTail(w http.ResponseWriter, r *http.Request) (t tailRequest, metric bool, err error) {
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
		if n < 0 || n > int(maxTailDelay/time.Second) {
			return t, false, fault.New(fault.Invalid, "delay_for can't be greater than 5")
		}
		t.delay = time.Duration(n) * time.Second
	}
	t.query = p.get("query")
	if metric, t.expr, err = parseTailQuery(t.query); err != nil {
		return t, false, err
	}
	t.flags, t.categorize = encodingFlags(r)
	t.tenant, err = server.TailedTenant(r)
	return t, metric, err
}

// parseTailQuery parses a log query. A metric query is reported, not an error: Loki
// refuses it only after the upgrade.
func parseTailQuery(query string) (metric bool, log *syntax.LogExpr, err error) {
	expr, err := syntax.Parse(query)
	if err != nil {
		return false, nil, err
	}
	log, ok := expr.(*syntax.LogExpr)
	if !ok {
		return true, nil, nil
	}
	_, err = pipeline.New(log.Stages, pipeline.Options{})
	return false, log, err
}

// serveTail upgrades to a websocket, sends the newest entries from before now, and then
// every entry as it is acknowledged. Mistakes in the parameters are answered in HTTP; what
// fails later is a close frame with the reason.
func (q *Querier) serveTail(w http.ResponseWriter, r *http.Request) error {
	return q.upgrade(w, r, false)
}

func (q *Querier) serveLegacyTail(w http.ResponseWriter, r *http.Request) error {
	return q.upgrade(w, r, true)
}

// notUpgrading returns the status of a request that does not want a websocket, 0 if it does.
func notUpgrading(h http.Header) int {
	has := func(name, token string) bool {
		for _, t := range strings.Split(strings.Join(h.Values(name), ","), ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
		return false
	}
	switch {
	case !has("Connection", "upgrade"):
		return http.StatusBadRequest
	case !has("Upgrade", "websocket"):
		return http.StatusUpgradeRequired
	}
	return 0
}

func (q *Querier) upgrade(w http.ResponseWriter, r *http.Request, legacy bool) error {
	t, metric, err := readTail(w, r)
	if err != nil {
		return err
	}
	if t.legacy = legacy; legacy {
		t.flags, t.categorize = nil, false
	}
	if status := notUpgrading(r.Header); status != 0 {
		http.Error(w, http.StatusText(status), status)
		return nil
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
	case errors.Is(err, errTailBroken):
		// Without a close frame clients come back, which is right when this server restarts.
		q.logger.Info("a live tail was dropped", "query", t.query, "err", err)
		return nil
	}
	_ = conn.Close(websocket.StatusInternalError, closeReason(err))
	return nil
}

// closeReason is the text of an error, cut to what a close frame can hold besides its
// code (RFC 6455, 5.5).
func closeReason(err error) string {
	const most = 123
	reason := strings.ToValidUTF8(err.Error(), "?")
	for len(reason) > most {
		_, size := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-size]
	}
	return reason
}

var (
	errTailTooOld = errors.New("reached tail max duration limit")
	// errTailBroken marks the end of a subscription, or of the connection to the client.
	errTailBroken = errors.New("the tail broke off")
)

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
	history, err := q.history(ctx, t, time.Now().UnixNano())
	if err != nil {
		return err
	}
	entries := historyEntries(history.Streams, t.categorize)
	out := &tailWriter{conn: conn, req: t}
	if err := out.send(ctx, entries, nil, 0, history.Warnings); err != nil {
		return err
	}
	live, err := newLiveTail(t, entries)
	if err != nil {
		return err
	}
	return q.follow(ctx, conn, sub, live, out)
}

// history reads the newest entries up to the request's limit, and no more than a query may
// have. It reaches a little into the future, because clocks of senders differ.
func (q *Querier) history(ctx context.Context, t tailRequest, now int64) (*engine.Result, error) {
	lim, limit := q.limits.For(t.tenant), t.limit
	if most := lim.MaxEntriesLimitPerQuery; most > 0 {
		limit = min(limit, most)
	}
	return q.execute(ctx, []model.Tenant{t.tenant}, lim, engine.Params{
		Query: t.query, Start: t.start, End: now + int64(time.Hour), Limit: limit, Step: time.Hour,
	}, t.expr)
}

// follow passes live entries on until the client goes, with a ping when all is quiet.
func (q *Querier) follow(ctx context.Context, conn *websocket.Conn, sub model.Tail, live *liveTail, out *tailWriter) error {
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
			batch, err := sub.Next(wait)
			cancelWait()
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil && !errors.Is(err, context.DeadlineExceeded):
				return fmt.Errorf("%w: %w", errTailBroken, err)
			}
			live.add(batch, time.Now())
			entries, dropped, more := live.take(time.Now())
			q.metrics.tailDrop.Add(float64(len(dropped) + more))
			if err := out.send(ctx, entries, dropped, more, batch.Warnings); err != nil {
				return err
			}
		}
	}()
	cancel()
	<-pings
	return err
}

// ping keeps proxies from cutting a quiet connection, and finds out that a client is gone.
func ping(ctx context.Context, conn *websocket.Conn) error {
	tick := time.NewTicker(tailPing)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			wait, cancel := context.WithTimeout(ctx, tailPongWait)
			err := conn.Ping(wait)
			cancel()
			if err != nil {
				_ = conn.CloseNow()
				return err
			}
		}
	}
}
