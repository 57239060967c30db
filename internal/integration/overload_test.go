package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestOverload gives a server little memory and many times the load that it can take. It
// must stay inside that memory, say so to those it turns away, and in the end have every
// line that it acknowledged, once. A full run has it answer queries that read everything, too.
func TestOverload(t *testing.T) {
	const container = 384 << 20
	t.Setenv("GOMEMLIMIT", strconv.Itoa(container-64<<20)) // what -memory.limit-ratio makes of it
	s := startServer(t, append([]string{"-ingester.freeze-age=5s"}, roomy...)...)
	s.client.Transport = &http.Transport{MaxIdleConnsPerHost: 256}
	writers, span := 24, 3*time.Second
	if full() {
		writers, span = 64, 30*time.Second
	}
	o := &overload{server: s, refused: map[string]int{}, queries: map[int]int{}}
	began := time.Now()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { o.write(t, i, began, began.Add(span)) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers sync.WaitGroup
	queries := 0
	if full() {
		queries = 8
	}
	for range queries {
		readers.Go(func() { o.read(ctx, t, began) })
	}
	wg.Wait()
	cancel()
	readers.Wait()
	now, peak, program := s.memory()
	peak -= program
	t.Logf("heavy queries by status: %v", o.queries)
	t.Logf("%d writers offered %d MB in %s, %d times what was taken (%d MB); refused: %v; resident %d MB, its own at most %d of %d MB",
		writers, o.offered.Load()>>20, time.Since(began).Round(time.Second), o.offered.Load()/max(1, o.taken.Load()), o.taken.Load()>>20,
		o.refused, now>>20, peak>>20, container>>20)
	if raceDetector {
		t.Log("the race detector's own memory is not counted against the server")
	} else if peak > container {
		t.Errorf("at most %d MB besides the program were resident, the container has %d", peak>>20, container>>20)
	}
	if len(o.refused) == 0 && !raceDetector { // with it, the writers are slower than the server
		t.Error("nothing was refused, so this was no overload")
	}
	if !s.alive() {
		t.Fatalf("the server ended: %v", s.err)
	}
	// It has recovered: a push is taken at once, and everything is there.
	s.mustPush(numbered("after", began.UnixNano(), 0, 10))
	for i, want := range o.lines {
		query := fmt.Sprintf(`sum(count_over_time({job="overload",writer="%d"}[1h]))`, i)
		s.settled(query, time.Now().Add(time.Second), want)
	}
}

// overload is what the writers have done together.
type overload struct {
	server         *server
	offered, taken atomic.Int64 // bytes of bodies, each time they were sent
	mu             sync.Mutex
	refused        map[string]int // by status
	queries        map[int]int    // by status
	lines          [64]int        // acknowledged, by writer
}

func (o *overload) refusedAny() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.refused) > 0
}

const linesPerOverload = 10_000

// write sends pushes of two megabytes one after the other, and each again at once, however
// the server asks for patience, until it is taken.
func (o *overload) write(t *testing.T, writer int, began, end time.Time) {
	var body []byte
	// A slow machine takes longer to overload.
	for n := 0; time.Now().Before(end) || !o.refusedAny() && time.Since(end) < 10*end.Sub(began) && !raceDetector; n += linesPerOverload {
		body = appendOverload(body[:0], writer, n, began)
		for deadline := time.Now().Add(patience); ; {
			o.offered.Add(int64(len(body)))
			ok, err := o.push(body)
			if ok {
				break
			}
			if err != nil || time.Now().After(deadline) {
				t.Errorf("writer %d: line %d cannot be pushed: %v", writer, n, err)
				return
			}
		}
		o.taken.Add(int64(len(body)))
		o.mu.Lock()
		o.lines[writer] += linesPerOverload
		o.mu.Unlock()
	}
}

// read sends one heavy query after the other. A server that is short of something may say so.
func (o *overload) read(ctx context.Context, t *testing.T, began time.Time) {
	for ctx.Err() == nil {
		status, answer, _, err := o.server.ask(ctx, "", "/loki/api/v1/query_range", url.Values{
			"query": {`sum by (writer) (rate({job="overload"} | logfmt | method="GET" | hash =~ ".*[13579]" [1m]))`},
			"start": {fmt.Sprint(began.Add(-time.Minute).UnixNano())}, "end": {fmt.Sprint(began.Add(time.Minute).UnixNano())}, "step": {"10"},
		})
		switch {
		case ctx.Err() != nil:
		case err != nil || status != http.StatusOK && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout:
			t.Errorf("a query: %d %.300s %v", status, answer, err)
			return
		default:
			o.mu.Lock()
			o.queries[status]++
			o.mu.Unlock()
		}
	}
}

func appendOverload(b []byte, writer, from int, began time.Time) []byte {
	b = fmt.Appendf(b, `{"streams":[{"stream":{"job":"overload","writer":"%d"},"values":[`, writer)
	for n := from; n < from+linesPerOverload; n++ {
		if n > from {
			b = append(b, ',')
		}
		b = append(b, `["`...)
		b = strconv.AppendInt(b, began.UnixNano()+int64(n)*1000, 10)
		b = append(b, `","level=info n=`...)
		b = strconv.AppendInt(b, int64(n), 10)
		b = append(b, ` hash=`...)
		b = strconv.AppendUint(b, uint64(n*64+writer)*0x9e3779b97f4a7c15, 16)
		b = append(b, ` caller=handler.go:112 msg=\"request served\" method=GET path=/api/v1/items took=12ms user=alice region=eu-west-1 tries=1 cached=false"]`...)
	}
	return append(b, "]}]}"...)
}

// push sends a body once. Only 429 and 503 that say when to come back are refusals.
func (o *overload) push(body []byte) (taken bool, err error) {
	status, header, answer, err := o.server.exchange(http.MethodPost, "/loki/api/v1/push", jsonHeader.Clone(), body)
	if err != nil || status == http.StatusNoContent {
		return err == nil, err
	}
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		return false, fmt.Errorf("%d, Retry-After %q: %s", status, header.Get("Retry-After"), answer)
	}
	reason, _, _ := strings.Cut(string(answer), ":")
	reason, _, _ = strings.Cut(reason, " take ") // numbers follow
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused[fmt.Sprintf("%d %s", status, reason)]++
	return false, nil
}
