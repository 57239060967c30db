package stage

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/agent/clock"
)

var testNow = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// held counts the holds of an origin.
type held struct{ n *int }

func (h held) Retain()            { *h.n++ }
func (h held) Release()           { *h.n-- }
func (h held) Covers(Origin) bool { return true }

// collect is the end of a pipeline under test; it copies what it sees.
type collect struct{ out []string }

func (c *collect) Process(e *Entry) {
	s := fmt.Sprintf("%s %s %q", time.Unix(0, e.Timestamp).UTC().Format(time.RFC3339Nano), e.Labels.all, e.Line)
	for _, m := range e.Metadata {
		s += fmt.Sprintf(" %s=%s", m.Name, m.Value)
	}
	c.out = append(c.out, s)
	e.releaseHeld()
}

func build(tb testing.TB, stages string, env Env) *Program {
	tb.Helper()
	var nodes []yaml.Node
	if err := yaml.Unmarshal([]byte(stages), &nodes); err != nil {
		tb.Fatal(err)
	}
	env.Now = func() int64 { return testNow.UnixNano() }
	env.Clock = env.Now
	p, err := Build(nodes, env)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// run sends lines, a second apart, through stages.
func run(t *testing.T, stages string, lines ...string) []string {
	t.Helper()
	var sink collect
	p := build(t, stages, Env{}).New(labels.FromStrings("job", "j"), &sink, Options{})
	holds := 0
	for i, l := range lines {
		// The buffer is overwritten after each line, as the reader's is.
		buf := []byte(l)
		p.Line(buf, testNow.Add(time.Duration(i)*time.Second).UnixNano(), held{&holds})
		for k := range buf {
			buf[k] = '!'
		}
	}
	p.Flush(0, true)
	if holds != 0 || p.Pending() {
		t.Errorf("%d origins are still held, pending %v", holds, p.Pending())
	}
	return sink.out
}

func TestStages(t *testing.T) {
	const t0, t1, t2 = "2024-05-01T12:00:00Z", "2024-05-01T12:00:01Z", "2024-05-01T12:00:02Z"
	for _, c := range []struct {
		name, stages string
		lines, want  []string
	}{
		{"nothing", `[]`, []string{"a"}, []string{t0 + ` {job="j"} "a"`}},
		{"cri", `[{cri: {}}]`,
			[]string{"2024-01-01T00:00:00.5Z stdout F hello", "2024-01-01T01:00:00+01:00 stderr F ", "no cri", "bad stderr F x"},
			[]string{`2024-01-01T00:00:00.5Z {job="j", stream="stdout"} "hello"`, `2024-01-01T00:00:00Z {job="j", stream="stderr"} ""`,
				t2 + ` {job="j"} "no cri"`, `2024-01-01T00:00:00.000000001Z {job="j", stream="stderr"} "x"`}},
		{"cri parts", `[{cri: {}}]`,
			[]string{"2024-01-01T00:00:01Z stdout P a", "2024-01-01T00:00:02Z stderr P x", "2024-01-01T00:00:03Z stdout P b",
				"2024-01-01T00:00:04Z stderr F y", "2024-01-01T00:00:05Z stdout F c", "2024-01-01T00:00:06Z stdout P tail"},
			[]string{`2024-01-01T00:00:04Z {job="j", stream="stderr"} "xy"`, `2024-01-01T00:00:05Z {job="j", stream="stdout"} "abc"`,
				`2024-01-01T00:00:06Z {job="j", stream="stdout"} "tail"`}},
		{"cri cut", `[{cri: {max_partial_line_size: 3, max_partial_line_size_truncate: true}}]`,
			[]string{"2024-01-01T00:00:01Z stdout P ab", "2024-01-01T00:00:02Z stdout F cd", "2024-01-01T00:00:03Z stdout F whole"},
			[]string{`2024-01-01T00:00:02Z {job="j", stream="stdout"} "abc"`, `2024-01-01T00:00:03Z {job="j", stream="stdout"} "whole"`}},
		{"docker", `[{docker: {}}]`,
			[]string{`{"log":"a\u00e9\n","stream":"stderr","time":"2024-01-01T00:00:00Z"}`, `{"log":`},
			[]string{`2024-01-01T00:00:00Z {job="j", stream="stderr"} "aé\n"`, t1 + ` {job="j"} "{\"log\":"`}},
		{"regex", `[{regex: {expression: '(?P<a>\d)(?P<b>x)?'}}, {labels: {a: , b: }}]`, []string{"7", "none"},
			[]string{t0 + ` {a="7", job="j"} "7"`, t1 + ` {job="j"} "none"`}},
		{"json", `[{json: {expressions: {l: level, n: , o: , b: , u: '"x y"'}}}, {labels: {l: , n: , o: , b: , u: }}]`,
			[]string{`{"level":"info","n":1.50,"o":{"z":[1, 2]},"b":true,"x y":"q"}`, `{"level":null}`, `[1]`},
			[]string{t0 + ` {b="true", job="j", l="info", n="1.5", o="{\"z\":[1,2]}", u="q"} "{\"level\":\"info\",\"n\":1.50,\"o\":{\"z\":[1, 2]},\"b\":true,\"x y\":\"q\"}"`,
				t1 + ` {job="j"} "{\"level\":null}"`, t2 + ` {job="j"} "[1]"`}},
		{"json path", `[{json: {expressions: {id: user.id, first: "tags[0]"}}}, {labels: {id: , first: }}, {output: {source: first}}]`,
			[]string{`{"user":{"id":7},"tags":["t","u"]}`, `{}`}, []string{t0 + ` {first="t", id="7", job="j"} "t"`, t1 + ` {job="j"} "{}"`}},
		{"json malformed", `[{json: {expressions: {a: }, drop_malformed: true}}]`, []string{`{"a":1}`, `{"a":1} x`}, []string{t0 + ` {job="j"} "{\"a\":1}"`}},
		{"json source", `[{json: {expressions: {in: }}}, {json: {source: in, expressions: {a: }}}, {labels: {a: }}]`, []string{`{"in":"{\"a\":\"v\"}"}`},
			[]string{t0 + ` {a="v", job="j"} "{\"in\":\"{\\\"a\\\":\\\"v\\\"}\"}"`}},
		{"logfmt", `[{logfmt: {mapping: {l: level, msg: }}}, {labels: {l: , msg: }}]`, []string{`level=info msg="a \"b\"" x`},
			[]string{t0 + ` {job="j", l="info", msg="a \"b\""} "level=info msg=\"a \\\"b\\\"\" x"`}},
		{"static labels", `[{static_labels: {a: b, e: ""}}]`, []string{"x"}, []string{t0 + ` {a="b", job="j"} "x"`}},
		{"label lists", `[{static_labels: {a: b, c: d}}, {labeldrop: [a]}, {labelallow: [c]}]`, []string{"x", "x"},
			[]string{t0 + ` {c="d"} "x"`, t1 + ` {c="d"} "x"`}},
		{"metadata", `[{regex: {expression: '(?P<id>\d+)'}}, {labels: {id: }}, {structured_metadata: {trace: id, job: }}]`, []string{"42"},
			[]string{t0 + ` {} "42" job=j trace=42`}},
		{"tenant", `[{tenant: {label: job}}]`, []string{"x"}, []string{t0 + ` {__tenant_id__="j", job="j"} "x"`}},
		{"timestamp", `[{regex: {expression: '(?P<t>\S+)'}}, {timestamp: {source: t, format: UnixMs, fallback_formats: [RFC3339]}}]`,
			[]string{"1700000000123", "2024-01-01T00:00:00Z", "x"},
			[]string{`2023-11-14T22:13:20.123Z {job="j"} "1700000000123"`, `2024-01-01T00:00:00Z {job="j"} "2024-01-01T00:00:00Z"`,
				`2024-01-01T00:00:00.000000001Z {job="j"} "x"`}},
		{"timestamp without year", `[{regex: {expression: '(?P<t>.*)'}}, {timestamp: {source: t, format: "Jan _2 15:04:05", location: Europe/Berlin, action_on_failure: skip}}]`,
			[]string{"Mar  4 05:06:07", "x"}, []string{`2024-03-04T04:06:07Z {job="j"} "Mar  4 05:06:07"`, t1 + ` {job="j"} "x"`}},
		{"unix fraction", `[{regex: {expression: '(?P<t>.*)'}}, {timestamp: {source: t, format: Unix}}]`, []string{"1700000000.25"},
			[]string{`2023-11-14T22:13:20.25Z {job="j"} "1700000000.25"`}},
		{"template", `[{regex: {expression: '(?P<a>\w+)'}}, {template: {source: a, template: '{{ ToUpper .Value }}-{{ .job }}-{{ .none }}'}}, {output: {source: a}}]`,
			[]string{"abc def"}, []string{t0 + ` {job="j"} "ABC-j-<no value>"`}},
		{"replace", `[{replace: {expression: 'pw=(\S+) ip=(\S+)', replace: '<{{ .Value | ToUpper }}>'}}]`, []string{"pw=secret ip=1.2 pw=b ip=c", "x"},
			[]string{t0 + ` {job="j"} "pw=<SECRET> ip=<1.2> pw=<B> ip=<C>"`, t1 + ` {job="j"} "x"`}},
		{"match", `[{match: {selector: '{job="j"} |= "keep" !~ "no+"', stages: [{static_labels: {m: y}}]}}, {match: {selector: '{job=~"."} |~ "dro."', action: drop}}]`,
			[]string{"keep", "keep noo", "drop"}, []string{t0 + ` {job="j", m="y"} "keep"`, t1 + ` {job="j"} "keep noo"`}},
		{"drop", `[{drop: {longer_than: 3b, expression: "^a"}}, {regex: {expression: '(?P<x>b)(?P<y>c)?'}}, {drop: {source: [x, y], value: "b;c"}}, {drop: {older_than: 1h}}]`,
			[]string{"aaaa", "aaa", "bc", "b"}, []string{t1 + ` {job="j"} "aaa"`, `2024-05-01T12:00:03Z {job="j"} "b"`}},
		{"multiline", `[{multiline: {firstline: '^\d', max_lines: 3}}]`, []string{"before", "1 a", " b", "2 c", " d", " e", " f", "3"},
			[]string{t0 + ` {job="j"} "before"`, t1 + ` {job="j"} "1 a\n b"`, `2024-05-01T12:00:03Z {job="j"} "2 c\n d\n e"`,
				`2024-05-01T12:00:03Z {job="j"} " f"`, `2024-05-01T12:00:07Z {job="j"} "3"`}},
		{"pack", `[{pack: {labels: [job, none], ingest_timestamp: false}}]`, []string{"<a>"}, []string{t0 + ` {} "{\"job\":\"j\",\"_entry\":\"\\u003ca\\u003e\"}"`}},
		{"decolorize", `[{decolorize: }]`, []string{"\x1b[31mred\x1b[0m"}, []string{t0 + ` {job="j"} "red"`}},
		{"keys in any case", `[{regex: {Expression: '(?P<a>.)'}}, {labels: {a: }}]`, []string{"z"}, []string{t0 + ` {a="z", job="j"} "z"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, run(t, c.stages, c.lines...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMultilineWaits(t *testing.T) {
	var sink collect
	p := build(t, `[{multiline: {firstline: x, max_wait_time: 2s}}]`, Env{}).New(labels.EmptyLabels(), &sink, Options{})
	n := 0
	p.Line([]byte("x"), 0, held{&n})
	now := testNow.UnixNano()
	if due := p.Flush(now, false); due != now+2e9 || len(sink.out) != 0 || n != 1 {
		t.Errorf("due in %v, %d out, %d held", time.Duration(due-now), len(sink.out), n)
	}
	if due := p.Flush(now+2e9, false); due != math.MaxInt64 || len(sink.out) != 1 || n != 0 {
		t.Errorf("due %v, %d out, %d held", due, len(sink.out), n)
	}
}

// Many label values must not make a pipeline grow without end.
func TestSetsAreBounded(t *testing.T) {
	var sink collect
	p := build(t, `[{regex: {expression: '(?P<a>.*)'}}, {labels: {a: }}]`, Env{}).New(labels.EmptyLabels(), &sink, Options{})
	for i := range 3 * maxSets {
		n := 0
		p.Line([]byte(fmt.Sprint(i)), 0, held{&n})
	}
	if p.sets.count > maxSets || len(p.sets.root.next["a"]) > maxSets {
		t.Errorf("%d sets are remembered", p.sets.count)
	}
	if want := fmt.Sprintf(`{a="%d"}`, 3*maxSets-1); !strings.Contains(sink.out[len(sink.out)-1], want) {
		t.Errorf("the last entry is %s, want %s", sink.out[len(sink.out)-1], want)
	}
}

func TestNoAllocations(t *testing.T) {
	for name, c := range map[string]struct{ stages, line string }{
		"cri":    {`[{cri: {}}, {static_labels: {a: b}}]`, "2024-01-01T00:00:00.123456789Z stdout F hello world"},
		"labels": {`[{cri: {}}, {json: {expressions: {level: , n: }}}, {labels: {level: }}]`, `2024-01-01T00:00:00.123456789Z stdout F {"level":"info","n":12,"m":{"a":[1]}}`},
		"docker": {`[{docker: {}}]`, `{"log":"hello","stream":"stdout","time":"2024-01-01T00:00:00.123456789Z"}`},
	} {
		p := build(t, c.stages, Env{}).New(labels.FromStrings("job", "j"), processor(func(*Entry) {}), Options{})
		n, line := 0, []byte(c.line)
		var o Origin = held{&n}
		p.Line(line, 1, o)
		if got := testing.AllocsPerRun(100, func() { p.Line(line, 1, o) }); got != 0 {
			t.Errorf("%s: %v allocations a line", name, got)
		}
	}
}

func BenchmarkStages(b *testing.B) {
	cri := "2024-01-01T00:00:00.123456789Z stdout F "
	body := `{"level":"info","caller":"handler.go:12","msg":"request served","status":200,"duration_ms":12.5,"path":"/api/v1/items/17","request_id":"0af7651916cd43dd8448eb211c80319c"}`
	for _, c := range []struct{ name, stages, line string }{
		{"cri", `[{cri: {}}]`, cri + body},
		{"cri+json+labels", `[{cri: {}}, {json: {expressions: {level: , status: }}}, {labels: {level: }}]`, cri + body},
		{"cri+regex+labels", `[{cri: {}}, {regex: {expression: '"level":"(?P<level>\w+)"'}}, {labels: {level: }}]`, cri + body},
		{"docker", `[{docker: {}}]`, `{"log":"` + strings.Repeat("x", 200) + `\n","stream":"stdout","time":"2024-01-01T00:00:00.123456789Z"}`},
		{"cri+labels", `[{cri: {}}, {static_labels: {cluster: eu}}, {labels: {stream: }}]`, cri + body},
		{"logfmt+timestamp", `[{logfmt: {mapping: {ts: , level: }}}, {timestamp: {source: ts, format: RFC3339}}, {labels: {level: }}]`, `ts=2024-01-01T00:00:00Z level=info msg="request served" status=200`},
		{"metrics", `[{metrics: {lines: {type: Counter, config: {match_all: true, action: inc}}}}]`, body},
		{"replace", `[{replace: {expression: '"request_id":"(\w+)"', replace: '-'}}]`, body},
		{"template+output", `[{template: {source: x, template: '{{ .job }} {{ .Entry }}'}}, {output: {source: x}}]`, body},
		{"match+drop", `[{match: {selector: '{job="j"} |= "request"', stages: [{drop: {expression: nothing}}]}}]`, body},
		{"cri+multiline", `[{cri: {}}, {multiline: {firstline: '^{'}}]`, cri + body},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := build(b, c.stages, Env{}).New(labels.FromStrings("job", "j"), processor(func(e *Entry) { e.releaseHeld() }), Options{})
			n, line := 0, []byte(c.line)
			var o Origin = held{&n}
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				p.Line(line, 1, o)
			}
		})
	}
}

// FuzzJSON compares the scanner with encoding/json.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"b":"x\ny","a":"\ud83d\ude00"}`, `{"a":[1,{"b":null}],"c":-1.5e+3}`, `{"a":"\ud800"}`, `{"a" : tru}`, "{\"\xff\":\"\xfe\"}", `{"a":01}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var want map[string]any
		err := json.Unmarshal(b, &want)
		got := map[string]any{}
		scan := jsonScanner{b: b}
		ok := scan.object(func(key, val []byte) {
			k := strings.Clone(jsonText(key))
			if v, plain := jsonValue(val); plain {
				switch v.kind {
				case kindString:
					got[k] = v.str
				case kindFloat:
					got[k] = v.num
				case kindBool:
					got[k] = v.num == 1
				default:
					got[k] = nil
				}
				return
			}
			var x any
			if json.Unmarshal(val, &x) == nil {
				got[k] = x
			}
		})
		if valid := json.Valid(b); ok != (valid && want != nil || valid && err != nil && strings.HasPrefix(strings.TrimLeft(string(b), " \t\r\n"), "{")) {
			t.Fatalf("%q: scanner says %v, encoding/json %v %v", b, ok, valid, err)
		}
		if !ok || err != nil {
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", b, diff)
		}
	})
}

// FuzzStages sends any two lines through the parsing stages: nothing may panic, and every
// origin must be released.
func FuzzStages(f *testing.F) {
	f.Add([]byte("2024-01-01T00:00:00Z stdout P a"), []byte("2024-01-01T00:00:00Z stdout F b"))
	f.Add([]byte(`{"log":"x\n","stream":"stdout","time":"2024-01-01T00:00:00Z"}`), []byte(`a=b c="d"`))
	program := build(f, `[{cri: {}}, {docker: {}}, {json: {expressions: {a: , b: }}}, {logfmt: {mapping: {c: }}}, {labels: {a: , c: }},
		{structured_metadata: {b: }}, {timestamp: {source: a, format: Unix}}, {replace: {expression: '(b.)', replace: '{{ .Value }}'}},
		{multiline: {firstline: '^[a-z]'}}, {tenant: {source: c}}]`, Env{MaxLine: 100})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		p := program.New(labels.FromStrings("job", "j"), processor(func(e *Entry) { e.releaseHeld() }), Options{})
		n := 0
		for _, l := range [][]byte{a, b, a} {
			p.Line(l, 1, held{&n})
		}
		p.Flush(0, true)
		if n != 0 || p.Pending() {
			t.Fatalf("%d origins held, pending %v", n, p.Pending())
		}
	})
}

// FuzzTime compares the quick parser of times with the standard one.
func FuzzTime(f *testing.F) {
	for _, s := range []string{"2024-02-29T23:59:59.123456789Z", "2023-02-29T00:00:00Z", "1999-12-31T23:59:60+01:00", "2024-01-01T00:00:00-23:59", "2024-01-01T00:00:00,5Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := time.Parse(time.RFC3339Nano, s)
		got, ok := fastRFC3339([]byte(s))
		if ok && (err != nil || got != want.UnixNano()) {
			t.Fatalf("%q: got %d, want %d %v", s, got, want.UnixNano(), err)
		}
		if !utf8.ValidString(s) && ok {
			t.Fatalf("%q: accepted", s)
		}
	})
}

// gathered returns the metrics of a Custom as lines of text.
func gathered(t *testing.T, c *Custom) []string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.Metric {
			var ls []string
			for _, l := range m.Label {
				ls = append(ls, l.GetName()+"="+l.GetValue())
			}
			v := fmt.Sprint(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			if h := m.GetHistogram(); h != nil {
				v = fmt.Sprintf("%d %v %v", h.GetSampleCount(), h.GetSampleSum(), h.Bucket[0].GetCumulativeCount())
			}
			out = append(out, f.GetName()+"{"+strings.Join(ls, ",")+"} "+v)
		}
	}
	return out
}

func TestMetricsStage(t *testing.T) {
	custom := NewCustom()
	now := time.Unix(1000, 0)
	custom.now = func() time.Time { return now }
	env := Env{Custom: custom}
	const stages = `
- regex: {expression: '(?P<took>\S+) (?P<code>\d+) (?P<n>-?\d+)'}
- metrics:
    lines: {type: Counter, description: all, config: {match_all: true, action: inc}}
    bytes: {type: Counter, config: {match_all: true, count_entry_bytes: true, action: add}}
    errors: {type: Counter, source: code, prefix: my_, config: {value: "500", action: inc}}
    sum: {type: Counter, source: n, config: {action: add}}
    last: {type: Gauge, source: n, config: {action: set}}
    seconds: {type: Histogram, source: took, config: {buckets: [0.1, 1]}}
    missing: {type: Gauge, config: {action: inc}}
`
	program := build(t, stages, env)
	loud := program.New(labels.FromStrings("job", "j"), processor(func(*Entry) {}), Options{})
	silent := program.New(labels.FromStrings("job", "j"), processor(func(*Entry) {}), Options{Silent: true})
	for _, l := range []string{"50ms 200 3", "2s 500 -1", "none"} {
		loud.Line([]byte(l), 1, held{new(int)})
		silent.Line([]byte(l), 1, held{new(int)})
	}
	want := []string{
		"my_errors{job=j} 1", "promtail_custom_bytes{job=j} 23", "promtail_custom_last{job=j} -1", "promtail_custom_lines{job=j} 3",
		"promtail_custom_seconds{job=j} 2 2.05 1", "promtail_custom_sum{job=j} 3",
	}
	if diff := cmp.Diff(want, gathered(t, custom)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	now = now.Add(6 * time.Minute) // idle series end
	if got := gathered(t, custom); len(got) != 0 {
		t.Errorf("after max_idle_duration: %v", got)
	}
	var nodes []yaml.Node
	if err := yaml.Unmarshal([]byte("[{metrics: {last: {type: Counter, config: {action: inc}}}}]"), &nodes); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(nodes, env); err == nil {
		t.Error("a gauge became a counter")
	}
}

func TestLimitStage(t *testing.T) {
	dropped, limited := map[string]int{}, map[string]int{}
	env := Env{Dropped: func(r string) { dropped[r]++ }, Limited: func(n, v string) { limited[n+"="+v]++ }}
	run := func(stages string, pods ...string) (out int, blocked bool) {
		p := build(t, stages, env)
		for _, pod := range pods {
			pipe := p.New(labels.FromStrings("pod", pod), processor(func(*Entry) { out++ }), Options{})
			for range 5 {
				pipe.Line([]byte("x"), 1, held{new(int)})
			}
			blocked = blocked || pipe.Blocked() > clock.Now()
		}
		return out, blocked
	}
	if n, blocked := run(`[{limit: {rate: 0.001, burst: 2, drop: true}}]`, "a", "b"); n != 2 || blocked || dropped["ratelimit_drop_stage"] != 8 {
		t.Errorf("drop: %d went through, blocked %v, dropped %v", n, blocked, dropped)
	}
	if n, _ := run(`[{limit: {rate: 0.001, burst: 2, drop: true, by_label_name: pod}}]`, "a", "b"); n != 4 || limited["pod=a"] != 3 {
		t.Errorf("by label: %d went through, limited %v", n, limited)
	}
	if n, blocked := run(`[{limit: {rate: 0.001, burst: 2}}]`, "a"); n != 5 || !blocked {
		t.Errorf("wait: %d went through, blocked %v", n, blocked)
	}
}

func TestEventLogStage(t *testing.T) {
	var got []string
	p := build(t, `[{json: {expressions: {message: }}}, {eventlogmessage: {}}, {labels: {Logon_Type: , User: , User_extracted: }}]`, Env{}).New(
		labels.FromStrings("User", "u"), processor(func(e *Entry) { got = append(got, e.Labels.Labels.String()) }), Options{})
	p.Line([]byte(`{"message": "An account\r\nLogon Type: 3\r\nUser: bob \r\n"}`), 1, held{new(int)})
	if diff := cmp.Diff([]string{`{Logon_Type="3", User="u", User_extracted="bob"}`}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestInspect(t *testing.T) {
	var b strings.Builder
	p := build(t, `
- json: {expressions: {level: , msg: }}
- labels: {level: }
- output: {source: msg}
- match: {selector: '{level="debug"}', action: drop}
`, Env{Inspect: NewInspector(&b, false)}).New(labels.FromStrings("job", "j"), processor(func(*Entry) {}), Options{})
	p.Line([]byte(`{"level":"info","msg":"hi"}`), 1, held{new(int)})
	p.Line([]byte(`{"level":"debug"}`), 1, held{new(int)})
	want := `{job="j"} "{\"level\":\"info\",\"msg\":\"hi\"}"
  json                 extracted level = "info"
  json                 extracted msg = "hi"
  labels               label level = "info"
  output               line "hi"
  match                no change
{job="j"} "{\"level\":\"debug\"}"
  json                 extracted level = "debug"
  json                 extracted msg = nothing
  labels               label level = "debug"
  output               no change
  match                the entry was dropped, or kept back until more lines come
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
