package querier

import (
	"context"
	"runtime"
	"sort"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
)

// weigh counts each stream's entries and bytes in a range exactly, each row once. Bytes
// are those of lines and, as Loki counts them, of structured metadata. Lines are not read:
// the lengths and the dictionaries of metadata are enough, and timestamps are read only
// for blocks that lie partly outside the range.
func (q *Querier) weigh(ctx context.Context, tenants []model.Tenant, matchers []*labels.Matcher, r model.TimeRange) ([]model.Series, error) {
	sel, err := boundSelector{q, tenants}.Select(ctx, &model.Request{
		Matchers: matchers, Range: r, Columns: model.Columns{Lengths: true, AllMetadata: true}, Stats: &model.Stats{},
	})
	if err != nil {
		return nil, err
	}
	defer sel.Release()
	var total scale
	total.mu.streams = map[uint64][]*model.Series{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range sel.Parts {
		for _, b := range p.Blocks {
			g.Go(func() error { return total.addBlock(ctx, b, r) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return total.list(), nil
}

// scale sums up by stream.
type scale struct {
	mu struct {
		sync.Mutex
		streams map[uint64][]*model.Series
	}
}

func (s *scale) addBlock(ctx context.Context, b model.Block, r model.TimeRange) error {
	offsets, err := b.Offsets(ctx)
	if err != nil {
		return err
	}
	var times []int64
	if first, last := b.Bounds(); !r.Covers(first, last) {
		if times, err = b.Times(ctx); err != nil {
			return err
		}
	}
	extra, err := metadataBytes(ctx, b)
	if err != nil {
		return err
	}
	dead := b.Dead()
	for _, run := range b.Runs() {
		start, end := run.Start, run.End
		if times != nil {
			rows := times[start:end]
			end = start + sort.Search(len(rows), func(i int) bool { return rows[i] >= r.Through })
			start += sort.Search(len(rows), func(i int) bool { return rows[i] >= r.From })
		}
		var rows, bytes int64
		for row := start; row < end; row++ {
			if dead.Has(row) {
				continue
			}
			rows++
			bytes += int64(offsets[row+1] - offsets[row])
			if extra != nil {
				bytes += int64(extra[row])
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
