package compact

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// readAhead is how much of a remote segment is fetched at once while it is merged. Blocks
// are read in order and are a tenth of it, so the store gets a tenth of the requests.
const readAhead = 1 << 20

// source returns the bytes of a segment that will be read in order.
func (c *Compactor) source(s *seg) segment.Source {
	src := storage.NewSource(c.store, s.ref)
	if !object.Remote(c.store) {
		return src
	}
	return &window{Source: src}
}

// window is a Source that reads ahead.
type window struct {
	segment.Source
	mu struct {
		sync.Mutex
		buf []byte // bytes from at on
		at  int64
	}
}

// ReadAt implements segment.Source.
func (w *window) ReadAt(ctx context.Context, p []byte, off int64) error {
	if len(p) >= readAhead {
		return w.Source.ReadAt(ctx, p, off)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if off < w.mu.at || off+int64(len(p)) > w.mu.at+int64(len(w.mu.buf)) {
		n := min(readAhead, w.Size()-off)
		if int64(len(p)) > n {
			return w.Source.ReadAt(ctx, p, off) // beyond the end: the source says so
		}
		if cap(w.mu.buf) == 0 {
			w.mu.buf = make([]byte, 0, readAhead)
		}
		buf := w.mu.buf[:n]
		w.mu.buf = w.mu.buf[:0]
		if err := w.Source.ReadAt(ctx, buf, off); err != nil {
			return err
		}
		w.mu.buf, w.mu.at = buf, off
	}
	copy(p, w.mu.buf[off-w.mu.at:])
	return nil
}

// temporary is a local file without a name, so that a crash leaves nothing of it.
type temporary struct {
	*os.File
	name string
	size int64
}

func newTemporary(dir string) (*temporary, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(dir, "compact-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &temporary{File: f, name: f.Name()}, nil
}

// asSource is the file as a segment.Source.
type asSource struct{ *temporary }

// ReadAt implements segment.Source.
func (s asSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := s.File.ReadAt(p, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (s asSource) Size() int64  { return s.size }
func (s asSource) Name() string { return s.name }

func mentions(err error, key object.Key) bool { return strings.Contains(err.Error(), string(key)) }
