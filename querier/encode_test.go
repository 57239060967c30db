package querier

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

func FuzzAppendLine(f *testing.F) {
	for _, s := range []string{"", "plain", `a"b\c`, "tab\tnl\nnul\x00", "<a&b>", "\u2028\u2029", "\xff\xc3(", "日本\U0001F600", "plain and then long \"q\" <b> é\x1f\x7f end of it"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// encoding/json replaces each invalid byte by U+FFFD, and so do we.
		want := strings.Map(func(r rune) rune { return r }, s)
		for _, enc := range [][]byte{appendLine(nil, []byte(s)), appendString(nil, []byte(s)), appendString(nil, s)} {
			var got string
			if err := json.Unmarshal(enc, &got); err != nil {
				t.Fatalf("%q: %v in %s", s, err, enc)
			}
			if got != want {
				t.Fatalf("%q came back as %q", s, got)
			}
		}
		if enc := appendLine(nil, []byte(s)); strings.ContainsAny(string(enc), "<>&\u2028\u2029") {
			t.Fatalf("%s is not escaped for HTML", enc)
		}
	})
}

func TestAppendValue(t *testing.T) {
	expect := func(v float64, want string) {
		t.Helper()
		if got := string(appendValue(nil, v)); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
	expect(0, `"0"`)
	expect(0.1, `"0.1"`)
	expect(1e21, `"1000000000000000000000"`)
	expect(math.NaN(), `"NaN"`)
	expect(math.Inf(1), `"+Inf"`)
	expect(math.Inf(-1), `"-Inf"`)
}

// TestGrafanaCanReadTheStream checks what Grafana's decoder insists on: encodingFlags
// before result, and exactly three elements in every entry.
func TestGrafanaCanReadTheStream(t *testing.T) {
	res := &engine.Result{Type: "streams", Warnings: []string{"w"}, Streams: []scan.Stream{{
		Labels: labels.FromStrings("a", "1", "k", "v"), StreamLabels: labels.FromStrings("a", "1"),
		Entries: []scan.Entry{{Timestamp: 2, Line: []byte("x")}, {Timestamp: 1, Line: []byte("y"), Metadata: labels.FromStrings("k", "v"), Parsed: labels.FromStrings("p", "q")}},
	}}}
	got := string(appendResult(nil, res, encoding{flags: []string{"categorize-labels"}, categorize: true}))
	want := `{"status":"success","warnings":["w"],"data":{"resultType":"streams","encodingFlags":["categorize-labels"],"result":[` +
		`{"stream":{"a":"1"},"values":[["2","x",{}],["1","y",{"structuredMetadata":{"k":"v"},"parsed":{"p":"q"}}]]}],"stats":{"summary":`
	if !strings.HasPrefix(got, want) {
		t.Errorf("got  %s\nwant %s…", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Errorf("not valid JSON: %s", got)
	}
	got = string(appendResult(nil, &engine.Result{Type: "vector"}, encoding{flags: []string{"categorize-labels"}, categorize: true}))
	if strings.Contains(got, "encodingFlags") {
		t.Errorf("flags of samples: %s", got)
	}
}

func BenchmarkEncodePage(b *testing.B) {
	res := &engine.Result{Type: "streams"}
	var raw int64
	for i := range 50 {
		s := scan.Stream{Labels: labels.FromStrings("app", "checkout", "pod", fmt.Sprint(i)), StreamLabels: labels.FromStrings("app", "checkout")}
		for j := range 100 {
			line := fmt.Appendf(nil, `{"level":"info","msg":"request completed","path":"/api/v1/orders/%d","status":200,"trace":"4bf92f3577b34da6a3ce929d0e0e4736"}`, j)
			raw += int64(len(line))
			s.Entries = append(s.Entries, scan.Entry{Timestamp: int64(i*100 + j), Line: line, Metadata: labels.FromStrings("detected_level", "info")})
		}
		res.Streams = append(res.Streams, s)
	}
	b.ReportAllocs()
	b.SetBytes(raw)
	var buf []byte
	for b.Loop() {
		buf = appendResult(buf[:0], res, encoding{categorize: true})
	}
}

// BenchmarkAppendPage prints a page of 5 000 lines as Grafana asks for it; bytes are those
// of the answer.
func BenchmarkAppendPage(b *testing.B) {
	for _, kind := range []string{"metadata", "parsed", "escapes"} {
		b.Run(kind, func(b *testing.B) {
			res := &engine.Result{Type: "streams", Streams: page(kind)}
			o := encoding{flags: []string{"categorize-labels"}, categorize: true}
			buf := appendResult(nil, res, o)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				buf = appendResult(buf[:0], res, o)
			}
			b.ReportMetric(float64(b.N*len(buf))/1e6/(cpuTime()-before).Seconds(), "MB/cpu-s")
		})
	}
}

// cpuTime is what this process has used: on a busy machine it says more than the clock.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// page is an answer of 5 000 lines of 20 streams, where every label set of metadata or
// parsed labels is a stream of its own, as the engine gives it.
func page(kind string) []scan.Stream {
	var out []scan.Stream
	for i := range 5000 {
		stream := labels.FromStrings("app", "shop", "namespace", "prod", "pod", fmt.Sprint("shop-", i%20), "service_name", "shop")
		e := scan.Entry{
			Timestamp: 1700000000000000000 + int64(i)*1e6,
			Line:      fmt.Appendf(nil, `ts=2024-01-02T10:00:00.%03dZ level=info caller=handler.go:117 msg="request handled" path=/api/v1/orders/%d status=200 took=%dms`, i%1000, i, i%331),
			Metadata:  labels.FromStrings("detected_level", "info", "trace_id", fmt.Sprintf("%032x", i)),
		}
		switch kind {
		case "parsed":
			e.Parsed = labels.FromStrings("caller", "handler.go:117", "level", "info", "msg", "request handled", "path", fmt.Sprint("/api/v1/orders/", i), "status", "200")
		case "escapes":
			e.Line = fmt.Appendf(nil, `{"ts":"2024-01-02T10:00:00.%03dZ","level":"info","msg":"<request> & \"answer\"","path":"/api/v1/orders/%d","é":"日本"}`, i%1000, i)
		}
		all := labels.NewBuilder(stream)
		e.Metadata.Range(func(l labels.Label) { all.Set(l.Name, l.Value) })
		e.Parsed.Range(func(l labels.Label) { all.Set(l.Name, l.Value) })
		out = append(out, scan.Stream{Labels: all.Labels(), StreamLabels: stream, Entries: []scan.Entry{e}})
	}
	return out
}
