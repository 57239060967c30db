package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// ReadOptions say what to make of damage.
type ReadOptions struct {
	// Sealed says that the file was closed in good order, so that it has no torn tail and
	// any bad frame is damage.
	Sealed bool
	// Salvage skips damage, where it would otherwise be an error, and reads every frame
	// that is whole.
	Salvage bool
}

// Result says what reading a file has found.
type Result struct {
	Batches int
	// Good is the offset behind the last whole frame; a torn tail begins there.
	Good int64
	// Torn is the length of the torn tail, which held nothing acknowledged.
	Torn int64
	// Skipped is the number of bytes of damage that Salvage passed over.
	Skipped int64
}

const (
	hintSalvage = "start once with -ingester.salvage to keep every batch that is whole (the file is kept as *.damaged), or restore the file from a backup"
	hintVersion = "start the version of Skald that wrote it, let it shut down in good order, and upgrade then"
)

// errBadFrame is a frame that is cut short or fails its checksum.
var errBadFrame = errors.New("bad frame")

// Read calls fn with each batch of a file, in order of commit. A batch is valid during
// the call. Damage is a CorruptError, unless opts.Salvage; an error of fn ends the
// reading and is returned as it is.
func Read(path string, opts ReadOptions, fn func(Batch) error) (Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return Result{}, fmt.Errorf("opening write-ahead log: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Result{}, fmt.Errorf("opening write-ahead log: %w", err)
	}
	return read(path, f, st.Size(), opts, fn)
}

func read(path string, src io.ReaderAt, size int64, opts ReadOptions, fn func(Batch) error) (res Result, err error) {
	if size < headerSize && !opts.Sealed {
		// Create makes the header durable before the first batch: nothing was lost.
		return Result{Torn: size}, nil
	}
	r := reader{path: path, src: src, size: size}
	if err := r.header(); err != nil {
		return res, err
	}
	res.Good = headerSize
	for off := int64(headerSize); off < size; {
		body, reason := r.frame(off)
		if reason == nil {
			n, err := r.records(body, off, fn)
			res.Batches += n
			if err != nil {
				return res, err
			}
			off += frameHeader + int64(len(body))
			res.Good = off
			continue
		}
		if !errors.Is(reason, errBadFrame) {
			return res, fmt.Errorf("reading write-ahead log %s at offset %d: %w", path, off, reason)
		}
		// A torn tail is the last thing in a file. Whole frames behind it were synced
		// after it, so it had been whole once.
		next, err := r.findFrame(off + 1)
		switch {
		case err != nil:
			return res, fmt.Errorf("reading write-ahead log %s: %w", path, err)
		case next < 0 && !opts.Sealed:
			res.Torn = size - off
			return res, nil
		case !opts.Salvage && next < 0:
			return res, corrupt(path, off, hintSalvage, "%v, in a file that was closed in good order", reason)
		case !opts.Salvage:
			return res, corrupt(path, off, hintSalvage, "%v, and whole frames follow at offset %d", reason, next)
		case next < 0:
			res.Skipped += size - off
			return res, nil
		}
		res.Skipped += next - off
		off = next
	}
	return res, nil
}

type reader struct {
	path string
	src  io.ReaderAt
	size int64
	mark [markSize]byte
	buf  []byte
	dec  decoder
}

func (r *reader) header() error {
	var h [headerSize]byte
	if n, err := r.src.ReadAt(h[:min(headerSize, r.size)], 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading write-ahead log %s: %w", r.path, err)
	} else if n < headerSize {
		return corrupt(r.path, 0, hintHeader, "file of %d bytes is shorter than its header, %d", n, headerSize)
	}
	if string(h[:8]) != magic {
		return corrupt(r.path, 0, hintHeader, "file begins with %q, want %q", h[:8], magic)
	}
	if v := binary.LittleEndian.Uint32(h[8:]); v != version {
		return corrupt(r.path, 8, hintVersion, "format version %d, want %d", v, version)
	}
	if got, want := crc32.Checksum(h[:20], castagnoli), binary.LittleEndian.Uint32(h[20:]); got != want {
		return corrupt(r.path, 0, hintHeader, "header has checksum %08x, want %08x", got, want)
	}
	copy(r.mark[:], h[12:20])
	return nil
}

const hintHeader = "its batches cannot be told from noise: restore the file from a backup, or move it away to start without it"

// frame returns the body of the frame at off, valid until the next call.
func (r *reader) frame(off int64) ([]byte, error) {
	if r.size-off < frameHeader {
		return nil, fmt.Errorf("%w: %d bytes are left of a header of %d", errBadFrame, r.size-off, frameHeader)
	}
	var h [frameHeader]byte
	if _, err := r.src.ReadAt(h[:], off); err != nil {
		return nil, err
	}
	if [markSize]byte(h[:]) != r.mark {
		return nil, fmt.Errorf("%w: no frame mark, got %x, want %x", errBadFrame, h[:markSize], r.mark)
	}
	n := int64(binary.LittleEndian.Uint32(h[markSize:]))
	if n > r.size-off-frameHeader {
		return nil, fmt.Errorf("%w: it claims %d bytes, and the file has %d", errBadFrame, n, r.size-off-frameHeader)
	}
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	body := r.buf[:n]
	if _, err := r.src.ReadAt(body, off+frameHeader); err != nil && !(errors.Is(err, io.EOF) && n == 0) {
		return nil, err
	}
	if got, want := crc32.Checksum(body, castagnoli), binary.LittleEndian.Uint32(h[markSize+4:]); got != want {
		return nil, fmt.Errorf("%w: its checksum is %08x, want %08x", errBadFrame, got, want)
	}
	return body, nil
}

// records decodes a frame whose checksum is right. What does not decode was written
// wrongly, and no salvage can tell what it meant.
func (r *reader) records(body []byte, off int64, fn func(Batch) error) (n int, err error) {
	for len(body) > 0 {
		batch, rest, err := r.dec.record(body)
		if err != nil {
			return n, corrupt(r.path, off, "keep the file and report this as a bug of Skald", "frame has a good checksum but %v", err)
		}
		if err := fn(batch); err != nil {
			return n, err
		}
		body = rest
		n++
	}
	return n, nil
}

// findFrame returns the offset of the first whole frame at or after off, -1 when there is none.
func (r *reader) findFrame(off int64) (int64, error) {
	const window = 1 << 20
	buf := make([]byte, window)
	for off < r.size {
		n, err := r.src.ReadAt(buf[:min(window, r.size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		at := bytes.Index(buf[:n], r.mark[:])
		switch {
		case at >= 0:
			if _, err := r.frame(off + int64(at)); err == nil {
				return off + int64(at), nil
			} else if !errors.Is(err, errBadFrame) {
				return 0, err
			}
			off += int64(at) + 1
		case int64(n) >= r.size-off:
			return -1, nil
		default:
			off += int64(n) - markSize + 1 // a mark may lie across the border
		}
	}
	return -1, nil
}
