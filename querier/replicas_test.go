package querier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
)

// cluster is ingesters that hold rows in memory and fail as they are told.
type cluster struct {
	replicas []Replica
	rows     []map[string]*model.Stream
	mu       sync.Mutex
	fail     map[string]string // by id: "refuse", "hang", "die" in the middle of a read
	tails    map[string]chan model.TailBatch
	asked    map[string]int
}

func newCluster(n int, zones ...string) *cluster {
	c := &cluster{fail: map[string]string{}, asked: map[string]int{}, tails: map[string]chan model.TailBatch{}}
	for i := range n {
		id := fmt.Sprintf("ing-%d", i)
		r := Replica{ID: id, Addr: "addr-" + id, Healthy: true}
		if len(zones) > 0 {
			r.Zone = zones[i%len(zones)]
		}
		c.replicas = append(c.replicas, r)
		c.rows = append(c.rows, map[string]*model.Stream{})
		c.tails[id] = make(chan model.TailBatch, 10)
	}
	return c
}

func (c *cluster) Ingesters(model.Tenant) []Replica { return slices.Clone(c.replicas) }

func (c *cluster) dial(r Replica) Holder {
	for i := range c.replicas {
		if c.replicas[i].ID == r.ID {
			return &fakeHolder{c, r, c.rows[i]}
		}
	}
	return nil
}

func (c *cluster) set(id, how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail[id] = how
}

type fakeHolder struct {
	c    *cluster
	r    Replica
	rows map[string]*model.Stream
}

// gone is the error of a process that cannot be reached.
type gone struct{ addr string }

func (g gone) Error() string    { return "connection refused" }
func (g gone) LostPeer() string { return g.addr }

func (h *fakeHolder) state(ctx context.Context) (string, error) {
	h.c.mu.Lock()
	how := h.c.fail[h.r.ID]
	h.c.asked[h.r.ID]++
	h.c.mu.Unlock()
	switch how {
	case "refuse":
		return how, fault.Wrap(fault.Unavailable, gone{h.r.Addr})
	case "hang":
		<-ctx.Done()
		return how, ctx.Err()
	}
	return how, nil
}

func (h *fakeHolder) Select(ctx context.Context, _ model.Tenant, req *model.Request) (*model.Selection, error) {
	how, err := h.state(ctx)
	if err != nil {
		return nil, err
	}
	sel, err := blocks.New(list(h.rows), blocks.Options{RowsPerBlock: 17, Lenient: true}).Select(ctx, req)
	if err != nil {
		return nil, err
	}
	for i := range sel.Parts {
		sel.Parts[i].Segment = ""
		for j, b := range sel.Parts[i].Blocks {
			if how == "die" {
				sel.Parts[i].Blocks[j] = dyingBlock{b, h.r.Addr}
			}
		}
	}
	return sel, nil
}

type dyingBlock struct {
	model.Block
	addr string
}

func (b dyingBlock) Times(context.Context) ([]int64, error) {
	return nil, fault.Wrap(fault.Unavailable, gone{b.addr})
}

func (h *fakeHolder) Series(ctx context.Context, _ model.Tenant, _ *model.Request) ([]model.Series, error) {
	if _, err := h.state(ctx); err != nil {
		return nil, err
	}
	var out []model.Series
	for _, s := range h.rows {
		out = append(out, model.Series{Labels: s.Labels, Entries: int64(len(s.Entries)), Blocks: 1})
	}
	slices.SortFunc(out, func(a, b model.Series) int { return labels.Compare(a.Labels, b.Labels) })
	return slices.CompactFunc(out, func(a, b model.Series) bool { return labels.Equal(a.Labels, b.Labels) }), nil
}

type fakeTail struct{ from chan model.TailBatch }

func (f fakeTail) Close() {}
func (f fakeTail) Next(ctx context.Context) (model.TailBatch, error) {
	select {
	case b, ok := <-f.from:
		if !ok {
			return b, errors.New("broken off")
		}
		return b, nil
	case <-ctx.Done():
		return model.TailBatch{}, ctx.Err()
	}
}

func (h *fakeHolder) Tail(ctx context.Context, _ model.Tenant, _ []*labels.Matcher) (model.Tail, error) {
	if _, err := h.state(ctx); err != nil {
		return nil, err
	}
	return fakeTail{h.c.tails[h.r.ID]}, nil
}

// fill gives every row to a quorum of three replicas, or to all three, in zones of their
// own when there are zones, and returns the rows.
func (c *cluster) fill(r *rand.Rand) map[string]bool {
	want := map[string]bool{}
	for range 400 {
		ls := labels.FromStrings("app", fmt.Sprint(r.IntN(5)))
		e := model.Entry{Timestamp: int64(r.IntN(100)), Line: fmt.Appendf(nil, "line %d", r.IntN(4))}
		want[fmt.Sprint(ls, e.Timestamp, model.RowHash(e.Line, e.Metadata))] = true
		var chosen []int
		zones := map[string]bool{}
		for _, i := range r.Perm(len(c.replicas)) {
			if z := c.replicas[i].Zone; len(chosen) < 3 && (z == "" || !zones[z] || len(c.replicas) < 6) {
				zones[z] = true
				chosen = append(chosen, i)
			}
		}
		for _, i := range chosen[:min(len(chosen), 2+r.IntN(2))] {
			addRow(c.rows[i], ls, e)
		}
	}
	return want
}

func clusterQuerier(t *testing.T, c *cluster, partial string) *Querier {
	t.Helper()
	cfg := Config{MaxConcurrent: 4, MaxOutstanding: 10, MaxMemory: 1 << 30, Partial: partial, TailMaxDuration: time.Hour, ReplicaWait: 20 * time.Millisecond}
	reg, quiet := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	g := NewIngesters(cfg, 3, c, c.dial, reg, quiet)
	return New(cfg, []Source{g}, g, limits.Static(limits.Defaults()), reg, quiet)
}

// TestReadsTolerateFailures reads everything while replicas fail in every way.
func TestReadsTolerateFailures(t *testing.T) {
	f := func(name string, n int, zones []string, fail map[string]string, partial string, complete bool) {
		t.Run(name, func(t *testing.T) {
			c := newCluster(n, zones...)
			want := c.fill(rand.New(rand.NewPCG(1, uint64(n))))
			for id, how := range fail {
				if how == "unhealthy" {
					how = "hang"
					i := slices.IndexFunc(c.replicas, func(r Replica) bool { return r.ID == id })
					c.replicas[i].Healthy = false
				}
				c.fail[id] = how
			}
			q := clusterQuerier(t, c, partial)
			var got map[string]int
			var warnings []string
			err := q.retry(t.Context(), func() error {
				stats := &model.Stats{}
				sel, err := q.Select(t.Context(), "t", &model.Request{Range: model.TimeRange{From: 0, Through: 1000}, Stats: stats})
				if err != nil {
					return err
				}
				defer sel.Release()
				for _, p := range sel.Parts {
					for _, b := range p.Blocks {
						if _, err := b.Times(t.Context()); err != nil {
							return err
						}
					}
				}
				got, warnings = liveRows(t, sel.Parts), sel.Warnings
				return nil
			})
			switch {
			case !complete && partial == partialFail:
				if fault.Of(err) != fault.Unavailable {
					t.Fatalf("got %v, want a refusal", err)
				}
				for id := range fail {
					if !strings.Contains(err.Error(), id) {
						t.Errorf("%q does not name %s", err, id)
					}
				}
				return
			case err != nil:
				t.Fatal(err)
			case !complete:
				if len(warnings) != 1 || !strings.Contains(warnings[0], "incomplete") {
					t.Errorf("warnings %q", warnings)
				}
				return
			}
			for k, n := range got {
				if n != 1 {
					t.Errorf("row %s is live %d times", k, n)
				}
			}
			if len(got) != len(want) || len(warnings) > 0 {
				t.Errorf("%d rows, want %d; warnings %q", len(got), len(want), warnings)
			}
			series, err := q.series(t.Context(), []model.Tenant{"t"}, &model.Request{Range: model.TimeRange{Through: 1000}})
			if err != nil || len(series) != 5 {
				t.Errorf("%d series, %v", len(series), err)
			}
		})
	}
	three := []string{"a", "b", "c"}
	f("all there", 3, nil, nil, partialFail, true)
	f("one refuses", 3, nil, map[string]string{"ing-1": "refuse"}, partialFail, true)
	f("one hangs", 5, nil, map[string]string{"ing-0": "hang"}, partialFail, true)
	f("one is unhealthy", 5, nil, map[string]string{"ing-0": "unhealthy"}, partialFail, true)
	f("one dies in the middle", 3, nil, map[string]string{"ing-2": "die"}, partialFail, true)
	f("two refuse", 5, nil, map[string]string{"ing-0": "refuse", "ing-1": "refuse"}, partialFail, false)
	f("two refuse, warned", 5, nil, map[string]string{"ing-0": "refuse", "ing-1": "refuse"}, partialWarn, false)
	f("a zone refuses", 6, three, map[string]string{"ing-0": "refuse", "ing-3": "hang"}, partialFail, true)
	f("parts of two zones refuse", 6, three, map[string]string{"ing-0": "refuse", "ing-1": "refuse"}, partialFail, false)
	f("zones too few to count", 4, []string{"a", "b"}, map[string]string{"ing-0": "refuse", "ing-2": "refuse"}, partialFail, false)
	f("a ring of which only one is seen", 1, nil, nil, partialFail, false)
	f("everyone refuses", 1, nil, map[string]string{"ing-0": "refuse"}, partialWarn, false)
}

// TestEveryAnswerWarns asks every endpoint while too many ingesters are away: with
// -querier.partial=warn each answers and says so, otherwise each refuses.
func TestEveryAnswerWarns(t *testing.T) {
	c := newCluster(5)
	c.fill(rand.New(rand.NewPCG(2, 2)))
	c.set("ing-0", "refuse")
	c.set("ing-1", "refuse")
	for _, partial := range []string{partialWarn, partialFail} {
		mux := http.NewServeMux()
		clusterQuerier(t, c, partial).Register(muxRouter{mux})
		const span = "start=0&end=1000"
		for _, path := range []string{
			"query?query=sum(count_over_time(%7Bapp%3D~%22.%2B%22%7D%5B1h%5D))&time=1000", "query_range?query=%7Bapp%3D~%22.%2B%22%7D%7Ctrace_id%3D%22x%22&" + span,
			"labels?" + span, "label/app/values?" + span, "series?" + span, "series?match[]=%7Bapp%3D%221%22%7D&" + span,
			"index/stats?query=%7Bapp%3D~%22.%2B%22%7D&" + span, "index/volume?query=%7Bapp%3D~%22.%2B%22%7D&" + span,
			"index/volume_range?query=%7Bapp%3D~%22.%2B%22%7D&" + span, "index/shards?query=%7Bapp%3D~%22.%2B%22%7D&targetBytesPerShard=1MB&" + span,
			"patterns?query=%7Bapp%3D~%22.%2B%22%7D&" + span, "detected_labels?" + span,
			"detected_fields?query=%7Bapp%3D~%22.%2B%22%7D&" + span, "detected_field/x/values?query=%7Bapp%3D~%22.%2B%22%7D&" + span,
			"/api/prom/query?query=%7Bapp%3D~%22.%2B%22%7D&" + span, "/api/prom/label?" + span, "/api/prom/label/none/values?" + span,
		} {
			if !strings.HasPrefix(path, "/") {
				path = "/loki/api/v1/" + path
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			var answer struct{ Warnings []string }
			switch {
			case partial == partialFail:
				if w.Code != http.StatusServiceUnavailable {
					t.Errorf("%s: %d %s, want 503", path, w.Code, w.Body)
				}
			case w.Code != http.StatusOK || json.Unmarshal(w.Body.Bytes(), &answer) != nil:
				t.Errorf("%s: %d %s, want an answer in JSON", path, w.Code, w.Body)
			case len(answer.Warnings) != 1 || !strings.Contains(answer.Warnings[0], "ing-0"):
				t.Errorf("%s: warnings %q in %s", path, answer.Warnings, w.Body)
			}
		}
	}
}

// TestPatternsBeginAgain has an ingester die while its lines are read.
func TestPatternsBeginAgain(t *testing.T) {
	c := newCluster(3)
	want := c.fill(rand.New(rand.NewPCG(3, 3)))
	c.set("ing-2", "die")
	mux := http.NewServeMux()
	clusterQuerier(t, c, partialFail).Register(muxRouter{mux})
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/loki/api/v1/patterns?query=%7Bapp%3D~%22.%2B%22%7D&start=0&end=1000", nil))
	var answer struct {
		Data []struct{ Samples [][2]int }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s %v", w.Code, w.Body, err)
	}
	total := 0
	for _, p := range answer.Data {
		for _, s := range p.Samples {
			total += s[1]
		}
	}
	if total != len(want) {
		t.Errorf("patterns count %d lines, want %d", total, len(want))
	}
}

// TestTailsMergeReplicas sends every row by two or three replicas, one of which breaks off.
func TestTailsMergeReplicas(t *testing.T) {
	c := newCluster(3)
	q := clusterQuerier(t, c, partialFail)
	tail, err := q.tailer.Tail(t.Context(), "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	const rows = 5000
	go func() {
		r := rand.New(rand.NewPCG(9, 9))
		var wg sync.WaitGroup
		for i := range 3 {
			sent := make([]bool, rows)
			for n := range sent {
				// Row n is on replicas n%3 and (n+1)%3, and on the third now and then.
				sent[n] = i != (n+2)%3 || r.IntN(2) == 0
			}
			wg.Go(func() {
				for n := 0; n < rows; n++ {
					if sent[n] {
						c.tails[c.replicas[i].ID] <- model.TailBatch{Streams: []model.Stream{lines("a", int64(n), "row")}, DroppedMore: n % 2}
					}
					if i == 1 && n == 1000 {
						close(c.tails["ing-1"]) // and it does not come back
						return
					}
				}
			})
		}
		c.set("ing-1", "")
		wg.Wait()
	}()
	seen := map[int64]int{}
	for len(seen) < rows {
		b, err := tail.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range b.Streams {
			for _, e := range s.Entries {
				if seen[e.Timestamp]++; seen[e.Timestamp] > 1 {
					t.Fatalf("row %d came twice", e.Timestamp)
				}
			}
		}
	}
}

// TestTailsWarn tails while too many ingesters are away: the first frame says so, and so does
// a subscription that stays without them.
func TestTailsWarn(t *testing.T) {
	c := newCluster(3)
	c.fill(rand.New(rand.NewPCG(2, 2)))
	c.set("ing-0", "refuse")
	c.set("ing-1", "refuse")
	mux := http.NewServeMux()
	clusterQuerier(t, c, partialWarn).Register(muxRouter{mux})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for _, path := range []string{"/loki/api/v1/tail", "/api/prom/tail"} {
		conn, _, err := websocket.Dial(t.Context(), strings.Replace(srv.URL, "http", "ws", 1)+path+"?query=%7Bapp%3D%22none%22%7D", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, text, err := conn.Read(t.Context())
		var first struct{ Warnings []string }
		if err != nil || json.Unmarshal(text, &first) != nil || len(first.Warnings) != 1 || !strings.Contains(first.Warnings[0], "so rows may be missing") {
			t.Errorf("%s begins with %s %v, want the warning of the read before", path, text, err)
		}
		_ = conn.CloseNow()
	}

	synctest.Test(t, func(t *testing.T) {
		c := newCluster(3)
		c.set("ing-0", "refuse")
		c.set("ing-1", "refuse")
		tail, err := clusterQuerier(t, c, partialWarn).tailer.Tail(t.Context(), "t", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tail.Close()
		b, err := tail.Next(t.Context())
		if err != nil || len(b.Warnings) != 1 || !strings.Contains(b.Warnings[0], "ing-0, ing-1") {
			t.Errorf("got %v %v, want a warning", b, err)
		}
		wait, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if b, err := tail.Next(wait); err == nil {
			t.Errorf("then came %v; one warning is enough", b)
		}
	})
}
