package syntax

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/internal/model"
)

// describe writes conditions briefly: alternatives joined by |, folded ones after ~.
func describe(conditions []model.Needles) string {
	var all []string
	for _, c := range conditions {
		var alternatives []string
		for _, n := range c {
			s := n.Text
			if n.Fold {
				s = "~" + s
			}
			if n.Name != "" {
				s = n.Name + "=" + s
			}
			alternatives = append(alternatives, s)
		}
		all = append(all, strings.Join(alternatives, "|"))
	}
	return strings.Join(all, " & ")
}

func TestNeedles(t *testing.T) {
	for _, c := range []struct{ pipeline, want string }{
		{`|= "error" |= "x" != "nothing" |= ""`, "error"},
		{`|= "error" or "warning"`, "error|warning"},
		{`|= "error" or "w"`, ""},
		{`|= "error" or ip("1.2.3.4")`, ""},
		{`|= ip("1.2.3.4")`, ""},
		{`|> "<_>level=error<_> took <_>"`, "level=error &  took "},
		{`!> "<_>level=error" !~ "abc" != "abc"`, ""},
		{`|~ "abc.*def"`, "abc & def"},
		{`|~ "^abc\\b$"`, "abc"},
		{`|~ "(foo|bar)baz[12]"`, "foobaz1|foobaz2|barbaz1|barbaz2"},
		{`|~ "foobar|foo.*quux|f.*error"`, "bar|quux|error"},
		{`|~ "foobar|.*"`, ""},
		{`|~ "(abc)+d?e*"`, "abc"},
		{`|~ "abcd?"`, "abcd|abc"},
		{`|~ "(abc)*"`, ""},
		{`|~ "(abc){2,3}"`, "abc"},
		{`|~ "(?i)error"`, "~error"},
		{`|~ "(?i)tok"`, "~tok|~to\u212a"},
		{`|~ "Abc(?i)def"`, "~abcdef"},
		{`|~ "(?i)123"`, "123"},
		{"|~ `abc\\x{fffd}def`", "abc & def"},
		{`| json | level="error" |= "abc"`, "abc"},
		{`| line_format "x" |= "abc"`, ""},
		{`| unpack |= "abc"`, ""},
		{`|= "abc" | decolorize |= "def"`, "abc"},
	} {
		e, err := ParseLog(`{a="b"} ` + c.pipeline)
		if err != nil {
			t.Errorf("%s: %v", c.pipeline, err)
		} else if got := describe(Needles(e)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.pipeline, got, c.want)
		}
	}
}

func TestNeedlesKnowing(t *testing.T) {
	streamLabel := func(name string) bool { return name == "app" }
	for _, c := range []struct{ pipeline, want string }{
		{`| trace_id="abc"`, "trace_id=abc"},
		{`| app="abc" | trace_id!="x" | trace_id=~"abc" | trace_id=""`, ""},
		{`| trace_id="abc" or span_id="d"`, "trace_id=abc|span_id=d"},
		{`| trace_id="abc" or app="d"`, ""},
		{`| trace_id="abc", span_id="d"`, "trace_id=abc & span_id=d"},
		{`| json | trace_id="abc"`, `trace_id=abc|abc|\u00`},
		{`| logfmt | path="/a"`, ""},
		{`| logfmt | msg="a b"`, ""},
		{`| label_format x="y" | x="abc" | y="abc"`, "y=abc"},
		{`| __error__="abc" | x_extracted="abc"`, ""},
		{`| line_format "x" | json | y="abc"`, ""},
	} {
		e, err := ParseLog(`{a="b"} ` + c.pipeline)
		if err != nil {
			t.Errorf("%s: %v", c.pipeline, err)
		} else if got := describe(NeedlesKnowing(e, streamLabel)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.pipeline, got, c.want)
		}
	}
}

// occurs reports whether a line fulfils a condition, as a reader of blocks would check.
func occurs(c model.Needles, line string) bool {
	for _, n := range c {
		if n.Fold && strings.Contains(asciiLower(line), n.Text) || !n.Fold && strings.Contains(line, n.Text) {
			return true
		}
	}
	return false
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// TestNeedlesAreNecessary compares with the meaning of filters: whatever passes them
// fulfils all conditions.
func TestNeedlesAreNecessary(t *testing.T) {
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	atom := func() string {
		return pick("a", "k", "s", "K", "S", "ſ", "\u212a", "é", "É", "1", "-", "\ufffd")
	}
	word := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteString(atom())
		}
		return b.String()
	}
	var expr func(depth int) string
	expr = func(depth int) string {
		if depth == 0 {
			return word(1 + rnd.IntN(4))
		}
		switch rnd.IntN(8) {
		case 0:
			return expr(depth-1) + "|" + expr(depth-1)
		case 1:
			return "(?:" + expr(depth-1) + ")" + pick("*", "+", "?", "{2}", "{0,1}", "{1,3}")
		case 2:
			return "(?i:" + expr(depth-1) + ")"
		case 3:
			return "(" + expr(depth-1) + ")"
		case 4:
			return expr(depth-1) + pick(".", ".*", "[aK]", "[^a]", `\b`, "^", "$", `\w`) + expr(depth-1)
		}
		return "(?:" + expr(depth-1) + ")(?:" + expr(depth-1) + ")"
	}
	matches, checked := 0, 0
	for range 20000 {
		op := LineOp(pick("|=", "|~", "|~", "|~"))
		f := &LineFilter{Op: op}
		var pass []func(string) bool
		for range 1 + rnd.IntN(2) {
			if op == LineContains {
				s := word(1 + rnd.IntN(4))
				f.Operands = append(f.Operands, LineOperand{Text: s})
				pass = append(pass, func(line string) bool { return strings.Contains(line, s) })
				continue
			}
			s := expr(rnd.IntN(4))
			re := regexp.MustCompile(s)
			f.Operands = append(f.Operands, LineOperand{Text: s})
			pass = append(pass, re.MatchString)
		}
		conditions := Needles(&LogExpr{Stages: []Stage{f}})
		for range 20 {
			line := word(rnd.IntN(14))
			if rnd.IntN(4) == 0 {
				line += "\xff" + word(3)
			}
			ok := false
			for _, p := range pass {
				ok = ok || p(line)
			}
			if !ok {
				continue
			}
			matches++
			for _, c := range conditions {
				checked++
				if !occurs(c, line) {
					t.Fatalf("seed %d: %q passes %s but not %s", seed, line, f, describe([]model.Needles{c}))
				}
			}
		}
	}
	if matches < 10000 || checked < 2000 {
		t.Errorf("too few lines passed to mean anything: %d passed, %d conditions checked", matches, checked)
	}
}

func TestNeedlesAreBounded(t *testing.T) {
	var words []string
	for i := range 500 {
		words = append(words, fmt.Sprintf("%c%dword", 'a'+i%26, i))
	}
	q := `{a="b"} |~ "` + strings.Join(words, "|") + `"` + strings.Repeat(` |= "needle"`, 500)
	e, err := ParseLog(q)
	if err != nil {
		t.Fatal(err)
	}
	got := Needles(e)
	if len(got) != maxConditions {
		t.Errorf("got %d conditions, want %d", len(got), maxConditions)
	}
	for _, c := range got {
		if d := cmp.Diff(model.Needles{{Text: "needle"}}, c); d != "" {
			t.Error(d)
		}
	}
}
