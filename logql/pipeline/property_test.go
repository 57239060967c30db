package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
)

// compilePipeline compiles stages or a metric query, as in scripts.
func compilePipeline(t testing.TB, text string) *Pipeline {
	t.Helper()
	p, err := scriptPipeline(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

// randomText makes texts that are likely to contain each other.
func randomText(rnd *rand.Rand, max int) string {
	parts := []string{"a", "b", "ab", "A", "B", "k", "K", "\u212a", "é", "É", "ß", "\n", "\xff", "\xc3", " ", "=", "1", "aab", "ſ", "s"}
	var b strings.Builder
	for range rnd.IntN(max + 1) {
		b.WriteString(parts[rnd.IntN(len(parts))])
	}
	return b.String()
}

// randomRegexp makes an expression out of the same letters.
func randomRegexp(rnd *rand.Rand, depth int) string {
	if depth == 0 {
		return []string{"a", "b", "ab", "k", "é", " ", "=", ".", "[ab]", "[^a]", "A", "1", "\\d", "ss", "\\n", "\\b", "\\s"}[rnd.IntN(17)]
	}
	sub := func() string { return randomRegexp(rnd, depth-1) }
	switch rnd.IntN(12) {
	case 0:
		return "(" + sub() + "|" + sub() + ")"
	case 1:
		return "(?:" + sub() + ")*"
	case 2:
		return "(?:" + sub() + ")+"
	case 3:
		return "(?:" + sub() + ")?"
	case 4:
		return sub() + ".*" + sub()
	case 5:
		return sub() + ".+" + sub()
	case 6:
		return "(?i:" + sub() + ")"
	case 7:
		return "^" + sub()
	case 8:
		return sub() + "$"
	case 9:
		return "(?:" + sub() + "){1,2}"
	}
	return sub() + sub()
}

// TestRegexpTests compares what expressions are turned into with the expressions.
func TestRegexpTests(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	// A leg of an alternation that matches everything is ignored, and (?i) folds letter by
	// letter: expressions in which that shows are left out.
	odd := regexp.MustCompile(`\|\)|\(\||[*?]\)*\||\|[^|]*[*?]`)
	for range 10000 {
		expr := randomRegexp(rnd, rnd.IntN(4))
		re, err := regexp.Compile(expr)
		if err != nil || odd.MatchString(expr) {
			continue
		}
		fold := strings.Contains(expr, "(?i")
		lineMatch, err := newRegexpTest(expr)
		if err != nil {
			t.Fatalf("%q: %v", expr, err)
		}
		if (lineMatch == matchSome{}) {
			continue // .+ accepts a line break
		}
		valueMatch, err := newValueRegexp(expr)
		if err != nil {
			t.Fatalf("%q: %v", expr, err)
		}
		anchored := regexp.MustCompile("^(?:" + expr + ")$")
		for range 8 {
			text := randomText(rnd, 6)
			if fold && strings.ContainsAny(text, "ſ\u212a\xff\xc3") {
				continue
			}
			if got, want := lineMatch.match([]byte(text)), re.MatchString(text); got != want {
				t.Fatalf("line %q ~ %q: %v, want %v (%T)", text, expr, got, want, lineMatch)
			}
			if strings.Contains(text, "\n") {
				continue
			}
			if got, want := valueMatch.match([]byte(text)), anchored.MatchString(text); got != want {
				t.Fatalf("value %q ~ %q: %v, want %v (%T)", text, expr, got, want, valueMatch)
			}
		}
	}
}

// TestFilterBatch compares the filters over whole blocks with those over rows.
func TestFilterBatch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	ops := []string{"|=", "!=", "|~", "!~", "|>", "!>"}
	for range 3000 {
		var query []string
		for range 1 + rnd.IntN(3) {
			op := ops[rnd.IntN(len(ops))]
			text := randomText(rnd, 2)
			switch {
			case op == "|~" || op == "!~":
				text = randomRegexp(rnd, rnd.IntN(3))
				if rnd.IntN(3) == 0 {
					text = "(?i)" + text
				}
			case strings.HasSuffix(op, ">"):
				text += "<_>" + randomText(rnd, 1)
			}
			if !utf8.ValidString(text) {
				continue
			}
			query = append(query, fmt.Sprintf("%s %q", op, text))
		}
		if len(query) == 0 {
			continue
		}
		text := strings.Join(query, " ")
		p, err := scriptPipeline(text)
		if err != nil {
			continue
		}
		blk := &block{}
		for range 1 + rnd.IntN(40) {
			blk.add(randomText(rnd, 5))
		}
		var sel, want []uint32
		for i := range uint32(blk.rows()) {
			if rnd.IntN(4) > 0 {
				sel = append(sel, i)
				if p.lead == nil || p.lead.match(blk.line(int(i))) {
					want = append(want, i)
				}
			}
		}
		if got := p.FilterBatch(blk.buf, blk.offsets, sel); !slices.Equal(got, want) {
			t.Fatalf("%s over %q %v: rows %v, want %v", text, blk.buf, blk.offsets, got, want)
		}
	}
}

// TestHints compares pipelines that extract only some labels with those that extract all.
func TestHints(t *testing.T) {
	for kind, parser := range map[string]string{"json": "json", "logfmt": "logfmt", "access": "pattern `<ip> - - <_> \"<method> <path> <_>\" <status> <bytes> <_>`"} {
		full := compilePipeline(t, "| "+parser)
		some := compilePipeline(t, `sum by (status, path, client_ip) (count_over_time({app="x"} | `+parser+` | method!="PUT" [1m]))`)
		early := compilePipeline(t, "| "+parser+` | status >= 400 | level=~"error|" `)
		blk := logs(kind)
		stream := labels.FromStrings("app", "x", "path", "stream")
		kept := 0
		for i := range blk.rows() {
			line := blk.line(i)
			_, l, _ := full.ForStream(stream, 1).Process(1, line, nil)
			all := l.Labels()
			status, level, method := all.Get("status"), all.Get("level"), all.Get("method")
			_, l, ok := some.ForStream(stream, 1).Process(1, line, nil)
			if want := method != "PUT"; ok != want {
				t.Fatalf("%s: kept %v, want %v", line, ok, want)
			}
			if ok {
				want := labels.NewBuilder(all).Keep("status", "path", "client_ip").Labels()
				if got := l.Group().Labels; !labels.Equal(got, want) {
					t.Fatalf("%s: %v, want %v", line, got, want)
				}
			}
			_, l, ok = early.ForStream(stream, 1).Process(1, line, nil)
			if want := status >= "400" && (level == "error" || level == ""); ok != want {
				t.Fatalf("%s: kept %v, want %v", line, ok, want)
			}
			if ok {
				kept++
				if got := l.Labels(); !labels.Equal(got, all) {
					t.Fatalf("%s: %v, want %v", line, got, all)
				}
			}
		}
		if kept == 0 {
			t.Errorf("%s: nothing kept", kind)
		}
	}
}

// TestSharedSets checks that rows with equal labels share their sets, whatever the order
// of their keys, and that categories divide the labels.
func TestSharedSets(t *testing.T) {
	p := compilePipeline(t, `sum by (a, b) (count_over_time({app="x"} | json [1m]))`)
	s := p.ForStream(labels.FromStrings("app", "x"), 1)
	group := func(line string) *Set {
		_, l, _ := s.Process(1, []byte(line), nil)
		return l.Group()
	}
	one := group(`{"a":1,"b":2}`)
	if two := group(`{"b":2,"x":1,"a":1}`); one != two {
		t.Errorf("two sets for %v", two.Labels)
	}
	if other := group(`{"a":1}`); other == one || other.Labels.String() != `{a="1"}` {
		t.Errorf("got %v", other.Labels)
	}

	p = compilePipeline(t, `| json | label_format env="e" | drop gone`)
	s = p.ForStream(labels.FromStrings("app", "x", "env", "prod", "gone", "1"), 1)
	_, l, _ := s.Process(1, []byte(`{"m":1,"a":2`), []labels.Label{{Name: "app", Value: "meta"}, {Name: "m", Value: "7"}})
	for range 2 { // the second time from the cache
		got := []string{l.Labels().String(), l.Stream().String(), l.Metadata().String(), l.Parsed().String()}
		want := []string{
			`{__error__="JSONParserErr", __error_details__="Value is array, but can't find closing ']' symbol", a="2", app="x", app_extracted="meta", env="e", m="7", m_extracted="1"}`,
			`{app="x"}`, `{app_extracted="meta", m="7"}`,
			`{__error__="JSONParserErr", __error_details__="Value is array, but can't find closing ']' symbol", a="2", env="e", m_extracted="1"}`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestNoAllocations checks the paths that most rows take.
func TestNoAllocations(t *testing.T) {
	for query, kind := range map[string]string{
		`|= "error" != "debug" |~ "status=5.*ip"`:                                      "logfmt",
		`| json | status >= 500`:                                                       "json",
		`| json | client_ip=~"10.1.*" or bytes < 1000`:                                 "json",
		`| logfmt | level="error" | duration > 1ms | line_format "{{.msg}}"`:           "logfmt",
		"| pattern `<ip> - - <_> \"<m> <path> <_>\" <status> <_>` | status=\"500\"":    "access",
		`| logfmt a="level", b="ip" | a="error" | drop a | keep b`:                     "logfmt",
		`sum by (status) (rate({app="x"} | json [1m]))`:                                "json",
		`max_over_time({app="x"} | logfmt | unwrap duration(duration) [1m]) by (path)`: "logfmt",
		`sum(count_over_time({app="x"} [1m]))`:                                         "json",
	} {
		p := compilePipeline(t, query)
		s := p.ForStream(labels.FromStrings("app", "x"), 1)
		blk := logs(kind)
		md := []labels.Label{{Name: "detected_level", Value: "info"}}
		run := func() {
			for i := range 200 {
				if _, l, ok := s.Process(1, blk.line(i), md); ok && p.opts.Sample != nil {
					l.Group()
				}
			}
		}
		run()
		if n := testing.AllocsPerRun(5, run); n > 0 {
			t.Errorf("%s: %v allocations for 200 rows", query, n)
		}
	}
}

// flatten is | json for valid objects, by way of encoding/json.
func flatten(t testing.TB, line []byte) map[string]string {
	out := map[string]string{}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	next := func() json.Token {
		tok, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	var object func(path [][]byte)
	skip := func() {
		for depth := 1; depth > 0; {
			switch next() {
			case json.Delim('['), json.Delim('{'):
				depth++
			case json.Delim(']'), json.Delim('}'):
				depth--
			}
		}
	}
	object = func(path [][]byte) {
		for {
			tok := next()
			if tok == json.Delim('}') {
				return
			}
			path := append(path[:len(path):len(path)], []byte(tok.(string)))
			value := ""
			switch v := next().(type) {
			case json.Delim:
				if v == '[' {
					skip()
				} else {
					object(path)
				}
				continue
			case nil:
				continue
			default:
				value = fmt.Sprint(v)
			}
			name := joinKey(path)
			if _, ok := out[name]; !ok && name != "" {
				out[name] = strings.ReplaceAll(value, "\ufffd", " ")
			}
		}
	}
	next()
	object(nil)
	return out
}

// FuzzJSON compares the parser with encoding/json where both have an opinion.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":{"c":"x\n\u00e9","d":[1,{"e":2}],"c":3},"a":true,"n":null}`))
	f.Add([]byte(`{"a\"b":"\\","":{" ":-1.5e3}}`))
	p := compilePipeline(f, "| json")
	s := p.ForStream(labels.EmptyLabels(), 1)
	f.Fuzz(func(t *testing.T, line []byte) {
		_, l, ok := s.Process(1, line, nil)
		if !ok {
			t.Fatal("dropped")
		}
		got := l.Labels().Map()
		trimmed := bytes.TrimSpace(line)
		// encoding/json replaces lone surrogates, which are an error here.
		if !json.Valid(line) || !utf8.Valid(line) || trimmed[0] != '{' || bytes.Contains(line, []byte(`\u`)) {
			return
		}
		if diff := cmp.Diff(flatten(t, line), got); diff != "" {
			t.Fatalf("%q: %s", line, diff)
		}
	})
}

// fuzzQueries have every stage, alone and together.
var fuzzQueries = []string{
	`| json`, `| json a="b.c", d="e[0]", f="[1].g"`, `| json | json x="a" | a > 5`,
	`| logfmt`, `| logfmt --strict --keep-empty`, `| logfmt --strict a="b", c`,
	`| regexp "(?P<a>\\w+)[ =](?P<b>.*)"`, "| pattern `<a> <_>=<b>`", `| unpack | json`,
	`|= ip("10.0.0.0/8")`, `|> "<_>a<_>b"`, `|~ "(?i)a.*k"`, `!~ "a|b.+c"`, `|= "a" or "b" != "c"`,
	`| logfmt | a=ip("::1/64") | b > 5s | c < 1KB or d =~ "(?i)x.*"`,
	`| json | line_format "{{.a}}" | logfmt`,
	`| logfmt | line_format "{{range $k,$v := .}}{{$k | title | repeat 3}}{{$v | trunc -3 | b64enc | js}}{{end}}{{__line__ | urlencode}}"`,
	`| logfmt | label_format a="{{.b | unixToTime | date \"2006\"}}", c=d, e="{{ div .a .b }}{{ substr 1 2 .a }}{{ printf .a .b }}"`,
	`| decolorize | json | drop a, b="x", __error__ | keep c, d=~"x.*"`,
	`sum by (a, __error__) (count_over_time({app="x"} | json | b="1" [1m]))`,
	`sum without (a) (sum_over_time({app="x"} | logfmt | unwrap bytes(b) | c != "x" [1m]))`,
}

// FuzzStages runs every stage on arbitrary bytes: nothing panics, nothing changes the
// line, and a row gives the same answer again.
func FuzzStages(f *testing.F) {
	for _, line := range []string{
		`{"a":"b","b":{"c":1},"e":[1,2],"_entry":"a=1"}`, `a=1 b="x\n" c=10.0.0.1 d=1KB`, "\x1b[31ma\x1b[0m", "a k 10.1.1.1 ::1 \xff",
		`{"a`, `a="`, `{"a":{"a":{"a":`, `a=%100d b=5`,
	} {
		f.Add([]byte(line), "m")
	}
	var pipelines []*Pipeline
	for _, q := range fuzzQueries {
		pipelines = append(pipelines, compilePipeline(f, q))
	}
	stream := labels.FromStrings("app", "x", "b", "y")
	f.Fuzz(func(t *testing.T, line []byte, meta string) {
		md := []labels.Label{{Name: "a", Value: meta}, {Name: "m", Value: meta}}
		orig := bytes.Clone(line)
		for i, p := range pipelines {
			run := func() string {
				out, l, ok := p.ForStream(stream, 1).Process(1, line, md)
				if !ok {
					return "dropped"
				}
				return fmt.Sprintf("%q %v %v %v %v %v", out, l.Labels(), l.Group().Labels, l.Stream(), l.Metadata(), l.Parsed())
			}
			first := run()
			if second := run(); first != second {
				t.Fatalf("%s: %s, then %s", fuzzQueries[i], first, second)
			}
			if !bytes.Equal(line, orig) {
				t.Fatalf("%s changed the line", fuzzQueries[i])
			}
		}
	})
}
