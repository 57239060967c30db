package scan

import (
	"context"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
)

// blockReader holds the columns of the block that a worker is at, and which rows are
// wanted. It is used again for each block, so that its slices are allocated once.
type blockReader struct {
	block   model.Block
	times   []int64
	offsets []uint32 // nil unless lengths were asked for
	lines   []byte   // nil unless lines were asked for
	dead    model.Bitmap
	// spans are the runs of selected streams, cut to the time range.
	spans []model.Run
	rows  int // rows in spans
	// names and columns are the metadata that the query asked for and the block has.
	names   []string
	columns []model.Column
	// passed are the rows that are left after the leading line filters, ascending. Only they
	// have lines. Without filtered, nothing was looked for, and passed is not filled.
	passed   []uint32
	filtered bool
	meta     []labels.Label
}

// open reads the times of a block and finds the rows of the range. When there are none,
// rows is 0 and the block needs no load.
func (r *blockReader) open(ctx context.Context, b model.Block, in model.TimeRange) (err error) {
	r.block, r.offsets, r.lines, r.rows = b, nil, nil, 0
	r.spans, r.names, r.columns = r.spans[:0], r.names[:0], r.columns[:0]
	if r.times, err = b.Times(ctx); err != nil {
		return err
	}
	r.dead = b.Dead()
	first, last := b.Bounds()
	for _, run := range b.Runs() {
		if !in.Covers(first, last) {
			run.Start, run.End = cut(r.times, run.Start, run.End, in)
		}
		if run.Start < run.End {
			r.spans = append(r.spans, run)
			r.rows += run.End - run.Start
		}
	}
	return nil
}

// load reads the columns besides the times and fills passed with the rows that are alive,
// have the metadata that the needles ask for, and pass the leading line filters of pipe.
// Lines are made of no more rows than that needs.
func (r *blockReader) load(ctx context.Context, req *model.Request, pipe *pipeline.Pipeline) (err error) {
	want := &req.Columns
	for _, name := range r.block.MetadataNames() {
		if !want.AllMetadata && !slices.Contains(want.Metadata, name) {
			continue
		}
		c, err := r.block.Metadata(ctx, name)
		if err != nil {
			return err
		}
		if c.Codes != nil {
			r.names = append(r.names, name)
			r.columns = append(r.columns, c)
		}
	}
	if r.filtered = want.Lines || len(req.Needles) > 0; r.filtered {
		r.wanted()
	}
	for _, clause := range req.Needles {
		r.keepMetadata(clause, want)
	}
	if want.Lengths || want.Lines {
		if r.offsets, err = r.block.Offsets(ctx); err != nil {
			return err
		}
	}
	if !want.Lines || len(r.passed) == 0 {
		return nil
	}
	p, err := r.packed(ctx, pipe)
	if err != nil {
		return err
	}
	if p != nil && pipe.Packs() {
		lines := pipeline.PackedLines{Text: p.Text(), IDs: p.IDs()}
		if pipe.NonePacked(&lines) {
			r.passed = r.passed[:0]
			return nil
		}
		if lines.TextAt, err = p.Offsets(ctx); err != nil {
			return err
		}
		if lines.IDAt, err = p.IDOffsets(ctx); err != nil {
			return err
		}
		if r.passed = pipe.FilterPacked(&lines, r.passed); len(r.passed) == 0 {
			return nil
		}
	}
	if p != nil && r.few() {
		r.lines, err = p.Lines(ctx, r.passed)
	} else {
		r.lines, err = r.block.Lines(ctx)
	}
	if err != nil {
		return err
	}
	r.passed = pipe.FilterBatch(r.lines, r.offsets, r.passed)
	return nil
}

// packed returns the block's packed lines when something can be gained by them.
func (r *blockReader) packed(ctx context.Context, pipe *pipeline.Pipeline) (model.Packed, error) {
	if !pipe.Packs() && !r.few() {
		return nil, nil
	}
	return r.block.Packed(ctx)
}

// few reports whether so few rows are left that making their lines one by one is cheaper
// than making all.
func (r *blockReader) few() bool { return len(r.passed) < r.block.Rows()/4*3 }

// keepMetadata keeps the rows that have the metadata of one of the needles. Needles in lines
// are left to the pipeline.
func (r *blockReader) keepMetadata(clause model.Needles, read *model.Columns) {
	if slices.ContainsFunc(clause, func(n model.Needle) bool {
		return n.Name == "" || n.Text == "" || !read.AllMetadata && !slices.Contains(read.Metadata, n.Name)
	}) {
		return
	}
	type column struct {
		codes   []uint32
		matches []bool // by code
	}
	var columns []column
	for _, n := range clause {
		i := slices.Index(r.names, n.Name)
		if i < 0 {
			continue // no row has it
		}
		c := column{r.columns[i].Codes, make([]bool, len(r.columns[i].Values))}
		for code, v := range r.columns[i].Values {
			c.matches[code] = v == n.Text
		}
		columns = append(columns, c)
	}
	r.passed = slices.DeleteFunc(r.passed, func(row uint32) bool {
		return !slices.ContainsFunc(columns, func(c column) bool { return c.matches[c.codes[row]] })
	})
}

// cut narrows rows [start, end), whose times ascend, to a range.
func cut(times []int64, start, end int, in model.TimeRange) (int, int) {
	run := times[start:end]
	lo := sort.Search(len(run), func(i int) bool { return run[i] >= in.From })
	hi := lo + sort.Search(len(run)-lo, func(i int) bool { return run[lo+i] >= in.Through })
	return start + lo, start + hi
}

// bytes is the size of the lines of the wanted rows; an estimate when lengths were not read.
func (r *blockReader) bytes() (n int64) {
	if r.offsets == nil {
		if all := r.block.Rows(); all > 0 {
			n = int64(float64(r.block.RawBytes()) * float64(r.rows) / float64(all))
		}
		return n
	}
	for _, s := range r.spans {
		n += int64(r.offsets[s.End] - r.offsets[s.Start])
	}
	return n
}

// line is the text of a row, nil when lines were not asked for.
func (r *blockReader) line(row int) []byte {
	if r.lines == nil {
		return nil
	}
	return r.lines[r.offsets[row]:r.offsets[row+1]:r.offsets[row+1]]
}

// metadata is a row's structured metadata, as far as it was asked for. It is valid
// until the next call.
func (r *blockReader) metadata(row int) []labels.Label {
	r.meta = r.meta[:0]
	for i := range r.columns {
		c := &r.columns[i]
		if code := c.Codes[row]; code != 0 {
			if v := c.Values[code]; v != "" {
				r.meta = append(r.meta, labels.Label{Name: r.names[i], Value: v})
			}
		}
	}
	return r.meta
}

// hasErrors reports whether rows may come with an error as metadata.
func (r *blockReader) hasErrors() bool { return slices.Contains(r.names, errorLabel) }

// wanted fills passed with all rows that are alive.
func (r *blockReader) wanted() {
	r.passed = r.passed[:0]
	for _, s := range r.spans {
		for row := s.Start; row < s.End; row++ {
			if !r.dead.Has(row) {
				r.passed = append(r.passed, uint32(row))
			}
		}
	}
}
