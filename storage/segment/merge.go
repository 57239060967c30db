package segment

import (
	"cmp"
	"context"
	"io"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// MergeOptions say what a merged segment is, and which rows it takes over.
type MergeOptions struct {
	WriterOptions
	// Range, when not zero, takes only rows of that time, so that a merge can cut at
	// midnight.
	Range model.TimeRange
	// Keep, when not nil, is asked once per stream. It returns whether the stream stays
	// and, when only some of its rows do, a function that is asked for each row (its
	// arguments are valid during the call; row metadata is sorted by name).
	Keep func(stream labels.Labels) (stays bool, row func(ts int64, line []byte, metadata labels.Labels) bool)
	// Progress, when not nil, is told the rows read so far, about once per block.
	Progress func(rows int64)
}

// Merge writes the rows of the inputs as one segment, each row once: rows with equal
// stream, timestamp, line and metadata are one row, whichever inputs have it. Among rows of
// one timestamp those of earlier inputs come first. MergedFrom, when not given, becomes
// the inputs' ids and what those were merged from.
//
// Memory does not depend on the size of the inputs: one decoded block each (about a
// megabyte), some ten bytes for each of their streams, and what a Writer holds. With sixteen
// inputs of a hundred thousand streams that is below 64 MB; with more, merge in rounds.
func Merge(ctx context.Context, out io.Writer, inputs []*Reader, opts MergeOptions) (Info, error) {
	if opts.MergedFrom == nil {
		opts.MergedFrom = sources(inputs)
	}
	if opts.Range == (model.TimeRange{}) {
		opts.Range = model.TimeRange{From: minInt64, Through: maxInt64}
	}
	m := &merger{opts: &opts}
	defer m.release()
	all := &vocabulary{numbers: make(map[string]uint32)}
	for i, r := range inputs {
		walk, err := r.walkStreams(ctx, all, opts.Range.From > minInt64 || opts.Range.Through < maxInt64)
		if err != nil {
			return Info{}, err
		}
		opts.Streams = max(opts.Streams, walk.left) // as the table says; a footer may say anything
		if walk.next() {
			m.cursors = append(m.cursors, &cursor{r: r, order: i, block: -1, streams: walk})
		}
	}
	all.numbers = nil // every word is known
	m.w = NewWriter(out, opts.WriterOptions)
	m.w.labels.own = true
	if err := m.run(ctx); err != nil {
		return Info{}, err
	}
	m.release()
	m.cursors = nil // the sections at the end need the room
	return m.w.Close()
}

const (
	minInt64 = -1 << 63
	maxInt64 = 1<<63 - 1
)

// sources lists what a merged segment makes superfluous.
func sources(inputs []*Reader) []string {
	var ids []string
	for _, r := range inputs {
		ids = append(append(ids, r.footer.id), r.footer.mergedFrom...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

type merger struct {
	w       *Writer
	opts    *MergeOptions
	cursors []*cursor
	rows    int64
	told    int64
	builder labels.ScratchBuilder
}

func (m *merger) release() {
	for _, c := range m.cursors {
		c.release()
	}
}

// run takes the smallest stream of all inputs, merges its rows, and goes on until there
// is none.
func (m *merger) run(ctx context.Context) error {
	var group []*cursor
	for {
		group = group[:0]
		for _, c := range m.cursors {
			if c.done {
				continue
			}
			if len(group) > 0 {
				order := c.streams.compare(group[0].streams)
				if order > 0 {
					continue
				}
				if order < 0 {
					group = group[:0]
				}
			}
			group = append(group, c)
		}
		if len(group) == 0 {
			return nil
		}
		if err := m.stream(ctx, group); err != nil {
			return err
		}
	}
}

// stream merges the rows of the stream at which all cursors of the group stand, and moves
// them to their next stream.
func (m *merger) stream(ctx context.Context, group []*cursor) error {
	m.builder.Reset()
	group[0].streams.appendLabels(&m.builder)
	stream := &streamLabels{labels: m.builder.Labels()}
	stream.hash = stream.labels.Hash()
	stays := true
	var keep func(ts int64, line []byte, metadata labels.Labels) bool
	if m.opts.Keep != nil {
		stays, keep = m.opts.Keep(stream.labels)
	}
	live := make([]*cursor, 0, len(group))
	for _, c := range group {
		wanted := c.begin(m.opts.Range)
		if !stays || !wanted {
			continue
		}
		if err := c.load(ctx); err != nil {
			return err
		}
		live = append(live, c)
	}
	for len(live) > 0 {
		c := slices.MinFunc(live, func(a, b *cursor) int {
			return cmp.Or(cmp.Compare(a.ts(), b.ts()), cmp.Compare(a.order, b.order))
		})
		// Rows up to the next of another cursor can be taken in one go.
		limit := int64(maxInt64)
		for _, other := range live {
			if other != c {
				limit = min(limit, other.ts())
			}
		}
		if err := m.take(c, stream, limit, keep); err != nil {
			return err
		}
		if c.row == c.end {
			live = slices.DeleteFunc(live, func(o *cursor) bool { return o == c })
			continue
		}
		if err := c.load(ctx); err != nil {
			return err
		}
	}
	return nil
}

// take appends the cursor's rows that come before limit, at least one, as far as its
// block has them.
func (m *merger) take(c *cursor, stream *streamLabels, limit int64, keep func(int64, []byte, labels.Labels) bool) error {
	end := min(c.end, c.blockEnd())
	for first := true; c.row < end && (first || c.ts() < limit); c.row++ {
		first = false
		ts := c.ts()
		m.rows++
		if !m.opts.Range.Contains(ts) {
			continue
		}
		line := c.line()
		m.w.pairs = c.pairs(m.w.pairs[:0])
		if keep != nil && !keep(ts, line, m.labels()) {
			continue
		}
		if err := m.w.append(stream.labels, stream.hash, ts, line); err != nil {
			return err
		}
	}
	if m.opts.Progress != nil && m.rows-m.told >= DefaultBlockRows/4 {
		m.told = m.rows
		m.opts.Progress(m.rows)
	}
	return nil
}

func (m *merger) labels() labels.Labels {
	if len(m.w.pairs) == 0 {
		return labels.EmptyLabels()
	}
	m.builder.Reset()
	for _, p := range m.w.pairs {
		m.builder.Add(p.name, p.value)
	}
	return m.builder.Labels()
}

// cursor walks over the rows of a segment, one stream after the other.
type cursor struct {
	r       *Reader
	order   int
	streams *streamWalk
	done    bool  // there is no further stream
	row     int64 // in the segment
	end     int64 // of the stream's rows

	block   int // that is loaded, -1 for none
	b       *block
	times   []int64
	offsets []uint32
	lines   []byte
	names   []string
	columns []model.Column
}

// begin moves to the first row of the current stream, and the walk to the next stream. It
// reports whether rows of the stream may lie in the range.
func (c *cursor) begin(r model.TimeRange) (wanted bool) {
	c.row, c.end = c.streams.row, c.streams.end
	wanted = len(c.streams.first) == 0 || r.Overlaps(c.streams.first[0], c.streams.last[0])
	c.done = !c.streams.next()
	return wanted
}

func (c *cursor) meta() *blockMeta { return &c.r.index.blocks[c.block] }

func (c *cursor) blockEnd() int64 { return c.meta().row + int64(c.meta().rows) }

// load makes sure that the block of c.row is decoded. Blocks are only gone through forwards.
func (c *cursor) load(ctx context.Context) error {
	if c.block >= 0 && c.row < c.blockEnd() {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.release()
	for c.block++; c.row >= c.blockEnd(); c.block++ {
	}
	c.b = newBlock(c.r, c.block, nil, &model.Columns{Lines: true, AllMetadata: true}, new(model.Stats))
	var err error
	if c.times, err = c.b.Times(ctx); err != nil {
		return err
	}
	if c.offsets, err = c.b.Offsets(ctx); err != nil {
		return err
	}
	if c.lines, err = c.b.Lines(ctx); err != nil {
		return err
	}
	c.names, c.columns = c.b.MetadataNames(), c.columns[:0]
	for i := range c.names {
		column, err := c.b.metadataAt(ctx, i)
		if err != nil {
			return err
		}
		c.columns = append(c.columns, column)
	}
	c.b.dropFrames()
	return nil
}

func (c *cursor) release() {
	if c.b != nil {
		c.b.Release()
		c.b = nil
	}
}

func (c *cursor) at() int   { return int(c.row - c.meta().row) }
func (c *cursor) ts() int64 { return c.times[c.at()] }
func (c *cursor) line() []byte {
	i := c.at()
	return c.lines[c.offsets[i]:c.offsets[i+1]]
}

// pairs appends the row's metadata, sorted by name.
func (c *cursor) pairs(dst []pair) []pair {
	i := c.at()
	for k := range c.columns {
		if v := c.columns[k].Value(i); v != "" {
			dst = append(dst, pair{c.names[k], v})
		}
	}
	return dst
}
