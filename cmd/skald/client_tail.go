package main

import (
	"context"
	"flag"
	"time"

	"github.com/skaldlog/skald/internal/client"
)

type tailOptions struct {
	timeRange
	limit    int
	delayFor int
}

// runTail is query --tail under a shorter name.
func runTail(ctx context.Context, std stdio, args []string) error {
	var o tailOptions
	var labels labelOptions
	register := func(fs *flag.FlagSet) {
		o.register(fs)
		labels.register(fs)
		fs.IntVar(&o.limit, "limit", 30, "most `lines` from before now to print first")
		fs.IntVar(&o.delayFor, "delay-for", 0, "wait so many `seconds` for late lines, at most 5")
	}
	return clientSpec{"tail", "LOGQL", 1, 1, register}.run(std, args, func(c *clientCommand) error {
		labels.apply(&c.out)
		return c.tail(ctx, c.args[0], o)
	})
}

// tail prints until the user ends it, which is a success.
func (c *clientCommand) tail(ctx context.Context, query string, o tailOptions) error {
	start, _, err := o.bounds()
	if err != nil {
		return err
	}
	t := client.Tail{Query: query, Limit: o.limit, Start: start, DelayFor: time.Duration(o.delayFor) * time.Second}
	return c.client.Tail(ctx, t, func(f client.TailFrame) error {
		if len(f.Dropped) > 0 {
			c.note("Server dropped following entries due to slow client")
			for _, d := range f.Dropped {
				c.note("%s %s", time.Unix(0, d.Timestamp).In(c.out.zone).Format(c.out.layout), formatLabels(d.Labels))
			}
		}
		return c.out.print(f.Entries, nil)
	}, func(msg string) { c.note("%s", msg) })
}
