package segment

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/skaldlog/skald/internal/fault"
)

// Source is where a reader gets a segment's bytes: a local file, an object, a cache. One
// with a method Far() bool that returns true is so far away that blocks should be fetched
// before they are needed.
type Source interface {
	// ReadAt fills p with the bytes from off on, wholly or with an error. It may be called
	// by many goroutines at once.
	ReadAt(ctx context.Context, p []byte, off int64) error
	Size() int64
	// Name is the path or key, for error messages.
	Name() string
}

// SourceCloser is a Source that holds something open.
type SourceCloser interface {
	Source
	io.Closer
}

// OpenSource opens a file on the local disk for Verify and Dump.
func OpenSource(path string) (SourceCloser, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// file is a Source on the local disk.
type file struct {
	f    *os.File
	size int64
}

func openFile(path string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &file{f, info.Size()}, nil
}

func (s *file) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := s.f.ReadAt(p, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (s *file) Size() int64  { return s.size }
func (s *file) Name() string { return s.f.Name() }
func (s *file) Close() error { return s.f.Close() }

// corrupt makes the error for bytes of src that make no sense.
func corrupt(src Source, where string, err error) error {
	return fault.Wrap(fault.Corrupt, fmt.Errorf("segment %s: %s: %w (restore it or remove it; 'skald verify' finds all that are damaged)", src.Name(), where, err))
}
