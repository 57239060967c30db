package main

import (
	"context"
	"flag"
	"slices"
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
	partOptions
	limit, batch         int
	step, interval       time.Duration
	forward, newestFirst bool
	tail, follow         bool
	delayFor             int
	stdin, chart         bool
}

func (o *queryOptions) register(fs *flag.FlagSet) {
	o.timeRange.register(fs)
	o.labelOptions.register(fs)
	o.partOptions.register(fs)
	fs.IntVar(&o.limit, "limit", 30, "most `lines` to print; 0 prints everything")
	fs.IntVar(&o.batch, "batch", 1000, "`lines` to ask for at a time")
	fs.DurationVar(&o.step, "step", 0, "resolution of a metric query; the server chooses by default")
	fs.DurationVar(&o.interval, "interval", 0, "keep only lines at least so far apart")
	fs.BoolVar(&o.forward, "forward", false, "with a limit, print the oldest lines of the range rather than the newest")
	fs.BoolVar(&o.newestFirst, "newest-first", false, "print the newest line first, as logcli does")
	alias("tail", "t", func(name string) { fs.BoolVar(&o.tail, name, false, "print lines as they arrive") })
	alias("follow", "f", func(name string) { fs.BoolVar(&o.follow, name, false, "the same as --tail") })
	fs.IntVar(&o.delayFor, "delay-for", 0, "with --tail: wait so many `seconds` for late lines, at most 5")
	registerLocal(fs, &o.stdin, &o.chart)
}

func registerLocal(fs *flag.FlagSet, stdin, chart *bool) {
	fs.BoolVar(stdin, "stdin", false, "ask no server: run the query over the lines of standard input, as in: cat app.log | skald query --stdin '| json | status>=500'. The selector may be missing. Lines come out as they went in unless --output is given, and all of them unless --limit is")
	fs.BoolVar(chart, "chart", false, "draw the result of a metric query")
}

// runQuery prints the lines of a range, oldest first, so that the newest stands above the
// prompt.
func runQuery(ctx context.Context, std stdio, args []string) error {
	var o queryOptions
	return clientSpec{"query", "LOGQL", 1, 1, o.register}.run(std, args, func(c *clientCommand) error {
		o.apply(&c.out)
		switch {
		case o.limit < 0 || o.batch < 1:
			return badUsage("query: --batch must be at least 1 and --limit at least 0")
		case o.stdin:
			limit := 0
			if c.given["limit"] {
				limit = o.limit
			}
			return c.queryStdin(ctx, localQuery{query: c.args[0], limit: limit, chart: o.chart})
		case o.tail || o.follow:
			return c.tail(ctx, c.args[0], tailOptions{limit: o.limit, delayFor: o.delayFor, timeRange: o.timeRange})
		}
		start, end, err := o.bounds()
		if err != nil {
			return err
		}
		q := client.QueryRange{Query: c.args[0], Start: start, End: end, Limit: o.limit, Forward: o.forward, Step: o.step, Interval: o.interval}
		if o.wanted() {
			return c.download(ctx, q, o)
		}
		return c.printQuery(ctx, q, o)
	})
}

// oldestFirst is the order of printed lines.
func (o *queryOptions) oldestFirst() bool { return !o.newestFirst || o.forward }

// printQuery streams pages whose order is the printed order. The newest lines printed
// oldest first must be collected before they can be turned round; everything can instead be
// asked for from the old end.
func (c *clientCommand) printQuery(ctx context.Context, q client.QueryRange, o queryOptions) error {
	if q.Limit == 0 && o.oldestFirst() {
		q.Forward = true
	}
	var collected []client.Entry
	count := 0
	err := c.client.Pages(ctx, q, o.batch, func(a *client.Answer) error {
		c.warnAll(a.Warnings)
		if err := c.cost.add(a.Stats); err != nil {
			return err
		}
		if a.Type != "streams" || o.chart {
			return c.samples(a, o.chart)
		}
		count += len(a.Entries)
		c.bar.at(pageProgress(q, a.Entries, count), len(a.Entries), textBytes(a.Entries))
		if q.Forward == o.oldestFirst() {
			return c.printPage(a.Entries, o.labelOptions)
		}
		collected = append(collected, a.Entries...)
		return nil
	})
	if err != nil || len(collected) == 0 {
		return err
	}
	slices.Reverse(collected)
	return c.printPage(collected, o.labelOptions)
}

// pageProgress is the part of a query that is done after a page: by lines where there is a
// limit, or by time.
func pageProgress(q client.QueryRange, page []client.Entry, count int) float64 {
	if len(page) == 0 || q.End <= q.Start {
		return 1
	}
	done := float64(page[len(page)-1].Timestamp-q.Start) / float64(q.End-q.Start)
	if !q.Forward {
		done = 1 - done
	}
	if q.Limit > 0 {
		done = max(done, float64(count)/float64(q.Limit))
	}
	return done
}

func textBytes(entries []client.Entry) (n int) {
	for _, e := range entries {
		n += len(e.Line)
	}
	return n
}

// printPage prints entries after a note on the labels they share.
func (c *clientCommand) printPage(entries []client.Entry, o labelOptions) error {
	if len(entries) == 0 {
		return nil
	}
	var common map[string]string
	if c.out.mode == "default" && !o.noLabels && !o.includeCommon {
		if common = commonLabels(entries); len(common) > 0 {
			c.note("Common labels: %s", formatLabels(c.out.visible(common, nil)))
		}
	}
	return c.out.print(entries, common)
}

func runInstantQuery(ctx context.Context, std stdio, args []string) error {
	var now string
	var limit int
	var forward, stdin, chart bool
	var labels labelOptions
	register := func(fs *flag.FlagSet) {
		labels.register(fs)
		registerLocal(fs, &stdin, &chart)
		fs.StringVar(&now, "now", "", "`time` at which to evaluate, RFC3339; now by default")
		fs.IntVar(&limit, "limit", 30, "most `lines` for a log query")
		fs.BoolVar(&forward, "forward", false, "oldest lines first for a log query")
	}
	return clientSpec{"instant-query", "LOGQL", 1, 1, register}.run(std, args, func(c *clientCommand) error {
		labels.apply(&c.out)
		if stdin {
			return c.queryStdin(ctx, localQuery{query: c.args[0], chart: chart})
		}
		at := time.Now().UnixNano()
		if now != "" {
			var err error
			if at, err = parseTime("--now", now); err != nil {
				return err
			}
		}
		a, err := c.client.Instant(ctx, c.args[0], at, limit, forward)
		if err != nil {
			return err
		}
		c.warnAll(a.Warnings)
		if err := c.cost.add(a.Stats); err != nil {
			return err
		}
		if a.Type == "streams" && !chart {
			return c.printPage(a.Entries, labels)
		}
		return c.samples(a, chart)
	})
}
