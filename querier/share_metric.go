package querier

import (
	"cmp"
	"context"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

// metric evaluates all slices and puts the points of each series together. Results count as
// held from their arrival: together they may be as many times larger than what a slice may
// hold as there are slices.
func (s *sharing) metric(ctx context.Context) (*engine.Result, error) {
	results := make([]*engine.Result, len(s.slices))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.parallelism)
	for i, one := range s.slices {
		g.Go(func() (err error) {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			if results[i], err = s.run(gctx, one); err != nil {
				return err
			}
			n := weightOf(results[i])
			scan.Hold(ctx, n)
			return s.keep(n)
		})
	}
	if err := cmp.Or(g.Wait(), context.Cause(ctx)); err != nil {
		return nil, err
	}
	out := s.newResult("matrix")
	byHash := map[uint64][]int{}
	for i, r := range results {
		results[i] = nil // what was copied may go
		s.count(out, r)
		for _, series := range r.Series {
			i := seriesAt(out.Series, byHash, series.Labels)
			if i == len(out.Series) {
				out.Series = append(out.Series, engine.Series{Labels: series.Labels})
			}
			out.Series[i].Points = append(out.Series[i].Points, series.Points...)
		}
	}
	sort.SliceStable(out.Series, func(i, j int) bool { return labels.Compare(out.Series[i].Labels, out.Series[j].Labels) < 0 })
	return out, s.limitSeries(out)
}

// seriesAt is the place of the series with the labels, the next one when it is new.
func seriesAt(series []engine.Series, byHash map[uint64][]int, l labels.Labels) int {
	h := l.Hash()
	for _, i := range byHash[h] {
		if labels.Equal(series[i].Labels, l) {
			return i
		}
	}
	byHash[h] = append(byHash[h], len(series))
	return len(series)
}

// limitSeries applies the limit to the union. The first series of the union are among the
// first of each slice, so partial answers are those of an evaluation in one piece.
func (s *sharing) limitSeries(out *engine.Result) error {
	limit := s.el.MaxSeries
	if limit < 0 || len(out.Series) <= limit {
		return nil
	}
	if !s.p.PartialSeries {
		return scan.SeriesLimitError(limit)
	}
	out.Series = out.Series[:limit]
	if text := engine.PartialSeriesWarning(limit); !slices.Contains(out.Warnings, text) {
		out.Warnings = append(out.Warnings, text)
	}
	return nil
}
