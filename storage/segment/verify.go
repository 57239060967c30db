package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// Report is what Verify found.
type Report struct {
	Info Info
	// Sizes are the bytes that each kind of column and section takes in the file, by name.
	Sizes map[string]int64
	// Problems has everything that is wrong, at most maxProblems of it.
	Problems []error
}

const maxProblems = 100

// Verify reads a whole segment and checks all that can be checked: every checksum, the
// order and uniqueness of rows, the counts of streams and blocks, bounds of time, row
// hashes, postings, and that the needle index finds every row. It goes on after a
// problem as far as it can; the error joins all problems and is of kind fault.Corrupt,
// or says why the segment could not be read.
func Verify(ctx context.Context, src Source) (Report, error) {
	r, err := Open(ctx, src, ReaderOptions{})
	if err == nil {
		_, err = r.blocks()
	}
	if err != nil {
		return Report{Problems: []error{err}}, err
	}
	v := &verifier{r: r, report: Report{Info: r.Info(), Sizes: make(map[string]int64)}}
	if err := v.run(ctx); err != nil {
		return v.report, err
	}
	return v.report, errors.Join(v.report.Problems...)
}

type verifier struct {
	r       *Reader
	t       *streamTable
	report  Report
	needles []*needleRows // by group
	keys    *needleSet
	classes lineClasses
	ids     []idContent // by group
	items   []uint32
	streams []streamEntry // as the rows say
	same    sameTime      // over the rows of equal time
	last    blockBuilder
}

// problem notes err when the bytes are wrong; other errors end the verification.
func (v *verifier) problem(err error) error {
	if err == nil {
		return nil
	}
	if fault.Of(err) != fault.Corrupt {
		return err
	}
	if len(v.report.Problems) < maxProblems {
		v.report.Problems = append(v.report.Problems, err)
	}
	return nil
}

func (v *verifier) problemf(where, format string, args ...any) {
	_ = v.problem(v.r.corrupt(where, fmt.Errorf(format, args...)))
}

func (v *verifier) run(ctx context.Context) error {
	v.sizes()
	head := make([]byte, len(headerMagic))
	if err := v.r.read(ctx, head, 0, nil); err != nil {
		return err
	}
	if string(head) != headerMagic {
		v.problemf("header", "begins with %q, want %q", head, headerMagic)
	}
	t, err := v.r.streams(ctx, nil)
	if err != nil {
		return v.problem(err)
	}
	v.t = t
	v.checkTable()
	if err := v.checkPostings(ctx); err != nil {
		return err
	}
	if err := v.readNeedles(ctx); err != nil {
		return err
	}
	v.streams = make([]streamEntry, t.len())
	for i := range v.r.index.blocks {
		if err := v.problem(v.checkBlock(ctx, i)); err != nil {
			return err
		}
	}
	if len(v.report.Problems) == 0 { // else rows are missing anyway
		v.checkTotals()
	}
	return nil
}

func (v *verifier) sizes() {
	s, x := v.report.Sizes, v.r.index
	s["header and trailer"] = int64(len(headerMagic)) + trailerSize
	for i := range x.blocks {
		b := &x.blocks[i]
		s[kindTimes.String()] += int64(b.times)
		s[kindLengths.String()] += int64(b.lengths)
		s[kindHashes.String()] += int64(b.hashes)
		s[kindLines.String()] += int64(b.lines)
		for _, c := range b.metadata {
			s[kindMetadata.String()] += int64(c.length)
		}
	}
	for i := range x.groups {
		s[kindNeedles.String()] += x.groups[i].matrixSize()
		s[kindIDs.String()] += x.groups[i].ids.size() - x.groups[i].ids.listBytes()
		s[kindIDLists.String()] += x.groups[i].ids.listBytes()
	}
	for _, p := range x.postings {
		s[kindPostings.String()] += int64(p.length)
	}
	s[kindStreams.String()] = int64(v.r.footer.streamsLen)
	s[kindIndex.String()] = int64(v.r.footer.indexLen)
	s[kindFooter.String()] = int64(v.r.footer.footerLen)
}

func (v *verifier) checkTable() {
	for i := 1; i < v.t.len(); i++ {
		if labels.Compare(v.t.get(i-1).labels, v.t.get(i).labels) >= 0 {
			v.problemf("stream table", "stream %d %s does not come after %s", i, v.t.get(i).labels, v.t.get(i-1).labels)
		}
	}
}

// checkPostings compares the postings with those that the stream table implies.
func (v *verifier) checkPostings(ctx context.Context) error {
	streams := v.t.len()
	table := newLabelTable(streams)
	for i := range streams {
		table.add(v.t.get(i).labels)
	}
	builder := buildPostings(&table)
	names := builder.names()
	if len(names) != len(v.r.index.postings) {
		v.problemf("postings", "%d label names, the streams have %d", len(v.r.index.postings), len(names))
	}
	for _, word := range names {
		name := table.words[word]
		p, err := v.r.postings(ctx, name, nil)
		if err != nil {
			if err := v.problem(err); err != nil {
				return err
			}
			continue
		}
		want, err := decodePostings(builder.append(nil, word), streams)
		if err != nil {
			return fmt.Errorf("postings of label %q, made again: %w", name, err)
		}
		where := fmt.Sprintf("postings of label %q", name)
		if p == nil || !slices.Equal(p.values, want.values) {
			v.problemf(where, "missing, or with wrong values")
			continue
		}
		for i, value := range p.values {
			if !slices.Equal(p.list(i), want.list(i)) {
				v.problemf(where, "streams of value %q are wrong", value)
			}
		}
	}
	return nil
}

// checkBlock reads every column of a block and compares it with all that is said about it.
func (v *verifier) checkBlock(ctx context.Context, number int) error {
	all := model.TimeRange{From: minInt64, Through: maxInt64}
	b := newBlock(v.r, number, v.r.runs(v.t, number, nil, all), &model.Columns{Lines: true, AllMetadata: true}, new(model.Stats))
	defer b.Release()
	times, err := b.Times(ctx)
	if err != nil {
		return err
	}
	offsets, err := b.Offsets(ctx)
	if err != nil {
		return err
	}
	if _, err := b.Packed(ctx); err != nil {
		return err
	}
	lines, err := b.Lines(ctx)
	if err != nil {
		return err
	}
	if b.packed != nil {
		if err := b.packed.check(ctx, lines); err != nil {
			return err
		}
	}
	where := fmt.Sprintf("block %d", number)
	if first, last := slices.Min(times), slices.Max(times); first != b.meta.first || last != b.meta.last {
		v.problemf(where, "times from %d to %d, the block index says %d to %d", first, last, b.meta.first, b.meta.last)
	}
	names := b.MetadataNames()
	columns := make([]model.Column, len(names))
	for i := range names {
		if columns[i], err = b.metadataAt(ctx, i); err != nil {
			return err
		}
	}
	if err := v.checkHashes(ctx, b, where); err != nil {
		return err
	}
	v.checkKeys(b, number, offsets, lines, columns, where)
	var metadata []pair
	for k, run := range b.Runs() {
		s := &v.streams[b.meta.stream+k]
		for row := run.Start; row < run.End; row++ {
			metadata = metadata[:0]
			for i := range columns {
				if value := columns[i].Value(row); value != "" {
					metadata = append(metadata, pair{names[i], value})
				}
			}
			v.checkRow(s, times[row], lines[offsets[row]:offsets[row+1]], metadata, fmt.Sprintf("block %d, row %d", number, row))
		}
	}
	return nil
}

// checkRow checks a row's order and that it is the only one of its kind.
func (v *verifier) checkRow(s *streamEntry, ts int64, line []byte, metadata []pair, where string) {
	if s.rows == 0 || ts != s.last {
		if s.rows > 0 && ts < s.last {
			v.problemf(where, "time %d after %d", ts, s.last)
		}
		v.last.reset()
		v.same.reset(0)
	} else if v.same.has(&v.last, line, metadata) {
		v.problemf(where, "the same row is there already")
	}
	v.same.added(v.last.rows(), line, metadata)
	if v.same.seen == nil {
		v.last.add(ts, bytes.Clone(line), metadata, false)
	}
	if s.rows == 0 {
		s.first = ts
	}
	s.last = ts
	s.rows++
	s.bytes += int64(len(line))
}

func (v *verifier) checkHashes(ctx context.Context, b *block, where string) error {
	if b.meta.hashes == 0 {
		return nil
	}
	stored, err := b.Hashes(ctx)
	if err != nil {
		return err
	}
	stored = slices.Clone(stored)
	uint64Pool.Put(b.hashes)
	b.hashes = nil
	computed, err := b.computeHashes(ctx)
	if err != nil {
		return err
	}
	if !slices.Equal(stored, computed) {
		v.problemf(where+", hash column", "hashes do not fit the rows")
	}
	return nil
}

// checkTotals compares what the rows said of each stream with the stream table.
func (v *verifier) checkTotals() {
	for i := range v.streams {
		s := &v.streams[i]
		if s.first != v.t.first[i] || s.last != v.t.last[i] || s.bytes != v.t.bytes[i] {
			v.problemf("stream table", "stream %d has times %d to %d and %d bytes, its rows %d to %d and %d",
				i, v.t.first[i], v.t.last[i], v.t.bytes[i], s.first, s.last, s.bytes)
		}
	}
	if t, ft := v.t, v.r.footer; t.len() > 0 && (slices.Min(t.first) != ft.minTime || slices.Max(t.last) != ft.maxTime) {
		v.problemf("footer", "times %d to %d, the streams have %d to %d", ft.minTime, ft.maxTime, slices.Min(t.first), slices.Max(t.last))
	}
}
