package main

import (
	"context"
	"flag"
	"strconv"
	"strings"
	"time"

	"github.com/skaldlog/skald/internal/client"
)

// volumeOptions are the flags of volume and volume_range.
type volumeOptions struct {
	timeRange
	limit         int
	targets       client.Strings
	byLabels      bool
	step          time.Duration
	chart, ranged bool
}

func (o *volumeOptions) register(fs *flag.FlagSet) {
	o.timeRange.register(fs)
	fs.IntVar(&o.limit, "limit", 30, "most `series` to print")
	fs.Var(&o.targets, "targetLabels", "add up by this `label`; may be repeated")
	fs.BoolVar(&o.byLabels, "aggregateByLabels", false, "add up by the names of labels, not by their values")
	fs.BoolVar(&o.chart, "chart", false, "draw the result")
	if o.ranged {
		fs.DurationVar(&o.step, "step", time.Hour, "length of the intervals")
	}
}

func runVolume(ctx context.Context, std stdio, args []string) error {
	return volume(ctx, std, args, "volume", &volumeOptions{})
}

func runVolumeRange(ctx context.Context, std stdio, args []string) error {
	return volume(ctx, std, args, "volume_range", &volumeOptions{ranged: true})
}

func volume(ctx context.Context, std stdio, args []string, name string, o *volumeOptions) error {
	return clientSpec{name, "SELECTOR", 1, 1, o.register}.run(std, args, func(c *clientCommand) error {
		params, err := o.params()
		if err != nil {
			return err
		}
		params.Set("query", c.args[0])
		params.Set("limit", strconv.Itoa(o.limit))
		if len(o.targets) > 0 {
			params.Set("targetLabels", strings.Join(o.targets, ","))
		}
		if o.byLabels {
			params.Set("aggregateBy", "labels")
		}
		if o.ranged {
			params.Set("step", seconds(o.step))
		}
		a, err := c.client.Volume(ctx, "/loki/api/v1/index/"+name, params)
		if err != nil {
			return err
		}
		c.warnAll(a.Warnings)
		if err := c.cost.add(a.Stats); err != nil {
			return err
		}
		return c.samples(a, o.chart)
	})
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
