package integration

import (
	"context"
	"encoding/json"
	"errors"
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

// TestTailsUnderLoad: many tails with filters of all sorts follow a stream of lines of a
// fixed rate. Each must get every line of its filter exactly once, or be told that the
// server dropped it.
func TestTailsUnderLoad(t *testing.T) {
	const writers, perPush = 4, 100
	tails := size(5, 10, 50)
	rate := size(2_000, 5_000, 20_000) // lines per second
	seconds := size(1, 3, 60)
	s := startServer(t, append([]string{"-limits.max_concurrent_tail_requests=100"}, roomy...)...)

	ctx := t.Context()
	start := time.Now().UnixNano()
	var wg sync.WaitGroup
	followers := make([]*follower, tails)
	for i := range followers {
		f := newFollower(i, start)
		followers[i] = f
		if err := f.open(ctx, s); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.conn.CloseNow() }()
		wg.Go(func() { f.err = f.follow(ctx) })
	}
	pushLoad(t, s, start, writers, perPush, rate, seconds)
	took := time.Since(time.Unix(0, start))
	// The tails end when they see a line that all filters let through. It is repeated, since
	// a slow tail may miss it.
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	lines := rate * seconds
	for n := lines; ; n += writers {
		var end []pushStream
		for w := range writers {
			end = append(end, pushStream{loadLabels(w), []pushEntry{{ts: start + int64(n+w), line: fmt.Sprintf("n=%d end=1 %s", n+w, endOfLoad)}}})
		}
		s.mustPush(end...)
		select {
		case <-ended:
			report(t, followers, lines, took)
			s.stop()
			return
		case <-time.After(time.Second):
		}
	}
}

const endOfLoad = "END"

func loadLabels(writer int) map[string]string {
	return map[string]string{"job": "load", "writer": strconv.Itoa(writer)}
}

// loadLine is line n, whose time is n nanoseconds after the start.
func loadLine(n int) string {
	level := "info"
	if n%10 == 0 {
		level = "error"
	}
	return fmt.Sprintf(`n=%d shard=%d level=%s msg="request handled" path=/api/items/%d took=%dms`, n, n%16, level, n%977, n%331)
}

// pushLoad pushes rate × seconds lines, each writer at its own pace. A writer that falls
// behind its schedule catches up.
func pushLoad(t *testing.T, s *server, start int64, writers, perPush, rate, seconds int) {
	lines := rate * seconds
	pause := time.Second * time.Duration(writers*perPush) / time.Duration(rate)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for first := w; first < lines; first += writers * perPush {
				stream := pushStream{Stream: loadLabels(w)}
				for n := first; n < min(lines, first+writers*perPush); n += writers {
					stream.Values = append(stream.Values, pushEntry{ts: start + int64(n), line: loadLine(n)})
				}
				if status, answer, err := s.push(stream); err != nil || status != http.StatusNoContent {
					t.Errorf("push: %d %s %v", status, answer, err)
					return
				}
				<-tick.C
			}
		})
	}
	wg.Wait()
}

// follower is one tail and what it must see.
type follower struct {
	query string
	wants func(n int) bool
	start int64
	conn  *websocket.Conn

	got     map[int]bool
	named   map[int]bool // dropped, by name
	unnamed int          // dropped besides
	frames  int
	err     error
}

func newFollower(i int, start int64) *follower {
	f := &follower{start: start, got: map[int]bool{}, named: map[int]bool{}}
	k := i / 6
	switch i % 6 {
	case 0:
		f.query = fmt.Sprintf(`{job="load"} |= "shard=%d " or "END"`, k)
		f.wants = func(n int) bool { return n%16 == k }
	case 1:
		f.query = `{job="load"} | logfmt | level="error" or end="1"`
		f.wants = func(n int) bool { return n%10 == 0 }
	case 2:
		f.query = fmt.Sprintf(`{job="load"} |~ "shard=(%d|%d) |END"`, k, k+1)
		f.wants = func(n int) bool { return n%16 == k || n%16 == k+1 }
	case 3:
		w := k % 4
		f.query = fmt.Sprintf(`{job="load", writer="%d"} | logfmt n, took, end | took > 300ms or end="1"`, w)
		f.wants = func(n int) bool { return n%4 == w && n%331 > 300 }
	case 4:
		f.query = `{job="load"} | pattern "n=<num> <_>" |= "77 " or "END"`
		f.wants = func(n int) bool { return strings.Contains(loadLine(n), "77 ") }
	default:
		f.query = `{job="load"} |> "<_>path=/api/items/1<_>" or "<_>END" | logfmt | line_format "n={{.n}} {{if .end}}END{{end}}"`
		f.wants = func(n int) bool { return strings.Contains(loadLine(n), "/items/1") }
	}
	return f
}

func (f *follower) open(ctx context.Context, s *server) (err error) {
	params := url.Values{"query": {f.query}, "start": {strconv.FormatInt(f.start, 10)}}
	f.conn, _, err = websocket.Dial(ctx, strings.Replace(s.url, "http", "ws", 1)+"/loki/api/v1/tail?"+params.Encode(), nil)
	if err == nil {
		f.conn.SetReadLimit(64 << 20)
	}
	return err
}

var errEnd = errors.New("the end")

func (f *follower) follow(ctx context.Context) error {
	for {
		wait, cancel := context.WithTimeout(ctx, patience)
		_, text, err := f.conn.Read(wait)
		cancel()
		if err == nil {
			err = f.frame(text)
		}
		switch {
		case errors.Is(err, errEnd):
			return nil
		case err != nil:
			return fmt.Errorf("after %d lines: %w", len(f.got), err)
		}
	}
}

func (f *follower) frame(text []byte) error {
	var frame struct {
		Streams []struct{ Values [][2]string }
		Dropped []struct{ Timestamp string } `json:"dropped_entries"`
		More    int                          `json:"dropped_more"`
	}
	if err := json.Unmarshal(text, &frame); err != nil {
		return fmt.Errorf("%w in %s", err, text)
	}
	f.frames++
	f.unnamed += frame.More
	for _, d := range frame.Dropped {
		ts, err := strconv.ParseInt(d.Timestamp, 10, 64)
		if err != nil {
			return err
		}
		f.named[int(ts-f.start)] = true
	}
	for _, stream := range frame.Streams {
		for _, v := range stream.Values {
			if strings.Contains(v[1], endOfLoad) {
				return errEnd
			}
			var n int
			if _, err := fmt.Sscanf(v[1], "n=%d ", &n); err != nil {
				return fmt.Errorf("a line that nobody wrote: %q", v[1])
			}
			switch {
			case f.got[n]:
				return fmt.Errorf("line %d came twice", n)
			case !f.wants(n):
				return fmt.Errorf("line %d is not in the filter", n)
			}
			f.got[n] = true
		}
	}
	return nil
}

// report checks that what is missing was reported.
func report(t *testing.T, followers []*follower, lines int, took time.Duration) {
	t.Helper()
	received, dropped := 0, 0
	for i, f := range followers {
		if f.err != nil {
			t.Errorf("tail %d, %s: %v", i, f.query, f.err)
			continue
		}
		wanted, silent := 0, 0
		for n := range lines {
			if !f.wants(n) {
				continue
			}
			wanted++
			if !f.got[n] && !f.named[n] {
				silent++
			}
		}
		if silent > f.unnamed {
			t.Errorf("tail %d, %s: %d of %d lines are missing, and only %d were reported without a name", i, f.query, silent, wanted, f.unnamed)
		}
		if wanted == 0 || len(f.got) == 0 {
			t.Errorf("tail %d, %s: wants %d lines and got %d", i, f.query, wanted, len(f.got))
		}
		received += len(f.got)
		dropped += len(f.named) + f.unnamed
	}
	t.Logf("%d lines in %s (%.0f per second); %d tails got %d lines, were told of %d dropped ones, and missed none silently",
		lines, took.Round(time.Millisecond), float64(lines)/took.Seconds(), len(followers), received, dropped)
}
