package pipeline

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sys/unix"

	"github.com/skaldlog/skald/logql/syntax"
)

// block is a batch of lines, as storage hands them out.
type block struct {
	buf     []byte
	offsets []uint32
}

func (b *block) add(line string) {
	if len(b.offsets) == 0 {
		b.offsets = append(b.offsets, 0)
	}
	b.buf = append(b.buf, line...)
	b.offsets = append(b.offsets, uint32(len(b.buf)))
}

func (b *block) rows() int           { return len(b.offsets) - 1 }
func (b *block) line(row int) []byte { return b.buf[b.offsets[row]:b.offsets[row+1]] }
func (b *block) all(sel []uint32) []uint32 {
	sel = sel[:0]
	for i := range b.rows() {
		sel = append(sel, uint32(i))
	}
	return sel
}

// logs makes about a megabyte of one kind of log.
func logs(kind string) *block {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	b := &block{}
	for len(b.buf) < 1<<20 {
		path := pick("/api/v1/orders", "/api/v1/customers/8812", "/static/app.js", "/healthz", "/checkout/payment")
		status := pick("200", "200", "200", "200", "201", "204", "304", "404", "500", "503")
		level := pick("info", "info", "info", "debug", "warn", "error")
		id := fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64())
		ms := rnd.IntN(90000)
		ip := fmt.Sprintf("10.%d.%d.%d", rnd.IntN(4), rnd.IntN(256), rnd.IntN(256))
		at := fmt.Sprintf("2026-01-15T10:%02d:%02d.%03dZ", rnd.IntN(60), rnd.IntN(60), rnd.IntN(1000))
		switch kind {
		case "json":
			b.add(fmt.Sprintf(`{"time":"%s","level":"%s","msg":"request finished","method":"%s","path":"%s","status":%s,"duration_ms":%d.%d,"trace_id":"%s","client":{"ip":"%s","agent":"Mozilla/5.0 (X11; Linux x86_64)"},"bytes":%d}`,
				at, level, pick("GET", "POST", "PUT"), path, status, ms/1000, ms%1000, id, ip, rnd.IntN(1<<20)))
		case "logfmt":
			b.add(fmt.Sprintf(`ts=%s level=%s caller=http.go:%d msg="request finished" method=%s path=%s status=%s duration=%d.%dms traceID=%s ip=%s bytes=%d`,
				at, level, rnd.IntN(400), pick("GET", "POST", "PUT"), path, status, ms/1000, ms%1000, id, ip, rnd.IntN(1<<20)))
		case "access":
			b.add(fmt.Sprintf(`%s - - [15/Jan/2026:10:%02d:%02d +0000] "%s %s HTTP/1.1" %s %d "https://shop.example.com/" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"`,
				ip, rnd.IntN(60), rnd.IntN(60), pick("GET", "POST"), path, status, rnd.IntN(1<<20)))
		}
	}
	return b
}

// BenchmarkPipeline measures whole queries over log text, in bytes of lines, the leading
// filters by block and the rest by row.
func BenchmarkPipeline(b *testing.B) {
	for _, bm := range []struct{ name, kind, query string }{
		{"contains/rare", "logfmt", `|= "deadbeefcafe"`},
		{"contains/common", "logfmt", `|= "level=error"`},
		{"not contains", "logfmt", `!= "level=info"`},
		{"regexp/fold literal", "logfmt", `|~ "(?i)LEVEL=ERROR"`},
		{"regexp/literal", "logfmt", `|~ "level=error.*status=50"`},
		{"regexp/rare literal", "logfmt", `|~ "caller=http.go:17 .*POST"`},
		{"regexp/alternatives", "logfmt", `|~ "status=(500|503|504) "`},
		{"regexp/no literal", "logfmt", `|~ "[a-f]{6}[0-9]{4}[a-f]"`},
		{"pattern filter", "access", `|> "<_> - - <_> \"POST <_> HTTP/1.1\" 500 <_>"`},
		{"ip", "access", `|= ip("10.1.2.0/24")`},
		{"json/number", "json", `| json | status >= 500`},
		{"json/string", "json", `| json | level="error"`},
		{"json/late", "json", `| json | bytes > 1000000`},
		{"json/all", "json", `| json`},
		{"json/expr", "json", `| json s="status", ip="client.ip" | s="500"`},
		{"logfmt/string", "logfmt", `| logfmt | level="error"`},
		{"logfmt/number", "logfmt", `| logfmt | status >= 500`},
		{"logfmt/duration", "logfmt", `| logfmt | duration > 80ms`},
		{"logfmt/all", "logfmt", `| logfmt`},
		{"pattern/number", "access", "| pattern `<ip> - - <_> \"<method> <path> <_>\" <status> <size> <_>` | status >= 500"},
		{"regexp parser", "access", "| regexp `\"(?P<method>\\S+) (?P<path>\\S+) \\S+\" (?P<status>\\d+)` | status=\"500\""},
		{"line_format/field", "logfmt", `| logfmt | line_format "{{.msg}}"`},
		{"line_format", "logfmt", `| logfmt | line_format "{{.method}} {{.path | upper}} {{.status}}"`},
		{"label_format", "logfmt", `| logfmt | label_format class="{{ trunc 1 .status }}xx"`},
	} {
		b.Run(bm.name, func(b *testing.B) {
			blk := logs(bm.kind)
			e, err := syntax.ParseLog(`{app="x"} ` + bm.query)
			if err != nil {
				b.Fatal(err)
			}
			p, err := New(e.Stages, Options{})
			if err != nil {
				b.Fatal(err)
			}
			runBlock(b, p, blk, func(*Labels) {})
		})
	}
}

// BenchmarkSamples measures metric queries, with the grouping that aggregations ask for.
func BenchmarkSamples(b *testing.B) {
	for _, bm := range []struct{ name, kind, query string }{
		{"json/by status", "json", `sum by (status) (rate({app="x"} | json [1m]))`},
		{"logfmt/by level", "logfmt", `sum by (level) (count_over_time({app="x"} | logfmt [1m]))`},
		{"logfmt/unwrap", "logfmt", `quantile_over_time(0.99, {app="x"} | logfmt | unwrap duration(duration) [1m]) by (path)`},
		{"json/unwrap", "json", `sum by (path) (sum_over_time({app="x"} | json | unwrap bytes [1m]))`},
		{"json/nothing", "json", `sum(count_over_time({app="x"} | json [1m]))`},
	} {
		b.Run(bm.name, func(b *testing.B) {
			blk := logs(bm.kind)
			e, err := syntax.Parse(bm.query)
			if err != nil {
				b.Fatal(err)
			}
			var outer *syntax.Grouping
			if v, ok := e.(*syntax.VectorAgg); ok {
				if outer = v.Grouping; outer == nil {
					outer = &syntax.Grouping{}
				}
			}
			agg := syntax.RangeAggs(e)[0]
			p, err := New(agg.Range.Log.Stages, Options{Sample: SampleFor(agg, outer)})
			if err != nil {
				b.Fatal(err)
			}
			runBlock(b, p, blk, func(l *Labels) { l.Group().Slot++ })
		})
	}
}

func runBlock(b *testing.B, p *Pipeline, blk *block, use func(*Labels)) {
	s := p.ForStream(labels.FromStrings("app", "x", "env", "prod"), 1)
	md := []labels.Label{{Name: "detected_level", Value: "info"}}
	var sel []uint32
	kept := 0
	b.SetBytes(int64(len(blk.buf)))
	b.ReportAllocs()
	cpu := cpuTime()
	for b.Loop() {
		sel = p.FilterBatch(blk.buf, blk.offsets, blk.all(sel))
		for _, i := range sel {
			if _, l, ok := s.ProcessRest(1, blk.line(int(i)), md); ok {
				kept++
				use(l)
			}
		}
	}
	// On a machine that others use as well, processor time says more than the clock.
	b.ReportMetric(float64(len(blk.buf))*float64(b.N)/1e6/(cpuTime()-cpu).Seconds(), "MB/cpu-s")
	b.ReportMetric(float64(kept)/float64(b.N)/float64(blk.rows()), "kept/row")
}

// cpuTime is the processor time that the process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
