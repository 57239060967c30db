package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpu is the processor time that the process has used, to the nanosecond.
func (p *process) cpu() time.Duration {
	p.t.Helper()
	// The clock of a process: its number, inverted, and the kind of clock in the lowest bits.
	const sched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|sched), &ts); err != nil {
		p.t.Fatalf("the processor time of %s: %v", p.name, err)
	}
	return time.Duration(ts.Nano())
}

// TestWorkStopsWithTheClient runs long queries over three processes, of which two evaluate
// slices and three hold rows, and has the client leave in the middle. What all of them
// together still compute is told by their clocks, which do not run while others keep the
// machine busy: 100 ms of both cores, and what they need when idle.
func TestWorkStopsWithTheClient(t *testing.T) {
	if !full() {
		t.Skip("SKALD_FULL=1 runs it")
	}
	c := newCluster(t, nil, []int{1, 2, 11}, "-auth.enabled=true", "-limits.max_query_series=100000")
	doors := []*member{c.start("door", 1, "-target=distributor,querier"), c.start("door", 2, "-target=distributor,querier")}
	members := append([]*member{c.start("ingester", 11, "-target=ingester"), c.start("ingester", 12, "-target=ingester"), c.start("ingester", 13, "-target=ingester")}, doors...)
	c.ready(members...)
	c.allSee(members...)
	now := time.Now()
	const over = 3 * time.Hour
	spread(t, doors[0], "a", 1_000_000, over)
	total := func() (sum time.Duration) {
		for _, m := range members {
			sum += m.cpu()
		}
		return sum
	}
	span := func(query string) url.Values {
		return url.Values{"query": {query}, "start": {fmt.Sprint(now.Add(-over).UnixNano())}, "end": {fmt.Sprint(now.UnixNano())}, "step": {"60"}, "limit": {"1000"}}
	}
	const watched = 2 * time.Second
	for _, q := range []struct {
		name, path string
		params     url.Values
	}{
		{"metric", "query_range", heavy(now, over)},
		{"samples kept", "query_range", span(`quantile_over_time(0.9, {app=~".+"} | json | unwrap n [5m]) by (path)`)},
		{"log without a match", "query_range", span(`{app=~".+"} | json | msg =~ ".*x[a-z]x.*"`)},
		{"instant", "query", url.Values{"query": {`sum by (path) (count_over_time({app=~".+"} | json | msg =~ ".*[13579] ms.*" [3h]))`}, "time": {fmt.Sprint(now.UnixNano())}}},
		{"patterns", "patterns", span(`{app=~".+"}`)},
		{"volume", "index/volume_range", span(`{app=~".+"}`)},
	} {
		path := "/loki/api/v1/" + q.path
		before := total()
		status, answer, whole, err := doors[0].ask(t.Context(), "a", path, q.params)
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %.200s %v", q.name, status, answer, err)
		}
		needs := total() - before
		time.Sleep(time.Second) // the collector may be at it still
		before = total()
		time.Sleep(watched)
		idle := total() - before

		ctx, cancel := context.WithTimeout(t.Context(), whole/3)
		before = total()
		_, _, _, err = doors[0].ask(ctx, "a", path, q.params)
		cancel()
		if err == nil {
			t.Logf("%-20s was done before its client could leave", q.name)
			continue
		}
		left, used, stopped := time.Now(), total(), time.Duration(0)
		at := used
		for time.Since(left) < watched {
			time.Sleep(10 * time.Millisecond)
			if n := total(); n-at > 2*time.Millisecond { // in 10 ms; more than idling
				at, stopped = n, time.Since(left)
			} else {
				at = n
			}
		}
		after := total() - used
		t.Logf("%-20s needs %s of CPU; its client left after %s of it; then %s in %s (idle: %s), the last work seen %s after",
			q.name, ms(needs), ms(used-before), ms(after), watched, ms(idle), ms(stopped))
		if most := 2*100*time.Millisecond + 2*idle; after > most {
			t.Errorf("%s: %s of CPU after the client had left, want at most %s", q.name, ms(after), ms(most))
		}
	}
}
