package agent

import (
	"bytes"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/agent/positions"
	"github.com/skaldlog/skald/agent/stage"
	"github.com/skaldlog/skald/agent/tail"
	"github.com/skaldlog/skald/internal/model"
)

// outlet is the end of a pipeline: it applies the agent's limits and stages the entry for
// delivery.
type outlet struct {
	lane    *lane
	staging deliver.Staging
	scratch labels.ScratchBuilder
	tenant  string // of the last entry

	given   int64 // time given to the line in hand
	stamped bool  // an entry went out with such a time
}

// Process implements stage.Processor.
func (o *outlet) Process(e *stage.Entry) {
	if !o.allow(e) {
		for _, h := range e.Held {
			h.Release()
		}
		return
	}
	out := model.Entry{Timestamp: e.Timestamp, Line: e.Line}
	if len(e.Metadata) > 0 {
		o.scratch.Reset()
		for _, m := range e.Metadata {
			o.scratch.Add(m.Name, m.Value)
		}
		o.scratch.Sort()
		out.Metadata = o.scratch.Labels()
	}
	o.stamped = o.stamped || e.Timestamp == o.given
	o.tenant = e.Labels.Tenant
	var held []deliver.Origin
	for _, h := range e.Held {
		held = append(held, h)
	}
	o.staging.Add(o.tenant, e.Labels.Labels, e.Labels.Hash, out, e.Origin, held)
}

// allow applies limits_config; false drops the entry.
func (o *outlet) allow(e *stage.Entry) bool {
	l := o.lane
	limits := &l.rt.cfg.Limits
	if limit := int(limits.MaxLineSize); limit > 0 && len(e.Line) > limit {
		if !limits.MaxLineSizeTruncate {
			l.rt.agent.metrics.longLine(l, e, false, len(e.Line))
			return false
		}
		l.rt.agent.metrics.longLine(l, e, true, len(e.Line)-limit)
		e.Line = e.Line[:limit]
	}
	switch {
	case l.limiter == nil:
	case !limits.ReadlineRateDrop:
		// The entry goes on; no more lines are read until the debt is paid.
		if wait := l.limiter.Reserve().Delay(); wait > 0 {
			l.block(clock.Now() + int64(wait))
		}
	case !l.limiter.Allow():
		if l.first {
			l.rt.agent.metrics.dropped.WithLabelValues("global_rate_limiter_drop").Inc()
		}
		return false
	}
	return true
}

// consumer stands between the file and the batch: it runs the pipeline of one log.
type consumer struct {
	outlet
	target *target
	pipe   *stage.Pipeline
}

func newConsumer(l *lane, t *target, path string) *consumer {
	c := &consumer{outlet: outlet{lane: l}, target: t}
	base := labels.NewBuilder(t.labels).Set("filename", path).Labels()
	c.pipe = t.job.program.New(base, c, l.pipeline())
	return c
}

// pipeline says how a lane's pipelines differ from those of the others: what is counted once
// for all clients is counted by the first.
func (l *lane) pipeline() stage.Options { return stage.Options{Silent: !l.first, Group: l.name} }

// origin is a span as stages see it.
type origin struct{ *positions.Span }

// Covers implements stage.Origin.
func (o origin) Covers(later stage.Origin) bool {
	l, ok := later.(origin)
	return ok && o.Before(l.Span)
}

// Lines implements tail.Consumer.
func (c *consumer) Lines(data []byte, base int64, span *positions.Span) (got tail.Taken) {
	var o stage.Origin = origin{span}
	c.stamped = false
	for at := 0; at < len(data); {
		line, next := data[at:], len(data)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, next = line[:i], at+i+1
		}
		c.given = base + int64(got.Lines)
		c.pipe.Line(line, c.given, o)
		switch {
		case !c.pipe.Pending():
			got.Clean, got.CleanLines = next, got.Lines+1
		case c.pipe.Fresh():
			got.Clean, got.CleanLines = at, got.Lines
		}
		got.Lines++
		at = next
	}
	got.Stamped = c.stamped || c.pipe.Pending()
	return got
}

// Rehome implements tail.Consumer.
func (c *consumer) Rehome(from, to *positions.Span) { c.pipe.Rehome(origin{from}, origin{to}) }

// Cut implements tail.Consumer.
func (c *consumer) Cut(int64) {}

// Flush implements tail.Consumer.
func (c *consumer) Flush(now int64, everything bool) int64 { return c.pipe.Flush(now, everything) }

// Commit implements tail.Consumer.
func (c *consumer) Commit() { c.lane.sender.Commit(&c.staging) }

// Ready implements tail.Consumer.
func (c *consumer) Ready() bool {
	hold := max(c.target.hold.Load(), c.lane.blocked.Load())
	if b := c.pipe.Blocked(); b > hold {
		c.lane.resumeAt(b)
		hold = b
	}
	if hold > 0 && clock.Now() < hold {
		return false
	}
	return c.lane.sender.Room(c.tenant)
}

// Pending implements tail.Consumer.
func (c *consumer) Pending() bool { return c.pipe.Pending() }
