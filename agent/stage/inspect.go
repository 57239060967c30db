package stage

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Inspector writes down what stages do to entries, for people who write pipelines.
type Inspector struct {
	mu    sync.Mutex
	w     io.Writer
	color bool
}

// NewInspector returns one that writes to w, with colours when it is a terminal.
func NewInspector(w io.Writer, color bool) *Inspector { return &Inspector{w: w, color: color} }

const (
	colorName    = "\x1b[36m"
	colorAdded   = "\x1b[32m"
	colorRemoved = "\x1b[31m"
	colorOff     = "\x1b[0m"
)

// inspection gathers the text about one line of one pipeline.
type inspection struct {
	to  *Inspector
	buf strings.Builder
}

func (n *inspection) paint(color, s string) string {
	if !n.to.color {
		return s
	}
	return color + s + colorOff
}

func (n *inspection) begin(e *Entry) {
	fmt.Fprintf(&n.buf, "%s %s\n", e.Labels.Labels, quoteLine(text(e.Line)))
}

func (n *inspection) write() {
	if n.buf.Len() == 0 {
		return
	}
	n.to.mu.Lock()
	_, _ = io.WriteString(n.to.w, n.buf.String()) // there is nowhere else to complain
	n.to.mu.Unlock()
	n.buf.Reset()
}

func quoteLine(s string) string {
	const longest = 500
	if len(s) > longest {
		return fmt.Sprintf("%q… (%d bytes)", s[:longest], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// snapshot is an entry before a stage.
type snapshot struct {
	timestamp int64
	line      string
	labels    labels.Labels
	metadata  []labels.Label
	extracted map[string]string
}

func snap(e *Entry) snapshot {
	s := snapshot{
		timestamp: e.Timestamp, line: string(e.Line), labels: e.Labels.all,
		metadata: append([]labels.Label(nil), e.Metadata...), extracted: map[string]string{},
	}
	e.extracted.all(func(name string, v value) {
		t, ok := v.text()
		if ok {
			t = fmt.Sprintf("%q", t)
		} else {
			t = "nothing"
		}
		s.extracted[strings.Clone(name)] = t
	})
	return s
}

// probe stands around a stage and writes down the difference it makes.
type probe struct {
	name   string
	notes  *inspection
	inside Processor
	before *snapshot
	passed bool
}

// inspected attaches a stage with a probe around it.
func inspected(d named, next Processor, p *Pipeline) Processor {
	b := &probe{name: d.name, notes: p.notes}
	b.inside = d.attach(processor(func(e *Entry) {
		b.after(e)
		next.Process(e)
	}), p)
	return b
}

// Process implements Processor.
func (b *probe) Process(e *Entry) {
	s := snap(e)
	outer := b.before
	b.before, b.passed = &s, false
	b.inside.Process(e)
	if !b.passed {
		b.say("the entry was dropped, or kept back until more lines come")
	}
	b.before = outer
}

func (b *probe) say(format string, args ...any) {
	fmt.Fprintf(&b.notes.buf, "  %s %s\n", b.notes.paint(colorName, fmt.Sprintf("%-20s", b.name)), fmt.Sprintf(format, args...))
}

func (b *probe) after(e *Entry) {
	b.passed = true
	now := snap(e)
	if b.before == nil {
		b.say("sends on what it kept back: %s", quoteLine(now.line))
		return
	}
	was := *b.before
	n := b.notes
	changed := false
	tell := func(format string, args ...any) {
		changed = true
		b.say(format, args...)
	}
	old, fresh := was.labels.Map(), now.labels.Map()
	n.diff("label", quoted(old), quoted(fresh), tell)
	n.diff("extracted", was.extracted, now.extracted, tell)
	n.diff("metadata", pairs(was.metadata), pairs(now.metadata), tell)
	if was.timestamp != now.timestamp {
		tell("timestamp %s → %s", stamp(was.timestamp), n.paint(colorAdded, stamp(now.timestamp)))
	}
	if was.line != now.line {
		tell("line %s", n.paint(colorAdded, quoteLine(now.line)))
	}
	if !changed {
		b.say("no change")
	}
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

func quoted(m map[string]string) map[string]string {
	for k, v := range m {
		m[k] = fmt.Sprintf("%q", v)
	}
	return m
}

func pairs(list []labels.Label) map[string]string {
	m := map[string]string{}
	for _, l := range list {
		m[strings.Clone(l.Name)] = fmt.Sprintf("%q", l.Value)
	}
	return m
}

// diff tells what was added, changed and removed.
func (n *inspection) diff(what string, was, now map[string]string, tell func(string, ...any)) {
	for _, k := range slices.Sorted(maps.Keys(now)) {
		if v, had := was[k]; !had {
			tell("%s %s = %s", what, k, n.paint(colorAdded, now[k]))
		} else if v != now[k] {
			tell("%s %s = %s, was %s", what, k, n.paint(colorAdded, now[k]), n.paint(colorRemoved, v))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(was)) {
		if _, has := now[k]; !has {
			tell("%s %s %s, was %s", what, k, n.paint(colorRemoved, "removed"), was[k])
		}
	}
}
