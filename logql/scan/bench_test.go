package scan_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// bench is a day of 20 streams with 100 000 lines each, logfmt and JSON by halves, in
// blocks of 16 Ki rows with a level as metadata.
var bench = sync.OnceValue(func() *blocks.Source {
	rnd := rand.New(rand.NewPCG(1, 2))
	levels := []string{"info", "info", "info", "info", "warn", "error", "debug", "unknown"}
	var streams []model.Stream
	for i := range 20 {
		s := model.Stream{Labels: labels.FromStrings("app", fmt.Sprint("app", i), "format", []string{"logfmt", "json"}[i%2])}
		for n := range 100_000 {
			level := levels[rnd.IntN(len(levels))]
			line := fmt.Appendf(nil, `level=%s ts=2026-01-15T10:%02d:%02dZ caller=server.go:%d msg="request served" method=GET path=/api/v1/items/%d status=%d duration=%dms`,
				level, n/60%60, n%60, n%997, rnd.IntN(5000), 200+rnd.IntN(4)*100, rnd.IntN(2000))
			if i%2 == 1 {
				line = fmt.Appendf(nil, `{"level":"%s","ts":"2026-01-15T10:%02d:%02dZ","caller":"server.go:%d","msg":"request served","http":{"method":"GET","path":"/api/v1/items/%d"},"status":%d,"duration":%d}`,
					level, n/60%60, n%60, n%997, rnd.IntN(5000), 200+rnd.IntN(4)*100, rnd.IntN(2000))
			}
			s.Entries = append(s.Entries, model.Entry{
				Timestamp: int64(n)*864e6 + rnd.Int64N(864e6), Line: line, Metadata: labels.FromStrings("detected_level", level),
			})
		}
		streams = append(streams, s)
	}
	return blocks.New(streams, blocks.Options{RowsPerBlock: 16 << 10, Lenient: true})
})

// benchRange measures a range aggregation over the whole day: rows and raw bytes a second.
func benchRange(b *testing.B, query string, step time.Duration, grouping *syntax.Grouping) {
	b.Helper()
	src, agg := bench(), parseRange(b, query)
	g := scan.Grid{Start: int64(step), End: int64(24 * time.Hour), Step: int64(step)}
	stats := &model.Stats{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := scan.Range(b.Context(), src, agg, g, scan.Options{Grouping: grouping, Stats: stats}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(stats.BytesScanned.Load() / int64(b.N))
	b.ReportMetric(float64(stats.RowsScanned.Load())/b.Elapsed().Seconds()/1e6, "Mrows/s")
}

func by(names ...string) *syntax.Grouping { return &syntax.Grouping{Labels: names} }

func BenchmarkCount(b *testing.B) {
	benchRange(b, `count_over_time({app=~".+"}[5m])`, 5*time.Minute, by("app"))
}

func BenchmarkCountOverlapping(b *testing.B) {
	benchRange(b, `count_over_time({app=~".+"}[1h])`, time.Minute, by("app"))
}

func BenchmarkCountByMetadata(b *testing.B) {
	benchRange(b, `count_over_time({app=~".+"}[2m])`, 2*time.Minute, by("detected_level"))
}

func BenchmarkBytes(b *testing.B) {
	benchRange(b, `bytes_over_time({app=~".+"}[1h])`, time.Hour, by("app"))
}

func BenchmarkFilterRare(b *testing.B) {
	benchRange(b, `rate({app=~".+"} |= "items/4999" [5m])`, 5*time.Minute, by("app"))
}

func BenchmarkFilterCommon(b *testing.B) {
	benchRange(b, `rate({app=~".+"} |= "error" [5m])`, 5*time.Minute, by("app"))
}

func BenchmarkLogfmt(b *testing.B) {
	benchRange(b, `count_over_time({format="logfmt"} | logfmt | level="error" [15m])`, 15*time.Minute, by("caller"))
}

func BenchmarkJSON(b *testing.B) {
	benchRange(b, `rate({format="json"} | json [1m])`, 5*time.Minute, by("status"))
}

func BenchmarkQuantile(b *testing.B) {
	benchRange(b, `quantile_over_time(0.99, {format="json"} | json | unwrap duration [1h]) by (app)`, time.Hour, nil)
}

func BenchmarkAverage(b *testing.B) {
	benchRange(b, `avg_over_time({format="json"} | json | unwrap duration [5m]) by (app)`, 5*time.Minute, nil)
}

func benchLogs(b *testing.B, query string, limit int) {
	b.Helper()
	src, expr := bench(), parseLog(b, query)
	b.ReportAllocs()
	for b.Loop() {
		q := scan.LogsQuery{Range: model.TimeRange{Through: int64(24 * time.Hour)}, Limit: limit}
		if _, err := scan.Logs(b.Context(), src, expr, q, scan.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewest100(b *testing.B)    { benchLogs(b, `{app="app3"}`, 100) }
func BenchmarkNewest1000(b *testing.B)   { benchLogs(b, `{app=~".+"}`, 1000) }
func BenchmarkNewestErrors(b *testing.B) { benchLogs(b, `{app=~".+"} |= "error"`, 100) }
func BenchmarkNewestJSON5xx(b *testing.B) {
	benchLogs(b, `{format="json"} | json | status >= 500`, 100)
}
func BenchmarkRareOldLine(b *testing.B) {
	benchLogs(b, `{app=~".+"} |= "server.go:996" |= "items/77 "`, 100)
}
func BenchmarkNothingThere(b *testing.B) { benchLogs(b, `{app=~".+"} |= "nothing like it"`, 100) }
func BenchmarkNewestInterval(b *testing.B) {
	expr := parseLog(b, `{app=~".+"} |= "error"`)
	for b.Loop() {
		q := scan.LogsQuery{Range: model.TimeRange{Through: int64(24 * time.Hour)}, Limit: 100, Interval: time.Minute}
		if _, err := scan.Logs(b.Context(), bench(), expr, q, scan.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
