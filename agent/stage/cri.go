package stage

import (
	"bytes"
	"math"

	"go.yaml.in/yaml/v3"
)

// cri reads the line format of Kubernetes' container runtimes,
//
//	<RFC 3339 time> <stdout|stderr> <flags> <content>
//
// and joins lines that the runtime has split: a line with flag P is the beginning of one
// that ends with any other flag. Promtail keeps the beginnings of a whole job in one map of
// at most max_partial_lines entries, and empties it at random when it is full; here a log
// has at most two, one for each stream, and the length is what is bounded.
type cri struct {
	maxText  int // of joined text, in bytes
	truncate int // max_partial_line_size when max_partial_line_size_truncate is set, else 0
}

func buildCRI(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		MaxPartialLines            looseInt  `yaml:"max_partial_lines"` // read for compatibility: nothing to limit here
		MaxPartialLineSize         looseInt  `yaml:"max_partial_line_size"`
		MaxPartialLineSizeTruncate looseBool `yaml:"max_partial_line_size_truncate"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	d := cri{maxText: env.MaxLine}
	if c.MaxPartialLineSizeTruncate && c.MaxPartialLineSize > 0 {
		d.truncate = int(c.MaxPartialLineSize)
	}
	return d, nil
}

func (d cri) attach(next Processor, p *Pipeline) Processor {
	c := &criLink{cri: d, next: next, pipeline: p, times: newFudge()}
	c.partial[0].stream, c.partial[1].stream = "stdout", "stderr"
	p.flushers = append(p.flushers, c)
	return c
}

type criLink struct {
	cri
	next     Processor
	pipeline *Pipeline
	times    *fudge
	partial  [2]struct {
		stream  string
		text    []byte
		open    bool // a P has come and no F
		held    []Origin
		time    int64 // of the last fragment
		labels  *Set
		tooLong bool
		line    uint64 // with which it began
	}
}

func (c *criLink) Process(e *Entry) {
	stamp, stream, flags, content, ok := parseCRI(e.Line)
	if !ok {
		c.next.Process(e)
		return
	}
	x := &e.extracted
	x.set("time", stringValue(text(stamp)))
	x.set("stream", stringValue(text(stream)))
	x.set("flags", stringValue(text(flags)))
	x.set("content", stringValue(text(content)))
	e.Labels = e.Labels.with("stream", text(stream))
	if ts, ok := parseRFC3339(stamp); ok {
		e.Timestamp = ts
		c.times.good(e.Labels, ts)
	} else {
		e.Timestamp = c.times.guess(e.Labels, e.Timestamp)
	}
	e.Line = content

	i := 0
	if stream[3] == 'e' { // std-e-rr
		i = 1
	}
	partial := len(flags) == 1 && flags[0] == 'P'
	if partial || c.partial[i].open {
		c.join(e, i, partial)
		return
	}
	c.next.Process(e)
}

// join appends a fragment and, when it is the last one, sends the whole line on.
func (c *criLink) join(e *Entry, i int, more bool) {
	p := &c.partial[i]
	if !p.open {
		p.open = true
		p.line = c.pipeline.keep(e)
	}
	limit := c.maxText
	if c.truncate > 0 {
		limit = min(limit, c.truncate)
	}
	if room := limit - len(p.text); len(e.Line) > room {
		p.tooLong = true
		p.text = append(p.text, e.Line[:max(room, 0)]...)
	} else {
		p.text = append(p.text, e.Line...)
	}
	p.time, p.labels = e.Timestamp, e.Labels
	if more {
		p.held = hold(p.held, e.Origin)
		return
	}
	e.Line, e.Held = p.text, append(p.held, e.Held...)
	if p.tooLong {
		c.pipeline.dropped("cri_partial_line_cut")
	}
	p.text, p.held, p.open, p.tooLong = nil, nil, false, false
	c.pipeline.unkeep(p.line)
	c.next.Process(e)
}

// flush sends unfinished lines as they are, but only when the log has come to its end: the
// rest of a line may take any time.
func (c *criLink) flush(_ int64, everything bool) int64 {
	if !everything {
		return math.MaxInt64
	}
	for i := range c.partial {
		p := &c.partial[i]
		if !p.open {
			continue
		}
		e := &Entry{Timestamp: p.time, Line: p.text, Labels: p.labels, Held: p.held, Origin: p.held[len(p.held)-1]}
		e.extracted.reset(c.pipeline.sets.root)
		p.text, p.held, p.open, p.tooLong = nil, nil, false, false
		c.pipeline.unkeep(p.line)
		c.next.Process(e)
	}
	return math.MaxInt64
}

func (c *criLink) rehome(from, to Origin) {
	for i := range c.partial {
		rehome(c.partial[i].held, from, to)
	}
}

// hold adds an origin to the held ones, unless one of them covers it already.
func hold(held []Origin, o Origin) []Origin {
	for _, h := range held {
		if h.Covers(o) {
			return held
		}
	}
	o.Retain()
	return append(held, o)
}

// parseCRI cuts a line into its parts. It accepts what the expression
// ^(?s)(\S+?) (stdout|stderr) (\S+?) (.*)$ accepts.
func parseCRI(line []byte) (stamp, stream, flags, content []byte, ok bool) {
	stamp, rest, ok := cutWord(line)
	if !ok || len(rest) < 7 || rest[6] != ' ' {
		return nil, nil, nil, nil, false
	}
	stream = rest[:6]
	if s := text(stream); s != "stdout" && s != "stderr" {
		return nil, nil, nil, nil, false
	}
	flags, content, ok = cutWord(rest[7:])
	return stamp, stream, flags, content, ok
}

// cutWord splits b at its first blank; what stands before must not be empty or hold other
// white space.
func cutWord(b []byte) (word, rest []byte, ok bool) {
	i := bytes.IndexByte(b, ' ')
	if i <= 0 {
		return nil, nil, false
	}
	for _, c := range b[:i] {
		if c == '\t' || c == '\n' || c == '\f' || c == '\r' {
			return nil, nil, false
		}
	}
	return b[:i], b[i+1:], true
}
