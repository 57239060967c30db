package querier

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

func FuzzAppendLine(f *testing.F) {
	for _, s := range []string{"", "plain", `a"b\c`, "tab\tnl\nnul\x00", "<a&b>", "\u2028\u2029", "\xff\xc3(", "日本\U0001F600"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// encoding/json replaces each invalid byte by U+FFFD, and so do we.
		want := strings.Map(func(r rune) rune { return r }, s)
		for _, enc := range [][]byte{appendLine(nil, []byte(s)), appendLine(nil, s), appendString(nil, s)} {
			var got string
			if err := json.Unmarshal(enc, &got); err != nil {
				t.Fatalf("%q: %v in %s", s, err, enc)
			}
			if got != want {
				t.Fatalf("%q came back as %q", s, got)
			}
		}
		if enc := appendLine(nil, s); strings.ContainsAny(string(enc), "<>&\u2028\u2029") {
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
