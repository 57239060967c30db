package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestTailMissesNothing: tails connect while lines are pushed. Each must get every line
// from the start it asked for, first the stored ones, then those that arrive, with none
// missing or repeated where history and present meet.
func TestTailMissesNothing(t *testing.T) {
	s := startServer(t, append([]string{
		"-ingester.freeze-age=100ms", "-limits.max_concurrent_tail_requests=100", "-limits.max_entries_limit_per_query=1000000",
	}, roomy...)...)
	start := time.Now()
	const writers, before, tails = 4, 1000, 20

	// There is some history, so that reading it takes a while.
	line := func(w, n int) pushStream {
		return pushStream{
			Stream: map[string]string{"job": "tailed", "writer": strconv.Itoa(w)},
			Values: []pushEntry{{ts: time.Now().UnixNano(), line: fmt.Sprintf("writer=%d n=%d", w, n)}},
		}
	}
	for w := range writers {
		history := line(w, 0)
		for n := 1; n < before; n++ {
			history.Values = append(history.Values, line(w, n).Values...)
		}
		s.mustPush(history)
	}

	// Writers push line after line until the last tail has joined and got some of them.
	var wg sync.WaitGroup
	var enough atomic.Bool
	var pushed [writers]atomic.Int64
	for w := range writers {
		pushed[w].Store(before)
		wg.Go(func() {
			for n, last := before, false; !last; n++ {
				next := line(w, n)
				if last = enough.Load(); last {
					next.Values[0].line += lastLine
				}
				status, answer, err := s.push(next)
				if err != nil || status != http.StatusNoContent {
					t.Errorf("push: %d %s %v", status, answer, err)
				}
				pushed[w].Add(1)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range tails {
		l := &tail{next: make([]int, writers)}
		if err := l.open(ctx, s, start); err != nil {
			t.Error(err)
			break
		}
		defer func() { _ = l.conn.CloseNow() }()
		wg.Go(func() {
			if err := l.read(ctx); err != nil {
				t.Errorf("tail %d: %v", i, err)
			}
		})
		seen := pushed[0].Load()
		eventually(t, "some lines more", func() bool { return pushed[0].Load() > seen+5 })
	}
	enough.Store(true)
	wg.Wait()
	s.stop()
}

// lastLine ends the last line of each writer.
const lastLine = " last"

// tail is one client of the tail endpoint.
type tail struct {
	conn *websocket.Conn
	next []int // the line due from each writer
	done int   // writers of which the last line has come
}

func (l *tail) open(ctx context.Context, s *server, start time.Time) (err error) {
	params := url.Values{"query": {`{job="tailed"}`}, "limit": {"1000000"}, "start": {strconv.FormatInt(start.UnixNano(), 10)}}
	l.conn, _, err = websocket.Dial(ctx, strings.Replace(s.url, "http", "ws", 1)+"/loki/api/v1/tail?"+params.Encode(), nil)
	if err == nil {
		l.conn.SetReadLimit(64 << 20)
	}
	return err
}

// read reads until every writer's last line has come, or until something is wrong.
func (l *tail) read(ctx context.Context) error {
	for l.done < len(l.next) {
		_, text, err := l.conn.Read(ctx)
		if err != nil {
			return fmt.Errorf("after %v lines: %w", l.next, err)
		}
		if err := l.frame(text); err != nil {
			return err
		}
	}
	return nil
}

func (l *tail) frame(text []byte) error {
	var frame struct {
		Streams        []struct{ Values [][2]string }
		DroppedEntries []json.RawMessage `json:"dropped_entries"`
	}
	if err := json.Unmarshal(text, &frame); err != nil {
		return fmt.Errorf("%w in %s", err, text)
	}
	if len(frame.DroppedEntries) > 0 {
		return fmt.Errorf("dropped: %s", text)
	}
	for _, stream := range frame.Streams {
		for _, v := range stream.Values {
			var w, n int
			if _, err := fmt.Sscanf(v[1], "writer=%d n=%d", &w, &n); err != nil || w >= len(l.next) {
				return fmt.Errorf("a line that nobody wrote: %q", v[1])
			}
			if n != l.next[w] {
				return fmt.Errorf("writer %d: line %d came where %d was due", w, n, l.next[w])
			}
			l.next[w]++
			if strings.HasSuffix(v[1], lastLine) {
				l.done++
			}
		}
	}
	return nil
}
