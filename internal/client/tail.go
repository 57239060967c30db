package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Tail asks for entries as they arrive.
type Tail struct {
	Query    string
	Limit    int
	Start    int64         // ns; entries from here on are sent first
	DelayFor time.Duration // wait for late entries, whole seconds
}

// TailFrame is one message of the server.
type TailFrame struct {
	Entries []Entry
	// Dropped are entries that the server could not send because this client was too slow.
	Dropped []Entry
	// Warnings say why entries may be missing.
	Warnings []string
}

// maxReconnects and the waits between them are logcli's.
const maxReconnects = 5

// Tail calls f for every frame until ctx ends, which is a success, or the server closes
// the connection. When an established connection breaks it reconnects, from the last entry
// on, and skips what it handed out; warn is told, also of what the server warns of. A
// connection that cannot be made in the first place is an error at once.
func (c *Client) Tail(ctx context.Context, t Tail, f func(TailFrame) error, warn func(string)) error {
	var last []Entry // handed out, with the newest timestamp
	connected := false
	for attempt := 0; ; {
		err := c.tailOnce(ctx, t, func() { connected, attempt = true, 0 }, func(frame TailFrame) error {
			if len(last) > 0 {
				frame.Entries = without(frame.Entries, last)
			}
			for _, e := range frame.Entries {
				if len(last) > 0 && e.Timestamp > last[0].Timestamp {
					last = last[:0]
				}
				if len(last) == 0 || e.Timestamp == last[0].Timestamp {
					last = append(last, e)
				}
			}
			for _, text := range frame.Warnings {
				warn(text)
			}
			return f(frame)
		})
		var broken brokenError
		switch {
		case ctx.Err() != nil:
			return nil
		case !connected && errors.As(err, &broken):
			return broken.cause
		case err == nil || !errors.As(err, &broken) || attempt >= maxReconnects:
			return err
		}
		attempt++
		warn(fmt.Sprintf("%v; connecting again", err))
		if sleep(ctx, c.reconnectWait(attempt)) != nil {
			return nil
		}
		if len(last) > 0 {
			t.Start = last[0].Timestamp
		}
	}
}

// reconnectWait doubles from a second to ten.
func (c *Client) reconnectWait(attempt int) time.Duration {
	unit := c.reconnectUnit
	if unit == 0 {
		unit = time.Second
	}
	return min(unit<<(attempt-1), 10*unit)
}

// brokenError marks connections that ended without a close frame and may be opened again.
type brokenError struct{ cause error }

func (e brokenError) Error() string { return "connection lost: " + e.cause.Error() }
func (e brokenError) Unwrap() error { return e.cause }

// heartbeat is how often a quiet connection is proved alive; one that does not answer for
// as long again is broken.
const heartbeat = 15 * time.Second

// tailOnce runs one connection. up is called when it stands.
func (c *Client) tailOnce(ctx context.Context, t Tail, up func(), f func(TailFrame) error) error {
	conn, err := c.dialTail(ctx, t)
	if err != nil {
		return err
	}
	up()
	// Reading ends with the connection, not with ctx: only so is the server told goodbye.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer end()
	helpers.Go(func() {
		select {
		case <-life.Done():
		case <-ctx.Done():
			hangUp(conn)
		}
	})
	helpers.Go(func() { keepAlive(life, conn) })
	defer func() { _ = conn.CloseNow() }()
	for {
		_, msg, err := conn.Read(life)
		var closed websocket.CloseError
		switch {
		case errors.As(err, &closed) && closed.Code == websocket.StatusNormalClosure:
			return nil
		case errors.As(err, &closed):
			return fmt.Errorf("the server ended the tail: %s", strings.TrimSpace(closed.Reason))
		case err != nil:
			return brokenError{err}
		}
		frame, err := decodeFrame(msg)
		if err != nil {
			return err
		}
		if err := f(frame); err != nil {
			return err
		}
	}
}

func (c *Client) dialTail(ctx context.Context, t Tail) (*websocket.Conn, error) {
	params := url.Values{"query": {t.Query}, "limit": {strconv.Itoa(t.Limit)}, "start": {strconv.FormatInt(t.Start, 10)}}
	if t.DelayFor > 0 {
		params.Set("delay_for", strconv.Itoa(int(t.DelayFor.Seconds())))
	}
	header, err := c.headers()
	if err != nil {
		return nil, err
	}
	conn, res, err := websocket.Dial(ctx, c.URL("/loki/api/v1/tail", params), &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header})
	if err == nil {
		conn.SetReadLimit(-1)
		return conn, nil
	}
	if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
		return nil, &StatusError{Status: res.StatusCode, Body: string(body)}
	}
	// The websocket library wraps the error of the HTTP client, which names the address.
	return nil, brokenError{c.unreachable(err)}
}

// hangUp says goodbye, and does not wait long for an answer.
func hangUp(conn *websocket.Conn) {
	stop := time.AfterFunc(time.Second/2, func() { _ = conn.CloseNow() })
	defer stop.Stop()
	_ = conn.Close(websocket.StatusNormalClosure, "")
}

func keepAlive(ctx context.Context, conn *websocket.Conn) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		pingCtx, cancel := context.WithTimeout(ctx, heartbeat)
		err := conn.Ping(pingCtx)
		cancel()
		if err != nil && ctx.Err() == nil {
			_ = conn.CloseNow()
			return
		}
	}
}

func decodeFrame(msg []byte) (TailFrame, error) {
	var body struct {
		Streams []streamJSON `json:"streams"`
		Dropped []struct {
			Timestamp string            `json:"timestamp"`
			Labels    map[string]string `json:"labels"`
		} `json:"dropped_entries"`
		Warnings []string `json:"warnings"`
	}
	if err := json.Unmarshal(msg, &body); err != nil {
		return TailFrame{}, fmt.Errorf("tail frame: %w", err)
	}
	frame := TailFrame{Warnings: body.Warnings}
	for _, s := range body.Streams {
		entries, err := s.entries()
		if err != nil {
			return TailFrame{}, err
		}
		frame.Entries = append(frame.Entries, entries...)
	}
	for _, d := range body.Dropped {
		ns, err := strconv.ParseInt(d.Timestamp, 10, 64)
		if err != nil {
			return TailFrame{}, fmt.Errorf("dropped entry in a tail frame: %w", err)
		}
		frame.Dropped = append(frame.Dropped, Entry{Timestamp: ns, Labels: d.Labels})
	}
	return frame, nil
}
