// Package object is the store of immutable objects under the segments, the catalog and
// the delete requests: one small contract, a body for a directory, one for S3 and one in
// memory, and wrappers that add retries, metrics, a cache of byte ranges, and, in tests,
// faults. Everything above sees only a Store.
//
// What every Store promises, and the contract test checks over each body:
//
//   - Put is atomic and durable: when it returns nil the whole object survives a crash of
//     this process and of the machine, and at no time does anybody see a part of it. A Put
//     over an existing key replaces it.
//   - List yields keys in the lexical order of their bytes. It may be stale: an object may
//     be listed after it was deleted, or not yet listed after it was put.
//   - A missing key is ErrNotFound from Get, ReadAt and Stat, and no error from Delete.
//   - Errors name the operation, the store and the key, never a credential.
//   - All methods may be called from many goroutines.
//
// Keys are paths of elements between slashes, as CheckKey says; a key must not be a folder
// of another (a and a/b), because on a filesystem it cannot.
//
// Which errors are worth a retry is part of the contract: IsTransient. A missing object, a
// refusal (credentials, permissions, a bad request), a full disk and a canceled context are
// permanent; a broken connection, a timeout, throttling and any 5xx are transient.
package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// Key names an object, for example "fake/2026-11-24/….seg".
type Key string

// Info describes an object.
type Info struct {
	Key      Key
	Size     int64 // bytes
	Modified time.Time
}

// ErrNotFound says that there is no object with the key. Compare with errors.Is.
var ErrNotFound = errors.New("object not found")

// Store keeps objects; see the package doc for what it promises.
type Store interface {
	// Put stores the size bytes that body yields from its start. It may read body more
	// than once, and in parallel if body is also an io.ReaderAt. A body of another size
	// is an error.
	Put(ctx context.Context, key Key, body io.ReadSeeker, size int64) error
	// Get returns a reader over the whole object, and its size. The caller closes it, and
	// a body that ends early is an error of Read.
	Get(ctx context.Context, key Key) (body io.ReadCloser, size int64, err error)
	// ReadAt fills p from offset off, or fails; a range that ends beyond the object is an
	// error (io.ErrUnexpectedEOF).
	ReadAt(ctx context.Context, key Key, p []byte, off int64) error
	// List yields the objects whose keys begin with prefix. After an error it ends.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// ListPrefixes yields, in lexical order, the distinct folders directly below prefix,
	// which is "" or ends in a slash: with a/b/1, a/b/2 and a/c, the prefix "a/" yields
	// "a/b/". After an error it ends.
	ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error]
	// Delete removes an object, durably.
	Delete(ctx context.Context, key Key) error
	Stat(ctx context.Context, key Key) (Info, error)
	// String names the store in messages, without secrets.
	String() string
}

// Limits of keys: S3 takes 1024 bytes, file systems 255 bytes an element.
const (
	MaxKeyLength     = 1024
	MaxElementLength = 255
)

// CheckKey says what is wrong with a key. A good one consists of non-empty elements
// between slashes; no element is "." or "..", begins with '~' (reserved for files being
// written) or holds a control character, a backslash or invalid UTF-8.
func CheckKey(key Key) error {
	if key == "" {
		return errors.New("empty object key")
	}
	if len(key) > MaxKeyLength {
		return fmt.Errorf("object key %.40q… has %d bytes, at most %d are allowed", string(key), len(key), MaxKeyLength)
	}
	for element := range strings.SplitSeq(string(key), "/") {
		if err := checkElement(element); err != nil {
			return fmt.Errorf("object key %q: %w", string(key), err)
		}
	}
	return nil
}

func checkElement(e string) error {
	switch {
	case e == "":
		return errors.New("an element between slashes is empty")
	case e == "." || e == "..":
		return fmt.Errorf("an element is %q", e)
	case e[0] == '~':
		return fmt.Errorf("element %q begins with '~'", e)
	case len(e) > MaxElementLength:
		return fmt.Errorf("element %.40q… has %d bytes, at most %d are allowed", e, len(e), MaxElementLength)
	case !utf8.ValidString(e):
		return fmt.Errorf("element %q is not valid UTF-8", e)
	}
	for i := range len(e) {
		if e[i] < 0x20 || e[i] == 0x7f || e[i] == '\\' {
			return fmt.Errorf("element %q holds the character %q", e, e[i])
		}
	}
	return nil
}

// splitPrefix cuts a list prefix into the folder it lies in, "" or ending in a slash, and
// the beginning of an element. The folder's elements are checked; the rest is only ever
// compared with names.
func splitPrefix(prefix string) (folder, rest string, err error) {
	cut := strings.LastIndexByte(prefix, '/') + 1
	folder, rest = prefix[:cut], prefix[cut:]
	if folder != "" {
		if err := CheckKey(Key(folder[:cut-1])); err != nil {
			return "", "", fmt.Errorf("list prefix: %w", err)
		}
	}
	return folder, rest, nil
}

// checkFolder is splitPrefix for ListPrefixes.
func checkFolder(prefix string) error {
	_, rest, err := splitPrefix(prefix)
	if err == nil && rest != "" {
		err = fmt.Errorf("list prefix %q: want it empty or with a slash at its end", prefix)
	}
	return err
}

// checkRange refuses ranges that no object has.
func checkRange(p []byte, off int64) error {
	if off < 0 || off > 1<<62 {
		return fmt.Errorf("offset %d of %d bytes is out of range", off, len(p))
	}
	return nil
}

// Error is a failed operation on a store.
type Error struct {
	Op        string // "put", "get", "read", "list", "delete", "stat"
	Store     string // Store.String
	Key       string // the key or list prefix
	Transient bool   // the same call may succeed later
	Err       error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %q in %s: %v", e.Op, e.Key, e.Store, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// IsTransient reports whether trying again may help. Only what a store has marked is.
func IsTransient(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Transient
}

// Remote reports whether reads of a store travel over a network, so that a cache pays.
// Wrappers answer for what they wrap.
func Remote(s Store) bool {
	r, ok := s.(interface{ Remote() bool })
	return ok && r.Remote()
}

// ReadAll returns a whole object of at most max bytes; a larger one is an error, found
// before anything is allocated for it. It is for small objects. A body that breaks off
// while it is read is fetched again, up to three times.
func ReadAll(ctx context.Context, s Store, key Key, max int64) ([]byte, error) {
	const attempts = 3
	var err error
	for range attempts {
		var data []byte
		data, err = readAll(ctx, s, key, max)
		if err == nil {
			return data, nil
		}
		if !IsTransient(err) || ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func readAll(ctx context.Context, s Store, key Key, max int64) ([]byte, error) {
	body, size, err := s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if size > max {
		return nil, &Error{Op: "get", Store: s.String(), Key: string(key), Err: fmt.Errorf("object has %d bytes, at most %d are allowed", size, max)}
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, &Error{Op: "get", Store: s.String(), Key: string(key), Transient: true, Err: err}
	}
	return data, nil
}

// rewind prepares a body for a first or further reading.
func rewind(body io.ReadSeeker) error {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind the body: %w", err)
	}
	return nil
}

// copyExactly copies size bytes and checks that src ends there.
func copyExactly(dst io.Writer, src io.Reader, size int64) error {
	n, err := io.CopyN(dst, src, size)
	if err == io.EOF {
		return fmt.Errorf("the body has %d bytes, want %d", n, size)
	}
	if err != nil {
		return err
	}
	var one [1]byte
	switch n, err := src.Read(one[:]); {
	case n > 0:
		return fmt.Errorf("the body has more than the announced %d bytes", size)
	case err != nil && err != io.EOF:
		return err
	}
	return nil
}
