package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// light is a query as a person sends it: the newest lines with a word.
func light(now time.Time) url.Values {
	return url.Values{
		"query": {`{app="app-1"} |= "done"`}, "limit": {"100"},
		"start": {fmt.Sprint(now.Add(-10 * time.Minute).UnixNano())}, "end": {fmt.Sprint(now.UnixNano())},
	}
}

// TestGreedyTenant has one tenant send ten times what it may: eighty heavy queries at a time
// where eight may run, and ten times its rate of lines. Another asks and pushes a little now
// and then. Times beside the greedy tenant and without it are taken in turn.
func TestGreedyTenant(t *testing.T) {
	if !full() {
		t.Skip("SKALD_FULL=1 runs it")
	}
	const rate = 4 // MB/s that a tenant may push
	c := newCluster(t, nil, []int{1}, "-auth.enabled=true", "-replication.factor=1", "-querier.max-concurrent=8",
		"-limits.max_query_series=100000", fmt.Sprint("-limits.ingestion_rate_mb=", rate), "-limits.ingestion_burst_size_mb=6")
	one := c.start("skald", 1)
	one.client.Transport = &http.Transport{MaxIdleConnsPerHost: 256}
	c.ready(one)
	now := time.Now()
	spread(t, one, "greedy", 300_000, time.Hour)
	spread(t, one, "modest", 60_000, time.Hour)

	modest := &modestTenant{t: t, server: one.server, now: now}
	modest.measure(50) // caches fill
	var queries, pushes []float64
	for range 3 {
		alone := modest.measure(200)
		g := startGreed(one.server, now, rate)
		eventually(t, "the greedy tenant's queries run", func() bool { return one.metric("skald_querier_waiting_queries", "") > 10 })
		beside := modest.measure(200)
		g.stop()
		queries = append(queries, beside.queries.over(alone.queries))
		pushes = append(pushes, beside.pushes.over(alone.pushes))
		t.Logf("queries %s alone, %s beside: %.2f times; pushes %s alone, %s beside: %.2f times; greedy: %d heavy queries, %d refused, %d pushes, %d refused",
			alone.queries, beside.queries, queries[len(queries)-1], alone.pushes, beside.pushes, pushes[len(pushes)-1],
			g.done.Load(), g.refused.Load(), g.pushed.Load(), g.limited.Load())
		// On a machine with other work a ratio says more about that work; the bound is what a
		// query that waits for heavy ones would break, since these take seconds.
		if most := 2*alone.queries.p99 + 500*time.Millisecond; beside.queries.p99 > most {
			t.Errorf("p99 of queries rose from %s to %s", ms(alone.queries.p99), ms(beside.queries.p99))
		}
	}
	slices.Sort(queries)
	slices.Sort(pushes)
	t.Logf("p99 beside the greedy tenant over p99 alone, median of three: queries %.2f, pushes %.2f", queries[1], pushes[1])
}

// tookTimes are the times that many like requests took.
type tookTimes struct{ p50, p99 time.Duration }

func timesOf(took []time.Duration) tookTimes {
	slices.Sort(took)
	return tookTimes{took[len(took)/2], took[len(took)*99/100]}
}

func (t tookTimes) String() string {
	return fmt.Sprintf("p50 %.1f, p99 %.1f ms", t.p50.Seconds()*1e3, t.p99.Seconds()*1e3)
}

func (t tookTimes) over(base tookTimes) float64 { return float64(t.p99) / float64(base.p99) }

type modestTenant struct {
	t      *testing.T
	server *server
	now    time.Time
	pushed int
}

type modestTimes struct{ queries, pushes tookTimes }

// measure asks and pushes n times each, with pauses.
func (m *modestTenant) measure(n int) modestTimes {
	m.t.Helper()
	var asked, pushed []time.Duration
	for range n {
		status, answer, took, err := m.server.ask(m.t.Context(), "modest", "/loki/api/v1/query_range", light(m.now))
		if err != nil || status != http.StatusOK {
			m.t.Fatalf("%d %.200s %v", status, answer, err)
		}
		asked = append(asked, took)
		stream := numbered("modest", m.now.UnixNano(), m.pushed, m.pushed+20)
		m.pushed += 20
		began := time.Now()
		if status, answer, err := m.server.pushAs("modest", stream); err != nil || status != http.StatusNoContent {
			m.t.Fatalf("%d %.200s %v", status, answer, err)
		}
		pushed = append(pushed, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	return modestTimes{timesOf(asked), timesOf(pushed)}
}

// greed is the work of the greedy tenant.
type greed struct {
	cancel                         context.CancelFunc
	wg                             sync.WaitGroup
	done, refused, pushed, limited atomic.Int64
}

func (g *greed) stop() {
	g.cancel()
	g.wg.Wait()
}

// startGreed sends heavy queries without end, and ten times a rate of lines in MB/s.
func startGreed(s *server, now time.Time, rate int) *greed {
	g := &greed{}
	var ctx context.Context
	ctx, g.cancel = context.WithCancel(context.Background())
	for range 80 {
		g.wg.Go(func() {
			for ctx.Err() == nil {
				status, _, _, err := s.ask(ctx, "greedy", "/loki/api/v1/query_range", heavy(now, time.Hour))
				switch {
				case err != nil:
				case status == http.StatusTooManyRequests:
					g.refused.Add(1)
					time.Sleep(50 * time.Millisecond)
				default:
					g.done.Add(1)
				}
			}
		})
	}
	bodies := make([][]byte, 16)
	for i := range bodies {
		bodies[i] = appendOverload(nil, 0, i*linesPerOverload, time.Now())
	}
	tick := time.NewTicker(time.Second * time.Duration(len(bodies[0])) / time.Duration(10*rate<<20))
	header := http.Header{"Content-Type": {"application/json"}, "X-Scope-Orgid": {"greedy"}}
	g.wg.Go(func() {
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			<-tick.C
			g.wg.Go(func() {
				switch status, _, err := s.do(http.MethodPost, "/loki/api/v1/push", header.Clone(), bodies[n%len(bodies)]); {
				case err != nil:
				case status == http.StatusTooManyRequests:
					g.limited.Add(1)
				default:
					g.pushed.Add(1)
				}
			})
		}
	})
	return g
}
