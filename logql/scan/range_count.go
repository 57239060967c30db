package scan

import (
	"context"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
)

// tallied is the size of the largest dictionary for which a stretch of rows is counted
// by code. Every stretch pays for clearing as much.
const tallied = 256

// tally counts the rows of a stretch by the code of one metadata column. It counts in
// two halves, because rows of one code follow each other and the processor would wait
// for one counter to be stored before it is read again.
type tally struct {
	rows  [2][tallied]int64
	bytes [tallied]int64
	// ids are the series by code, for one run; −1 where none is known yet.
	ids []int
}

// count adds rows whose labels are their stream's and a few metadata columns', and whose
// value is 1 or the length of their line: no pipeline is run per row.
//
// A run's rows are cut into stretches that share a bucket. A stretch without metadata is
// one addition. With one small dictionary it is counted by code, with more columns each
// row's series is looked up, unless it has the codes of the row before.
func (w *rangeWorker) count(ctx context.Context) error {
	r := &w.reader
	if r.filtered {
		return w.countPassed(ctx)
	}
	var rows int64
	for i := range r.spans {
		span := &r.spans[i]
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c := w.counter(span)
		for row := span.Start; row < span.End; {
			ts := r.times[row]
			end := row + gallop(r.times[row:span.End], w.windows.after(ts))
			if bucket := w.windows.bucket(ts); bucket >= 0 {
				rows += c.stretch(row, end, bucket)
			}
			row = end
		}
		if i%64 == 63 {
			if err := w.charge(); err != nil {
				return err
			}
		}
	}
	w.stats.RowsMatched.Add(rows)
	return nil
}

// countPassed is count for the rows that the line filters have left.
func (w *rangeWorker) countPassed(ctx context.Context) error {
	r := &w.reader
	var run *model.Run
	var c counter
	var matched int64
	bucket, from, to := -1, int64(0), int64(0)
	err := r.eachRow(ctx, func(span *model.Run, row int) error {
		if span != run {
			run, c = span, w.counter(span)
			from, to = 0, 0
		}
		matched++
		ts := r.times[row]
		if ts < from || ts >= to {
			bucket, from, to = w.windows.bucket(ts), ts, w.windows.after(ts)
		}
		if bucket >= 0 {
			w.acc.addMany(c.series(row), bucket, 1, c.size(row, row+1))
		}
		if matched%checkEvery == 0 {
			return w.charge()
		}
		return nil
	})
	w.stats.RowsMatched.Add(matched)
	return err
}

// gallop returns the number of leading times before limit. Stretches are usually either
// short or the rest of the run, so it doubles its stride before it bisects.
func gallop(times []int64, limit int64) int {
	if n := len(times); times[n-1] < limit {
		return n
	}
	hi := 1
	for hi < len(times) && times[hi] < limit {
		hi *= 2
	}
	lo := hi / 2
	hi = min(hi, len(times))
	return lo + sort.Search(hi-lo, func(i int) bool { return times[lo+i] >= limit })
}

// counter finds the series of the rows of one run.
type counter struct {
	w      *rangeWorker
	stream *pipeline.StreamPipeline
	fixed  int // the series of all rows, or −1
	// last is the row for which id was looked up.
	last, id int
}

func (w *rangeWorker) counter(span *model.Run) counter {
	c := counter{w: w, stream: w.pipe.ForStream(span.Labels, span.Hash), fixed: -1, last: -1}
	columns := w.reader.columns
	switch {
	case len(columns) == 0:
		c.fixed = c.lookup(nil)
	case len(columns) == 1 && len(columns[0].Values) <= tallied:
		ids := w.tally.ids[:0]
		for range columns[0].Values {
			ids = append(ids, -1)
		}
		w.tally.ids = ids
	}
	return c
}

// lookup has the pipeline, which has nothing else to do, label a row.
func (c *counter) lookup(md []labels.Label) int {
	_, lbs, _ := c.stream.ProcessRest(0, nil, md)
	return c.w.series(lbs.Group())
}

// series is the series of a row.
func (c *counter) series(row int) int {
	if c.fixed >= 0 {
		return c.fixed
	}
	r := &c.w.reader
	if c.tallied() {
		return c.byCode(r.columns[0].Codes[row], row)
	}
	if c.last >= 0 {
		same := true
		for i := range r.columns {
			same = same && r.columns[i].Codes[row] == r.columns[i].Codes[c.last]
		}
		if same {
			return c.id
		}
	}
	c.last, c.id = row, c.lookup(r.metadata(row))
	return c.id
}

// tallied reports whether rows are counted by the code of the only column.
func (c *counter) tallied() bool {
	columns := c.w.reader.columns
	return len(columns) == 1 && len(columns[0].Values) <= tallied
}

// byCode is the series of the rows with a code in the only column, of which row is one.
func (c *counter) byCode(code uint32, row int) int {
	id := &c.w.tally.ids[code]
	if *id < 0 {
		*id = c.lookup(c.w.reader.metadata(row))
	}
	return *id
}

// size is the bytes of rows [from, to), when bytes are what is asked for.
func (c *counter) size(from, to int) float64 {
	if !c.w.op.bytes() {
		return 0
	}
	return float64(c.w.reader.offsets[to] - c.w.reader.offsets[from])
}

// stretch counts the live rows [from, to), which share a bucket, and returns how many
// there were.
func (c *counter) stretch(from, to, bucket int) int64 {
	r := &c.w.reader
	switch {
	case c.fixed >= 0 && r.dead == nil:
		c.w.acc.addMany(c.fixed, bucket, int64(to-from), c.size(from, to))
		return int64(to - from)
	case c.fixed < 0 && r.dead == nil && c.tallied() && to-from >= len(r.columns[0].Values):
		return c.tally(from, to, bucket)
	}
	var n int64
	for row := from; row < to; row++ {
		if !r.dead.Has(row) {
			n++
			c.w.acc.addMany(c.series(row), bucket, 1, c.size(row, row+1))
		}
	}
	return n
}

// tally is stretch for one column with a small dictionary and no dead rows.
func (c *counter) tally(from, to, bucket int) int64 {
	r, t := &c.w.reader, &c.w.tally
	codes := r.columns[0].Codes[from:to]
	if c.w.op.bytes() {
		offsets := r.offsets[from : to+1]
		for i, code := range codes {
			t.bytes[code%tallied] += int64(offsets[i+1] - offsets[i])
		}
	}
	i := 0
	for ; i+1 < len(codes); i += 2 {
		t.rows[0][codes[i]%tallied]++
		t.rows[1][codes[i+1]%tallied]++
	}
	if i < len(codes) {
		t.rows[0][codes[i]%tallied]++
	}
	for code := range r.columns[0].Values {
		n := t.rows[0][code] + t.rows[1][code]
		if n == 0 {
			continue
		}
		id := t.ids[code]
		if id < 0 {
			id = c.byCode(uint32(code), from+slices.Index(codes, uint32(code)))
		}
		c.w.acc.addMany(id, bucket, n, float64(t.bytes[code]))
		t.rows[0][code], t.rows[1][code], t.bytes[code] = 0, 0, 0
	}
	return int64(to - from)
}
