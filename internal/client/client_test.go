package client

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeServer answers range queries over entries as the reference says: start inclusive,
// end exclusive, nanoseconds, a stable order for equal timestamps.
type fakeServer struct {
	entries    []Entry // by time
	maxEntries int     // 0: any number
	requests   atomic.Int64
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	q := r.URL.Query()
	number := func(name string) int64 {
		n, err := strconv.ParseInt(q.Get(name), 10, 64)
		if err != nil {
			panic(fmt.Sprintf("parameter %s: %v", name, err))
		}
		return n
	}
	start, end, limit := number("start"), number("end"), int(number("limit"))
	if s.maxEntries > 0 && limit > s.maxEntries {
		http.Error(w, fmt.Sprintf("max entries limit per query exceeded, limit > max_entries_limit_per_query (%d > %d)", limit, s.maxEntries), http.StatusBadRequest)
		return
	}
	var in []Entry
	for _, e := range s.entries {
		if e.Timestamp >= start && e.Timestamp < end {
			in = append(in, e)
		}
	}
	if q.Get("direction") == "BACKWARD" {
		slices.Reverse(in)
	}
	writeStreams(w, in[:min(limit, len(in))])
}

type streamOut struct {
	Stream map[string]string `json:"stream"`
	Values [][2]string       `json:"values"`
}

func streamsOf(entries []Entry) []streamOut {
	out := []streamOut{}
	for _, e := range entries {
		i := slices.IndexFunc(out, func(s streamOut) bool { return cmp.Equal(s.Stream, e.Labels) })
		if i < 0 {
			i = len(out)
			out = append(out, streamOut{Stream: e.Labels})
		}
		out[i].Values = append(out[i].Values, [2]string{strconv.FormatInt(e.Timestamp, 10), e.Line})
	}
	return out
}

func writeStreams(w http.ResponseWriter, entries []Entry) {
	_ = json.NewEncoder(w).Encode(map[string]any{
		"status": "success",
		"data":   map[string]any{"resultType": "streams", "result": streamsOf(entries)},
	})
}

func newClient(t *testing.T, h http.Handler, change func(*Config)) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	cfg := Config{Addr: srv.URL, AuthHeader: "Authorization"}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.reconnectUnit = time.Millisecond
	return c
}

// keys are entries in a form that can be compared whatever the order of equal times.
func keys(entries []Entry) []string {
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = fmt.Sprintf("%d %s", e.Timestamp, e.key())
	}
	slices.Sort(out)
	return out
}

// Whatever the batch, the direction, the limit and the server's cap: every entry comes
// once, in order, also where many share a timestamp and two streams have the same line.
func TestPages(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		s := &fakeServer{}
		n := 1 + rnd.IntN(120)
		ts := int64(1000)
		for range n {
			if rnd.IntN(3) == 0 {
				ts += rnd.Int64N(3)
			}
			// The same line in different streams, or twice in one, at often the same time.
			s.entries = append(s.entries, Entry{ts, map[string]string{"s": strconv.Itoa(rnd.IntN(3))}, strconv.Itoa(rnd.IntN(2))})
		}
		most := mostAtOneTime(s.entries)
		if rnd.IntN(2) == 0 {
			s.maxEntries = most + 1 + rnd.IntN(20)
		}
		q := QueryRange{Query: "{}", Start: 1000, End: ts + 1, Forward: rnd.IntN(2) == 0, Limit: rnd.IntN(2) * (1 + rnd.IntN(150))}
		var got []Entry
		c := newClient(t, s, nil)
		err := c.Pages(t.Context(), q, most+1+rnd.IntN(30), func(a *Answer) error {
			got = append(got, a.Entries...)
			return nil
		})
		if err != nil {
			t.Fatalf("%+v, at most %d at a time: %v", q, s.maxEntries, err)
		}
		want := slices.Clone(s.entries)
		if !q.Forward {
			slices.Reverse(want)
		}
		if q.Limit > 0 && q.Limit < len(want) {
			want = want[:q.Limit]
		}
		if diff := cmp.Diff(keys(want), keys(got)); diff != "" {
			t.Fatalf("%+v, at most %d at a time (-want +got):\n%s", q, s.maxEntries, diff)
		}
		if !slices.IsSortedFunc(got, func(a, b Entry) int {
			if q.Forward {
				a, b = b, a
			}
			return int(b.Timestamp - a.Timestamp)
		}) {
			t.Fatalf("%+v: out of order", q)
		}
	}
}

func mostAtOneTime(entries []Entry) int {
	count, most := map[int64]int{}, 0
	for _, e := range entries {
		count[e.Timestamp]++
		most = max(most, count[e.Timestamp])
	}
	return most
}

func TestPagesThatCannotGoOn(t *testing.T) {
	s := &fakeServer{maxEntries: 5}
	for i := range 20 {
		s.entries = append(s.entries, Entry{7, map[string]string{"s": strconv.Itoa(i)}, "x"})
	}
	err := newClient(t, s, nil).Pages(t.Context(), QueryRange{Query: "{}", Start: 0, End: 10}, 5, func(*Answer) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "share the timestamp 7") {
		t.Fatalf("got %v, want an error that names the timestamp", err)
	}
}

func TestRetries(t *testing.T) {
	for _, test := range []struct {
		name     string
		statuses []int // of the first answers; then 200
		retries  int
		attempts int
		fails    bool
	}{
		{"none by default", []int{503}, 0, 1, true},
		{"server errors", []int{500, 503}, 2, 3, false},
		{"too many requests", []int{429}, 1, 2, false},
		{"not what is wrong for good", []int{400}, 5, 1, true},
		{"not for ever", []int{500, 500, 500, 500}, 2, 3, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var attempts atomic.Int64
			c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n := int(attempts.Add(1))
				if n <= len(test.statuses) {
					http.Error(w, "no", test.statuses[n-1])
					return
				}
				writeStreams(w, nil)
			}), func(cfg *Config) { cfg.Retries = test.retries })
			_, err := c.Range(t.Context(), QueryRange{Query: "{}"})
			if (err != nil) != test.fails || int(attempts.Load()) != test.attempts {
				t.Errorf("got %d attempts and error %v, want %d, failure %v", attempts.Load(), err, test.attempts, test.fails)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	var got http.Header
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		writeStreams(w, nil)
	}), func(cfg *Config) {
		cfg.OrgID, cfg.QueryTags, cfg.NoCache, cfg.UserAgent = "team", "a=b", true, "skald/test"
		cfg.Username, cfg.Password, cfg.AuthHeader = "u", "p", "X-Auth"
		cfg.Headers = Strings{"X-One: 1 ", "X-Two:2"}
	})
	if _, err := c.Range(t.Context(), QueryRange{Query: "{}"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"X-Scope-OrgID": "team", "X-Query-Tags": "a=b", "Cache-Control": "no-cache", "User-Agent": "skald/test",
		"X-Auth": "Basic dTpw", "Authorization": "", "X-One": "1", "X-Two": "2", "Accept-Encoding": "",
	} {
		if got.Get(name) != want {
			t.Errorf("header %s is %q, want %q", name, got.Get(name), want)
		}
	}
}

func TestCanceledWhileWaiting(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusServiceUnavailable)
	}), func(cfg *Config) { cfg.Retries, cfg.MinBackoff = 3, 3600 })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := c.Range(ctx, QueryRange{Query: "{}"}); err != context.Canceled {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestDeletes(t *testing.T) {
	var line string
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line = r.Method + " " + r.URL.String()
		if r.Method == http.MethodGet {
			fmt.Fprint(w, `[{"request_id":"a1","start_time":1700000000,"end_time":1700003600.5,"query":"{a=\"b\"}","status":"received","created_at":1700009000.12,"user_id":""}]`)
			return
		}
		w.Header().Set("X-Delete-Request-ID", "a1")
		w.WriteHeader(http.StatusNoContent)
	}), nil)
	id, err := c.CreateDelete(t.Context(), Deletion{Query: "{}", Start: 1700000000e9 + 5, End: 1700003600e9, MaxInterval: time.Hour})
	if err != nil || id != "a1" {
		t.Errorf("got id %q, error %v", id, err)
	}
	if want := "POST /loki/api/v1/delete?end=1700003600&max_interval=1h0m0s&query=%7B%7D&start=1700000000"; line != want {
		t.Errorf("got %s, want %s", line, want)
	}
	list, err := c.ListDeletes(t.Context())
	want := []DeleteRequest{{ID: "a1", Query: `{a="b"}`, Status: "received", Start: 1700000000, End: 1700003600.5, Created: 1700009000.12}}
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Errorf("error %v, diff %s", err, diff)
	}
	if err := c.CancelDelete(t.Context(), "a1", true); err != nil || line != "DELETE /loki/api/v1/delete?force=true&request_id=a1" {
		t.Errorf("got %s, error %v", line, err)
	}
}
