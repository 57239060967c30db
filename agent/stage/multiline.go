package stage

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
)

// multiline joins lines into blocks that begin with a line that matches an expression, for
// each label set by itself. A block is sent when the next begins, when it has max_lines
// lines, and when no line has come for max_wait_time. What follows a block that was sent
// without a new first line becomes a block with the labels, time and extracted values of
// the old first line.
type multiline struct {
	first    *regexp.Regexp
	maxLines int
	maxWait  time.Duration
	maxText  int
}

func buildMultiline(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Firstline   *looseString   `yaml:"firstline"`
		MaxLines    *looseInt      `yaml:"max_lines"`
		MaxWaitTime *time.Duration `yaml:"max_wait_time"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	if c.Firstline == nil {
		return nil, errors.New("firstline is required")
	}
	re, err := compileRegexp(string(*c.Firstline), "firstline")
	if err != nil {
		return nil, err
	}
	d := multiline{first: re, maxLines: 128, maxWait: 3 * time.Second, maxText: env.MaxLine}
	if c.MaxLines != nil {
		d.maxLines = int(*c.MaxLines)
	}
	if c.MaxWaitTime != nil {
		d.maxWait = *c.MaxWaitTime
	}
	return d, nil
}

func (d multiline) attach(next Processor, p *Pipeline) Processor {
	l := &multilineLink{multiline: d, next: next, pipeline: p, blocks: map[uint64]*block{}}
	p.flushers = append(p.flushers, l)
	return l
}

type multilineLink struct {
	multiline
	next     Processor
	pipeline *Pipeline
	blocks   map[uint64]*block // by hash of labels
}

// block is what has come of one label set since its last first line.
type block struct {
	started bool // a first line has been seen
	entry   Entry
	lines   int
	last    int64 // when the last line came
	line    uint64
}

func (l *multilineLink) Process(e *Entry) {
	key := e.Labels.Hash
	b := l.blocks[key]
	isFirst := l.first.Match(e.Line)
	if b == nil && !isFirst {
		l.next.Process(e)
		return
	}
	if b == nil {
		if len(l.blocks) >= maxSets {
			l.flush(0, true)
			clear(l.blocks)
		}
		b = &block{}
		l.blocks[key] = b
	}
	if isFirst {
		l.send(b)
		b.start(e)
	}
	l.add(b, e)
	if l.maxLines > 0 && b.lines >= l.maxLines {
		l.send(b)
	}
}

// start remembers the first line's properties.
func (b *block) start(e *Entry) {
	b.started = true
	b.entry = Entry{
		Timestamp: e.Timestamp, Labels: e.Labels, Metadata: slices.Clone(e.Metadata),
		extracted: e.extracted.clone(),
	}
	for i := range b.entry.Metadata {
		m := &b.entry.Metadata[i]
		*m = labels.Label{Name: m.Name, Value: string([]byte(m.Value))}
	}
}

func (l *multilineLink) add(b *block, e *Entry) {
	x := &b.entry
	if b.lines == 0 {
		b.line = l.pipeline.keep(e)
	}
	if len(x.Line) > 0 {
		x.Line = append(x.Line, '\n')
	}
	if room := l.maxText - len(x.Line); len(e.Line) > room {
		x.Line = append(x.Line, e.Line[:max(room, 0)]...)
		l.pipeline.dropped("multiline_block_cut")
	} else {
		x.Line = append(x.Line, e.Line...)
	}
	x.Held = hold(append(x.Held, e.Held...), e.Origin)
	e.Held = nil
	x.Origin = e.Origin
	b.lines++
	b.last = l.pipeline.env.Clock()
}

// send emits a block's lines and leaves it ready for more.
func (l *multilineLink) send(b *block) {
	if b.lines == 0 {
		return
	}
	out := b.entry
	out.extracted = b.entry.extracted.clone()
	out.Metadata = slices.Clone(b.entry.Metadata)
	b.entry.Line, b.entry.Held, b.lines = nil, nil, 0
	l.pipeline.unkeep(b.line)
	l.next.Process(&out)
}

func (l *multilineLink) rehome(from, to Origin) {
	for _, b := range l.blocks {
		rehome(b.entry.Held, from, to)
	}
}

func (l *multilineLink) flush(now int64, everything bool) int64 {
	next := int64(math.MaxInt64)
	for _, b := range l.blocks {
		if b.lines == 0 {
			continue
		}
		if due := b.last + int64(l.maxWait); everything || due <= now {
			l.send(b)
		} else {
			next = min(next, due)
		}
	}
	return next
}
