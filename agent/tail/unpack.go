package tail

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// Decompression says how a target's files are compressed.
type Decompression struct {
	// Format is gz, z (zlib), bz2 or zst.
	Format string
	// InitialDelay is how long a new file is left alone, so that its writer can finish it.
	InitialDelay time.Duration
}

// CheckDecompression reports whether a format can be read.
func CheckDecompression(format string) error {
	if formats[format] == nil {
		return fmt.Errorf("decompression format %q is none of gz, z, bz2, zst", format)
	}
	return nil
}

// format opens a decompressor.
type format func(io.Reader) (io.Reader, error)

var formats = map[string]format{
	"gz":  func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"z":   func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) },
	"bz2": func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil },
	"zst": func(r io.Reader) (io.Reader, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	},
}

// magics are the first bytes of compressed files.
var magics = map[string]string{".gz": "\x1f\x8b", ".bz2": "BZh", ".zst": "\x28\xb5\x2f\xfd"}

// packedFormat returns the format of a file that name and first bytes show to be compressed,
// "" for others. A format that the target names needs no such proof.
func packedFormat(tg *target, f io.ReaderAt, path string) string {
	if tg.Decompress != nil {
		return tg.Decompress.Format
	}
	ext := filepath.Ext(path)
	magic, ok := magics[ext]
	if !ok {
		return ""
	}
	head := make([]byte, len(magic))
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != magic {
		return ""
	}
	return ext[1:]
}

// unpacked is the content of a compressed file. It reads forward; what lies a little behind
// is kept, what lies further behind is decompressed anew.
type unpacked struct {
	f      *os.File
	open   format
	r      io.Reader
	closer io.Closer
	window []byte
	start  int64 // offset of window
	err    error // what ended the stream
}

const (
	// keepBehind is what unpacked keeps before the place last read.
	keepBehind = 8 << 10
	// unpackStep is what it decompresses at a time.
	unpackStep = 64 << 10
)

func newUnpacked(f *os.File, name string) *unpacked { return &unpacked{f: f, open: formats[name]} }

// restart begins to decompress from the start.
func (u *unpacked) restart() {
	u.stop()
	u.window, u.start, u.err = u.window[:0], 0, nil
	r, err := u.open(bufio.NewReaderSize(io.NewSectionReader(u.f, 0, 1<<62), 32<<10))
	if err != nil {
		u.err = err
		return
	}
	u.r = r
	u.closer, _ = r.(io.Closer) // bzip2's has nothing to close
}

// stop frees the decompressor.
func (u *unpacked) stop() {
	if u.closer != nil {
		_ = u.closer.Close() // read only
	}
	u.r, u.closer = nil, nil
}

// ReadAt implements io.ReaderAt. At the end of a whole stream the error is io.EOF.
func (u *unpacked) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("unpack: offset %d is negative", off)
	}
	if off < u.start || u.r == nil {
		u.restart()
	}
	n := 0
	for n < len(p) {
		if have := u.start + int64(len(u.window)) - off; have > 0 {
			k := copy(p[n:], u.window[off-u.start:])
			n, off = n+k, off+int64(k)
			continue
		}
		if u.err != nil {
			return n, u.err
		}
		u.fill(off)
	}
	return n, nil
}

// fill decompresses a step, and forgets what lies far before off.
func (u *unpacked) fill(off int64) {
	if cut := min(off-keepBehind-u.start, int64(len(u.window))); cut > 0 {
		u.window = u.window[:copy(u.window, u.window[cut:])]
		u.start += cut
	}
	n := len(u.window)
	if cap(u.window) < n+unpackStep {
		u.window = append(make([]byte, 0, n+2*unpackStep), u.window...)
	}
	k, err := u.r.Read(u.window[n : n+unpackStep])
	u.window = u.window[:n+k]
	u.err = err
	if errors.Is(err, io.EOF) {
		u.stop0()
	}
}

// stop0 frees the decompressor at the end of the stream; the window stays.
func (u *unpacked) stop0() {
	if u.closer != nil {
		_ = u.closer.Close() // read only
		u.closer = nil
	}
}
