package querier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
)

// # Slices on the wire
//
// Service skald.Querier, call Evaluate: the client sends a task, the server answers with
// frames, each a list of fields to be read in order. Floats travel bit by bit.
//
//	task    1 tenant*  2 query  3 start  4 end  5 step  6 interval  7 limit  8 forward
//	        9 partial series  10 instant  11 max series
//	frame   1 type
//	        2 labels    more entries of the table of label sets, which are counted from 1 on;
//	                    0 is the empty set (packed)
//	        3 stream    packed: 1 to go on with the stream before, labels, stream labels,
//	                    entries, and of each the time (zigzag, distance to the one before),
//	                    line, metadata, parsed labels
//	        4 series    packed: 1 to go on with the series before, labels, points, and of
//	                    each the time (zigzag, distance to the one before) and the value
//	        5 scalar    packed: time (zigzag), value
//	        6 warning*
//	        7 stats     packed: number and value of each counter
//	        8 the end

// task is a slice, as it is sent.
type task struct {
	tenants   []model.Tenant
	params    engine.Params
	maxSeries int
}

func (t *task) append(b []byte) []byte {
	for _, tenant := range t.tenants {
		b = rpc.AppendElement(b, 1, string(tenant))
	}
	p := &t.params
	b = rpc.AppendString(b, 2, p.Query)
	b = rpc.AppendInt(b, 3, p.Start)
	b = rpc.AppendInt(b, 4, p.End)
	b = rpc.AppendInt(b, 5, int64(p.Step))
	b = rpc.AppendInt(b, 6, int64(p.Interval))
	b = rpc.AppendInt(b, 7, int64(p.Limit))
	b = rpc.AppendBool(b, 8, p.Forward)
	b = rpc.AppendBool(b, 9, p.PartialSeries)
	b = rpc.AppendBool(b, 10, p.Instant)
	return rpc.AppendInt(b, 11, int64(t.maxSeries))
}

func readTask(msg []byte) (t task, err error) {
	f := rpc.Read(msg)
	p := &t.params
	for f.Next() {
		switch f.Num() {
		case 1:
			tenant, err := model.ParseTenant(f.Text())
			if err != nil {
				f.Fail(err)
			}
			t.tenants = append(t.tenants, tenant)
		case 2:
			p.Query = f.Text()
		case 3:
			p.Start = f.Int()
		case 4:
			p.End = f.Int()
		case 5:
			p.Step = time.Duration(f.Int())
		case 6:
			p.Interval = time.Duration(f.Int())
		case 7:
			p.Limit = int(f.Int())
		case 8:
			p.Forward = f.Bool()
		case 9:
			p.PartialSeries = f.Bool()
		case 10:
			p.Instant = f.Bool()
		case 11:
			t.maxSeries = int(f.Int())
		}
	}
	if f.Err() == nil && len(t.tenants) == 0 {
		f.Fail(errors.New("the task names no tenant"))
	}
	return t, f.Err()
}

// frameBytes is about the size of a frame.
const frameBytes = 256 << 10

// resultWriter cuts a result into frames.
type resultWriter struct {
	send  func(frame []byte) error
	buf   []byte
	sets  map[uint64][]numbered
	count uint64
	fresh []byte // label sets that the table does not have yet
	piece []byte
	err   error
}

type numbered struct {
	labels labels.Labels
	number uint64
}

func sendResult(r *engine.Result, send func(frame []byte) error) error {
	w := &resultWriter{send: send, sets: map[uint64][]numbered{}}
	w.buf = rpc.AppendString(nil, 1, r.Type)
	for i := range r.Streams {
		w.stream(&r.Streams[i])
	}
	for i := range r.Series {
		w.series(&r.Series[i])
	}
	if r.Type == "scalar" {
		w.buf = rpc.AppendElement(w.buf, 5, rpc.AppendFloat(rpc.AppendVarint(nil, r.Scalar.T), r.Scalar.V))
	}
	for _, text := range r.Warnings {
		w.buf = rpc.AppendElement(w.buf, 6, text)
	}
	if r.Stats != nil {
		w.buf = rpc.AppendString(w.buf, 7, rpc.AppendCounters(nil, r.Stats.Counters(), false))
	}
	w.buf = rpc.AppendBool(w.buf, 8, true)
	w.flush()
	return w.err
}

func (w *resultWriter) flush() {
	if w.err == nil {
		w.err = w.send(w.buf)
	}
	w.buf = nil // it is the connection's now
}

// set returns the number of a label set.
func (w *resultWriter) set(l labels.Labels) uint64 {
	if l.IsEmpty() {
		return 0
	}
	h := l.Hash()
	for _, known := range w.sets[h] {
		if labels.Equal(known.labels, l) {
			return known.number
		}
	}
	w.count++
	w.sets[h] = append(w.sets[h], numbered{l, w.count})
	w.fresh = rpc.AppendLabels(w.fresh, l)
	return w.count
}

// field appends a packed field, behind the label sets it needs.
func (w *resultWriter) field(num rpc.Number) {
	w.buf = rpc.AppendString(w.buf, 2, w.fresh)
	w.buf = rpc.AppendElement(w.buf, num, w.piece)
	w.fresh, w.piece = w.fresh[:0], w.piece[:0]
	if len(w.buf) >= frameBytes {
		w.flush()
	}
}

func (w *resultWriter) stream(s *scan.Stream) {
	for from, again := 0, uint64(0); from < len(s.Entries) || again == 0; again = 1 {
		var body []byte
		n, last := 0, int64(0)
		for ; from+n < len(s.Entries) && len(body) < frameBytes; n++ {
			e := &s.Entries[from+n]
			body = rpc.AppendVarint(body, e.Timestamp-last)
			last = e.Timestamp
			body = rpc.AppendText(body, e.Line)
			body = binary.AppendUvarint(body, w.set(e.Metadata))
			body = binary.AppendUvarint(body, w.set(e.Parsed))
		}
		for _, v := range []uint64{again, w.set(s.Labels), w.set(s.StreamLabels), uint64(n)} {
			w.piece = binary.AppendUvarint(w.piece, v)
		}
		w.piece = append(w.piece, body...)
		w.field(3)
		from += n
	}
}

func (w *resultWriter) series(s *engine.Series) {
	const most = frameBytes / 16
	for from, again := 0, uint64(0); from < len(s.Points) || again == 0; again = 1 {
		points := s.Points[from:min(from+most, len(s.Points))]
		for _, v := range []uint64{again, w.set(s.Labels), uint64(len(points))} {
			w.piece = binary.AppendUvarint(w.piece, v)
		}
		last := int64(0)
		for _, p := range points {
			w.piece = rpc.AppendFloat(rpc.AppendVarint(w.piece, p.T-last), p.V)
			last = p.T
		}
		w.field(4)
		from += len(points)
	}
}

// resultReader puts frames together again.
type resultReader struct {
	result  engine.Result
	sets    []labels.Labels
	scratch labels.ScratchBuilder
	whole   bool
}

func newResultReader() *resultReader {
	r := &resultReader{scratch: labels.NewScratchBuilder(8), sets: []labels.Labels{labels.EmptyLabels()}}
	r.result.Stats = &model.Stats{}
	return r
}

// frame reads a frame; lines alias it.
func (r *resultReader) frame(msg []byte) error {
	f := rpc.Read(msg)
	for f.Next() {
		var err error
		switch f.Num() {
		case 1:
			r.result.Type = f.Text()
		case 2:
			d := rpc.Unpack(f.Bytes())
			for d.Len() > 0 {
				r.sets = append(r.sets, d.Labels(&r.scratch))
			}
			err = d.Err()
		case 3:
			err = r.stream(rpc.Unpack(f.Bytes()))
		case 4:
			err = r.series(rpc.Unpack(f.Bytes()))
		case 5:
			d := rpc.Unpack(f.Bytes())
			r.result.Scalar = engine.Point{T: d.Varint(), V: d.Float()}
			err = d.End()
		case 6:
			r.result.Warnings = append(r.result.Warnings, f.Text())
		case 7:
			err = rpc.AddCounters(r.result.Stats.Counters(), f.Bytes())
		case 8:
			r.whole = f.Bool()
		}
		if err != nil {
			return fmt.Errorf("answer of a querier: %w", err)
		}
	}
	return f.Err()
}

func (r *resultReader) set(d *rpc.Buf) labels.Labels {
	n := d.Uvarint()
	if n >= uint64(len(r.sets)) {
		d.Fail(fmt.Errorf("label set %d of %d", n, len(r.sets)))
		return labels.EmptyLabels()
	}
	return r.sets[n]
}

func (r *resultReader) stream(d *rpc.Buf) error {
	again := d.Uvarint()
	all, own := r.set(d), r.set(d)
	const least = 4 // bytes of an entry
	entries := make([]scan.Entry, d.Count(least))
	last := int64(0)
	for i := range entries {
		last += d.Varint()
		entries[i] = scan.Entry{Timestamp: last, Line: d.Bytes(), Metadata: r.set(d), Parsed: r.set(d)}
	}
	if err := d.End(); err != nil {
		return err
	}
	if n := len(r.result.Streams); again == 1 && n > 0 {
		s := &r.result.Streams[n-1]
		s.Entries = append(s.Entries, entries...)
		return nil
	}
	r.result.Streams = append(r.result.Streams, scan.Stream{Labels: all, StreamLabels: own, Entries: entries})
	return nil
}

func (r *resultReader) series(d *rpc.Buf) error {
	again := d.Uvarint()
	ls := r.set(d)
	const least = 9 // bytes of a point
	points := make([]engine.Point, d.Count(least))
	last := int64(0)
	for i := range points {
		last += d.Varint()
		points[i] = engine.Point{T: last, V: d.Float()}
	}
	if err := d.End(); err != nil {
		return err
	}
	if n := len(r.result.Series); again == 1 && n > 0 {
		s := &r.result.Series[n-1]
		s.Points = append(s.Points, points...)
		return nil
	}
	r.result.Series = append(r.result.Series, engine.Series{Labels: ls, Points: points})
	return nil
}
