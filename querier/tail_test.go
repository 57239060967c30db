package querier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	objects "github.com/skaldlog/skald/storage/object"
)

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// tailRig is a querier over a real ingester, behind a real HTTP server.
type tailRig struct {
	t       testing.TB
	ing     *ingester.Ingester
	querier *Querier
	url     string
}

type muxRouter struct{ *http.ServeMux }

func (m muxRouter) Handle(pattern string, h http.Handler, _ ...string) { m.ServeMux.Handle(pattern, h) }

func newTailRig(t testing.TB, change ...func(*limits.Limits)) *tailRig {
	t.Helper()
	lim := limits.Defaults()
	lim.MaxConcurrentTailRequests, lim.PerStreamRateLimit, lim.MaxGlobalStreamsPerUser = 0, 0, 0
	for _, c := range change {
		c(&lim)
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg := ingester.DefaultConfig(t.TempDir())
	cfg.FreezeAge = 200 * time.Millisecond // rows move from memory to segments while tails join
	ing, err := ingester.New(cfg, objects.NewMem(), limits.Static(lim), prometheus.NewRegistry(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- ing.Run(ctx) }()
	q := New(Config{MaxConcurrent: 4, TailMaxDuration: time.Hour}, []Source{ing}, ing, limits.Static(lim), prometheus.NewRegistry(), quiet)
	mux := http.NewServeMux()
	q.Register(muxRouter{mux})
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		if err := <-ran; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the ingester ended with %v", err)
		}
	})
	return &tailRig{t: t, ing: ing, querier: q, url: srv.URL}
}

func (r *tailRig) push(streams ...model.Stream) {
	r.t.Helper()
	for {
		err := r.ing.Push(r.t.Context(), model.DefaultTenant, streams)
		if err == nil {
			return
		}
		if r.t.Context().Err() != nil {
			r.t.Error(err)
			return
		}
		time.Sleep(time.Millisecond) // the server asks to come back
	}
}

func lines(app string, ts int64, texts ...string) model.Stream {
	s := model.Stream{Labels: labels.FromStrings("app", app)}
	for i, text := range texts {
		s.Entries = append(s.Entries, model.Entry{Timestamp: ts + int64(i), Line: []byte(text)})
	}
	return s
}

// client is one open tail.
type client struct {
	conn *websocket.Conn
	frame
}

type frame struct {
	Streams []struct {
		Stream map[string]string
		Values [][2]string
	}
	Dropped     []struct{ Timestamp string } `json:"dropped_entries"`
	DroppedMore int                          `json:"dropped_more"`
}

func (r *tailRig) open(query string, params ...string) (*client, error) {
	v := url.Values{"query": {query}, "limit": {"5001"}} // more than a query may ask for
	for i := 0; i < len(params); i += 2 {
		v.Set(params[i], params[i+1])
	}
	conn, _, err := websocket.Dial(r.t.Context(), strings.Replace(r.url, "http", "ws", 1)+"/loki/api/v1/tail?"+v.Encode(), nil)
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(64 << 20)
	return &client{conn: conn}, nil
}

func (r *tailRig) must(c *client, err error) *client {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// next returns the lines of the next frame.
func (c *client) next(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, text, err := c.conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	c.frame = frame{}
	if err := json.Unmarshal(text, &c.frame); err != nil {
		return nil, fmt.Errorf("%w in %s", err, text)
	}
	if len(c.Streams) > maxFrameEntries {
		return nil, fmt.Errorf("a frame has %d entries", len(c.Streams))
	}
	var got []string
	for _, s := range c.Streams {
		got = append(got, s.Values[0][1])
	}
	return got, nil
}

// read reads n lines.
func (c *client) read(ctx context.Context, n int) (got []string, err error) {
	for len(got) < n {
		more, err := c.next(ctx)
		if err != nil {
			return got, fmt.Errorf("after %d of %d lines: %w", len(got), n, err)
		}
		got = append(got, more...)
	}
	return got, nil
}

// Tails join while lines are pushed, and some pushes are repeated, as a shipper does that
// got no answer. Each tail gets each line of its filter once.
func TestTailJoinsHistoryAndPresent(t *testing.T) {
	r := newTailRig(t)
	const writers, each, tails = 3, 300, 12
	start := time.Now().UnixNano()
	var pushed atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				s := lines("a", time.Now().UnixNano(), fmt.Sprintf("writer=%d n=%d even=%t", w, n, n%2 == 0))
				r.push(s)
				if n%5 == 0 {
					r.push(s)
				}
				pushed.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	for i := range tails {
		wg.Go(func() {
			for pushed.Load() < int64(i*writers*each/tails) {
				time.Sleep(time.Millisecond)
			}
			query, want := `{app="a"}`, writers*each
			if i%2 == 1 {
				query, want = `{app="a"} | logfmt | even="true"`, writers*each/2
			}
			c, err := r.open(query, "start", strconv.FormatInt(start, 10))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.conn.CloseNow() }()
			got, err := c.read(t.Context(), want)
			if err != nil {
				t.Errorf("tail %d: %v", i, err)
				return
			}
			slices.Sort(got)
			if different := len(slices.Compact(got)); different != want {
				t.Errorf("tail %d: %d different lines, want %d", i, different, want)
			}
		})
	}
	wg.Wait()
}

// A reader that stops reading costs no push and bounded memory, and learns what it missed.
func TestSlowTailIsTold(t *testing.T) {
	r := newTailRig(t)
	c := r.must(r.open(`{app="a"}`))
	r.push(lines("a", time.Now().UnixNano(), "first"))
	if _, err := c.read(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	// More than the sockets and the subscription hold.
	const pushes, perPush = 250, 10
	text := strings.Repeat("x", 16<<10)
	base := time.Now().UnixNano()
	for n := range pushes {
		texts := make([]string, perPush)
		for i := range texts {
			texts[i] = fmt.Sprint(n*perPush+i, text)
		}
		r.push(lines("a", base+int64(n*perPush), texts...))
	}
	got, dropped := 0, 0
	for got+dropped < pushes*perPush {
		texts, err := c.next(t.Context())
		if err != nil {
			t.Fatalf("after %d lines and %d dropped of %d: %v", got, dropped, pushes*perPush, err)
		}
		got += len(texts)
		dropped += len(c.Dropped) + c.DroppedMore
	}
	if dropped == 0 || got == 0 {
		t.Errorf("%d lines came and %d were dropped, want some of both", got, dropped)
	}
	// Having read, it misses nothing more.
	r.push(lines("a", base+pushes*perPush, "last"))
	if texts, err := c.read(t.Context(), 1); err != nil || texts[len(texts)-1] != "last" {
		t.Errorf("got %.100q, %v, want the last line", texts, err)
	}
}

// With delay_for late entries come out in order of time.
func TestTailDelays(t *testing.T) {
	r := newTailRig(t)
	c := r.must(r.open(`{app="a"}`, "delay_for", "1"))
	base := time.Now().UnixNano()
	r.push(lines("a", base, "marker"))
	if _, err := c.read(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	pushed := time.Now()
	late := model.Stream{Labels: labels.FromStrings("app", "a")}
	for _, n := range []int64{5, 3, 1, 4, 2} {
		late.Entries = append(late.Entries, model.Entry{Timestamp: base + n, Line: []byte(strconv.FormatInt(n, 10))})
	}
	r.push(late)
	got, err := c.read(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(pushed); took < time.Second {
		t.Errorf("lines came after %s, want no sooner than delay_for", took)
	}
	if !slices.IsSorted(got) {
		t.Errorf("lines came as %v", got)
	}
}

// What is held for delay_for is bounded, in order, and what does not fit is named.
func TestHeldEntriesAreBounded(t *testing.T) {
	req := tailRequest{delay: 5 * time.Second, query: `{app="a"}`}
	var err error
	if _, req.expr, err = parseTailQuery(req.query); err != nil {
		t.Fatal(err)
	}
	l, err := newLiveTail(req, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for n := range maxHeldEntries + 500 {
		l.add(model.TailBatch{Streams: []model.Stream{lines("a", int64(maxHeldEntries*2-n), strconv.Itoa(n))}}, now)
	}
	if due, dropped, more := l.take(now); len(due) != 0 || len(dropped)+more != 500 {
		t.Errorf("%d are due, %d + %d dropped, want 0 and 500", len(due), len(dropped), more)
	}
	due, _, _ := l.take(now.Add(req.delay))
	if len(due) != maxHeldEntries || l.bytes != 0 || len(l.held) != 0 {
		t.Errorf("%d came out and %d bytes remain, want %d and none", len(due), l.bytes, maxHeldEntries)
	}
	if !slices.IsSortedFunc(due, func(a, b tailEntry) int { return int(a.Timestamp - b.Timestamp) }) {
		t.Error("held entries do not come in order of time")
	}
	big := lines("a", 1, strings.Repeat("x", 1<<20))
	for n := range 10 {
		big.Entries[0].Timestamp = int64(n)
		l.add(model.TailBatch{Streams: []model.Stream{big}}, now)
	}
	if l.bytes > maxHeldBytes {
		t.Errorf("%d bytes are held, want at most %d", l.bytes, maxHeldBytes)
	}
}

// Lines that look alike after the pipeline are still two lines; the same line is one.
func TestLiveTailTellsLinesApart(t *testing.T) {
	req := tailRequest{query: `{app="a"} | line_format "same"`}
	var err error
	if _, req.expr, err = parseTailQuery(req.query); err != nil {
		t.Fatal(err)
	}
	l, err := newLiveTail(req, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "one"} {
		l.add(model.TailBatch{Streams: []model.Stream{lines("a", 7, text)}}, time.Now())
	}
	if due, _, _ := l.take(time.Now().Add(settle)); len(due) != 2 {
		t.Errorf("%d lines, want 2", len(due))
	}
}

// Many tails see every line, their number is limited by tenant, and all end when their
// clients go.
func TestManyTails(t *testing.T) {
	const tails = 300
	r := newTailRig(t, func(l *limits.Limits) { l.MaxConcurrentTailRequests = tails })
	before := runtime.NumGoroutine()
	clients := make([]*client, tails)
	for i := range clients {
		clients[i] = r.must(r.open(fmt.Sprintf(`{app="a"} |= "line" != "not %d"`, i)))
	}
	r.push(lines("a", time.Now().UnixNano(), "line"))
	for i, c := range clients {
		if got, err := c.read(t.Context(), 1); err != nil || !cmp.Equal(got, []string{"line"}) {
			t.Fatalf("tail %d: got %q, %v", i, got, err)
		}
	}
	over := r.must(r.open(`{app="a"}`))
	_, err := over.next(t.Context())
	var end websocket.CloseError
	if !errors.As(err, &end) || end.Code != websocket.StatusInternalError || end.Reason != "max concurrent tail requests limit exceeded, count > limit (301 > 300)" {
		t.Errorf("one tail too many: got %v", err)
	}
	for _, c := range clients {
		if err := c.conn.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Error(err)
		}
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before+10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left, %d before the tails", runtime.NumGoroutine(), before)
		}
	}
	again := r.must(r.open(`{app="a"}`))
	if got, err := again.read(t.Context(), 1); err != nil || got[0] != "line" {
		t.Errorf("after all have gone: got %q, %v", got, err)
	}
}

// When the server stops, connections break off without a close frame, so that clients
// come back; a tail that cannot work ends with the reason.
func TestTailEnds(t *testing.T) {
	r := newTailRig(t)
	c := r.must(r.open(`sum(count_over_time({app="a"}[1m]))`))
	if _, err := c.next(t.Context()); websocket.CloseStatus(err) != websocket.StatusInternalError || !strings.Contains(err.Error(), "only log selector is supported") {
		t.Errorf("a metric query: got %v", err)
	}
	c = r.must(r.open(`{app="a"}`))
	r.push(lines("a", time.Now().UnixNano(), "line"))
	if _, err := c.read(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := r.ing.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.next(t.Context()); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("the ingester stopped: got %v, want a connection that broke off", err)
	}
}

// However many entries a subscription has dropped, those that a tail drops for want of room
// are named up to a bound and counted beyond it.
func TestTailNamesBoundedDrops(t *testing.T) {
	l := &liveTail{req: tailRequest{delay: time.Second}, held: make([]heldEntry, maxHeldEntries)}
	l.dropped = make([]model.Dropped, maxFrameEntries+1)
	for range 100 {
		l.hold(tailEntry{}, time.Now())
	}
	if len(l.dropped) != maxFrameEntries+1 || l.more != 100 {
		t.Errorf("%d entries are named and %d counted, want %d and 100", len(l.dropped), l.more, maxFrameEntries+1)
	}
}
