package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"text/tabwriter"

	"flag"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/logql/syntax"
)

// rangeParams are the parameters that metadata endpoints share.
func (r *timeRange) params() (url.Values, error) {
	start, end, err := r.bounds()
	if err != nil {
		return nil, err
	}
	return url.Values{"start": {strconv.FormatInt(start, 10)}, "end": {strconv.FormatInt(end, 10)}}, nil
}

func runLabels(ctx context.Context, std stdio, args []string) error {
	var r timeRange
	return clientSpec{"labels", "[LABEL]", 0, 1, r.register}.run(std, args, func(c *clientCommand) error {
		params, err := r.params()
		if err != nil {
			return err
		}
		path := "/loki/api/v1/labels"
		if len(c.args) == 1 {
			path = "/loki/api/v1/label/" + url.PathEscape(c.args[0]) + "/values"
		}
		var body struct {
			Data []string `json:"data"`
		}
		if err := c.client.Do(ctx, http.MethodGet, path, params, &body); err != nil {
			return err
		}
		return c.printLines(body.Data)
	})
}

func (c *clientCommand) printLines(lines []string) error {
	for _, line := range lines {
		_, _ = c.out.w.WriteString(line)
		if err := c.out.w.WriteByte('\n'); err != nil {
			return err
		}
	}
	return c.out.w.Flush()
}

func runSeries(ctx context.Context, std stdio, args []string) error {
	var r timeRange
	var analyze bool
	register := func(fs *flag.FlagSet) {
		r.register(fs)
		fs.BoolVar(&analyze, "analyze-labels", false, "print how many values each label has, instead of the streams")
	}
	return clientSpec{"series", "SELECTOR", 1, 1, register}.run(std, args, func(c *clientCommand) error {
		params, err := r.params()
		if err != nil {
			return err
		}
		params.Set("match", c.args[0])
		var body struct {
			Data []map[string]string `json:"data"`
		}
		if err := c.client.Do(ctx, http.MethodGet, "/loki/api/v1/series", params, &body); err != nil {
			return err
		}
		if analyze {
			return analyzeLabels(std.out, body.Data)
		}
		lines := make([]string, len(body.Data))
		for i, ls := range body.Data {
			lines[i] = formatLabels(ls)
		}
		sort.Strings(lines)
		return c.printLines(lines)
	})
}

// analyzeLabels shows where a high number of streams comes from.
func analyzeLabels(out io.Writer, streams []map[string]string) error {
	values := map[string]map[string]bool{}
	found := map[string]int{}
	for _, s := range streams {
		for k, v := range s {
			if values[k] == nil {
				values[k] = map[string]bool{}
			}
			values[k][v] = true
			found[k]++
		}
	}
	names := make([]string, 0, len(values))
	for k := range values {
		names = append(names, k)
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := len(values[names[i]]), len(values[names[j]])
		return a > b || a == b && names[i] < names[j]
	})
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "Total Streams:  %d\nUnique Labels:  %d\n\nLabel Name\tUnique Values\tFound In Streams\n", len(streams), len(names))
	for _, k := range names {
		fmt.Fprintf(w, "%s\t%d\t%d\n", k, len(values[k]), found[k])
	}
	return w.Flush()
}

func runStats(ctx context.Context, std stdio, args []string) error {
	var r timeRange
	return clientSpec{"stats", "SELECTOR", 1, 1, r.register}.run(std, args, func(c *clientCommand) error {
		params, err := r.params()
		if err != nil {
			return err
		}
		params.Set("query", c.args[0])
		var s struct{ Bytes, Chunks, Streams, Entries uint64 }
		if err := c.client.Do(ctx, http.MethodGet, "/loki/api/v1/index/stats", params, &s); err != nil {
			return err
		}
		// "chunks" is Loki's word for what Skald calls blocks; scripts look for it.
		fmt.Fprintln(c.out.w, "{")
		for _, row := range [][2]string{
			{"bytes", humanizeBytes(s.Bytes)}, {"chunks", strconv.FormatUint(s.Chunks, 10)},
			{"streams", strconv.FormatUint(s.Streams, 10)}, {"entries", strconv.FormatUint(s.Entries, 10)},
		} {
			fmt.Fprint(c.out.w, "  ")
			c.out.colored(colorTime, row[0])
			fmt.Fprintf(c.out.w, ": %s\n", row[1])
		}
		fmt.Fprintln(c.out.w, "}")
		return c.out.w.Flush()
	})
}

// humanizeBytes prints a size in SI units without a space, as logcli does.
func humanizeBytes(n uint64) string {
	text := []byte(humanize.Bytes(n))
	for i, c := range text {
		if c == ' ' {
			return string(append(text[:i:i], text[i+1:]...))
		}
	}
	return string(text)
}

// maxQueryText bounds what fmt reads; the language allows less.
const maxQueryText = 1 << 20

func runFmt(_ context.Context, std stdio, args []string) error {
	return clientSpec{name: "fmt", usage: "[LOGQL]", maxArgs: 1}.run(std, args, func(c *clientCommand) error {
		var query string
		if len(c.args) == 1 {
			query = c.args[0]
		} else {
			text, err := io.ReadAll(io.LimitReader(std.in, maxQueryText))
			if err != nil {
				return err
			}
			query = string(text)
		}
		expr, err := syntax.Parse(query)
		if err != nil {
			return fmt.Errorf("unable to format logql: failed to parse the query: %w", err)
		}
		_, err = fmt.Fprintln(std.out, expr.Pretty(0))
		return err
	})
}
