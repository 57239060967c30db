package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// ReaderOptions tune a reader. The zero value works.
type ReaderOptions struct {
	// MaxGap is the largest stretch of unwanted bytes that is read rather than skipped
	// between two wanted columns of a block; 64 KiB when 0. A request to an object store
	// costs as much as some hundred kilobytes.
	MaxGap int
	// Parallel bounds the requests for needle pages that are under way at once; 16, which is
	// all that one needle needs, when 0.
	Parallel int
}

// Reader reads one segment. It may be used by many goroutines. It holds footer and
// block index, whose blocks are decoded when first needed; the stream table and the postings of a
// label are read when first needed, and kept.
type Reader struct {
	src    Source
	closer io.Closer
	opts   ReaderOptions
	footer *footer
	index  *index
	tail   []byte // the end of the file, from tailOff on, as Open read it
	tailAt int64

	decode struct { // the blocks
		sync.Once
		err error
	}
	mu struct {
		sync.Mutex
		streams  *streamTable
		postings map[string]*postings // nil value: no stream has the name
	}
}

// OpenFile opens a segment on the local disk.
func OpenFile(ctx context.Context, path string, opts ReaderOptions) (*Reader, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	r, err := Open(ctx, f, opts)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.closer = f
	return r, nil
}

// Open reads footer and block index of a segment. Usually that is one read, of at least 32 KiB.
func Open(ctx context.Context, src Source, opts ReaderOptions) (*Reader, error) {
	if opts.MaxGap == 0 {
		opts.MaxGap = 64 << 10
	}
	if opts.Parallel <= 0 {
		opts.Parallel = maxLookupKeys
	}
	r := &Reader{src: src, opts: opts}
	size := src.Size()
	if size < int64(len(headerMagic))+trailerSize {
		return nil, corrupt(src, "file", fmt.Errorf("%w: %d bytes", errShort, size))
	}
	if err := r.extendTail(ctx, max(0, size-min(max(size/tailShare+tailRest, minTail), maxTail)), size); err != nil {
		return nil, err
	}
	n, err := decodeTrailer(r.tail[len(r.tail)-trailerSize:], size)
	if err != nil {
		return nil, corrupt(src, "trailer", err)
	}
	raw, err := r.section(ctx, kindFooter, 0, size-trailerSize-int64(n), n, nil)
	if err == nil {
		r.footer, err = decodeFooter(raw, n, size)
		err = r.corrupt("footer", err)
	}
	if err != nil {
		return nil, err
	}
	if r.footer.indexOffset < r.tailAt {
		// With the index come stream table and postings, as long as these are not large.
		from := max(0, r.footer.indexOffset-minTail)
		if err := r.extendTail(ctx, from, r.tailAt); err != nil {
			return nil, err
		}
	}
	raw, err = r.section(ctx, kindIndex, 0, r.footer.indexOffset, r.footer.indexLen, nil)
	if err == nil {
		r.index, err = decodeIndex(raw, r.footer)
		err = r.corrupt("block index", err)
	}
	if err != nil {
		return nil, err
	}
	r.trimTail()
	return r, nil
}

// blocks returns what the index says of the blocks.
func (r *Reader) blocks() ([]blockMeta, error) {
	r.decode.Do(func() { r.decode.err = r.corrupt("block index", r.index.decodeBlocks(r.footer)) })
	return r.index.blocks, r.decode.err
}

// extendTail reads the bytes up to the tail, or up to the file's end before there is any.
func (r *Reader) extendTail(ctx context.Context, from, to int64) error {
	tail := make([]byte, to-from, to-from+int64(len(r.tail)))
	if err := r.read(ctx, tail, from, nil); err != nil {
		return err
	}
	r.tail, r.tailAt = append(tail, r.tail...), from
	return nil
}

// trimTail keeps of the tail what will be asked for later: postings and stream table.
func (r *Reader) trimTail() {
	from := r.footer.streamsOffset
	if p := r.index.postings; len(p) > 0 {
		from = p[0].offset
	}
	from = max(from, r.tailAt)
	to := max(from, r.footer.indexOffset)
	kept := r.tail[from-r.tailAt : to-r.tailAt]
	r.tail, r.tailAt = append([]byte(nil), kept...), from
}

// Info describes the segment.
func (r *Reader) Info() Info { return r.footer.info(r.index) }

// Name is the path or key of the segment.
func (r *Reader) Name() string { return r.src.Name() }

// Close closes the file, when the reader opened it. No block may be in use.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}

// corrupt gives err, if any, its place and its kind.
func (r *Reader) corrupt(where string, err error) error {
	if err == nil {
		return nil
	}
	return corrupt(r.src, where, err)
}

// read fills p from the file.
func (r *Reader) read(ctx context.Context, p []byte, off int64, stats *model.Stats) error {
	if err := r.src.ReadAt(ctx, p, off); err != nil {
		err = fmt.Errorf("segment %s: read %d bytes at %d: %w", r.src.Name(), len(p), off, err)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fault.Wrap(fault.Corrupt, err)
		}
		return err
	}
	if stats != nil {
		stats.BytesFetched.Add(int64(len(p)))
		stats.FetchRequests.Add(1)
	}
	return nil
}

// section reads and opens the frame of a section.
func (r *Reader) section(ctx context.Context, k kind, ordinal int, off int64, n int, stats *model.Stats) ([]byte, error) {
	if off < 0 || n < 0 || off+int64(n) > r.src.Size() {
		return nil, r.corrupt(k.String(), fmt.Errorf("%d bytes at %d lie outside the file of %d bytes", n, off, r.src.Size()))
	}
	var frame []byte
	if off >= r.tailAt && off+int64(n) <= r.tailAt+int64(len(r.tail)) {
		frame = r.tail[off-r.tailAt:][:n]
	} else {
		frame = make([]byte, n)
		if err := r.read(ctx, frame, off, stats); err != nil {
			return nil, err
		}
	}
	raw, err := openFrame(nil, frame, place{kind: k, ordinal: uint32(ordinal)}, maxSectionBytes)
	return raw, r.corrupt(k.String(), err)
}

// streams returns the stream table, which is read once.
func (r *Reader) streams(ctx context.Context, stats *model.Stats) (*streamTable, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.streams != nil {
		return r.mu.streams, nil
	}
	t, err := r.decodeStreams(ctx, stats)
	if err == nil {
		r.mu.streams = t
	}
	return t, err
}

// readStreams returns the stream table too, but does not keep it for the next call.
func (r *Reader) readStreams(ctx context.Context) (*streamTable, error) {
	r.mu.Lock()
	t := r.mu.streams
	r.mu.Unlock()
	if t != nil {
		return t, nil
	}
	return r.decodeStreams(ctx, nil)
}

func (r *Reader) decodeStreams(ctx context.Context, stats *model.Stats) (*streamTable, error) {
	if _, err := r.blocks(); err != nil {
		return nil, err
	}
	raw, err := r.section(ctx, kindStreams, 0, r.footer.streamsOffset, r.footer.streamsLen, stats)
	if err != nil {
		return nil, err
	}
	t, err := decodeStreams(raw, r.footer.streams, r.footer.minTime)
	if err == nil {
		err = r.index.place(t, r.footer.rows)
	}
	if err != nil {
		return nil, r.corrupt("stream table", err)
	}
	if stats != nil {
		stats.DecompressedStream.Add(t.size)
	}
	return t, nil
}

// place checks the stream table against the block index.
func (x *index) place(t *streamTable, rows int64) error {
	if t.rows() != rows {
		return fmt.Errorf("streams have %d rows, the footer says %d", t.rows(), rows)
	}
	for s := range t.first {
		if t.last[s] < t.first[s] {
			return fmt.Errorf("stream %d: time runs backwards", s)
		}
	}
	for i := range x.blocks {
		b := &x.blocks[i]
		first, last := t.at(b.row), t.at(b.row+int64(b.rows)-1)
		if first != b.stream || last-first+1 != b.streams {
			return fmt.Errorf("block %d has streams %d to %d, the block index says %d to %d", i, first, last, b.stream, b.stream+b.streams-1)
		}
	}
	return nil
}

// postings returns the postings of a label name, nil when no stream has it.
func (r *Reader) postings(ctx context.Context, name string, stats *model.Stats) (*postings, error) {
	entry := r.index.find(name)
	if entry == nil {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.mu.postings[name]; p != nil {
		return p, nil
	}
	ordinal := 0
	for i := range r.index.postings {
		if &r.index.postings[i] == entry {
			ordinal = i
		}
	}
	raw, err := r.section(ctx, kindPostings, ordinal, entry.offset, entry.length, stats)
	if err != nil {
		return nil, err
	}
	p, err := decodePostings(raw, r.footer.streams)
	if err != nil {
		return nil, r.corrupt(fmt.Sprintf("postings of label %q", name), err)
	}
	if r.mu.postings == nil {
		r.mu.postings = make(map[string]*postings)
	}
	r.mu.postings[name] = p
	return p, nil
}
