// Package logqltest runs LogQL scripts: they load lines, evaluate queries and say what
// must come out. The same scripts run over any body of Select, so an answer is known to
// be the same from memory, from segments and from an object store.
//
// # Format
//
// A script is lines of text; # starts a comment line. Times are durations after a fixed
// start, which is a full hour.
//
//	load
//	  {app="a", pod="1"}
//	    0s..10m/30s "level=info n=%d" trace="t%d"
//	    5m "one line"
//
// loads entries, a series of them at 0s, 30s, … up to and including 10m. %d stands for
// the number of the entry. What follows the line is structured metadata. A second load
// adds to the first; clear forgets all.
//
//	eval instant 10m QUERY
//	  {pod="1"} 20
//	eval range 0s..10m/5m QUERY
//	  {pod="1"} 1 _ 20
//	eval logs 0s..10m limit 2 backward QUERY
//	  {app="a", pod="1"} 10m "…"
//
// evaluates, and wants exactly the series (points in order, _ for a step without a
// sample) or entries listed. Series of an instant query that sorts must stand in order.
// Instead of results, "expect empty" wants none and "expect fail TEXT" an error that
// starts so. An eval must say what it wants, so that nothing passes by being empty.
//
// Every load brings noise along: streams with the label noise, at the times of the
// load's own entries, which no query may see. Every instant query is also run as a
// range query of one step.
package logqltest

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

//go:embed testdata
var testdata embed.FS

// Start is the time of 0s in all scripts.
var Start = time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC)

// Open makes a body of Select that holds exactly the streams. Entries come in any order.
type Open func(t *testing.T, streams []model.Stream) scan.Selector

// Run runs all scripts, each as a subtest.
func Run(t *testing.T, open Open) {
	t.Helper()
	files, err := fs.Glob(testdata, "testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		raw, err := testdata.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(path.Base(name), ".txt"), func(t *testing.T) {
			s := script{t: t, name: path.Base(name), open: open}
			s.run(string(raw))
		})
	}
}

// script is a script being run.
type script struct {
	t       *testing.T
	name    string
	open    Open
	streams []model.Stream
	source  scan.Selector // nil after a load
	evals   int
}

// block is a command with the indented lines below it.
type block struct {
	line    int
	command string
	body    []string
}

func (s *script) run(text string) {
	for _, b := range blocksOf(text) {
		var err error
		switch word, rest, _ := strings.Cut(b.command, " "); word {
		case "clear":
			s.streams, s.source = nil, nil
		case "load":
			err = s.load(b.body)
		case "eval":
			s.evals++
			err = s.eval(rest, b.body)
		default:
			err = fmt.Errorf("unknown command %q", word)
		}
		if err != nil {
			s.t.Errorf("%s:%d: %s\n%v", s.name, b.line, b.command, err)
		}
	}
	if s.evals == 0 {
		s.t.Errorf("%s evaluates nothing", s.name)
	}
}

func blocksOf(text string) []block {
	var out []block
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || strings.HasPrefix(trimmed, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if len(out) > 0 {
				out[len(out)-1].body = append(out[len(out)-1].body, trimmed)
			}
		default:
			out = append(out, block{line: i + 1, command: trimmed})
		}
	}
	return out
}

// load adds the entries of a load and their noise.
func (s *script) load(body []string) error {
	s.source = nil
	var stream *model.Stream
	for _, line := range body {
		if line[0] == '{' {
			l, rest, err := labelsOf(line)
			if err != nil || rest != "" {
				return fmt.Errorf("labels %s: %v %q", line, err, rest)
			}
			s.streams = append(s.streams,
				model.Stream{Labels: labels.FromStrings("noise", fmt.Sprint(len(s.streams)))},
				model.Stream{Labels: l})
			stream = &s.streams[len(s.streams)-1]
			continue
		}
		if stream == nil {
			return fmt.Errorf("entry before labels: %s", line)
		}
		entries, err := entriesOf(line)
		if err != nil {
			return fmt.Errorf("entry %s: %w", line, err)
		}
		stream.Entries = append(stream.Entries, entries...)
		noise := &s.streams[len(s.streams)-2]
		for _, e := range entries {
			e.Line = append([]byte("noise "), e.Line...)
			noise.Entries = append(noise.Entries, e)
		}
	}
	return nil
}

// labelsOf reads a label set in front of a line and returns what follows. Empty values
// stay: some series have them.
func labelsOf(line string) (labels.Labels, string, error) {
	var b labels.ScratchBuilder
	rest, ok := strings.CutPrefix(line, "{")
	for ok && rest != "" {
		rest = strings.TrimLeft(rest, ", ")
		if after, done := strings.CutPrefix(rest, "}"); done {
			b.Sort()
			return b.Labels(), strings.TrimSpace(after), nil
		}
		name, value, tail, err := pair(rest)
		if err != nil {
			return labels.EmptyLabels(), "", err
		}
		b.Add(name, value)
		rest = tail
	}
	return labels.EmptyLabels(), "", fmt.Errorf("no label set in %q", line)
}

// pair reads name="value".
func pair(text string) (name, value, rest string, err error) {
	name, rest, ok := strings.Cut(text, "=")
	if !ok {
		return "", "", "", fmt.Errorf("no = in %q", text)
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return "", "", "", fmt.Errorf("value of %s: %w", name, err)
	}
	value, err = strconv.Unquote(quoted)
	return name, value, rest[len(quoted):], err
}

// entriesOf reads TIME "line" name="value" …, where TIME may be from..to/step.
func entriesOf(text string) ([]model.Entry, error) {
	when, rest, _ := strings.Cut(text, " ")
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	line, err := strconv.Unquote(quoted)
	if err != nil {
		return nil, err
	}
	rest = strings.TrimSpace(rest[len(quoted):])
	var meta [][2]string
	for rest != "" {
		name, value, tail, err := pair(rest)
		if err != nil {
			return nil, err
		}
		meta = append(meta, [2]string{name, value})
		rest = strings.TrimSpace(tail)
	}
	from, to, step, err := timesOf(when)
	if err != nil {
		return nil, err
	}
	var out []model.Entry
	for at := from; at <= to; at += step {
		number := func(s string) string { return strings.ReplaceAll(s, "%d", strconv.Itoa(len(out))) }
		md := labels.NewBuilder(labels.EmptyLabels())
		for _, m := range meta {
			md.Set(m[0], number(m[1]))
		}
		out = append(out, model.Entry{
			Timestamp: Start.Add(at).UnixNano(), Line: []byte(number(line)), Metadata: md.Labels(),
		})
	}
	return out, nil
}

// timesOf reads 5m, 0s..10m or 0s..10m/30s.
func timesOf(text string) (from, to, step time.Duration, err error) {
	span, every, stepped := strings.Cut(text, "/")
	first, last, ranged := strings.Cut(span, "..")
	if from, err = time.ParseDuration(first); err != nil {
		return 0, 0, 0, err
	}
	to, step = from, time.Second
	if ranged {
		if to, err = time.ParseDuration(last); err != nil {
			return 0, 0, 0, err
		}
	}
	if stepped {
		step, err = time.ParseDuration(every)
	}
	if err == nil && step <= 0 {
		err = fmt.Errorf("step %s", step)
	}
	return from, to, step, err
}

// limits are those under which scripts run.
var limits = engine.Limits{MaxSeries: 500, MaxEntries: 5000, MaxResolution: 11000, Variants: true, ApproxTopK: true}

// eval runs one query and compares.
func (s *script) eval(text string, want []string) error {
	if s.source == nil {
		s.source = s.open(s.t, s.streams)
	}
	if len(want) == 0 {
		return fmt.Errorf("nothing is expected")
	}
	kind, rest, _ := strings.Cut(text, " ")
	when, rest, _ := strings.Cut(rest, " ")
	from, to, step, err := timesOf(when)
	if err != nil {
		return err
	}
	p := engine.Params{Start: Start.Add(from).UnixNano(), End: Start.Add(to).UnixNano(), Step: step}
	switch kind {
	case "instant":
		p.Query = rest
		// The whole time is a multiple of itself, so that the grid has this one point.
		p.Step = time.Duration(p.End)
		if err := s.compare(p, want, false); err != nil {
			return fmt.Errorf("as a range: %w", err)
		}
		p.Instant = true
		return s.compare(p, want, strings.Contains(rest, "sort"))
	case "range":
		p.Query = rest
		return s.compare(p, want, false)
	case "logs":
		if p, err = logParams(p, rest); err != nil {
			return err
		}
		return s.compare(p, want, true)
	}
	return fmt.Errorf("unknown kind %q", kind)
}

// logParams reads limit N, interval D, forward and backward in front of the query.
func logParams(p engine.Params, rest string) (engine.Params, error) {
	for {
		word, tail, _ := strings.Cut(rest, " ")
		switch word {
		case "forward", "backward":
			p.Forward = word == "forward"
			rest = tail
			continue
		case "limit", "interval":
			value, after, _ := strings.Cut(tail, " ")
			var err error
			if word == "limit" {
				p.Limit, err = strconv.Atoi(value)
			} else {
				p.Interval, err = time.ParseDuration(value)
			}
			if err != nil {
				return p, err
			}
			rest = after
			continue
		}
		p.Query = rest
		return p, nil
	}
}

func (s *script) compare(p engine.Params, want []string, ordered bool) error {
	res, err := engine.New(engine.Options{}).Query(context.Background(), s.source, limits, p)
	expected, isRule := strings.CutPrefix(want[0], "expect ")
	if text, fails := strings.CutPrefix(expected, "fail "); isRule && fails {
		if err == nil || !strings.HasPrefix(err.Error(), text) {
			return fmt.Errorf("got error %v, want %s", err, text)
		}
		return nil
	}
	if err != nil {
		return err
	}
	got := show(res)
	if isRule && expected == "empty" {
		want = nil
	}
	if want, err = normalized(want, res.Type); err != nil {
		return err
	}
	if !ordered {
		slices.Sort(got)
		slices.Sort(want)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf(" got:\n   %s\nwant:\n   %s", strings.Join(got, "\n   "), strings.Join(want, "\n   "))
	}
	return nil
}

// show writes a result as scripts do.
func show(res *engine.Result) []string {
	var out []string
	switch res.Type {
	case "scalar":
		out = append(out, "{} "+value(res.Scalar.V))
	case "streams":
		for _, s := range res.Streams {
			for _, e := range s.Entries {
				out = append(out, fmt.Sprintf("%s %s %q", s.Labels, time.Unix(0, e.Timestamp).Sub(Start), e.Line))
			}
		}
	default:
		out = points(res.Series)
	}
	return out
}

// points writes series with _ where a step of the whole result has no sample.
func points(series []engine.Series) []string {
	var steps []int64
	for _, s := range series {
		for _, p := range s.Points {
			steps = append(steps, p.T)
		}
	}
	slices.Sort(steps)
	steps = slices.Compact(steps)
	var out []string
	for _, s := range series {
		line := s.Labels.String()
		next := 0
		for _, t := range steps {
			if next < len(s.Points) && s.Points[next].T == t {
				line += " " + value(s.Points[next].V)
				next++
			} else {
				line += " _"
			}
		}
		out = append(out, line)
	}
	return out
}

func value(v float64) string {
	if math.Abs(v) < 1e-12 {
		v = 0
	}
	return strconv.FormatFloat(v, 'g', 9, 64)
}

// normalized rewrites expectations in the form that show uses.
func normalized(want []string, kind string) ([]string, error) {
	out := make([]string, len(want))
	for i, line := range want {
		l, rest, err := labelsOf(line)
		if err != nil {
			return nil, err
		}
		if kind == "streams" {
			when, text, _ := strings.Cut(rest, " ")
			d, err := time.ParseDuration(when)
			if err != nil {
				return nil, err
			}
			unquoted, err := strconv.Unquote(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", text, err)
			}
			out[i] = fmt.Sprintf("%s %s %q", l, d, unquoted)
			continue
		}
		out[i] = l.String()
		for _, f := range strings.Fields(rest) {
			if f != "_" {
				v, err := strconv.ParseFloat(f, 64)
				if err != nil {
					return nil, err
				}
				f = value(v)
			}
			out[i] += " " + f
		}
	}
	return out, nil
}
