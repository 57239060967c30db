package querier

import (
	"context"
	"sort"
	"sync"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/scan"
)

// weigh counts each stream's entries and bytes in a range exactly, each row once. Bytes
// are those of lines and, as Loki counts them, of structured metadata. Lines are not read:
// the lengths and the dictionaries of metadata are enough, and timestamps are read only
// for blocks that lie partly outside the range.
func (q *Querier) weigh(ctx context.Context, tenants []model.Tenant, matchers []*labels.Matcher, r model.TimeRange) (list []model.Series, warned *warnings, err error) {
	leave, err := q.admit(ctx, tenants, nil)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	err = q.retry(ctx, func() error {
		var total scale
		total.mu.streams = map[uint64][]*model.Series{}
		warned = &warnings{}
		err := q.eachWeighed(ctx, tenants, matchers, r, warned, func(ctx context.Context, b model.Block) error {
			return total.addBlock(ctx, b, r)
		})
		list = total.list()
		return err
	})
	return list, warned, err
}

// eachWeighed has work called for each block that may hold rows of a range, on all cores.
// Blocks are read in turns with those of other tenants.
func (q *Querier) eachWeighed(ctx context.Context, tenants []model.Tenant, matchers []*labels.Matcher, r model.TimeRange, warned *warnings, work func(context.Context, model.Block) error) error {
	src := boundSelector{q: q, tenants: tenants, turns: true}
	sel, err := src.Select(ctx, &model.Request{
		Matchers: matchers, Range: r, Columns: model.Columns{Lengths: true, AllMetadata: true}, Stats: &model.Stats{},
	})
	if err != nil {
		return err
	}
	for _, text := range sel.Warnings {
		warned.add(text)
	}
	var blocks []model.Block
	for _, p := range sel.Parts {
		blocks = append(blocks, p.Blocks...)
	}
	return scan.Each(ctx, src, blocks, work)
}

// scale sums up by stream.
type scale struct {
	mu struct {
		sync.Mutex
		streams map[uint64][]*model.Series
	}
}

// weights are what the rows of a block weigh.
type weights struct {
	times   []int64 // nil unless asked for
	offsets []uint32
	extra   []uint32 // of metadata; nil without any
	dead    model.Bitmap
}

func openWeights(ctx context.Context, b model.Block, timed bool) (w weights, err error) {
	w.dead = b.Dead()
	if w.offsets, err = b.Offsets(ctx); err != nil {
		return w, err
	}
	if timed {
		if w.times, err = b.Times(ctx); err != nil {
			return w, err
		}
	}
	w.extra, err = metadataBytes(ctx, b)
	return w, err
}

// of is the weight of a row.
func (w *weights) of(row int) int64 {
	n := int64(w.offsets[row+1] - w.offsets[row])
	if w.extra != nil {
		n += int64(w.extra[row])
	}
	return n
}

func (s *scale) addBlock(ctx context.Context, b model.Block, r model.TimeRange) error {
	first, last := b.Bounds()
	w, err := openWeights(ctx, b, !r.Covers(first, last))
	if err != nil {
		return err
	}
	for _, run := range b.Runs() {
		start, end := run.Start, run.End
		if w.times != nil {
			times := w.times[start:end]
			end = start + sort.Search(len(times), func(i int) bool { return times[i] >= r.Through })
			start += sort.Search(len(times), func(i int) bool { return times[i] >= r.From })
		}
		var rows, bytes int64
		for row := start; row < end; row++ {
			if !w.dead.Has(row) {
				rows++
				bytes += w.of(row)
			}
		}
		if rows > 0 {
			s.add(run, rows, bytes)
		}
	}
	return nil
}

// metadataBytes returns what each row's metadata weighs, names and values; nil without any.
// The level that ingestion derives does not count, as it does not against rate limits.
func metadataBytes(ctx context.Context, b model.Block) ([]uint32, error) {
	var sizes []uint32
	for _, name := range b.MetadataNames() {
		if name == "detected_level" {
			continue
		}
		column, err := b.Metadata(ctx, name)
		if err != nil {
			return nil, err
		}
		if column.Codes == nil {
			continue
		}
		if sizes == nil {
			sizes = make([]uint32, b.Rows())
		}
		for row, code := range column.Codes {
			if code != 0 {
				sizes[row] += uint32(len(name) + len(column.Values[code]))
			}
		}
	}
	return sizes, nil
}

func (s *scale) add(run model.Run, rows, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, known := range s.mu.streams[run.Hash] {
		if labels.Equal(known.Labels, run.Labels) {
			known.Entries += rows
			known.Bytes += bytes
			known.Blocks++
			return
		}
	}
	s.mu.streams[run.Hash] = append(s.mu.streams[run.Hash], &model.Series{Labels: run.Labels, Entries: rows, Bytes: bytes, Blocks: 1})
}

func (s *scale) list() []model.Series {
	var all []model.Series
	for _, group := range s.mu.streams {
		for _, series := range group {
			all = append(all, *series)
		}
	}
	sort.Slice(all, func(i, j int) bool { return labels.Compare(all[i].Labels, all[j].Labels) < 0 })
	return all
}
