package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
// and then, and its p99 must stay within twice of what it is without the first. Times beside
// the greedy tenant and without it are taken in turn. The two have a process each, so what it
// costs to send the load shares the machine's cores with all else, but is not in the way of
// the requests that are measured.
func TestGreedyTenant(t *testing.T) {
	if !full() {
		t.Skip("SKALD_FULL=1 runs it")
	}
	const rate = 4 // MB/s that a tenant may push
	c := newCluster(t, nil, []int{1}, "-auth.enabled=true", "-replication.factor=1", "-querier.max-concurrent=8",
		"-limits.max_query_series=100000", fmt.Sprint("-limits.ingestion_rate_mb=", rate), "-limits.ingestion_burst_size_mb=6")
	one := c.start("skald", 1)
	c.ready(one)
	now := time.Now()
	spread(t, one, "greedy", 300_000, time.Hour)
	spread(t, one, "modest", 60_000, time.Hour)

	modest := &modestTenant{t: t, server: one.server, now: now}
	modest.measure(50) // caches fill
	others := newStrangers(t, one.process)
	var alone, beside modestTimes
	for range 3 {
		a := modest.measure(300)
		g := startGreed(t, greedSpec{URL: one.url, Tenant: "greedy", Queries: 80, Rate: 10 * rate, Now: now.UnixNano()})
		eventually(t, "the greedy tenant's queries run", func() bool { return one.metric("skald_querier_waiting_queries", "") > 10 })
		b := modest.measure(300)
		t.Logf("beside: %+v", g.stop())
		alone.add(a)
		beside.add(b)
	}
	queries := timesOf(beside.queries).over(timesOf(alone.queries))
	pushes := timesOf(beside.pushes).over(timesOf(alone.pushes))
	t.Logf("queries: alone %s; beside %s; p99 %.2f times", timesOf(alone.queries), timesOf(beside.queries), queries)
	t.Logf("pushes: alone %s; beside %s; p99 %.2f times", timesOf(alone.pushes), timesOf(beside.pushes), pushes)
	part := others.part()
	t.Logf("other processes had %.2f of the cores", part)
	// Whoever else is on the machine makes p99 what it is, alone and beside.
	if part < 0.05 && max(queries, pushes) > 2 {
		t.Errorf("beside the greedy tenant p99 rose to %.2f times for queries and %.2f for pushes; expected at most 2", queries, pushes)
	}
	// Heavy queries take seconds, so this is what waiting for one would break.
	if most := 2*timesOf(alone.queries).p99 + 500*time.Millisecond; timesOf(beside.queries).p99 > most {
		t.Errorf("p99 of queries is %s beside the greedy tenant; expected at most %s", ms(timesOf(beside.queries).p99), ms(most))
	}
}

// tookTimes are the times that many like requests took.
type tookTimes struct{ p50, p90, p99 time.Duration }

func timesOf(took []time.Duration) tookTimes {
	took = slices.Sorted(slices.Values(took))
	at := func(percent int) time.Duration { return took[len(took)*percent/100] }
	return tookTimes{at(50), at(90), at(99)}
}

func (t tookTimes) String() string {
	return fmt.Sprintf("p50 %.1f, p90 %.1f, p99 %.1f ms", t.p50.Seconds()*1e3, t.p90.Seconds()*1e3, t.p99.Seconds()*1e3)
}

func (t tookTimes) over(base tookTimes) float64 { return float64(t.p99) / float64(base.p99) }

type modestTenant struct {
	t      *testing.T
	server *server
	now    time.Time
	pushed int
}

type modestTimes struct{ queries, pushes []time.Duration }

func (m *modestTimes) add(o modestTimes) {
	m.queries = append(m.queries, o.queries...)
	m.pushes = append(m.pushes, o.pushes...)
}

// measure asks and pushes n times each, with pauses.
func (m *modestTenant) measure(n int) (took modestTimes) {
	m.t.Helper()
	header := http.Header{"Content-Type": {"application/json"}, "X-Scope-Orgid": {"modest"}}
	for range n {
		status, answer, asked, err := m.server.ask(m.t.Context(), "modest", "/loki/api/v1/query_range", light(m.now))
		if err != nil || status != http.StatusOK {
			m.t.Fatalf("%d %.200s %v", status, answer, err)
		}
		took.queries = append(took.queries, asked)
		body, err := json.Marshal(map[string]any{"streams": []pushStream{numbered("modest", m.now.UnixNano(), m.pushed, m.pushed+20)}})
		if err != nil {
			m.t.Fatal(err)
		}
		m.pushed += 20
		time.Sleep(5 * time.Millisecond)
		began := time.Now()
		if status, answer, err := m.server.do(http.MethodPost, "/loki/api/v1/push", header.Clone(), body); err != nil || status != http.StatusNoContent {
			m.t.Fatalf("%d %.200s %v", status, answer, err)
		}
		took.pushes = append(took.pushes, time.Since(began))
		time.Sleep(15 * time.Millisecond)
	}
	return took
}

// strangers are all processes but a server, this one and its children.
type strangers struct {
	t      testing.TB
	server *process
	began  time.Time
	before time.Duration // of CPU that they had
}

func newStrangers(t testing.TB, server *process) *strangers {
	s := &strangers{t: t, server: server, began: time.Now()}
	s.before = s.used()
	return s
}

// part returns what part of the machine they have used. Children that still run count in.
func (s *strangers) part() float64 {
	s.t.Helper()
	return (s.used() - s.before).Seconds() / time.Since(s.began).Seconds() / float64(runtime.NumCPU())
}

func (s *strangers) used() (cpu time.Duration) {
	s.t.Helper()
	const tick = time.Second / 100 // of /proc
	ticks := func(path string, fields ...int) (sum time.Duration) {
		text, err := os.ReadFile(path)
		if err != nil {
			s.t.Skipf("this system does not say what its processes use: %v", err)
		}
		_, after, found := strings.Cut(string(text), ") ") // behind the name of a process
		if !found {
			after = string(text)
		}
		for _, i := range fields {
			n, err := strconv.Atoi(strings.Fields(after)[i])
			if err != nil {
				s.t.Fatalf("%s: %v", path, err)
			}
			sum += time.Duration(n) * tick
		}
		return sum
	}
	cpu = ticks("/proc/stat", 1, 2, 3, 8) // user, nice, system, steal
	cpu -= ticks(filepath.Join("/proc", strconv.Itoa(s.server.cmd.Process.Pid), "stat"), 11, 12)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			s.t.Fatal(err)
		}
		cpu -= time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return cpu
}
