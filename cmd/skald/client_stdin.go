package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/client"
	"github.com/skaldlog/skald/internal/client/local"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

// localQuery is a query over standard input.
type localQuery struct {
	query string
	limit int // 0: everything
	chart bool
}

// errEnough ends reading when the limit is reached.
var errEnough = errors.New("enough")

// queryStdin runs a query over standard input, without a server. A log query is a filter
// for pipes: lines come out in the order they went in, as soon as they match.
func (c *clientCommand) queryStdin(ctx context.Context, q localQuery) error {
	expr, err := local.Parse(q.query)
	if err != nil {
		return err
	}
	if !c.given["output"] && !c.given["o"] {
		c.out.mode = "raw"
	}
	now := time.Now().UnixNano()
	logs, ok := expr.(*syntax.LogExpr)
	if !ok {
		return c.metricStdin(ctx, q, expr, now)
	}
	if q.chart {
		return badUsage("--chart draws the results of metric queries; this is a log query")
	}
	count := 0
	var set *pipeline.Set
	var names map[string]string
	err = local.Logs(ctx, c.std.in, logs.Stages, now, func(e local.Entry) error {
		if c.out.mode == "raw" {
			if err := c.out.raw(e.Line); err != nil {
				return err
			}
		} else {
			if e.Set != set {
				set, names = e.Set, e.Set.Labels.Map()
			}
			if err := c.out.write(client.Entry{Timestamp: now, Labels: names, Line: string(e.Line)}, nil); err != nil {
				return err
			}
		}
		if count++; count == q.limit {
			return errEnough
		}
		return nil
	}, c.out.w.Flush)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(err, c.out.w.Flush())
}

func (c *clientCommand) metricStdin(ctx context.Context, q localQuery, expr syntax.Expr, now int64) error {
	res, err := local.Metric(ctx, c.std.in, expr, now)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	}
	c.warnAll(res.Warnings)
	samples, err := encodeSamples(res)
	if err != nil {
		return err
	}
	return c.samples(&client.Answer{Type: res.Type, Samples: samples}, q.chart)
}

// encodeSamples gives a local result the form of a server's answer.
func encodeSamples(res *engine.Result) (json.RawMessage, error) {
	sample := func(p engine.Point) [2]any {
		return [2]any{float64(p.T) / 1000, strconv.FormatFloat(p.V, 'f', -1, 64)}
	}
	if res.Type == "scalar" {
		return json.Marshal(sample(res.Scalar))
	}
	type row struct {
		Metric labels.Labels `json:"metric"`
		Value  [2]any        `json:"value"`
	}
	rows := make([]row, len(res.Series))
	for i, s := range res.Series {
		if len(s.Points) != 1 {
			return nil, fmt.Errorf("a vector's series has %d points", len(s.Points))
		}
		rows[i] = row{s.Labels, sample(s.Points[0])}
	}
	return json.Marshal(rows)
}
