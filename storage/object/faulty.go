package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrInjected is the cause of failures that Faulty makes.
var ErrInjected = errors.New("injected fault")

// Fault says which calls of a Faulty store fail, and how.
type Fault struct {
	// Op is the operation ("put", "get", "read", "list", "delete", "stat"); "" for all.
	Op string
	// Key is a pattern in the manner of path.Match, compared with the key's last elements:
	// "*.seg" is a segment anywhere, "*/2026-11-24/*" anything of that day. "" is all.
	Key string
	// Call is which of the calls that match fails, from 1; 0 means all of them.
	Call int
	// Transient marks the error as worth a retry.
	Transient bool
	// After lets the operation happen and then reports failure: a lost answer.
	After bool
	// Err is the cause; nil means ErrInjected.
	Err error
}

// Faulty is a Store for tests that fails where it is told to and whose listings can lag
// behind. Calls are counted over all operations, so a test can let each fail in turn.
type Faulty struct {
	next Store
	mu   struct {
		sync.Mutex
		calls     int
		faults    []Fault
		matched   []int                     // matched[i] counts the calls that faults[i] matched
		listed    map[Key]Info              // what the store held when this wrapper was made
		changes   []change                  // since then
		lag       func(changes int) int     // how many of the last changes a listing misses
		intercept func(op string, k string) // told of each call before it happens
	}
}

type change struct {
	info    Info
	deleted bool
}

// NewFaulty wraps a store, without faults yet.
func NewFaulty(ctx context.Context, next Store) (*Faulty, error) {
	f := &Faulty{next: next}
	f.mu.listed = make(map[Key]Info)
	for info, err := range next.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		f.mu.listed[info.Key] = info
	}
	return f, nil
}

// SetFaults replaces the faults and starts counting calls anew.
func (f *Faulty) SetFaults(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.calls = 0
	f.mu.faults = faults
	f.mu.matched = make([]int, len(faults))
}

// Calls returns the number of calls since SetFaults.
func (f *Faulty) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.calls
}

// Intercept has fn called before each operation; a test can put or delete objects at
// exactly that moment. nil ends it.
func (f *Faulty) Intercept(fn func(op, key string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.intercept = fn
}

// LagListings makes each listing miss the last lag(n) of the n changes (puts and deletes
// through this wrapper) that happened so far. nil makes listings exact again.
func (f *Faulty) LagListings(lag func(changes int) int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.lag = lag
}

func (f *Faulty) String() string { return f.next.String() }

// call counts a call and finds the fault that it meets.
func (f *Faulty) call(op, key string) *Fault {
	f.mu.Lock()
	intercept := f.mu.intercept
	f.mu.calls++
	var hit *Fault
	for i := range f.mu.faults {
		fault := &f.mu.faults[i]
		if fault.Op != "" && fault.Op != op || !matchKey(fault.Key, key) {
			continue
		}
		f.mu.matched[i]++
		if hit == nil && (fault.Call == 0 || fault.Call == f.mu.matched[i]) {
			hit = fault
		}
	}
	f.mu.Unlock()
	if intercept != nil {
		intercept(op, key)
	}
	return hit
}

func matchKey(pattern, key string) bool {
	if pattern == "" {
		return true
	}
	elements := strings.Split(key, "/")
	tail := max(0, len(elements)-1-strings.Count(pattern, "/"))
	ok, err := path.Match(pattern, strings.Join(elements[tail:], "/"))
	return ok && err == nil
}

// do runs an operation under the fault it meets, if any.
func (f *Faulty) do(op, key string, run func() error) error {
	fault := f.call(op, key)
	if fault == nil {
		return run()
	}
	if fault.After {
		if err := run(); err != nil {
			return err
		}
	}
	cause := fault.Err
	if cause == nil {
		cause = ErrInjected
	}
	return &Error{Op: op, Store: f.next.String(), Key: key, Transient: fault.Transient, Err: cause}
}

// Put implements Store.
func (f *Faulty) Put(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	return f.do("put", string(key), func() error {
		err := f.next.Put(ctx, key, body, size)
		if err == nil {
			f.record(change{info: Info{key, size, time.Now()}})
		}
		return err
	})
}

// Delete implements Store.
func (f *Faulty) Delete(ctx context.Context, key Key) error {
	return f.do("delete", string(key), func() error {
		err := f.next.Delete(ctx, key)
		if err == nil {
			f.record(change{info: Info{Key: key}, deleted: true})
		}
		return err
	})
}

func (f *Faulty) record(c change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.changes = append(f.mu.changes, c)
}

// Get implements Store. A fault with After breaks the body in its middle.
func (f *Faulty) Get(ctx context.Context, key Key) (body io.ReadCloser, size int64, err error) {
	fault := f.call("get", string(key))
	if fault != nil && !fault.After {
		return nil, 0, f.injected(fault, "get", key)
	}
	body, size, err = f.next.Get(ctx, key)
	if err == nil && fault != nil {
		body = &brokenBody{body, size / 2, f.injected(fault, "get", key)}
	}
	return body, size, err
}

func (f *Faulty) injected(fault *Fault, op string, key Key) error {
	cause := fault.Err
	if cause == nil {
		cause = ErrInjected
	}
	return &Error{Op: op, Store: f.next.String(), Key: string(key), Transient: fault.Transient, Err: cause}
}

type brokenBody struct {
	io.ReadCloser
	left int64
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// ReadAt implements Store.
func (f *Faulty) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	return f.do("read", string(key), func() error { return f.next.ReadAt(ctx, key, p, off) })
}

// Stat implements Store.
func (f *Faulty) Stat(ctx context.Context, key Key) (info Info, err error) {
	err = f.do("stat", string(key), func() (err error) {
		info, err = f.next.Stat(ctx, key)
		return err
	})
	return info, err
}

// List implements Store. A fault with After breaks the listing after its first object.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		fault := f.call("list", prefix)
		if fault != nil && !fault.After {
			yield(Info{}, f.injected(fault, "list", Key(prefix)))
			return
		}
		for info, err := range f.view(ctx, prefix) {
			if !yield(info, err) || err != nil {
				return
			}
			if fault != nil {
				yield(Info{}, f.injected(fault, "list", Key(prefix)))
				return
			}
		}
	}
}

// view is the listing as of now, or as of some changes ago.
func (f *Faulty) view(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.lag == nil {
		return f.next.List(ctx, prefix)
	}
	missed := min(max(f.mu.lag(len(f.mu.changes)), 0), len(f.mu.changes))
	objects := make(map[Key]Info, len(f.mu.listed))
	for key, info := range f.mu.listed {
		objects[key] = info
	}
	for _, c := range f.mu.changes[:len(f.mu.changes)-missed] {
		if c.deleted {
			delete(objects, c.info.Key)
		} else {
			objects[c.info.Key] = c.info
		}
	}
	var infos []Info
	for _, info := range objects {
		if strings.HasPrefix(string(info.Key), prefix) {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return func(yield func(Info, error) bool) {
		for _, info := range infos {
			if err := ctx.Err(); err != nil {
				yield(Info{}, fmt.Errorf("list %q: %w", prefix, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// ListPrefixes implements Store.
func (f *Faulty) ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkFolder(prefix); err != nil {
			yield("", &Error{Op: "list", Store: f.String(), Key: prefix, Err: err})
			return
		}
		last := ""
		for info, err := range f.List(ctx, prefix) {
			if err != nil {
				yield("", err)
				return
			}
			if folder, ok := folderBelow(prefix, info.Key); ok && folder != last {
				last = folder
				if !yield(folder, nil) {
					return
				}
			}
		}
	}
}
