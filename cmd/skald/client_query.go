package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/skaldlog/skald/internal/client"
)

// labelOptions choose which labels are printed.
type labelOptions struct {
	noLabels, includeCommon, colored bool
	exclude, include                 client.Strings
	width                            int
}

func (o *labelOptions) register(fs *flag.FlagSet) {
	fs.BoolVar(&o.noLabels, "no-labels", false, "do not print labels")
	fs.BoolVar(&o.includeCommon, "include-common-labels", false, "print the labels that all lines share on each line, too")
	fs.Var(&o.exclude, "exclude-label", "do not print this `label`; may be repeated")
	fs.Var(&o.include, "include-label", "print this `label` and no others; may be repeated")
	fs.IntVar(&o.width, "labels-length", 0, "least `width` of the label column")
	fs.BoolVar(&o.colored, "colored-output", false, "colour each label set differently")
}

func (o *labelOptions) apply(p *printer) {
	p.noLabels, p.width, p.perStream = o.noLabels, o.width, o.colored
	p.hideLabels, p.showLabels = setOf(o.exclude), setOf(o.include)
	p.color = p.color || o.colored
}

func setOf(names []string) map[string]bool {
	set := map[string]bool{}
	for _, n := range names {
		set[n] = true
	}
	return set
}

type queryOptions struct {
	timeRange
	labelOptions
	limit, batch         int
	step, interval       time.Duration
	forward, newestFirst bool
	tail, follow         bool
	delayFor             int
	parallelMax          int
}

func (o *queryOptions) register(fs *flag.FlagSet) {
	o.timeRange.register(fs)
	o.labelOptions.register(fs)
	fs.IntVar(&o.limit, "limit", 30, "most `lines` to print; 0 prints everything")
	fs.IntVar(&o.batch, "batch", 1000, "`lines` to ask for at a time")
	fs.DurationVar(&o.step, "step", 0, "resolution of a metric query; the server chooses by default")
	fs.DurationVar(&o.interval, "interval", 0, "keep only lines at least so far apart")
	fs.BoolVar(&o.forward, "forward", false, "with a limit, print the oldest lines of the range rather than the newest")
	fs.BoolVar(&o.newestFirst, "newest-first", false, "print the newest line first, as logcli does")
	alias(fs, "tail", "t", func(name string) { fs.BoolVar(&o.tail, name, false, "print lines as they arrive") })
	alias(fs, "follow", "f", func(name string) { fs.BoolVar(&o.follow, name, false, "the same as --tail") })
	fs.IntVar(&o.delayFor, "delay-for", 0, "with --tail: wait so many `seconds` for late lines, at most 5")
}

// runQuery prints the lines of a range, oldest first, so that the newest stands above the
// prompt.
func runQuery(ctx context.Context, std stdio, args []string) error {
	var o queryOptions
	c, done, err := parseClient(std, "query", "LOGQL", args, 1, 1, o.register)
	if done || err != nil {
		return err
	}
	o.apply(&c.out)
	if o.tail || o.follow {
		return c.tail(ctx, c.args[0], tailOptions{limit: o.limit, delayFor: o.delayFor, timeRange: o.timeRange})
	}
	if o.batch < 1 || o.limit < 0 {
		return badUsage("query: --batch must be at least 1 and --limit at least 0")
	}
	start, end, err := o.bounds()
	if err != nil {
		return err
	}
	q := client.QueryRange{Query: c.args[0], Start: start, End: end, Limit: o.limit, Forward: o.forward, Step: o.step, Interval: o.interval}
	return c.printQuery(ctx, q, o)
}

// printQuery streams pages whose order is the printed order. The newest lines printed
// oldest first must be collected before they can be turned round; everything can instead be
// asked for from the old end.
func (c *clientCommand) printQuery(ctx context.Context, q client.QueryRange, o queryOptions) error {
	oldestFirst := !o.newestFirst || o.forward
	if q.Limit == 0 && oldestFirst {
		q.Forward = true
	}
	var collected []client.Entry
	err := c.client.Pages(ctx, q, o.batch, func(a *client.Answer) error {
		c.warnAll(ctx, a.Warnings)
		if c.stats {
			if err := c.printStats(a.Stats); err != nil {
				return err
			}
		}
		switch {
		case a.Type != "streams":
			return c.out.samples(a.Samples)
		case q.Forward == oldestFirst:
			return c.printPage(a.Entries, o)
		}
		collected = append(collected, a.Entries...)
		return nil
	})
	if err != nil {
		return explain(err)
	}
	if len(collected) == 0 {
		return nil
	}
	slices.Reverse(collected)
	return c.printPage(collected, o)
}

// printPage prints entries after a note on the labels they share.
func (c *clientCommand) printPage(entries []client.Entry, o queryOptions) error {
	if len(entries) == 0 {
		return nil
	}
	var common map[string]string
	if c.output == "default" && !o.noLabels && !o.includeCommon {
		if common = commonLabels(entries); len(common) > 0 {
			c.note("Common labels: %s", formatLabels(c.out.visible(common, nil)))
		}
	}
	return c.out.print(entries, common)
}

func runInstantQuery(ctx context.Context, std stdio, args []string) error {
	var now string
	var limit int
	var forward bool
	var labels labelOptions
	c, done, err := parseClient(std, "instant-query", "LOGQL", args, 1, 1, func(fs *flag.FlagSet) {
		labels.register(fs)
		fs.StringVar(&now, "now", "", "`time` at which to evaluate, RFC3339; now by default")
		fs.IntVar(&limit, "limit", 30, "most `lines` for a log query")
		fs.BoolVar(&forward, "forward", false, "oldest lines first for a log query")
	})
	if done || err != nil {
		return err
	}
	at := time.Now().UnixNano()
	if now != "" {
		if at, err = parseTime("--now", now); err != nil {
			return err
		}
	}
	a, err := c.client.Instant(ctx, c.args[0], at, limit, forward)
	if err != nil {
		return explain(err)
	}
	c.warnAll(ctx, a.Warnings)
	if c.stats {
		if err := c.printStats(a.Stats); err != nil {
			return err
		}
	}
	return c.out.samples(a.Samples)
}

// printStats prints the numbers in the server's statistics that are not zero, one per line,
// by their paths.
func (c *clientCommand) printStats(stats json.RawMessage) error {
	if len(stats) == 0 {
		return nil
	}
	var tree any
	if err := json.Unmarshal(stats, &tree); err != nil {
		return fmt.Errorf("statistics in the answer: %w", err)
	}
	rows := map[string]string{}
	flatten("", tree, rows)
	names := make([]string, 0, len(rows))
	for name := range rows {
		names = append(names, name)
	}
	sort.Strings(names)
	w := tabwriter.NewWriter(c.std.err, 0, 0, 2, ' ', 0)
	for _, name := range names {
		fmt.Fprintf(w, "%s\t%s\n", name, rows[name])
	}
	return w.Flush()
}

func flatten(prefix string, v any, rows map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			name := strings.ToUpper(k[:1]) + k[1:]
			if prefix != "" {
				name = prefix + "." + name
			}
			flatten(name, inner, rows)
		}
	case float64:
		if v != 0 {
			rows[prefix] = strconv.FormatFloat(v, 'f', -1, 64)
		}
	}
}
