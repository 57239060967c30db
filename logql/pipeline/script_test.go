package pipeline

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	promql "github.com/prometheus/prometheus/promql/parser"

	"github.com/skaldlog/skald/logql/syntax"
)

var rewrite = flag.Bool("rewrite", false, "write what the pipeline does into testdata")

// TestScripts runs testdata/*.txt. A script is a list of
//
//	stream {…}     the stream's labels from here on; {app="x"} at the beginning
//	meta {…}       the rows' structured metadata from here on
//	| stages…      a pipeline, or a whole metric query whose innermost rows are shown
//	  line         indented: an input line, a Go string when it begins with a quote
//	  => result    what becomes of it: dropped, or labels, and the line if it changed
//
// A pipeline that does not compile has one result and no line.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	var out strings.Builder
	stream, meta := labels.FromStrings("app", "x"), []labels.Label(nil)
	var p *Pipeline
	for _, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		if strings.HasPrefix(line, "  => ") {
			continue
		}
		out.WriteString(line + "\n")
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "stream "):
			stream = scriptLabels(t, line[len("stream "):])
		case strings.HasPrefix(line, "meta "):
			meta = nil
			scriptLabels(t, line[len("meta "):]).Range(func(l labels.Label) { meta = append(meta, l) })
		case strings.HasPrefix(line, "  "):
			text := line[2:]
			if strings.HasPrefix(text, `"`) {
				if s, err := strconv.Unquote(text); err == nil {
					text = s
				}
			}
			out.WriteString("  => " + scriptRow(p, stream, meta, text) + "\n")
		default:
			var err error
			if p, err = scriptPipeline(line); err != nil {
				out.WriteString("  => " + err.Error() + "\n")
			}
		}
	}
	return out.String()
}

func scriptLabels(t *testing.T, s string) labels.Labels {
	if s == "{}" {
		return labels.EmptyLabels()
	}
	lbs, err := promql.NewParser(promql.Options{}).ParseMetric(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return lbs
}

// scriptPipeline compiles stages, or those of a metric query.
func scriptPipeline(text string) (*Pipeline, error) {
	if strings.HasPrefix(text, "|") || strings.HasPrefix(text, "!") {
		e, err := syntax.ParseLog(`{app="x"} ` + text)
		if err != nil {
			return nil, err
		}
		return New(e.Stages, Options{})
	}
	e, err := syntax.Parse(text)
	if err != nil {
		return nil, err
	}
	agg := syntax.RangeAggs(e)[0]
	var outer *syntax.Grouping
	if v, ok := e.(*syntax.VectorAgg); ok && agg.Grouping == nil {
		if outer = v.Grouping; outer == nil {
			outer = &syntax.Grouping{}
		}
	}
	return New(agg.Range.Log.Stages, Options{Sample: SampleFor(agg, outer)})
}

func scriptRow(p *Pipeline, stream labels.Labels, meta []labels.Label, line string) string {
	out, lbs, ok := p.ForStream(stream, stream.Hash()).Process(1768471200123456789, []byte(line), meta)
	switch {
	case !ok:
		return "dropped"
	case p.opts.Sample != nil && p.unwrap != nil:
		return fmt.Sprintf("%v %v", lbs.Group().Labels, lbs.Value())
	case p.opts.Sample != nil:
		return lbs.Group().Labels.String()
	case string(out) != line:
		return fmt.Sprintf("%s %q", lbs.Labels(), out)
	}
	return lbs.Labels().String()
}
