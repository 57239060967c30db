// Package blocks builds model.Blocks in memory from plain entries, so that whatever
// reads blocks can be tested without a store. A Source answers Select as a store does:
// it prunes blocks by stream and time, and leaves rows of other times to the reader.
//
// Blocks made here are strict: a column that the request did not announce fails, and
// Release overwrites what the block handed out, so that a reader that keeps a slice
// too long, or reads more than it promised, is found by its tests.
package blocks

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// Options shape a Source. The zero value works.
type Options struct {
	// RowsPerBlock cuts blocks; 0 means 1000.
	RowsPerBlock int
	// Parts deals the entries to so many parts, in turn; 0 means 1.
	Parts int
	// Lenient serves columns without copying and without asking whether they were
	// announced. Benchmarks want this.
	Lenient bool
}

// Source holds entries in memory and answers Select over them.
type Source struct {
	parts [][]*data
	opts  Options
	// Open is the number of blocks that were handed out and not yet released.
	Open atomic.Int64
	// LineReads counts the calls of Lines on any block.
	LineReads atomic.Int64
}

// data is one block's columns, shared by all selections.
type data struct {
	name        string
	runs        []model.Run
	times       []int64
	offsets     []uint32
	lines       []byte
	columns     map[string]model.Column
	names       []string
	first, last int64
	dead        model.Bitmap
}

type row struct {
	stream int
	model.Entry
}

// New builds a source. Streams may hold entries in any order, and may repeat labels;
// entries that are equal in all respects are stored once.
func New(streams []model.Stream, opts Options) *Source {
	if opts.RowsPerBlock <= 0 {
		opts.RowsPerBlock = 1000
	}
	if opts.Parts <= 0 {
		opts.Parts = 1
	}
	s := &Source{opts: opts, parts: make([][]*data, opts.Parts)}
	lbls, rows := flatten(streams)
	dealt := make([][]row, opts.Parts)
	for i, r := range rows {
		dealt[i%opts.Parts] = append(dealt[i%opts.Parts], r)
	}
	for p, rows := range dealt {
		for n := 0; len(rows) > 0; n++ {
			cut := min(opts.RowsPerBlock, len(rows))
			s.parts[p] = append(s.parts[p], build(fmt.Sprintf("part%d/block%d", p, n), lbls, rows[:cut]))
			rows = rows[cut:]
		}
	}
	return s
}

func flatten(streams []model.Stream) ([]labels.Labels, []row) {
	sorted := slices.Clone(streams)
	slices.SortStableFunc(sorted, func(a, b model.Stream) int { return labels.Compare(a.Labels, b.Labels) })
	var lbls []labels.Labels
	var rows []row
	for _, st := range sorted {
		if len(lbls) == 0 || !labels.Equal(lbls[len(lbls)-1], st.Labels) {
			lbls = append(lbls, st.Labels)
		}
		for _, e := range st.Entries {
			rows = append(rows, row{len(lbls) - 1, e})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.Timestamp, b.Timestamp))
	})
	unique := rows[:0]
next:
	for _, r := range rows {
		for i := len(unique) - 1; i >= 0 && unique[i].stream == r.stream && unique[i].Timestamp == r.Timestamp; i-- {
			if bytes.Equal(unique[i].Line, r.Line) && labels.Equal(unique[i].Metadata, r.Metadata) {
				continue next
			}
		}
		unique = append(unique, r)
	}
	return lbls, unique
}

func build(name string, lbls []labels.Labels, rows []row) *data {
	d := &data{name: name, columns: map[string]model.Column{}, offsets: make([]uint32, 1, len(rows)+1)}
	codes := map[string]map[string]uint32{}
	for i, r := range rows {
		if i == 0 || rows[i-1].stream != r.stream {
			l := lbls[r.stream]
			d.runs = append(d.runs, model.Run{Labels: l, Hash: l.Hash(), Start: i})
		}
		d.runs[len(d.runs)-1].End = i + 1
		d.times = append(d.times, r.Timestamp)
		d.lines = append(d.lines, r.Line...)
		d.offsets = append(d.offsets, uint32(len(d.lines)))
		r.Metadata.Range(func(l labels.Label) {
			c, ok := d.columns[l.Name]
			if !ok {
				c = model.Column{Values: []string{""}, Codes: make([]uint32, len(rows))}
				codes[l.Name] = map[string]uint32{}
				d.names = append(d.names, l.Name)
			}
			code, ok := codes[l.Name][l.Value]
			if !ok {
				code = uint32(len(c.Values))
				c.Values = append(c.Values, l.Value)
				codes[l.Name][l.Value] = code
			}
			c.Codes[i] = code
			d.columns[l.Name] = c
		})
	}
	sort.Strings(d.names)
	d.first, d.last = slices.Min(d.times), slices.Max(d.times)
	return d
}

// Kill marks entries as dead, as a reader of several parts does with duplicates. It
// must not be called while a selection is open.
func (s *Source) Kill(dead func(l labels.Labels, ts int64, line []byte) bool) {
	for _, p := range s.parts {
		for _, d := range p {
			for _, run := range d.runs {
				for i := run.Start; i < run.End; i++ {
					if dead(run.Labels, d.times[i], d.lines[d.offsets[i]:d.offsets[i+1]]) {
						if d.dead == nil {
							d.dead = model.NewBitmap(len(d.times))
						}
						d.dead.Set(i)
					}
				}
			}
		}
	}
}

// Select returns the blocks that hold rows of the request's streams and times.
func (s *Source) Select(_ context.Context, req *model.Request) (*model.Selection, error) {
	sel := &model.Selection{}
	for p, blocks := range s.parts {
		part := model.Part{Segment: fmt.Sprintf("part%d", p)}
		for _, d := range blocks {
			if !req.Range.Overlaps(d.first, d.last) {
				continue
			}
			var runs []model.Run
			for _, run := range d.runs {
				if matches(req.Matchers, run.Labels) {
					runs = append(runs, run)
				}
			}
			if len(runs) > 0 {
				s.Open.Add(1)
				part.Blocks = append(part.Blocks, &block{data: d, source: s, selected: runs, columns: req.Columns})
			}
		}
		sel.Parts = append(sel.Parts, part)
	}
	return sel, nil
}

func matches(ms []*labels.Matcher, l labels.Labels) bool {
	for _, m := range ms {
		if !m.Matches(l.Get(m.Name)) {
			return false
		}
	}
	return true
}
