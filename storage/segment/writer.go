package segment

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// WriterOptions say what a segment is and how hard to compress it. The zero value works.
type WriterOptions struct {
	ID         string // a new ULID when empty
	Tenant     model.Tenant
	Level      int      // 0 from a memtable; compaction counts up
	MergedFrom []string // ids of the segments whose rows this one holds

	Codec     Codec     // of the lines; CodecFields by default
	ZstdLevel ZstdLevel // of the lines; ZstdFastest by default

	// RowHash adds a column with model.RowHash of each row: 8 bytes per row, which let
	// replicas be compared without their lines.
	RowHash bool
	// NoNeedles leaves out the needle index.
	NoNeedles bool
	// NeedleBits is how many bits each distinct key of a block gets in the needle index;
	// DefaultNeedleBits when 0. More bits let fewer blocks through.
	NeedleBits float64
	// BlockBytes and BlockRows bound a block; DefaultBlockBytes and DefaultBlockRows when 0.
	BlockBytes int
	BlockRows  int
	// Streams is how many there will be about, so that room for them is made once.
	Streams int
}

// DefaultNeedleBits: a phrase of 25 letters has about ten keys; if they were as rare as can be, a
// block without the phrase would pass with a probability of 0.58^10.
const DefaultNeedleBits = 1.15

func (o *WriterOptions) setDefaults() {
	if o.ID == "" {
		o.ID = ulid.MustNew(ulid.Timestamp(time.Now()), rand.Reader).String()
	}
	if o.Codec == CodecDefault {
		o.Codec = CodecFields
	}
	if o.NeedleBits <= 0 {
		o.NeedleBits = DefaultNeedleBits
	}
	if o.BlockBytes <= 0 {
		o.BlockBytes = DefaultBlockBytes
	}
	if o.BlockRows <= 0 {
		o.BlockRows = DefaultBlockRows
	}
	o.BlockBytes = min(o.BlockBytes, (maxBlockBytes-MaxLineBytes)/2)
	o.BlockRows = min(o.BlockRows, maxBlockRows/2)
}

// Writer writes one segment. Rows must come in order; what it holds in memory is the
// block being filled, the bits of the needle group being filled (twice maxGroupBytes at most)
// and the stream table. After an error it refuses everything.
type Writer struct {
	out  io.Writer
	opts WriterOptions
	err  error

	offset  int64 // bytes written
	buf     []byte
	raw     []byte
	block   blockBuilder
	times   timesEncoder
	lengths lengthsEncoder
	classes lineClasses
	fields  fieldsEncoder
	needles *needleSet
	group   groupBuilder

	index   index
	names   map[string]int // metadata names, provisional numbers
	streams []streamEntry
	labels  labelTable    // of streams
	last    labels.Labels // of the last stream
	hash    uint64        // likewise
	rows    int64
	bytes   int64
	minTime int64
	maxTime int64
	same    sameTime
	pairs   []pair
}

// NewWriter returns a writer of a segment to w. Its writes are a block or section each;
// w needs no buffer.
func NewWriter(w io.Writer, opts WriterOptions) *Writer {
	opts.setDefaults()
	s := &Writer{out: w, opts: opts, names: make(map[string]int), labels: newLabelTable(opts.Streams), streams: make([]streamEntry, 0, opts.Streams)}
	if !opts.NoNeedles {
		s.needles = new(needleSet)
	}
	s.buf = append(s.buf, headerMagic...)
	return s
}

// pair is one metadata pair of a row.
type pair struct{ name, value string }

// Append adds a row. Streams come in the order of labels.Compare, their rows by time;
// hash is stream.Hash(). A row that equals an earlier one of its stream and timestamp is
// dropped. The line and the metadata are copied.
func (w *Writer) Append(stream labels.Labels, hash uint64, ts int64, line []byte, metadata labels.Labels) error {
	w.pairs = w.pairs[:0]
	if !metadata.IsEmpty() {
		metadata.Range(func(l labels.Label) {
			if l.Value != "" { // the same as no pair at all
				w.pairs = append(w.pairs, pair{l.Name, l.Value})
			}
		})
	}
	return w.append(stream, hash, ts, line)
}

// append adds a row whose metadata is in w.pairs.
func (w *Writer) append(stream labels.Labels, hash uint64, ts int64, line []byte) error {
	if w.err != nil {
		return w.err
	}
	fresh := len(w.streams) == 0 || hash != w.hash || !labels.Equal(stream, w.last)
	if err := w.check(fresh, stream, ts, line); err != nil {
		return w.fail(err)
	}
	b := &w.block
	if fresh || ts != w.streams[len(w.streams)-1].last {
		if b.rows() > 0 && (len(b.lines)+len(line) > w.opts.BlockBytes || b.rows() >= w.opts.BlockRows || b.crowded()) {
			if err := w.endBlock(); err != nil {
				return err
			}
		}
		w.same.reset(b.rows())
	} else {
		if w.same.has(b, line, w.pairs) {
			return nil
		}
		// Rows of one time stay in one block, where they are easy to compare, unless they
		// are very many.
		if len(b.lines) > 2*w.opts.BlockBytes || b.rows() >= 2*w.opts.BlockRows || b.crowded() {
			w.same.carry(b)
			if err := w.endBlock(); err != nil {
				return err
			}
		}
	}
	w.add(fresh, stream, hash, ts, line)
	return nil
}

// add adds a row that is not there yet to the block.
func (w *Writer) add(fresh bool, stream labels.Labels, hash uint64, ts int64, line []byte) {
	if fresh {
		w.streams = append(w.streams, streamEntry{first: ts, last: ts})
		w.labels.add(stream)
		w.last, w.hash = stream, hash
	}
	if fresh || w.block.rows() == 0 {
		w.block.streams++
	}
	s := &w.streams[len(w.streams)-1]
	s.rows++
	s.bytes += int64(len(line))
	s.last = ts
	if w.rows == 0 {
		w.minTime, w.maxTime = ts, ts
	}
	w.minTime, w.maxTime = min(w.minTime, ts), max(w.maxTime, ts)
	w.rows++
	w.bytes += int64(len(line))
	w.same.added(w.block.rows(), line, w.pairs)
	w.block.add(ts, line, w.pairs, w.opts.RowHash)
	if w.needles != nil {
		w.needles.addLine(line)
	}
}

func (w *Writer) check(fresh bool, stream labels.Labels, ts int64, line []byte) error {
	if len(line) > MaxLineBytes {
		return fault.New(fault.Invalid, "a line of %d bytes, at most %d can be stored", len(line), MaxLineBytes)
	}
	metadata := 0
	for i := range w.pairs {
		metadata += len(w.pairs[i].name) + len(w.pairs[i].value)
	}
	if len(w.pairs) > maxMetadataNames/2 || metadata > MaxLineBytes {
		return fault.New(fault.Invalid, "a row with %d metadata pairs of %d bytes, at most %d and %d can be stored",
			len(w.pairs), metadata, maxMetadataNames/2, MaxLineBytes)
	}
	// To count them is to read them all, but each takes two bytes at least.
	if fresh && stream.ByteSize() > 2*maxLabels && stream.Len() > maxLabels {
		return fault.New(fault.Invalid, "a stream with %d labels, at most %d can be stored", stream.Len(), maxLabels)
	}
	if len(w.streams) == 0 {
		return nil
	}
	last := &w.streams[len(w.streams)-1]
	if fresh && labels.Compare(stream, w.last) <= 0 {
		return fmt.Errorf("rows out of order: stream %s after %s", stream, w.last)
	}
	if !fresh && ts < last.last {
		return fmt.Errorf("rows out of order: stream %s has time %d after %d", stream, ts, last.last)
	}
	return nil
}

// fail makes err the answer to everything that follows.
func (w *Writer) fail(err error) error {
	w.err = fmt.Errorf("write segment %s: %w", w.opts.ID, err)
	return w.err
}

var errClosed = errors.New("already closed")

// Close writes what is left and the sections at the end. It does not close the
// io.Writer. A segment without rows is valid.
func (w *Writer) Close() (Info, error) {
	if w.err != nil {
		return Info{}, w.err
	}
	if err := w.endBlock(); err != nil {
		return Info{}, err
	}
	if len(w.group.blocks) > 0 {
		if err := w.endGroup(true); err != nil {
			return Info{}, err
		}
	}
	w.labels.numbers = nil // every word is known
	if err := w.writePostings(); err != nil {
		return Info{}, err
	}
	ft := w.writeSections()
	if err := w.flush(); err != nil {
		return Info{}, err
	}
	w.err = fmt.Errorf("write segment %s: %w", w.opts.ID, errClosed)
	return ft.info(&w.index), nil
}

// small is the compression of everything but the lines, where a better level is cheap. A segment
// that is to be written fast is written fast as a whole.
func (w *Writer) small() compression {
	if w.opts.Codec == CodecS2 {
		return compression{codec: CodecS2}
	}
	return compression{codec: CodecZstd, level: max(w.opts.ZstdLevel, ZstdDefault), small: true}
}

func (w *Writer) writePostings() error {
	b := buildPostings(&w.labels)
	for _, name := range b.names() {
		w.raw = b.append(w.raw[:0], name)
		start := len(w.buf)
		at := place{kind: kindPostings, ordinal: uint32(len(w.index.postings))}
		w.buf = appendFrame(w.buf, at, w.small(), w.raw)
		w.index.postings = append(w.index.postings, nameEntry{name: w.labels.words[name], length: len(w.buf) - start})
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

// writeSections appends stream table, block index, footer and trailer to w.buf.
func (w *Writer) writeSections() *footer {
	section := func(k kind, c compression, raw []byte) int {
		start := len(w.buf)
		w.buf = appendFrame(w.buf, place{kind: k}, c, raw)
		w.raw = raw
		return len(w.buf) - start
	}
	ft := &footer{id: w.opts.ID, tenant: string(w.opts.Tenant), level: w.opts.Level, mergedFrom: w.opts.MergedFrom,
		streams: len(w.streams), blocks: len(w.index.blocks), rows: w.rows, rawBytes: w.bytes,
		minTime: w.minTime, maxTime: w.maxTime}
	ft.streamsLen = section(kindStreams, w.small(), appendStreams(w.raw[:0], w.streams, &w.labels, w.minTime))
	w.sortNames()
	ft.indexLen = section(kindIndex, w.small(), w.index.append(w.raw[:0], w.minTime))
	ft.footerOffset = w.offset + int64(len(w.buf))
	ft.footerLen = section(kindFooter, compression{codec: CodecNone}, ft.append(w.raw[:0]))
	w.buf = appendTrailer(w.buf, ft.footerLen, w.offset+int64(len(w.buf))+trailerSize)
	return ft
}

// flush writes w.buf out.
func (w *Writer) flush() error {
	n, err := w.out.Write(w.buf)
	w.offset += int64(n)
	if err == nil && n < len(w.buf) {
		err = io.ErrShortWrite
	}
	w.buf = w.buf[:0]
	if err != nil {
		return w.fail(fmt.Errorf("at byte %d: %w", w.offset, err))
	}
	return nil
}
