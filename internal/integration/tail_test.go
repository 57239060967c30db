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
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestTailMissesNothing: tails connect while lines are pushed. Each must get every line
// from the start it asked for, first the stored ones, then those that arrive, with none
// missing or repeated where history and present meet.
func TestTailMissesNothing(t *testing.T) {
	s := startServer(t, append([]string{"-ingester.freeze-age=100ms", "-limits.max_concurrent_tail_requests=100"}, roomy...)...)
	start := time.Now()
	const before, tails, each, writers = 50, 8, 25, 2
	total := before + tails*each

	// Writers push one line at a time; tails join every few lines.
	joined := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range total {
				status, answer, err := s.push(pushStream{
					Stream: map[string]string{"job": "tailed", "writer": strconv.Itoa(w)},
					Values: []pushEntry{{ts: time.Now().UnixNano(), line: fmt.Sprintf("writer=%d n=%d", w, n)}},
				})
				if err != nil || status != http.StatusNoContent {
					t.Errorf("push: %d %s %v", status, answer, err)
				}
				if w == 0 && n >= before && (n-before)%each == 0 {
					joined <- struct{}{}
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range tails {
		<-joined
		wg.Go(func() {
			if err := s.tail(ctx, start, writers, total); err != nil {
				t.Errorf("tail %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	s.stop()
}

// tail reads until it has every line, or until something is wrong.
func (s *server) tail(ctx context.Context, start time.Time, writers, each int) error {
	params := url.Values{"query": {`{job="tailed"}`}, "limit": {"5000"}, "start": {strconv.FormatInt(start.UnixNano(), 10)}}
	conn, _, err := websocket.Dial(ctx, strings.Replace(s.url, "http", "ws", 1)+"/loki/api/v1/tail?"+params.Encode(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(64 << 20)
	seen := map[string]bool{}
	next := make([]int, writers)
	for len(seen) < writers*each {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return fmt.Errorf("after %v of %d lines of each writer: %w", next, each, err)
		}
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
				if seen[v[1]] {
					return fmt.Errorf("%q came twice", v[1])
				}
				seen[v[1]] = true
				var w, n int
				if _, err := fmt.Sscanf(v[1], "writer=%d n=%d", &w, &n); err != nil || w >= writers {
					return fmt.Errorf("a line that nobody wrote: %q", v[1])
				}
				if n != next[w] {
					return fmt.Errorf("writer %d: line %d came where %d was due", w, n, next[w])
				}
				next[w]++
			}
		}
	}
	return nil
}
