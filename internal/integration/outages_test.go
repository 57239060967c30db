package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/testkit/s3"
)

// relay passes connections on to another address, or, while it is down, refuses them.
type relay struct {
	t          testing.TB
	addr, next string
	mu         struct {
		sync.Mutex
		listener net.Listener
		open     map[net.Conn]bool
	}
	wg sync.WaitGroup
}

func newRelay(t testing.TB, next string) *relay {
	r := &relay{t: t, addr: freeAddr(t), next: next}
	r.up()
	t.Cleanup(r.down)
	return r
}

func (r *relay) up() {
	r.t.Helper()
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.mu.listener, r.mu.open = l, map[net.Conn]bool{}
	r.mu.Unlock()
	r.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.pass(in) })
		}
	})
}

// down breaks what is open and refuses what comes.
func (r *relay) down() {
	r.mu.Lock()
	if r.mu.listener != nil {
		_ = r.mu.listener.Close()
		r.mu.listener = nil
	}
	for c := range r.mu.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// hold remembers a connection so that down can break it; false while the relay is down.
func (r *relay) hold(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.listener == nil {
		return false
	}
	r.mu.open[c] = true
	return true
}

func (r *relay) pass(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", r.next)
	if err != nil {
		return
	}
	defer out.Close()
	if !r.hold(in) || !r.hold(out) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, in) // a broken connection is what this is for
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
	_ = in.Close()
	<-done
}

const countNumbers = `sum(count_over_time({job="numbers"}[2h]))`

// TestObjectStoreOutage: the S3 server goes away while lines arrive. They are taken all the
// same, also over a crash in the middle of it; what needs the store says so; when it is
// back, everything gets there by itself.
func TestObjectStoreOutage(t *testing.T) {
	store := s3.Start(t)
	relay := newRelay(t, strings.TrimPrefix(store.Endpoint, "http://"))
	direct := store.Endpoint
	store.Endpoint = "http://" + relay.addr
	bucket := store.Bucket(t, "logs", "skald")
	s := startServer(t, append([]string{
		"-storage.url=" + bucket, "-storage.max-attempts=2",
		"-ingester.freeze-age=200ms", "-ingester.upload-age=500ms", "-catalog.ttl=200ms", "-ingester.keep-after-upload=500ms",
	}, roomy...)...)
	start, end := time.Now().Add(-time.Hour), time.Now().Add(time.Minute)
	next := 0
	push := func(lines int) {
		t.Helper()
		for range 10 {
			s.mustPush(numbered("a", start.UnixNano(), next, next+lines/10))
			next += lines / 10
		}
	}
	objects := func() int { return segments(t, s, store.Dir).objects }

	push(2000)
	eventually(t, "a first object", func() bool { return objects() > 0 })
	relay.down()
	before := objects()
	push(4000)
	status, answer, err := s.do(http.MethodPost, "/flush", nil, nil)
	if err != nil || status < 500 || !strings.Contains(string(answer), "s3") {
		t.Errorf("flush without a store: %d %q %v, want a 5xx that names the store", status, answer, err)
	}
	// A query that cannot see everything must not pretend that it can.
	if n, err := s.count(countNumbers, end); err == nil && n != next {
		t.Errorf("a query without the store counts %d rows and no error, want %d or an error", n, next)
	}
	s.kill()
	s.start()
	push(2000)
	s.stop()
	s.start()
	push(2000)
	if n := objects(); n != before {
		t.Fatalf("%d objects, want %d: the store was to be away", n, before)
	}

	for end := time.Now().Add(5 * time.Minute); full() && time.Now().Before(end); time.Sleep(time.Second) {
		push(100)
	}
	for range size(3, 6, 60) { // it comes and goes
		relay.up()
		push(100)
		time.Sleep(200 * time.Millisecond)
		relay.down()
		push(100)
	}

	relay.up()
	eventually(t, "all rows in the store and none on the local disk", func() bool {
		p := segments(t, s, store.Dir)
		return p.objects > before && p.local == 0 && s.metric("skald_ingester_memtable_bytes", "") == 0
	})
	s.settled(countNumbers, end, next)
	s.flush()
	s.verifyNumbers(map[string]int{"a": next}, start, end)
	s.stop()

	// The bucket alone has everything, under its own address too.
	s.args = append(s.args, "-storage.url="+strings.Replace(bucket, url.QueryEscape("http://"+relay.addr), url.QueryEscape(direct), 1))
	s.dir += "-new"
	s.start()
	s.verifyNumbers(map[string]int{"a": next}, start, end)
	s.stop()
}

// TestSIGTERMUnderLoad: clients push as fast as they can while the server is told to stop.
// It ends by itself with status 0; what it acknowledged is there afterwards, once.
func TestSIGTERMUnderLoad(t *testing.T) {
	s := startServer(t, append([]string{"-ingester.freeze-age=300ms"}, roomy...)...)
	start, end := time.Now().Add(-time.Hour), time.Now().Add(time.Minute)
	const writers, rounds, batch = 4, 3, 50
	acked := map[string]int{}
	for round := range rounds {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range writers {
			name := fmt.Sprintf("%d-%d", round, w)
			wg.Go(func() {
				n := 0
				for {
					status, answer, err := s.push(numbered(name, start.UnixNano(), n, n+batch))
					if err != nil {
						break // stopped
					}
					if status == http.StatusServiceUnavailable {
						continue // told to come again
					}
					if status != http.StatusNoContent {
						t.Errorf("push: %d %s", status, answer)
						break
					}
					n += batch
				}
				mu.Lock()
				defer mu.Unlock()
				acked[name] = n
			})
		}
		eventually(t, "some load", func() bool { return s.metric("skald_ingester_appended_entries_total", "") > 5000 })
		s.stop()
		wg.Wait()
		s.start()
	}
	s.verifyNumbers(acked, start, end)
	s.stop()
}

// verifyNumbers reads back every line of numbered streams: those that were acknowledged
// must be there once. A last batch that was stored but not acknowledged may be there.
func (s *server) verifyNumbers(acked map[string]int, start, end time.Time) {
	s.t.Helper()
	stdout, stderr, status := run(s.t, "query", "--addr="+s.url, "--quiet", "--limit=0", "--batch=5000", "--forward", "--output=raw",
		"--from="+start.Add(-time.Second).Format(time.RFC3339Nano), "--to="+end.Format(time.RFC3339Nano), `{job="numbers"}`)
	if status != 0 {
		s.t.Fatalf("skald query: status %d: %s", status, stderr)
	}
	seen := map[string]int{}
	for line := range strings.Lines(stdout) {
		seen[strings.TrimSpace(line)]++
	}
	missing, twice, total := 0, 0, 0
	for name, n := range acked {
		if n == 0 {
			s.t.Errorf("writer %s got nothing acknowledged, which proves nothing", name)
		}
		total += n
		for i := range n {
			switch seen["writer="+name+" n="+strconv.Itoa(i)] {
			case 0:
				missing++
			case 1:
			default:
				twice++
			}
		}
	}
	if missing+twice > 0 {
		s.t.Errorf("of %d acknowledged lines %d are missing and %d are there more than once", total, missing, twice)
	}
}
