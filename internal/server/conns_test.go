package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// client is a raw connection.
type client struct {
	t *testing.T
	net.Conn
}

func dialRaw(t *testing.T, addr net.Addr) client {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return client{t, conn}
}

func (c client) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// isClosed waits for the server to close the connection, or looks whether it has.
func (c client) isClosed(within time.Duration) bool {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

const (
	soon = 20 * time.Second // longer only when it fails
	yet  = 50 * time.Millisecond
)

func (cs *connections) number() (open, idle int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.mu.open, cs.mu.idle.Len()
}

func (cs *connections) wait(t *testing.T, open, idle int) {
	t.Helper()
	for deadline := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		o, i := cs.number()
		if o == open && i == idle {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, %d idle; want %d and %d", o, i, open, idle)
		}
	}
}

// Of connections over which nothing goes on the one that has been idle for longest gives way.
func TestConnections(t *testing.T) {
	s, err := New(Config{Listen: "127.0.0.1:0", MaxConnections: 3, ShutdownTimeout: time.Second}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Handle("/read", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	run(t, s.Run)
	open := func(text string) client {
		t.Helper()
		c := dialRaw(t, s.Addr())
		c.say(text)
		return c
	}
	silent := open("")
	s.listener.conns.wait(t, 1, 1)
	header := open("POST /read HTTP/1.1\r\nHost: x\r\n") // which never ends
	s.listener.conns.wait(t, 2, 2)
	body := open("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
	s.listener.conns.wait(t, 3, 2)
	// Two come, and two idle ones go; the one with a request stays.
	for _, gives := range []client{silent, header} {
		busy := open("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
		if !gives.isClosed(soon) {
			t.Fatal("an idle connection did not give way")
		}
		_ = busy
	}
	s.listener.conns.wait(t, 3, 0)
	if body.isClosed(yet) {
		t.Fatal("a connection with a request was closed")
	}
	// Now all are busy.
	if late := dialRaw(t, s.Addr()); !late.isClosed(soon) {
		t.Error("a connection above the bound was kept")
	}
	// A request that ends makes room.
	body.say("67890")
	s.listener.conns.wait(t, 3, 1)
	if res, err := http.Get("http://" + s.Addr().String() + "/read"); err != nil {
		t.Error(err)
	} else {
		_ = res.Body.Close()
	}
	if !body.isClosed(soon) {
		t.Error("a connection that became idle did not give way")
	}
}

func TestGRPCConnections(t *testing.T) {
	g := pushServer(t, GRPCConfig{MaxConnections: 2})
	conns := g.conns
	silent := dialRaw(t, g.Addr())
	conns.wait(t, 1, 1)
	ended := make(chan error, 1)
	wait := stall(t, g.Addr().String())
	go func() { ended <- wait() }()
	conns.wait(t, 2, 1)
	conn := dialTest(t, g)
	if err := pushTest(t, conn, 1); err != nil {
		t.Fatal(err)
	}
	if !silent.isClosed(soon) {
		t.Error("an idle connection did not give way")
	}
	conns.wait(t, 2, 1)
	select {
	case err := <-ended:
		t.Errorf("a connection with a call was closed: %v", err)
	case <-time.After(yet):
	}
	_ = stall(t, g.Addr().String())
	conns.wait(t, 2, 0)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := conn.Invoke(ctx, "/test/Push", nil, nil); err == nil {
		t.Error("a connection above the bound was kept")
	}
}
