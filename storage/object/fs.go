package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// tempPrefix begins the names of files being written. No key has such an element, so a
// file that a crash left behind is never taken for an object.
const tempPrefix = "~"

// FS is a Store in a directory: a key is a path below it. Only Skald should write there.
type FS struct {
	root string
}

// NewFS returns the store in directory root, which is made if need be. Files that a
// crash left half written are removed by RemoveTemporary.
func NewFS(root string) (*FS, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("object store directory %q: %w", root, err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, fmt.Errorf("object store directory: %w", err)
	}
	return &FS{root: abs}, nil
}

func (s *FS) String() string { return "file://" + filepath.ToSlash(s.root) }

func (s *FS) path(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

func (s *FS) fail(op, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR) {
		err = ErrNotFound
	}
	return &Error{Op: op, Store: s.String(), Key: key, Err: err}
}

func (s *FS) check(ctx context.Context, op string, key Key) error {
	err := ctx.Err()
	if err == nil {
		err = CheckKey(key)
	}
	if err != nil {
		return s.fail(op, string(key), err)
	}
	return nil
}

// Put implements Store. The object appears by the rename; before it, the bytes are synced,
// so that a crash cannot leave a name without its content, and after it the directory is,
// so that the name is still there when Put has returned.
func (s *FS) Put(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	if err := s.check(ctx, "put", key); err != nil {
		return err
	}
	if err := s.put(ctx, s.path(string(key)), body, size); err != nil {
		// Not s.fail: a missing folder while putting is a failure, not a missing object.
		return &Error{Op: "put", Store: s.String(), Key: string(key), Err: err}
	}
	return nil
}

func (s *FS) put(ctx context.Context, path string, body io.ReadSeeker, size int64) (err error) {
	temp, err := s.createTemp(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	if err := rewind(body); err != nil {
		return err
	}
	if err := copyExactly(temp, &contextReader{ctx, body}, size); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// createTemp makes a temporary file in dir, and dir with its parents if need be. Delete
// removes empty folders, maybe between our two steps; hence the attempts.
func (s *FS) createTemp(dir string) (*os.File, error) {
	const attempts = 10
	var err error
	for range attempts {
		if err = s.makeDir(dir); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return nil, err
		}
		var f *os.File
		if f, err = os.CreateTemp(dir, tempPrefix+"*"); err == nil {
			// CreateTemp gives 0600, but objects may be shared with other processes.
			if err := f.Chmod(0o644); err != nil {
				_ = f.Close()
				_ = os.Remove(f.Name())
				return nil, err
			}
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("folder vanished %d times while writing to it: %w", attempts, err)
}

// makeDir is MkdirAll that syncs each parent in which it made a folder: otherwise a crash
// may lose the folder together with the synced object in it.
func (s *FS) makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := s.makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
			return nil
		}
		return err
	}
	return syncDir(parent)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// open opens an object; a folder is none.
func (s *FS) open(ctx context.Context, op string, key Key) (*os.File, fs.FileInfo, error) {
	if err := s.check(ctx, op, key); err != nil {
		return nil, nil, err
	}
	f, err := os.Open(s.path(string(key)))
	if err != nil {
		return nil, nil, s.fail(op, string(key), err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = syscall.EISDIR
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, s.fail(op, string(key), err)
	}
	return f, info, nil
}

// Get implements Store.
func (s *FS) Get(ctx context.Context, key Key) (io.ReadCloser, int64, error) {
	f, info, err := s.open(ctx, "get", key)
	if err != nil {
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// ReadAt implements Store.
func (s *FS) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	f, info, err := s.open(ctx, "read", key)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkRange(p, off); err != nil {
		return s.fail("read", string(key), err)
	}
	if off+int64(len(p)) > info.Size() {
		return s.fail("read", string(key), errBeyondEnd(p, off, info.Size()))
	}
	if _, err := f.ReadAt(p, off); err != nil {
		return s.fail("read", string(key), err)
	}
	return nil
}

func errBeyondEnd(p []byte, off, size int64) error {
	return fmt.Errorf("%d bytes at offset %d of an object of %d bytes: %w", len(p), off, size, io.ErrUnexpectedEOF)
}

// Stat implements Store.
func (s *FS) Stat(ctx context.Context, key Key) (Info, error) {
	if err := s.check(ctx, "stat", key); err != nil {
		return Info{}, err
	}
	info, err := os.Stat(s.path(string(key)))
	if err == nil && info.IsDir() {
		err = syscall.EISDIR
	}
	if err != nil {
		return Info{}, s.fail("stat", string(key), err)
	}
	return Info{key, info.Size(), info.ModTime()}, nil
}

// Delete implements Store. Folders that become empty go too, so that an expired day costs
// no listing any more.
func (s *FS) Delete(ctx context.Context, key Key) error {
	if _, err := s.Stat(ctx, key); err != nil {
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	path := s.path(string(key))
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail("delete", string(key), err)
	}
	// A deleted delete request that came back after a crash would delete again.
	dir := filepath.Dir(path)
	if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail("delete", string(key), err)
	}
	for ; dir != s.root; dir = filepath.Dir(dir) {
		if err := os.Remove(dir); err != nil {
			break // not empty
		}
	}
	return nil
}

// List implements Store. It reads one directory at a time, so it holds the names of one
// directory per level and no more.
func (s *FS) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		folder, rest, err := splitPrefix(prefix)
		if err != nil {
			yield(Info{}, s.fail("list", prefix, err))
			return
		}
		s.walk(ctx, folder, rest, yield)
	}
}

// walk yields the objects below folder whose path in it begins with rest; it returns
// false when the caller wants no more or has got an error.
func (s *FS) walk(ctx context.Context, folder, rest string, yield func(Info, error) bool) bool {
	names, err := s.names(ctx, folder)
	if err != nil {
		yield(Info{}, s.fail("list", folder, err))
		return false
	}
	for _, name := range names {
		if !strings.HasPrefix(name, rest) {
			continue
		}
		if strings.HasSuffix(name, "/") {
			if !s.walk(ctx, folder+name, "", yield) {
				return false
			}
			continue
		}
		info, err := os.Stat(s.path(folder + name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since the directory was read
		}
		if err != nil {
			yield(Info{}, s.fail("list", folder+name, err))
			return false
		}
		if !yield(Info{Key(folder + name), info.Size(), info.ModTime()}, nil) {
			return false
		}
	}
	return true
}

// names returns the entries of a folder, directories with a slash at their end, in the
// order of the keys below them: "a-b" < "a/…" < "a0", although "a" < "a-b". A folder that
// is not there has none.
func (s *FS) names(ctx context.Context, folder string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.path(folder))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		name := e.Name()
		if checkElement(name) != nil {
			continue // a temporary file, or nothing of ours
		}
		dir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 { // an operator may put a tenant on another disk
			info, err := os.Stat(s.path(folder + name))
			dir = err == nil && info.IsDir()
		}
		if dir {
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// ListPrefixes implements Store. Folders without an object are yielded too when a crash
// has left them.
func (s *FS) ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := checkFolder(prefix)
		var names []string
		if err == nil {
			names, err = s.names(ctx, prefix)
		}
		if err != nil {
			yield("", s.fail("list", prefix, err))
			return
		}
		for _, name := range names {
			if strings.HasSuffix(name, "/") && !yield(prefix+name, nil) {
				return
			}
		}
	}
}

// RemoveTemporary deletes the files that crashed writers left behind and returns their
// number. Call it only while nothing else writes to the directory.
func (s *FS) RemoveTemporary(ctx context.Context) (removed int, err error) {
	err = filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case !d.Type().IsRegular() || !strings.HasPrefix(d.Name(), tempPrefix):
			return nil
		}
		removed++
		return os.Remove(path)
	})
	if err != nil {
		return removed, fmt.Errorf("remove temporary files in %s: %w", s, err)
	}
	return removed, nil
}

// contextReader ends a long copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
