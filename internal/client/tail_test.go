package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
)

// tailServer runs one script per connection.
type tailServer struct {
	t       *testing.T
	scripts []func(ctx context.Context, conn *websocket.Conn)

	mu struct {
		sync.Mutex
		starts []int64
	}
}

func (s *tailServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start, _ := strconv.ParseInt(r.URL.Query().Get("start"), 10, 64)
	s.mu.Lock()
	n := len(s.mu.starts)
	s.mu.starts = append(s.mu.starts, start)
	s.mu.Unlock()
	if n >= len(s.scripts) {
		http.Error(w, "no more", http.StatusServiceUnavailable)
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.scripts[n](r.Context(), conn)
}

func frame(ctx context.Context, conn *websocket.Conn, entries ...Entry) {
	text, _ := json.Marshal(map[string]any{"streams": streamsOf(entries)})
	_ = conn.Write(ctx, websocket.MessageText, text)
}

func entry(ts int64, stream, line string) Entry {
	return Entry{ts, map[string]string{"s": stream}, line}
}

// A broken connection is opened again from the newest entry on, and what the server then
// repeats is not printed twice.
func TestTailReconnects(t *testing.T) {
	s := &tailServer{t: t}
	s.scripts = append(s.scripts, func(ctx context.Context, conn *websocket.Conn) {
		frame(ctx, conn, entry(1, "a", "one"), entry(2, "a", "two"), entry(2, "b", "two"))
		_ = conn.Write(ctx, websocket.MessageText, []byte(`{"warnings":["incomplete"],"streams":[]}`))
		_ = conn.CloseNow()
	}, func(_ context.Context, conn *websocket.Conn) {
		_ = conn.CloseNow()
	}, func(ctx context.Context, conn *websocket.Conn) {
		frame(ctx, conn, entry(2, "a", "two"), entry(2, "b", "two"), entry(2, "c", "two"), entry(3, "a", "three"))
		_ = conn.Close(websocket.StatusNormalClosure, "")
	})
	c := newClient(t, s, nil)
	var got []Entry
	var warnings []string
	err := c.Tail(t.Context(), Tail{Query: "{}", Start: 1}, func(f TailFrame) error {
		got = append(got, f.Entries...)
		return nil
	}, func(text string) { warnings = append(warnings, text) })
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{entry(1, "a", "one"), entry(2, "a", "two"), entry(2, "b", "two"), entry(2, "c", "two"), entry(3, "a", "three")}
	if diff := cmp.Diff(keys(want), keys(got)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int64{1, 2, 2}, s.mu.starts); diff != "" {
		t.Errorf("starts: %s", diff)
	}
	if len(warnings) != 3 || warnings[0] != "incomplete" {
		t.Errorf("got the warnings %q, want the server's and two of broken connections", warnings)
	}
}

func TestTailFails(t *testing.T) {
	tail := func(c *Client) error {
		return c.Tail(t.Context(), Tail{Query: "{}"}, func(TailFrame) error { return nil }, func(string) {})
	}
	var status *StatusError
	if err := tail(newClient(t, &tailServer{t: t}, nil)); !errors.As(err, &status) || status.Body != "no more\n" {
		t.Errorf("refused: got %v", err)
	}
	closed := &tailServer{t: t, scripts: []func(context.Context, *websocket.Conn){func(_ context.Context, conn *websocket.Conn) {
		_ = conn.Close(websocket.StatusInternalError, "only log selector is supported")
	}}}
	if err := tail(newClient(t, closed, nil)); err == nil || !strings.Contains(err.Error(), "only log selector is supported") {
		t.Errorf("closed: got %v", err)
	}
	if n := len(closed.mu.starts); n != 1 {
		t.Errorf("%d connections after a close frame, want 1", n)
	}
	c, err := New(Config{Addr: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := tail(c); err == nil || !strings.HasPrefix(err.Error(), "cannot reach http://127.0.0.1:1") {
		t.Errorf("nobody there: got %v", err)
	}
}

// Whoever ends a tail says goodbye to the server, and it is no failure.
func TestTailEnds(t *testing.T) {
	closed := make(chan websocket.StatusCode, 1)
	s := &tailServer{t: t, scripts: []func(context.Context, *websocket.Conn){func(ctx context.Context, conn *websocket.Conn) {
		frame(ctx, conn, entry(1, "a", "one"))
		_, _, err := conn.Read(ctx)
		closed <- websocket.CloseStatus(err)
	}}}
	ctx, cancel := context.WithCancel(t.Context())
	err := newClient(t, s, nil).Tail(ctx, Tail{Query: "{}"}, func(TailFrame) error { cancel(); return nil }, func(string) {})
	if err != nil {
		t.Error(err)
	}
	if code := <-closed; code != websocket.StatusNormalClosure {
		t.Errorf("the server saw close status %d, want 1000", code)
	}
}
