package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/skaldlog/skald/internal/client"
	"github.com/skaldlog/skald/logql/syntax"
)

// partOptions are the flags of parallel downloads.
type partOptions struct {
	length                 time.Duration
	workers                int
	prefix                 string
	overwrite, merge, keep bool
}

func (o *partOptions) register(fs *flag.FlagSet) {
	fs.DurationVar(&o.length, "parallel-duration", time.Hour, "length of the parts into which a parallel download is cut")
	fs.IntVar(&o.workers, "parallel-max-workers", 1, "download so many parts at a time; more than one turns on parallel download, which prints everything in the range whatever --limit says")
	fs.StringVar(&o.prefix, "part-path-prefix", "", "write each part to a file whose `path` starts so: PREFIX_<start>_<end>.part. A complete part is not downloaded again, so that a download with fixed --from and --to can be resumed")
	fs.BoolVar(&o.overwrite, "overwrite-completed-parts", false, "download parts that are complete, too")
	fs.BoolVar(&o.merge, "merge-parts", false, "print the parts in order as they complete, and remove their files")
	fs.BoolVar(&o.keep, "keep-parts", false, "with --merge-parts: do not remove the files")
}

// wanted reports whether the flags ask for a parallel download.
func (o *partOptions) wanted() bool { return o.workers > 1 || o.prefix != "" || o.merge }

// download runs a log query in parts. Parts keep all labels on their lines, because they
// are read apart from the notes on standard error.
func (c *clientCommand) download(ctx context.Context, q client.QueryRange, o queryOptions) error {
	if o.merge && o.prefix == "" {
		return badUsage("query: --merge-parts needs --part-path-prefix")
	}
	if expr, err := syntax.Parse(q.Query); err == nil {
		if _, ok := expr.(*syntax.LogExpr); !ok || o.chart {
			return badUsage("query: only log queries can be downloaded in parts")
		}
	}
	q.Limit, q.Forward = 0, o.oldestFirst()
	jobs, err := client.Jobs(q.Start, q.End, o.length, q.Forward)
	if err != nil {
		return usageError{fmt.Errorf("query: --parallel-duration: %w", err)}
	}
	var done atomic.Int64
	parts := client.Parts{
		Workers: o.workers, Prefix: o.prefix, Overwrite: o.overwrite, Merge: o.merge, Keep: o.keep, Out: c.std.out,
		Skipped: func(job client.Job) {
			c.note("Skip range: %s - %s: already downloaded", c.stamp(job.Start), c.stamp(job.End))
		},
		Done: func(client.Job) { c.bar.at(float64(done.Add(1))/float64(len(jobs)), 0, 0) },
	}
	parts.Fetch = func(ctx context.Context, job client.Job, w io.Writer) error {
		out := c.out.to(w)
		q := q
		q.Start, q.End = job.Start, job.End
		return c.client.Pages(ctx, q, o.batch, func(a *client.Answer) error {
			if a.Type != "streams" {
				return fmt.Errorf("the answer is a %s: only log queries can be downloaded in parts", a.Type)
			}
			c.warnAll(a.Warnings)
			c.bar.at(float64(done.Load())/float64(len(jobs)), len(a.Entries), textBytes(a.Entries))
			return out.print(a.Entries, nil)
		})
	}
	return parts.Run(ctx, jobs)
}

func (c *clientCommand) stamp(ns int64) string {
	return time.Unix(0, ns).In(c.out.zone).Format(time.RFC3339)
}
