package querier

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
)

// get returns the status and body of an endpoint's answer.
func (r *tailRig) get(path string, params ...string) (int, string) {
	r.t.Helper()
	v := url.Values{}
	for i := 0; i < len(params); i += 2 {
		v.Add(params[i], params[i+1])
	}
	res, err := http.Get(r.url + path + "?" + v.Encode())
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestPatternsEndpoint(t *testing.T) {
	r := newTailRig(t)
	base := time.Now().Add(-time.Hour).Truncate(time.Minute)
	info, failed := lines("shop", base.UnixNano()), lines("shop", base.UnixNano())
	for i := range 6 {
		at := base.Add(time.Duration(i) * 10 * time.Second).UnixNano()
		info.Entries = append(info.Entries, model.Entry{
			Timestamp: at, Line: fmt.Appendf(nil, "<order> %d placed", i), Metadata: labels.FromStrings("detected_level", "info"),
		})
		failed.Entries = append(failed.Entries, model.Entry{
			Timestamp: at + 1, Line: fmt.Appendf(nil, "no stock for %d", i*7), Metadata: labels.FromStrings("detected_level", "error"),
		})
	}
	r.push(info, failed, lines("other", base.UnixNano(), "not asked for"))
	start, end := fmt.Sprint(base.UnixNano()), fmt.Sprint(base.Add(time.Minute).UnixNano())
	ask := func(query string) string {
		code, body := r.get("/loki/api/v1/patterns", "query", query, "start", start, "end", end, "step", "30s")
		if code != http.StatusOK {
			t.Fatalf("%d %s", code, body)
		}
		return body
	}
	t0 := base.Unix()
	placed := fmt.Sprintf(`{"pattern":"\u003c\u003c_\u003e\u003e \u003c_\u003e placed","level":"info","samples":[[%d,3],[%d,3]]}`, t0, t0+30)
	stock := fmt.Sprintf(`{"pattern":"no stock for \u003c_\u003e","level":"error","samples":[[%d,3],[%d,3]]}`, t0, t0+30)
	for query, want := range map[string]string{
		`{app="shop"}`:                          placed + "," + stock,
		`{app="shop"} |= "stock"`:               stock,
		`{app="shop"} | detected_level="info"`:  placed,
		`{app="nobody"}`:                        "",
		`{__aggregated_metric__="shop"}`:        "",
		`{app="shop"} |> "<<_>> <_> placed"`:    placed,
		`{app="shop"} !> "no stock for <_>"`:    placed,
		`{app="shop"} | line_format "n 1"`:      fmt.Sprintf(`{"pattern":"n 1","level":"error","samples":[[%d,3],[%d,3]]},{"pattern":"n 1","level":"info","samples":[[%[1]d,3],[%[2]d,3]]}`, t0, t0+30),
		`{app="shop"} | detected_level="trace"`: "",
	} {
		if diff := cmp.Diff(`{"status":"success","data":[`+want+"]}\n", ask(query)); diff != "" {
			t.Errorf("%s\n%s", query, diff)
		}
	}
	for query, want := range map[string]string{"": "parse error", `{`: "parse error", `rate({app="shop"}[1m])`: "only log selector"} {
		if code, body := r.get("/loki/api/v1/patterns", "query", query); code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want an error about %s", query, code, body, want)
		}
	}
}

func TestPatternsObeyLimits(t *testing.T) {
	r := newTailRig(t, func(l *limits.Limits) {
		l.MaxQueryLength, l.RequiredLabels = limits.Duration(time.Hour), []string{"app"}
	})
	for want, params := range map[string][]string{
		"the query time range exceeds the limit":               {"query", `{app="a"}`, "since", "2h"},
		"stream selector is missing required matchers [app]":   {"query", `{pod="a"}`},
		"end timestamp must not be before or equal":            {"query", `{app="a"}`, "start", "20", "end", "10"},
		"exceeded maximum resolution of 11,000 points per tim": {"query", `{app="a"}`, "step", "1ms"},
	} {
		if code, body := r.get("/loki/api/v1/patterns", params...); code != http.StatusBadRequest || !strings.HasPrefix(body, want) {
			t.Errorf("%v: %d %s, want %s", params, code, body, want)
		}
	}
}

func TestShardsCoverAllStreams(t *testing.T) {
	r := newTailRig(t)
	now := time.Now().UnixNano()
	for i := range 40 {
		r.push(lines(fmt.Sprint("app", i), now, strings.Repeat("x", 1000)))
	}
	code, body := r.get("/loki/api/v1/index/shards", "query", `{app=~".+"}`, "targetBytesPerShard", "4KB")
	var got struct {
		Shards []struct {
			Bounds struct{ Min, Max uint64 }
			Stats  struct{ Streams, Chunks, Bytes, Entries int64 }
		}
		Statistics  map[string]any
		ChunkGroups []any
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK {
		t.Fatalf("%d %v %s", code, err, body)
	}
	var next uint64
	var streams, bytes int64
	for _, s := range got.Shards {
		if s.Bounds.Min != next {
			t.Errorf("a gap before %d", s.Bounds.Min)
		}
		next = s.Bounds.Max + 1
		streams, bytes = streams+s.Stats.Streams, bytes+s.Stats.Bytes
	}
	if next != 0 || streams != 40 || bytes != 40_000 || len(got.Shards) != 8 || got.Statistics["summary"] == nil || got.ChunkGroups == nil {
		t.Errorf("%d shards with %d streams, %d bytes up to %d", len(got.Shards), streams, bytes, next-1)
	}
	for _, target := range []string{"", "0", "x"} {
		if code, body := r.get("/loki/api/v1/index/shards", "query", `{app=~".+"}`, "targetBytesPerShard", target); code != http.StatusBadRequest || body != "targetBytesPerShard must be a positive value" {
			t.Errorf("%q: %d %s", target, code, body)
		}
	}
}

func TestApproxTopKNeedsItsLimit(t *testing.T) {
	query := []string{"query", `approx_topk(1, sum by (app) (count_over_time({app=~".+"}[5m])))`}
	if code, body := newTailRig(t).get("/loki/api/v1/query", query...); code != http.StatusInternalServerError || body != "approx_topk is not enabled. See -limits.shard_aggregations" {
		t.Errorf("%d %s", code, body)
	}
	r := newTailRig(t, func(l *limits.Limits) { l.ShardAggregations = []string{"approx_topk"} })
	r.push(lines("a", time.Now().UnixNano(), "1", "2"), lines("b", time.Now().UnixNano(), "1"))
	if code, body := r.get("/loki/api/v1/query", query...); code != http.StatusOK || !strings.Contains(body, `"metric":{"app":"a"}`) || strings.Contains(body, `"app":"b"`) {
		t.Errorf("%d %s", code, body)
	}
}
