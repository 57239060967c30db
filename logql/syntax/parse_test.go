package syntax

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
)

// sameTree compares trees; matchers are equal when their parts are.
var sameTree = cmp.Options{
	cmp.Comparer(func(a, b *labels.Matcher) bool {
		if a == nil || b == nil {
			return a == b
		}
		return a.Type == b.Type && a.Name == b.Name && a.Value == b.Value
	}),
	cmpopts.EquateNaNs(),
}

// readLines decodes a file of one JSON value per line.
func readLines[T any](t testing.TB, name string) []T {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []T
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, v)
	}
	if err := s.Err(); err != nil || len(list) == 0 {
		t.Fatalf("%s: %d lines, %v", name, len(list), err)
	}
	return list
}

// TestErrors checks the texts that users know, to the letter.
func TestErrors(t *testing.T) {
	for _, c := range readLines[struct{ Query, Error string }](t, "testdata/errors.jsonl") {
		_, err := Parse(c.Query)
		if err == nil {
			t.Errorf("%s\n got no error\nwant %s", c.Query, c.Error)
			continue
		}
		if err.Error() != c.Error {
			t.Errorf("%s\n got %s\nwant %s", c.Query, err, c.Error)
		}
		if fault.Of(err) != fault.Invalid {
			t.Errorf("%s: error is of kind %d", c.Query, fault.Of(err))
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range readLines[struct{ Query, Want string }](t, "testdata/format.jsonl") {
		e, err := Parse(c.Query)
		if err != nil {
			t.Errorf("%s: %v", c.Query, err)
			continue
		}
		if got := e.Pretty(0); got != c.Want {
			t.Errorf("%s\n got %q\nwant %q", c.Query, got, c.Want)
		}
	}
}

// TestRoundTrip parses what was printed.
func TestRoundTrip(t *testing.T) {
	for _, q := range readLines[string](t, "testdata/valid.jsonl") {
		e, err := Parse(q)
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		checkRoundTrip(t, q, e)
	}
	for _, q := range []string{
		`1/0`, `1e308*10`, `-1e308*10`, `2^-1`, `-1*0`, `vector(1e-9)`, `vector(1e300)`,
		`{a="b"} | x>1e999`, `{a="b"} | x>1234567B`, `{a="b"} | x>0k`, `{a="b"} | x>20000T`, `{a="b"} | x>18000000T`, `{a="b"} | x=1.5us`, `{a="b"} | x=-90m`,
		`{a="b"} | x=~"a.*c.*d" | y!~"a.*c.*d" | z=~"a` + "`" + `.+.b"`,
		`{é="ü"} | é="ü" | drop é="x"`, `{@="x"}`, `{! = "x"} | ! > 5 | logfmt ! | label_format ! = "x"`, `{a="\xff\n\x00\u2028"}`,
		`{a="b"} |= ip("1.2.3.4") or "x" or ip("::1")`, `{a="b"} != "x" or ip("::1") or "z"`,
		`max_over_time({a="b"} | unwrap x [5m] offset -25h1m2s) by ()`, `sum by () (rate({a="b"}[5m]))`,
		`sum without () (vector(1))`, `vector(1) * ignoring () vector(2)`,
		`vector(1) * ignoring () group_left () vector(2)`, `vector(1) * on () group_right (a,b) vector(2)`,
		`vector(1) ^ vector(2) ^ vector(3)`, `(vector(1) ^ vector(2)) ^ vector(3)`,
		`variants(rate({a="b"}[5m]), sum(rate({a="c"}[5m]))) of ({a="b"} | json | unwrap bytes(x) | x>5 [5m] offset 1s)`,
		strings.Repeat(`label_replace(`, 20) + `vector(1)` + strings.Repeat(`,"aaa","bbb","ccc","ddd")`, 20),
		`(vector(1) - vector(2)) - (vector(3) - (vector(4) + vector(5)) * vector(6) ^ vector(7) ^ (vector(8) == bool vector(9)))`,
	} {
		e, err := Parse(q)
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		checkRoundTrip(t, q, e)
	}
}

func checkRoundTrip(t testing.TB, query string, e Expr) {
	t.Helper()
	for form, s := range map[string]string{"String": e.String(), "Pretty": e.Pretty(0)} {
		if len(s) >= maxQueryBytes {
			continue
		}
		back, err := Parse(s)
		if err != nil {
			t.Errorf("%s of %q: %q: %v", form, query, s, err)
			continue
		}
		if d := cmp.Diff(e, back, sameTree); d != "" {
			t.Errorf("%s of %q is another tree: %q\n%s", form, query, s, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, q := range readLines[string](f, "testdata/valid.jsonl") {
		f.Add(q)
	}
	for _, c := range readLines[struct{ Query string }](f, "testdata/errors.jsonl") {
		f.Add(c.Query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		e, err := Parse(query)
		if err != nil {
			var p *ParseError
			if !errors.As(err, &p) {
				t.Fatalf("%T is no ParseError: %v", err, err)
			}
			return
		}
		checkRoundTrip(t, query, e)
		for _, log := range LogExprs(e) {
			Needles(log)
		}
	})
}

func TestTree(t *testing.T) {
	matcher := func(name, value string) *labels.Matcher {
		return labels.MustNewMatcher(labels.MatchEqual, name, value)
	}
	leaf := func(name string) *LabelFilter { return &LabelFilter{Matcher: matcher(name, "1")} }
	both := func(or bool, l, r *LabelFilter) *LabelFilter {
		return &LabelFilter{Binary: &BinaryFilter{Or: or, Left: l, Right: r}}
	}
	filtered := func(f *LabelFilter) Expr {
		return &LogExpr{Matchers: []*labels.Matcher{matcher("s", "1")}, Stages: []Stage{f}}
	}
	a, b, c, d := leaf("a"), leaf("b"), leaf("c"), leaf("d")
	n := func(v float64) MetricExpr { return &VectorLiteral{v} }
	for _, test := range []struct {
		query string
		want  Expr
	}{
		{`{s="1"} | a="1" b="1", c="1" or d="1"`, filtered(both(false, a, both(false, b, both(true, c, d))))},
		{`{s="1"} | a="1" or b="1", c="1"`, filtered(both(true, a, both(false, b, c)))},
		{`{s="1"} | a="1" or b="1" and c="1" or d="1"`, filtered(both(true, both(true, a, both(false, b, c)), d))},
		{`{s="1"} | (a="1" or b="1") and c="1"`, filtered(both(false, both(true, a, b), c))},
		{`{s="1"} != "x" or "y"`, &LogExpr{
			Matchers: []*labels.Matcher{matcher("s", "1")},
			Stages: []Stage{
				&LineFilter{Op: "!=", Operands: []LineOperand{{Text: "x"}}},
				&LineFilter{Op: "!=", Operands: []LineOperand{{Text: "y"}}},
			}}},
		{`vector(1) - vector(2) - vector(3) * vector(4)`,
			&BinOp{Op: "-", LHS: &BinOp{Op: "-", LHS: n(1), RHS: n(2)}, RHS: &BinOp{Op: "*", LHS: n(3), RHS: n(4)}}},
		{`vector(1) ^ vector(2) ^ vector(3)`,
			&BinOp{Op: "^", LHS: n(1), RHS: &BinOp{Op: "^", LHS: n(2), RHS: n(3)}}},
		{`2 + 3 * 4 > 13`, &Literal{1}},
	} {
		got, err := Parse(test.query)
		if err != nil {
			t.Errorf("%s: %v", test.query, err)
		} else if d := cmp.Diff(test.want, got, sameTree); d != "" {
			t.Errorf("%s\n%s", test.query, d)
		}
	}
}

// TestBounds checks that neither length nor depth of a query does harm, and that what
// is accepted can be printed and parsed again.
func TestBounds(t *testing.T) {
	repeat := func(prefix, open, middle, shut, suffix string, n int) string {
		return prefix + strings.Repeat(open, n) + middle + strings.Repeat(shut, n) + suffix
	}
	for name, q := range map[string]string{
		"parentheses":  repeat("", "(", "1", ")", "", 60000),
		"calls":        repeat("", "sum(", "vector(1)", ")", "", 20000),
		"range":        repeat("rate(", "(", `{a="b"}[5m]`, ")", ")", 50000),
		"filters":      repeat(`{a="b"} |`, "(", "a>1", ")", "", 60000),
		"filter chain": repeat(`{a="b"} | a>1`, ",a>1", "", "", "", 25000),
		"power":        repeat("1", "^1", "", "", "", 60000),
		"sum":          repeat("vector(1)", "+vector(1)", "", "", "", 12000),
		"open":         repeat("", "(", "", "", "", 131071),
		"dashes":       repeat("1", "-", "", "", "", 131070),
		"words":        repeat("rate", " by", "", "", "", 40000),
	} {
		_, err := Parse(q)
		if err == nil || !strings.Contains(err.Error(), "nested too deeply") &&
			!strings.Contains(err.Error(), "syntax error") {
			t.Errorf("%s: got %v, want an error", name, err)
		}
	}
	if _, err := Parse(strings.Repeat(" ", maxQueryBytes)); err == nil ||
		err.Error() != "parse error : input size too long (131072 > 131072)" {
		t.Errorf("too long: %v", err)
	}
	for name, q := range map[string]string{
		"parentheses":  repeat("", "(", "1", ")", "", 1900),
		"filter chain": repeat(`{a="b"} | a>1`, ",a>1", "", "", "", 1900),
		"sum":          repeat("vector(1)", "+vector(1)", "", "", "", 1900),
		"stages":       repeat(`{a="b"}`, ` | json |= "x"`, "", "", "", 8000),
	} {
		e, err := Parse(q)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkRoundTrip(t, name, e)
	}
}

func TestParseLogAndMatchers(t *testing.T) {
	message := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	const tooWide = "parse error : " + errEmptySelector
	const noUnwrap = "parse error : invalid aggregation rate_counter without unwrap"
	const open = `parse error at line 1, col 7: syntax error: unexpected $end, expecting } or ,`
	onlyLog, onlyMatchers := errOnlyLog.Error(), errOnlyMatchers.Error()
	for _, c := range []struct{ query, log, matchers, orAll, series string }{
		{`{a="b"}`, "", "", "", ""},
		{`({a="b"})`, "", "", "", ""},
		{`{}`, tooWide, tooWide, "", "0 matchers in group: {}"},
		{`({})`, tooWide, tooWide, tooWide, "0 matchers in group: ({})"},
		{` {}`, tooWide, tooWide, tooWide, "0 matchers in group:  {}"},
		{`{a=~".*"}`, tooWide, tooWide, tooWide, tooWide},
		{`{a="b"} |= "x"`, "", onlyMatchers, onlyMatchers, onlyMatchers},
		{`{} |= "x"`, tooWide, tooWide, tooWide, onlyMatchers},
		{`rate({a="b"}[5m])`, onlyLog, onlyMatchers, onlyMatchers, onlyMatchers},
		{`sum(1)`, onlyLog, onlyMatchers, onlyMatchers, onlyMatchers},
		{`1 + (avg by (x) (1))`, onlyLog, onlyMatchers, onlyMatchers, onlyMatchers},
		{`rate({}[5m])`, tooWide, tooWide, tooWide, onlyMatchers},
		{`rate_counter({a="b"}[5m])`, noUnwrap, noUnwrap, noUnwrap, onlyMatchers},
		{`{a="b"`, open, open, open, open},
	} {
		_, err := ParseLog(c.query)
		check := func(parser, want string) {
			if got := message(err); got != want {
				t.Errorf("%s(%s): got %q, want %q", parser, c.query, got, want)
			}
		}
		check("ParseLog", c.log)
		_, err = ParseMatchers(c.query)
		check("ParseMatchers", c.matchers)
		_, err = ParseMatchersOrAll(c.query)
		check("ParseMatchersOrAll", c.orAll)
		_, err = ParseSeries(c.query)
		check("ParseSeries", c.series)
	}
}

func TestWalk(t *testing.T) {
	e, err := Parse(`sum(rate({a="1"}[1m])) / on () label_replace(topk(2, rate({a="2"} | unwrap x [2m])), "a", "b", "c", "d")`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, log := range LogExprs(e) {
		got = append(got, log.String())
	}
	for _, agg := range RangeAggs(e) {
		got = append(got, agg.String())
	}
	want := []string{`{a="1"}`, `{a="2"}`, `rate({a="1"}[1m])`, `rate({a="2"} | unwrap x[2m])`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseJSONPath(t *testing.T) {
	for _, c := range []struct {
		expr string
		want []PathStep
	}{
		{`a`, []PathStep{{Key: "a"}}},
		{`a.b_1`, []PathStep{{Key: "a"}, {Key: "b_1"}}},
		{`a["x y"].b[3]`, []PathStep{{Key: "a"}, {Key: "x y"}, {Key: "b"}, {Index: 3, IsIndex: true}}},
		{`[0]["k"]`, []PathStep{{IsIndex: true}, {Key: "k"}}},
		{` [ "a" ] `, []PathStep{{Key: "a"}}},
	} {
		got, err := ParseJSONPath(c.expr)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, %v", c.expr, got, err)
		}
	}
	for expr, want := range map[string]string{
		``:                        "syntax error: unexpected $end, expecting LSB or FIELD",
		`a.`:                      "syntax error: unexpected $end, expecting FIELD",
		`a[b]`:                    "syntax error: unexpected FIELD, expecting STRING or INDEX",
		`a["x]`:                   "syntax error: unexpected $end, expecting RSB",
		`a[1.5]`:                  "syntax error: unexpected $end, expecting STRING or INDEX",
		`a[99999999999999999999]`: "syntax error: unexpected $end, expecting STRING or INDEX",
		`a b`:                     "syntax error: unexpected FIELD",
		`a-b`:                     "unexpected char -",
		`a 1.5`:                   "cannot use float as array index",
		`"a"`:                     "syntax error: unexpected STRING, expecting LSB or FIELD",
		`a.[0]`:                   "syntax error: unexpected LSB, expecting FIELD",
	} {
		if _, err := ParseJSONPath(expr); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", expr, err, want)
		}
	}
}

func FuzzParseJSONPath(f *testing.F) {
	f.Add(`a["x y"].b[3]`)
	f.Fuzz(func(t *testing.T, expr string) {
		if steps, err := ParseJSONPath(expr); err == nil && len(steps) == 0 {
			t.Errorf("%q has no steps", expr)
		}
	})
}

func TestParseLinePattern(t *testing.T) {
	got, err := ParseLinePattern("<_> GET <_>< x <1>")
	want := []PatternPart{{Name: "_"}, {Literal: " GET "}, {Name: "_"}, {Literal: "< x <1>"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, q := range map[string]string{
		"short": `sum by (status) (rate({app="x", env=~"prod|dev"} |= "error" | json | status >= 500 [5m]))`,
		"long":  `{a="b"}` + strings.Repeat(` |= "abc" | json | x="1" or (y>5 and z=~"a.+b")`, 2000),
		"deep":  strings.Repeat("sum(", 1900) + "vector(1)" + strings.Repeat(")", 1900),
		"wrong": `{a="b"}` + strings.Repeat(` |= "abc"`, 10000) + ` | bad bad`,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(q)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Parse(q)
			}
		})
	}
}
