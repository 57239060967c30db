package scan

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

// eachRow calls f for every wanted row, or only for those that passed the filters.
func (r *blockReader) eachRow(ctx context.Context, f func(span *model.Run, row int) error) error {
	next, n := 0, 0
	for i := range r.spans {
		span := &r.spans[i]
		for row := span.Start; row < span.End; row++ {
			if r.filtered {
				for next < len(r.passed) && int(r.passed[next]) < row {
					next++
				}
				if next == len(r.passed) {
					return nil
				}
				if row = int(r.passed[next]); row >= span.End {
					break
				}
			} else if r.dead.Has(row) {
				continue
			}
			if n++; n%checkEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if err := f(span, row); err != nil {
				return err
			}
		}
	}
	return nil
}

// process runs the whole pipeline over the block's rows and adds what is left.
func (w *rangeWorker) process(ctx context.Context, seq uint64) error {
	var (
		r        = &w.reader
		run      *model.Run
		stream   *pipeline.StreamPipeline
		matched  int64
		bucket   = -1
		from, to int64 // timestamps that bucket holds, as far as known
	)
	err := r.eachRow(ctx, func(span *model.Run, row int) error {
		if span != run {
			run, stream = span, w.pipe.ForStream(span.Labels, span.Hash)
			from, to = 0, 0
		}
		ts := r.times[row]
		if ts < from || ts >= to {
			bucket, from, to = w.windows.bucket(ts), ts, w.windows.after(ts)
		}
		if bucket < 0 { // between two windows: not even its errors count
			return nil
		}
		line, lbs, ok := stream.ProcessRest(ts, r.line(row), r.metadata(row))
		if !ok {
			return nil
		}
		matched++
		id := w.series(lbs.Group())
		if id == failed {
			return &rowError{ts: ts, text: pipelineError(lbs.Group().Labels)}
		}
		s := sample{value: lbs.Value(), ts: ts, seq: seq + uint64(row)}
		switch {
		case !w.op.bytes():
		case w.needs.lines:
			s.value = float64(len(line))
		default: // no stage looks at the line, so its length is the stored one
			s.value = float64(r.offsets[row+1] - r.offsets[row])
		}
		w.acc.add(id, bucket, s)
		if matched%checkEvery == 0 {
			return w.charge()
		}
		return nil
	})
	w.stats.RowsMatched.Add(matched)
	return err
}

// failed stands in place of a series for label sets that fail the query.
const failed = -1

// series is the number of the series with the labels, or failed.
func (w *rangeWorker) series(set *pipeline.Set) int {
	if set.Slot > 0 {
		return int(set.Slot) - 1
	}
	if set.Labels.Get(errorLabel) != "" && !set.Labels.Has(preserveErrorLabel) {
		return failed
	}
	l := set.Labels
	if w.dropEmpty {
		l = withoutEmpty(l)
	}
	set.Slot = int32(w.table.id(l.Hash(), func() labels.Labels { return l })) + 1
	return int(set.Slot) - 1
}

// splitRange is the range above which Loki puts an instant query together from parts.
const splitRange = time.Hour

// dropsEmpty reports whether an aggregation's series lose labels with empty values. As
// in Loki they keep them, except where it builds the label set anew: when it puts an
// aggregation together from others (for a long range of an instant query, for a grouped
// average, for the operations that it shards), and when a stage takes a label away.
func dropsEmpty(agg *syntax.RangeAgg, grouping *syntax.Grouping, instant bool) bool {
	if agg.Op == "avg_over_time" && agg.Grouping != nil {
		return true
	}
	if grouping != nil && grouping.Without {
		switch agg.Op {
		case "quantile_over_time", "stddev_over_time", "stdvar_over_time", "first_over_time", "last_over_time":
			return agg.Grouping == nil
		}
		return true
	}
	if grouping == nil && slices.ContainsFunc(agg.Range.Log.Stages, takesLabelsAway) {
		return true
	}
	if !instant || agg.Grouping != nil || time.Duration(agg.Range.Range) <= splitRange {
		return false
	}
	switch agg.Op {
	case "count_over_time", "bytes_over_time":
		return grouping == nil || !slices.ContainsFunc(agg.Range.Log.Stages, extractsAll)
	case "rate", "bytes_rate", "sum_over_time", "min_over_time", "max_over_time":
		return true
	}
	return false
}

// extractsAll reports whether a stage makes labels of whatever a line holds. Where there
// is one, Loki groups the parts themselves, to have few series of them, and what it adds
// up then are the groups as they are.
func extractsAll(s syntax.Stage) bool {
	switch s := s.(type) {
	case *syntax.JSONStage:
		return len(s.Extract) == 0
	case *syntax.LogfmtStage:
		return len(s.Extract) == 0
	}
	return false
}

func takesLabelsAway(s syntax.Stage) bool {
	bare := func(l syntax.NameOrMatcher) bool { return l.Matcher == nil }
	switch s := s.(type) {
	case *syntax.DropStage:
		return slices.ContainsFunc(s.Labels, bare)
	case *syntax.KeepStage:
		return true
	case *syntax.LabelFormat:
		return slices.ContainsFunc(s.Formats, func(f syntax.LabelAssign) bool { return f.Rename })
	}
	return false
}

// withoutEmpty removes labels with empty values.
func withoutEmpty(l labels.Labels) labels.Labels {
	empty := false
	l.Range(func(l labels.Label) { empty = empty || l.Value == "" })
	if !empty {
		return l
	}
	b := labels.NewScratchBuilder(l.Len())
	l.Range(func(l labels.Label) {
		if l.Value != "" {
			b.Add(l.Name, l.Value)
		}
	})
	return b.Labels()
}

// pipelineError is the refusal of a metric query that meets a row with an error.
func pipelineError(l labels.Labels) string {
	return fmt.Sprintf("pipeline error: '%[1]s' for series: '%[2]s'.\n"+
		"Use a label filter to intentionally skip this error. (e.g | __error__!=\"%[1]s\").\n"+
		"To skip all potential errors you can match empty errors.(e.g __error__=\"\")\n"+
		"The label filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )\n", l.Get(errorLabel), l)
}

// explain turns a rowError into the refusal that the user sees. It names all labels of
// the row, of which the scan may have read only some: so the row is looked at once more.
func (s *rangeScan) explain(ctx context.Context, err error) error {
	row, ok := err.(*rowError)
	if !ok {
		return err
	}
	if !s.needs.allLabels {
		again := *s
		again.req = &model.Request{
			Matchers: s.req.Matchers, Range: model.TimeRange{From: row.ts, Through: row.ts + 1},
			Columns: s.req.Columns, Stats: s.stats,
		}
		again.req.Columns.AllMetadata = true
		again.needs.allLabels = true
		again.opts = &Options{Workers: 1}
		pipe, err := pipeline.New(s.agg.Range.Log.Stages, pipeline.Options{Sample: pipeline.SampleFor(s.agg, s.grouping)})
		if err != nil {
			return err
		}
		if _, err := again.gather(ctx, pipe); err != nil {
			return err
		}
	}
	return fault.New(fault.Invalid, "%s", row.text)
}
