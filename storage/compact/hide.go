package compact

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/model"
)

// Hide takes the rows that delete requests name out of a selection: the querier calls it
// for the rows of memtables and segments alike, before it gives them to a query. Without
// requests that concern the range it costs a look into memory. A request for whole streams
// costs no reading either, except of timestamps at its borders; one with line filters reads
// the lines of its streams.
//
// On an error the selection is still the caller's to release.
func (d *Deletes) Hide(ctx context.Context, tenant model.Tenant, span model.TimeRange, sel *model.Selection, compile Compile) error {
	requests, err := d.hiding(ctx, tenant, span)
	if err != nil || len(requests) == 0 {
		return err
	}
	type place struct{ part, block int }
	var places []place
	for p := range sel.Parts {
		for b, block := range sel.Parts[p].Blocks {
			first, last := block.Bounds()
			if slices.ContainsFunc(requests, func(q Request) bool { return q.span().Overlaps(first, last) }) {
				places = append(places, place{p, b})
			}
		}
	}
	if len(places) == 0 {
		return nil
	}
	filters, err := d.compiled(requests, compile)
	if err != nil {
		return err
	}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(cores.Count(), len(places)) {
		group.Go(func() error {
			h := hider{requests: requests}
			for _, f := range filters {
				h.filters = append(h.filters, f.New())
				h.streams = append(h.streams, map[uint64]selected{})
			}
			for {
				i := int(next.Add(1)) - 1
				if i >= len(places) {
					return nil
				}
				at := &sel.Parts[places[i].part].Blocks[places[i].block]
				hidden, err := h.block(ctx, *at)
				if err != nil {
					return err
				}
				*at = hidden
			}
		})
	}
	return group.Wait()
}

// maxCompiled bounds the memory of the queries that are kept compiled, of all tenants.
const maxCompiled = 16 << 20

// compiled returns the filters of requests. Every query needs those of its range, and a text
// means the same in each, so they are kept by text.
func (d *Deletes) compiled(requests []Request, compile Compile) ([]*Filters, error) {
	out := make([]*Filters, len(requests))
	for i := range requests {
		text := requests[i].Query
		d.mu.Lock()
		filters, ok := d.mu.filters.Get(text)
		d.mu.Unlock()
		if !ok {
			var err error
			if filters, err = compile(text); err != nil {
				return nil, fmt.Errorf("delete request %s: %w", requests[i].ID, err)
			}
			d.mu.Lock()
			d.mu.filters.Put(text, filters, filters.Bytes)
			d.mu.Unlock()
		}
		out[i] = filters
	}
	return out, nil
}

// hider is one worker's compiled requests, and what they said about the streams it met.
type hider struct {
	requests []Request
	filters  []RowFilter
	streams  []map[uint64]selected
}

type selected struct {
	labels labels.Labels
	all    bool
	row    func(int64, []byte, labels.Labels) bool
}

func (h *hider) stream(i int, run *model.Run) selected {
	s, ok := h.streams[i][run.Hash]
	if !ok || !labels.Equal(s.labels, run.Labels) {
		s.labels = run.Labels
		s.all, s.row = h.filters[i](run.Labels)
		h.streams[i][run.Hash] = s
	}
	return s
}

// hiddenBlock is a block without some of its rows.
type hiddenBlock struct {
	model.Block
	runs []model.Run
	dead model.Bitmap
}

func (b *hiddenBlock) Runs() []model.Run  { return b.runs }
func (b *hiddenBlock) Dead() model.Bitmap { return b.dead }

// block returns b without the rows that the requests select: b itself when it has none.
func (h *hider) block(ctx context.Context, b model.Block) (model.Block, error) {
	out := &hiddenBlock{Block: b, runs: slices.Clone(b.Runs()), dead: slices.Clone(b.Dead())}
	changed := false
	first, last := b.Bounds()
	var rows *rowReader
	for i := range h.requests {
		q := &h.requests[i]
		span := q.span()
		if !span.Overlaps(first, last) {
			continue
		}
		left := out.runs[:0]
		for _, run := range out.runs {
			s := h.stream(i, &run)
			if s.all && span.Covers(first, last) {
				changed = true
				continue // the whole run goes
			}
			if s.all || s.row != nil {
				var err error
				if rows, err = loadRows(ctx, b, rows, s.row != nil); err != nil {
					return nil, err
				}
				changed = out.kill(q, run, s, rows) || changed
			}
			left = append(left, run)
		}
		out.runs = left
	}
	if !changed {
		return b, nil
	}
	return out, nil
}

// loadRows reads what is still missing of a block's columns.
func loadRows(ctx context.Context, b model.Block, have *rowReader, lines bool) (*rowReader, error) {
	switch {
	case have != nil && (have.offsets != nil || !lines):
		return have, nil
	case lines:
		return readRows(ctx, b)
	}
	times, err := b.Times(ctx)
	return &rowReader{times: times}, err
}

// kill marks the rows of a run that a request selects.
func (b *hiddenBlock) kill(q *Request, run model.Run, s selected, rows *rowReader) (any bool) {
	for i := run.Start; i < run.End; i++ {
		if !q.contains(rows.times[i]) || b.dead.Has(i) || !s.all && !s.row(rows.times[i], rows.line(i), rows.metadata(i)) {
			continue
		}
		if b.dead == nil {
			b.dead = model.NewBitmap(b.Rows())
		}
		b.dead.Set(i)
		any = true
	}
	return any
}
