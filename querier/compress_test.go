package querier

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/skaldlog/skald/internal/testkit/busy"
	"github.com/skaldlog/skald/internal/turns"
	"github.com/skaldlog/skald/logql/scan"
)

// sent is a client; it must not be sent anything in a turn, since it may be slow.
type sent struct {
	*httptest.ResponseRecorder
	t *testing.T
	q *turns.Cores
}

func (s sent) Write(p []byte) (int, error) {
	if _, held := s.q.Sizes(); held > 0 {
		s.t.Error("bytes are sent in a turn")
	}
	return s.ResponseRecorder.Write(p)
}

// TestCompressInTurns answers small and large, packed and plain, and with no turn to have.
func TestCompressInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Querier{queues: queues{turns: turns.NewCores(1)}, pool: scan.NewPool(0)}
		var text strings.Builder
		for n := 0; text.Len() < 5*turnBytes; n++ {
			fmt.Fprintf(&text, "%d,", n*n*7919)
		}
		ask := func(body, accept string) []byte {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Accept-Encoding", accept)
			w := httptest.NewRecorder()
			q.compress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := q.writeJSON(w, r, []byte(body)); err != nil {
					t.Error(err)
				}
			})).ServeHTTP(sent{w, t, q.queues.turns}, r)
			if packed := w.Header().Get("Content-Encoding") == "gzip"; packed != (accept == "gzip" && len(body) > 1024) {
				t.Errorf("%d bytes for a client that accepts %q: packed %t", len(body), accept, packed)
			} else if packed {
				z, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			return w.Body.Bytes()
		}
		for _, accept := range []string{"", "gzip"} {
			for _, size := range []int{0, 10, 5000, turnBytes, turnBytes + 1, text.Len()} {
				if got := ask(text.String()[:size], accept); !bytes.Equal(got, []byte(text.String()[:size])) {
					t.Errorf("%d bytes, accepting %q, came as %d others", size, accept, len(got))
				}
			}
		}

		leave := busy.Turn(t, q.queues.turns)
		var done atomic.Bool
		go func() {
			q.compress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = q.writeJSON(w, r, []byte(text.String())) })).
				ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			done.Store(true)
		}()
		synctest.Wait()
		if done.Load() {
			t.Error("a large answer was written without a turn")
		}
		leave()
		synctest.Wait()
		if !done.Load() {
			t.Error("a large answer still waits")
		}
	})
}

// TestUnreadAnswers has a client ask for a large answer and not read it. It counts among what queries
// hold, so that it is broken off when there is no room for that of another.
func TestUnreadAnswers(t *testing.T) {
	const room, large, small = 40 << 20, 39 << 20, 2 << 20
	q := &Querier{queues: queues{turns: turns.NewCores(1)}, pool: scan.NewPool(room), logger: slog.New(slog.DiscardHandler)}
	s := httptest.NewServer(q.compress(q.answer(func(w http.ResponseWriter, r *http.Request) error {
		n, _ := strconv.Atoi(r.FormValue("n"))
		body := make([]byte, n)
		return q.writeJSON(w, r, body)
	})))
	defer s.Close()
	unread, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	if err := unread.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil { // or the kernel takes it all
		t.Fatal(err)
	}
	fmt.Fprintf(unread, "GET /?n=%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", large)
	head := make([]byte, 12)
	if _, err := io.ReadFull(unread, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Fatalf("%q, %v", head, err)
	}
	get := func(n int) (status, bytes int) {
		t.Helper()
		res, err := http.Get(s.URL + "/?n=" + strconv.Itoa(n))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		return res.StatusCode, len(body)
	}
	if status, n := get(small); status != http.StatusOK || n != small {
		t.Errorf("who reads got %d and %d bytes", status, n)
	}
	if rest, _ := io.Copy(io.Discard, unread); rest >= large {
		t.Errorf("the answer that was not read went on: %d bytes", rest)
	}
	if status, n := get(room - small); status != http.StatusOK || n != room-small {
		t.Errorf("afterwards a large answer came as %d and %d bytes", status, n)
	}
	if status, _ := get(room + 1); status != http.StatusServiceUnavailable {
		t.Errorf("an answer larger than the room: %d", status)
	}
}
