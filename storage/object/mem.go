package object

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mem is a Store in memory, for tests and for servers that need not remember.
type Mem struct {
	mu struct {
		sync.RWMutex
		objects map[Key]memObject
	}
}

type memObject struct {
	data     []byte // never modified once stored
	modified time.Time
}

// NewMem returns an empty store.
func NewMem() *Mem {
	m := &Mem{}
	m.mu.objects = make(map[Key]memObject)
	return m
}

func (m *Mem) String() string { return "mem://" }

func (m *Mem) fail(op string, key string, err error) error {
	return &Error{Op: op, Store: m.String(), Key: key, Err: err}
}

// check is what every operation on a key begins with.
func (m *Mem) check(ctx context.Context, op string, key Key) error {
	if err := ctx.Err(); err != nil {
		return m.fail(op, string(key), err)
	}
	if err := CheckKey(key); err != nil {
		return m.fail(op, string(key), err)
	}
	return nil
}

// Put implements Store.
func (m *Mem) Put(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	if err := m.check(ctx, "put", key); err != nil {
		return err
	}
	var buf bytes.Buffer
	err := rewind(body)
	if err == nil {
		err = copyExactly(&buf, body, size)
	}
	if err != nil {
		return m.fail("put", string(key), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.objects[key] = memObject{buf.Bytes(), time.Now()}
	return nil
}

func (m *Mem) object(ctx context.Context, op string, key Key) (memObject, error) {
	if err := m.check(ctx, op, key); err != nil {
		return memObject{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.mu.objects[key]
	if !ok {
		return o, m.fail(op, string(key), ErrNotFound)
	}
	return o, nil
}

// Get implements Store.
func (m *Mem) Get(ctx context.Context, key Key) (io.ReadCloser, int64, error) {
	o, err := m.object(ctx, "get", key)
	if err != nil {
		return nil, 0, err
	}
	return io.NopCloser(bytes.NewReader(o.data)), int64(len(o.data)), nil
}

// ReadAt implements Store.
func (m *Mem) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	o, err := m.object(ctx, "read", key)
	if err != nil {
		return err
	}
	if err := checkRange(p, off); err != nil {
		return m.fail("read", string(key), err)
	}
	if off+int64(len(p)) > int64(len(o.data)) {
		return m.fail("read", string(key), errBeyondEnd(p, off, int64(len(o.data))))
	}
	copy(p, o.data[off:])
	return nil
}

// Stat implements Store.
func (m *Mem) Stat(ctx context.Context, key Key) (Info, error) {
	o, err := m.object(ctx, "stat", key)
	if err != nil {
		return Info{}, err
	}
	return Info{key, int64(len(o.data)), o.modified}, nil
}

// Delete implements Store.
func (m *Mem) Delete(ctx context.Context, key Key) error {
	if _, err := m.object(ctx, "delete", key); err != nil {
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mu.objects, key)
	return nil
}

// snapshot returns the objects under prefix in order.
func (m *Mem) snapshot(prefix string) []Info {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var infos []Info
	for _, key := range slices.Sorted(maps.Keys(m.mu.objects)) {
		if o := m.mu.objects[key]; strings.HasPrefix(string(key), prefix) {
			infos = append(infos, Info{key, int64(len(o.data)), o.modified})
		}
	}
	return infos
}

// List implements Store.
func (m *Mem) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if _, _, err := splitPrefix(prefix); err != nil {
			yield(Info{}, m.fail("list", prefix, err))
			return
		}
		for _, info := range m.snapshot(prefix) {
			if err := ctx.Err(); err != nil {
				yield(Info{}, m.fail("list", prefix, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Info{}, m.fail("list", prefix, err))
		}
	}
}

// ListPrefixes implements Store.
func (m *Mem) ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkFolder(prefix); err != nil {
			yield("", m.fail("list", prefix, err))
			return
		}
		last := ""
		for info, err := range m.List(ctx, prefix) {
			if err != nil {
				yield("", err)
				return
			}
			folder, ok := folderBelow(prefix, info.Key)
			if ok && folder != last {
				last = folder
				if !yield(folder, nil) {
					return
				}
			}
		}
	}
}

// folderBelow returns the folder directly below prefix in which key lies.
func folderBelow(prefix string, key Key) (string, bool) {
	rest := string(key[len(prefix):])
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		return "", false
	}
	return prefix + rest[:end+1], true
}
