package distributor

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
)

func defaultFinder() *levelFinder {
	l := limits.Defaults()
	return newLevelFinder(l.LogLevelFields, l.LogLevelFromJSONMaxDepth)
}

// TestLevelsOfReference compares with what the reference server found.
func TestLevelsOfReference(t *testing.T) {
	file, err := os.Open("testdata/levels.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	k := newKit(t, "")
	lines, n := bufio.NewScanner(file), 0
	for ; lines.Scan(); n++ {
		var c struct {
			Labels, Metadata map[string]string
			Line, Want       string
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		value := []any{"NOW", c.Line}
		if c.Metadata != nil {
			value = append(value, c.Metadata)
		}
		stream, _ := json.Marshal(c.Labels)
		values, _ := json.Marshal(value)
		var got string
		k.next = pusherFunc(func(_ labels.Labels, e model.Entry) { got = e.Metadata.Get(detectedLevel) })
		if status, text := k.post(at(string(stream), string(values))); status != 204 {
			t.Fatalf("%s: %d %s", values, status, text)
		}
		if got != c.Want {
			t.Errorf("%v %v %q is %s, want %s", c.Labels, c.Metadata, c.Line, got, c.Want)
		}
	}
	if n < 300 {
		t.Errorf("only %d cases", n)
	}
}

func TestLevelOfLine(t *testing.T) {
	finder := defaultFinder()
	f := func(line, want string) {
		t.Helper()
		if got := finder.fromLine([]byte(line)); got != want {
			t.Errorf("%q is %s, want %s", line, got, want)
		}
	}
	// Words.
	f("", "unknown")
	f("an ERROR here", "error")
	f("Err: x", "error")
	f("[WARNING] info", "warn")
	f("errors information warned", "unknown")
	f("terror xinfo", "unknown")
	f("info", "info")
	f("(debug)", "debug")
	f("x;info", "unknown")
	f("x info; critical!", "critical")
	f("log=fatal", "fatal")
	f("er", "unknown")

	// Logfmt.
	f("msg=x level=warn error", "warn")
	f("msg=error LEVEL=warn", "warn")
	f("severity=error lvl=debug", "error")
	f("lvl=debug severity=error", "error")
	f(`a="level=debug" level=info`, "info")
	f(`a="x level=debug`, "debug") // malformed; the word decides
	f("a=b=c level=info error", "info")
	f("x=y=z level=warn error", "warn")
	f("level= info error", "info")
	f("level error=1", "error")
	f(`level="error" info`, "error")
	f("sublevel=error info", "error")

	// JSON.
	f(`{"msg":"error","level":"warn"}`, "warn")
	f(`{"a":{"level":"debug"},"level":"warn"}`, "debug")
	f(`{"a":{"b":{"level":"debug"}},"level":"warn"}`, "warn")
	f(`{"a":[{"level":"debug"}],"level":"warn"}`, "warn")
	f(`{"level":30,"severity":"fatal"}`, "fatal")
	f(`{"level":"weird","msg":"an error here"}`, "error")
	f(`{"LeVel":"trc"}`, "unknown")
	f(`{"l\u0065vel":"fatal"}`, "fatal")
	f(` {"level" : "trc" } `, "trace")
	f(`{"a":"\\","level":"inf"}`, "info")
	f(`{"a" "level":"debug"}`, "debug") // not JSON; the word decides
	f(`{}`, "unknown")
	f(`{`, "unknown")
	f(`{"a":{"level"}`, "unknown")
}

func TestJSONDepth(t *testing.T) {
	line := []byte(`{"a":{"b":{"c":{"level":"trc"}}}}`) // not a word that would be found without JSON
	for depth, want := range map[int]string{0: "trace", -1: "trace", 1: "unknown", 3: "unknown", 4: "trace"} {
		if got := newLevelFinder([]string{"level"}, depth).fromLine(line); got != want {
			t.Errorf("depth %d: %s, want %s", depth, got, want)
		}
	}
}

func FuzzLevelOfLine(f *testing.F) {
	for _, line := range []string{`{"a":{"level":"x"},"b":[1,{"c":"]"}]}`, `a="b" level=info`, "an ERROR", `{"a":"\"`} {
		f.Add([]byte(line))
	}
	finder := defaultFinder()
	f.Fuzz(func(t *testing.T, line []byte) {
		before := string(line)
		if _, ok := levelMetadata[finder.fromLine(line)]; !ok || string(line) != before {
			t.Fatalf("%q: %s", before, finder.fromLine(line))
		}
	})
}

func BenchmarkLevelOfLine(b *testing.B) {
	finder := defaultFinder()
	file, err := os.ReadFile("testdata/lines.log")
	if err != nil {
		b.Fatal(err)
	}
	var lines [][]byte
	start := 0
	for i, c := range file {
		if c == '\n' {
			lines = append(lines, file[start:i])
			start = i + 1
		}
	}
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		for _, line := range lines {
			finder.fromLine(line)
		}
	}
}

// pusherFunc is a Pusher that is shown each entry.
type pusherFunc func(labels.Labels, model.Entry)

func (f pusherFunc) Push(_ context.Context, _ model.Tenant, streams []model.Stream) error {
	for _, s := range streams {
		for _, e := range s.Entries {
			f(s.Labels, e)
		}
	}
	return nil
}
