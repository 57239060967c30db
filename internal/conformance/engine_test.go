package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promodel "github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/distributor"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

// TestEngine runs the queries of the set against the engine alone, over blocks in
// memory. Requests that a server refuses before it looks at the query are left to the
// test over HTTP.
//
// SKALD_CONFORMANCE=ID runs cases whose id starts so, quirks too.
func TestEngine(t *testing.T) {
	cases, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	source := blocks.New(derived(t), blocks.Options{RowsPerBlock: 700, Parts: 2})
	only := os.Getenv("SKALD_CONFORMANCE")
	type score struct{ passed, all int }
	scores := map[string]*score{}
	for i := range cases {
		c := &cases[i]
		p, runs := engineParams(t, c)
		if !runs || !strings.HasPrefix(c.ID, only) || only == "" && c.Quirk() {
			continue
		}
		s := scores[c.Category]
		if s == nil {
			s = &score{}
			scores[c.Category] = s
		}
		s.all++
		t.Run(c.ID, func(t *testing.T) {
			status, body := ask(t, source, c, p)
			if err := c.Check(status, body); err != nil {
				if reason, ok := excluded[c.ID]; ok {
					t.Skip(reason)
				}
				t.Fatalf("%s (%s)\n%s\n%v", c.Param("query"), c.Description, c.ID, err)
			}
			s.passed++
		})
	}
	for category, s := range scores {
		t.Logf("%-26s %4d of %4d", category, s.passed, s.all)
	}
	if n := source.Open.Load(); n != 0 {
		t.Errorf("%d blocks were not released", n)
	}
}

// excluded are cases that Skald answers differently on purpose, with the reason.
var excluded = map[string]string{}

// pusher collects what a distributor passes on.
type pusher struct{ streams []model.Stream }

func (p *pusher) Push(_ context.Context, _ model.Tenant, streams []model.Stream) error {
	for _, s := range streams {
		out := model.Stream{Labels: s.Labels}
		for _, e := range s.Entries {
			e.Line = bytes.Clone(e.Line)
			out.Entries = append(out.Entries, e)
		}
		p.streams = append(p.streams, out)
	}
	return nil
}

// derived is the corpus as the distributor completes it.
func derived(t *testing.T) []model.Stream {
	t.Helper()
	corpus, err := Corpus()
	if err != nil {
		t.Fatal(err)
	}
	lim := limits.Defaults()
	lim.RejectOldSamples = false
	lim.IngestionRateMB, lim.IngestionBurstSizeMB = 1000, 1000
	var out pusher
	d := distributor.New(distributor.Config{
		MaxReceivedBytes: 1 << 30, MaxDecompressedBytes: 1 << 30, MaxInflightBytes: 1 << 30, LabelCacheBytes: 1 << 20,
	}, &out, limits.Static(lim), prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	for _, s := range corpus {
		if err := d.Push(t.Context(), model.DefaultTenant, []model.Stream{s}); err != nil {
			t.Fatal(err)
		}
	}
	return out.streams
}

// engineParams turns a request into parameters; runs is false for requests that do not
// reach the engine.
func engineParams(t *testing.T, c *Case) (p engine.Params, runs bool) {
	t.Helper()
	if c.Category == "errors_params" || c.Category == "errors_push" || c.Method == "POST" && c.Body != nil {
		return p, false
	}
	p = engine.Params{Query: c.Param("query"), Limit: 100, Forward: strings.EqualFold(c.Param("direction"), "forward")}
	if v := c.Param("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		p.Limit = n
	}
	switch c.Path {
	case "/loki/api/v1/query":
		p.Instant = true
		p.End = timeOf(t, c.Param("time"))
	case "/loki/api/v1/query_range":
		p.End = timeOf(t, c.Param("end"))
		p.Start = p.End - int64(time.Hour)
		if v := c.Param("since"); v != "" {
			p.Start = p.End - int64(durationOf(t, v))
		}
		if v := c.Param("start"); v != "" {
			p.Start = timeOf(t, v)
		}
		p.Step = max(time.Duration(p.End-p.Start)/250, time.Second).Truncate(time.Second)
		if v := c.Param("step"); v != "" {
			p.Step = durationOf(t, v)
		}
		if v := c.Param("interval"); v != "" {
			p.Interval = durationOf(t, v)
		}
	default:
		return p, false
	}
	return p, true
}

func timeOf(t *testing.T, v string) int64 {
	t.Helper()
	if v == "" {
		return time.Now().UnixNano()
	}
	if strings.Contains(v, ".") {
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return int64(f*1000+0.5) * 1e6
		}
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		if len(v) <= 10 {
			return n * 1e9
		}
		return n
	}
	at, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		t.Fatal(err)
	}
	return at.UnixNano()
}

func durationOf(t *testing.T, v string) time.Duration {
	t.Helper()
	if f, err := strconv.ParseFloat(v, 64); err == nil {
		return time.Duration(f * 1e9)
	}
	d, err := promodel.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(d)
}

// ask evaluates the query and encodes the answer as the API does.
func ask(t *testing.T, source scan.Selector, c *Case, p engine.Params) (int, []byte) {
	t.Helper()
	res, err := engine.New(engine.Options{}).Query(t.Context(), source, engine.Limits{
		MaxSeries: 500, MaxEntries: 5000, MaxResolution: 11000, MaxLength: 721 * time.Hour, Timeout: time.Minute,
	}, p)
	if err != nil {
		return fault.HTTPStatus(err), []byte(err.Error())
	}
	data := map[string]any{"resultType": res.Type}
	switch res.Type {
	case "streams":
		categorize := c.Headers["X-Loki-Response-Encoding-Flags"] == "categorize-labels"
		if categorize {
			data["encodingFlags"] = []string{"categorize-labels"}
		}
		var list []any
		for _, s := range res.Streams {
			list = append(list, encodeStream(s, categorize))
		}
		data["result"] = list
	case "scalar":
		data["result"] = encodePoint(res.Scalar)
	default:
		var list []any
		for _, s := range res.Series {
			one := map[string]any{"metric": s.Labels.Map()}
			var points []any
			for _, p := range s.Points {
				points = append(points, encodePoint(p))
			}
			if res.Type == "vector" {
				if len(points) != 1 {
					t.Fatal(errors.New("a vector's series must have one point"))
				}
				one["value"] = points[0]
			} else {
				one["values"] = points
			}
			list = append(list, one)
		}
		data["result"] = list
	}
	body, err := json.Marshal(map[string]any{"status": "success", "data": data})
	if err != nil {
		t.Fatal(err)
	}
	return 200, body
}

func encodePoint(p engine.Point) []any {
	return []any{float64(p.T) / 1000, strconv.FormatFloat(p.V, 'f', -1, 64)}
}

func encodeStream(s scan.Stream, categorize bool) map[string]any {
	var values []any
	for _, e := range s.Entries {
		v := []any{strconv.FormatInt(e.Timestamp, 10), string(e.Line)}
		if categorize {
			extra := map[string]any{}
			if !e.Metadata.IsEmpty() {
				extra["structuredMetadata"] = e.Metadata.Map()
			}
			if !e.Parsed.IsEmpty() {
				extra["parsed"] = e.Parsed.Map()
			}
			v = append(v, extra)
		}
		values = append(values, v)
	}
	shown := s.Labels
	if categorize {
		shown = labels.NewBuilder(s.StreamLabels).Labels()
	}
	return map[string]any{"stream": shown.Map(), "values": values}
}
