package querier

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/skaldlog/skald/internal/turns"
)

// sent is a client; it must not be sent anything in a turn, since it may be slow.
type sent struct {
	*httptest.ResponseRecorder
	t *testing.T
	q *turns.Queue
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
		q := &Querier{queues: queues{turns: turns.New(1, 10, turns.AnyNumber)}}
		var text strings.Builder
		for n := 0; text.Len() < 5*turnBytes; n++ {
			fmt.Fprintf(&text, "%d,", n*n*7919)
		}
		ask := func(body, accept string) []byte {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Accept-Encoding", accept)
			w := httptest.NewRecorder()
			q.compress(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if err := writeJSON(w, []byte(body)); err != nil {
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

		leave, err := q.queues.turns.Enter(t.Context(), "other", turns.Queries)
		if err != nil {
			t.Fatal(err)
		}
		var done atomic.Bool
		go func() {
			q.compress(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = writeJSON(w, []byte(text.String())) })).
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
