package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// spread pushes lines of about a hundred bytes, evenly over some time before now.
func spread(t *testing.T, m *member, tenant string, lines int, over time.Duration) {
	t.Helper()
	const batch = 2000
	began := time.Now().Add(-over)
	for from := 0; from < lines; from += batch {
		streams := make([]pushStream, 4)
		for i := range streams {
			streams[i].Stream = map[string]string{"app": fmt.Sprint("app-", i)}
		}
		for n := from; n < min(from+batch, lines); n++ {
			ts := began.Add(over / time.Duration(lines) * time.Duration(n)).UnixNano()
			s := &streams[n%len(streams)]
			s.Values = append(s.Values, pushEntry{ts: ts, line: fmt.Sprintf(`{"n":%d,"status":%d,"path":"/api/v1/items/%d","msg":"request done in %d ms"}`, n, 200+n%7*50, n%1000, n%331)})
		}
		eventually(t, "a push", func() bool {
			status, _, err := m.pushAs(tenant, streams...)
			return err == nil && status == http.StatusNoContent
		})
	}
}

// pushAs is push for a tenant.
func (s *server) pushAs(tenant string, streams ...pushStream) (int, []byte, error) {
	body, err := json.Marshal(map[string]any{"streams": streams})
	if err != nil {
		return 0, nil, err
	}
	return s.do(http.MethodPost, "/loki/api/v1/push", http.Header{"Content-Type": {"application/json"}, "X-Scope-OrgID": {tenant}}, body)
}

// ask runs a query and returns the status, the answer and how long it took.
func (s *server) ask(ctx context.Context, tenant, path string, params url.Values) (int, string, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path+"?"+params.Encode(), nil)
	if err != nil {
		return 0, "", 0, err
	}
	req.Header.Set("X-Scope-OrgID", tenant)
	began := time.Now()
	res, err := s.client.Do(req)
	if err != nil {
		return 0, "", 0, err
	}
	defer func() { _ = res.Body.Close() }()
	var body strings.Builder
	buf := make([]byte, 32<<10)
	for {
		n, err := res.Body.Read(buf)
		body.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return res.StatusCode, body.String(), time.Since(began), nil
}

// heavy is a query that reads every line with a parser.
func heavy(now time.Time, over time.Duration) url.Values {
	return url.Values{
		"query": {`sum by (path) (rate({app=~".+"} | json | status >= 300 | msg =~ ".*[13579] ms.*" [5m]))`},
		"start": {fmt.Sprint(now.Add(-over).UnixNano())}, "end": {fmt.Sprint(now.UnixNano())}, "step": {"60"},
	}
}

// TestQueriersShareAndStop runs a heavy query over three processes: it is shared, its
// answer is that of one process, and when its client leaves, all work ends at once.
func TestQueriersShareAndStop(t *testing.T) {
	c := newCluster(t, nil, []int{1, 2, 3}, "-auth.enabled=true", "-limits.max_query_series=100000")
	one, two, three := c.start("skald", 1), c.start("skald", 2), c.start("skald", 3)
	members := []*member{one, two, three}
	c.ready(members...)
	c.allSee(members...)
	lines := 60_000
	if full() {
		lines = 600_000
	}
	now := time.Now()
	spread(t, one, "a", lines, 3*time.Hour)

	status, answer, took, err := one.ask(t.Context(), "a", "/loki/api/v1/query_range", heavy(now, 3*time.Hour))
	if err != nil || status != http.StatusOK {
		t.Fatalf("%d %.300s %v", status, answer, err)
	}
	if strings.Contains(answer, `"splits":1,`) {
		t.Error("the query was not shared")
	}
	_, again, _, err := two.ask(t.Context(), "a", "/loki/api/v1/query_range", heavy(now, 3*time.Hour))
	cut := func(s string) string { before, _, _ := strings.Cut(s, `"stats"`); return before }
	if err != nil || cut(answer) != cut(again) {
		t.Errorf("two members answer differently (%v): %.200s and %.200s", err, answer, again)
	}
	t.Logf("heavy query over %d lines: %s", lines, took.Round(time.Millisecond))

	// The client leaves in the middle.
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, _, _, err := one.ask(ctx, "a", "/loki/api/v1/query_range", heavy(now, 3*time.Hour))
		left <- err
	}()
	busy := func() (n float64) {
		for _, m := range members {
			n += m.metric("skald_querier_running_queries", "") + m.metric("skald_querier_running_slices", "") + m.metric("skald_querier_reading_blocks", "")
		}
		return n
	}
	for busy() == 0 && len(left) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-left; err == nil {
		t.Skip("the query was done before its client could leave")
	}
	gone := time.Now()
	eventually(t, "all work has stopped", func() bool { return busy() == 0 })
	t.Logf("all work had stopped %s after the client left (three scrapes of metrics included)", time.Since(gone).Round(time.Millisecond))
}
