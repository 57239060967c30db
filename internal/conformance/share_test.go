package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
	"github.com/skaldlog/skald/internal/testkit/blocks"
	"github.com/skaldlog/skald/querier"
)

// held is a Source over blocks in memory.
type held struct{ *blocks.Source }

func (h held) Select(ctx context.Context, _ model.Tenant, req *model.Request) (*model.Selection, error) {
	return h.Source.Select(ctx, req)
}

func (h held) Series(ctx context.Context, _ model.Tenant, req *model.Request) ([]model.Series, error) {
	sel, err := h.Source.Select(ctx, req)
	if err != nil {
		return nil, err
	}
	defer sel.Release()
	found := map[string]model.Series{}
	for _, p := range sel.Parts {
		for _, b := range p.Blocks {
			for _, run := range b.Runs() {
				found[run.Labels.String()] = model.Series{Labels: run.Labels}
			}
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// team is queriers that share their work.
type team struct {
	urls []string
	mu   sync.Mutex
	all  []querier.Peer
	down map[string]bool // by address: the connection is refused
}

type seat struct {
	*team
	id string
}

func (s seat) Queriers(key string) []querier.Peer {
	s.mu.Lock()
	list := slices.Clone(s.all)
	s.mu.Unlock()
	weight := func(p querier.Peer) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(key + p.ID))
		return h.Sum64() * 0x9e3779b97f4a7c15
	}
	slices.SortFunc(list, func(a, b querier.Peer) int {
		if weight(a) < weight(b) {
			return -1
		}
		return 1
	})
	for i := range list {
		list[i].Self = list[i].ID == s.id
	}
	return list
}

// newTeam starts n queriers over the source.
func newTeam(t *testing.T, src querier.Source, n int) *team {
	t.Helper()
	tm := &team{down: map[string]bool{}}
	for i := range n {
		cfg := querier.Config{MaxConcurrent: 16, MaxOutstanding: 16, MaxMemory: 1 << 30, Partial: "fail"}
		lim := limits.Defaults()
		q := querier.New(cfg, []querier.Source{src}, nil, limits.Static(lim), prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(grpc.ForceServerCodecV2(rpc.Codec()))
		q.RegisterGRPC(s)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		id := fmt.Sprint("querier-", i)
		tm.all = append(tm.all, querier.Peer{ID: id, Addr: l.Addr().String()})
		conns := map[string]*grpc.ClientConn{}
		var mu sync.Mutex
		q.UsePeers(seat{tm, id}, func(addr string) (grpc.ClientConnInterface, error) {
			tm.mu.Lock()
			down := tm.down[addr]
			tm.mu.Unlock()
			if down {
				addr = "127.0.0.1:1"
			}
			mu.Lock()
			defer mu.Unlock()
			if conns[addr] == nil {
				c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec())))
				if err != nil {
					return nil, err
				}
				conns[addr] = c
				t.Cleanup(func() { _ = c.Close() })
			}
			return conns[addr], nil
		})
		mux := http.NewServeMux()
		q.Register(router{mux})
		srv := httptest.NewServer(mux)
		t.Cleanup(srv.Close)
		tm.urls = append(tm.urls, srv.URL)
	}
	return tm
}

type router struct{ *http.ServeMux }

func (r router) Handle(pattern string, h http.Handler, _ ...string) { r.ServeMux.Handle(pattern, h) }

// answer is what a server says, and how many slices it took.
type answer struct {
	Status int
	Text   string
	Body   any
	slices int
}

func get(t *testing.T, target string, header map[string]string) (a answer) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	a.Status = res.StatusCode
	if json.Unmarshal(text.Bytes(), &a.Body) != nil {
		a.Text = text.String()
		return a
	}
	if body, ok := a.Body.(map[string]any); ok {
		if data, ok := body["data"].(map[string]any); ok {
			stats, _ := data["stats"].(map[string]any)
			summary, _ := stats["summary"].(map[string]any)
			splits, _ := summary["splits"].(float64)
			a.slices = int(splits)
			delete(data, "stats")
		}
	}
	return a
}

// sums of floats may differ in their last digits, because they are added in another order.
var nearly = []cmp.Option{
	cmpopts.IgnoreUnexported(answer{}),
	cmp.FilterValues(func(a, b string) bool {
		x, errX := strconv.ParseFloat(a, 64)
		y, errY := strconv.ParseFloat(b, 64)
		return a != b && errX == nil && errY == nil && strings.ContainsAny(a+b, ".e") && math.Abs(x-y) <= 1e-9*math.Max(math.Abs(x), math.Abs(y))
	}, cmp.Comparer(func(string, string) bool { return true })),
}

// TestSameAnswersFromSeveralQueriers asks one querier and three that share their work: all
// queries of the set, and random variations of time, limit and direction.
func TestSameAnswersFromSeveralQueriers(t *testing.T) {
	src := blocks.New(derived(t), blocks.Options{RowsPerBlock: 700, Parts: 2})
	one, three := newTeam(t, held{src}, 1), newTeam(t, held{src}, 3)
	cases, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(11, 12))
	shared, asked := 0, 0
	check := func(id string, path string, params url.Values, header map[string]string) {
		t.Helper()
		want := get(t, one.urls[0]+path+"?"+params.Encode(), header)
		got := get(t, three.urls[rng.IntN(3)]+path+"?"+params.Encode(), header)
		if strings.Contains(want.Text, "pipeline error") {
			// Which of several rows with errors is named depends on who meets one first.
			want.Text, got.Text = want.Text[:20], got.Text[:min(20, len(got.Text))]
		}
		if diff := cmp.Diff(want, got, nearly...); diff != "" {
			t.Errorf("%s: %s\n%v\n(-one +three)\n%s", id, params.Get("query"), params, diff)
		}
		asked++
		if got.slices > 1 {
			shared++
		}
	}
	for i := range cases {
		c := &cases[i]
		p, runs := engineParams(t, c)
		if !runs || c.Method == http.MethodPost {
			continue
		}
		params := url.Values{}
		for k, v := range c.Params {
			params[k] = v
		}
		check(c.ID, c.Path, params, c.Headers)
		if c.Path != "/loki/api/v1/query_range" || p.End <= p.Start || p.End-p.Start > 1e18 || testing.Short() && i%4 > 0 {
			continue
		}
		// The same over some hours around, with other limits.
		span := p.End - p.Start + rng.Int64N(int64(6*3600e9))
		params.Set("start", fmt.Sprint(p.End-span))
		params.Set("end", fmt.Sprint(p.End+rng.Int64N(int64(3600e9))))
		params.Del("since")
		params.Set("step", fmt.Sprint(1+rng.IntN(600)))
		params.Set("limit", fmt.Sprint(1+rng.IntN(1000)))
		params.Set("direction", []string{"forward", "backward"}[rng.IntN(2)])
		check(c.ID+" varied", c.Path, params, c.Headers)
	}
	t.Logf("%d queries, %d of them shared", asked, shared)
	if shared < asked/10 {
		t.Errorf("only %d of %d queries were shared", shared, asked)
	}
	if n := src.Open.Load(); n != 0 {
		t.Errorf("%d blocks were not released", n)
	}
	// One querier after the other goes, and nobody notices.
	three.mu.Lock()
	three.down[three.all[1].Addr], three.down[three.all[2].Addr] = true, true
	three.mu.Unlock()
	asked, shared = 0, 0
	for i := 0; i < len(cases); i += 25 {
		c := &cases[i]
		if _, runs := engineParams(t, c); runs && c.Method != http.MethodPost {
			params := url.Values{}
			for k, v := range c.Params {
				params[k] = v
			}
			want := get(t, one.urls[0]+c.Path+"?"+params.Encode(), c.Headers)
			got := get(t, three.urls[0]+c.Path+"?"+params.Encode(), c.Headers)
			if diff := cmp.Diff(want, got, nearly...); diff != "" && !strings.Contains(want.Text, "pipeline error") {
				t.Errorf("%s with two queriers down (-one +three)\n%s", c.ID, diff)
			}
		}
	}
}
