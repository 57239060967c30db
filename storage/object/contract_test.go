package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	s3kit "github.com/skaldlog/skald/internal/testkit/s3"
)

// TestContract holds each body, and a body under all wrappers, to the package's promises.
func TestContract(t *testing.T) {
	t.Run("mem", func(t *testing.T) {
		testContract(t, func(t *testing.T) Store { return NewMem() })
	})
	t.Run("fs", func(t *testing.T) {
		testContract(t, func(t *testing.T) Store {
			s, err := NewFS(t.TempDir())
			must(t, err)
			return s
		})
	})
	t.Run("wrapped", func(t *testing.T) {
		testContract(t, func(t *testing.T) Store {
			s, err := Open(t.Context(), "mem://", Options{})
			must(t, err)
			f, err := NewFaulty(t.Context(), s)
			must(t, err)
			return f
		})
	})
	t.Run("s3", func(t *testing.T) {
		server := s3kit.Start(t)
		n := 0
		testContract(t, func(t *testing.T) Store {
			n++
			s, err := Open(t.Context(), server.Bucket(t, "contract", fmt.Sprintf("run/%d", n)), Options{})
			must(t, err)
			return s
		})
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, s Store, key Key, data string) {
	t.Helper()
	must(t, s.Put(t.Context(), key, strings.NewReader(data), int64(len(data))))
}

func collect[T any](t testing.TB, items iter.Seq2[T, error]) []T {
	t.Helper()
	var all []T
	for item, err := range items {
		must(t, err)
		all = append(all, item)
	}
	return all
}

func keys(t testing.TB, s Store, prefix string) []Key {
	t.Helper()
	var keys []Key
	for _, info := range collect(t, s.List(t.Context(), prefix)) {
		keys = append(keys, info.Key)
	}
	return keys
}

func testContract(t *testing.T, open func(*testing.T) Store) {
	t.Run("read what was put", func(t *testing.T) { testReadBack(t, open(t)) })
	t.Run("missing", func(t *testing.T) { testMissing(t, open(t)) })
	t.Run("list", func(t *testing.T) { testList(t, open(t)) })
	t.Run("put is whole or nothing", func(t *testing.T) { testFailedPut(t, open(t)) })
	t.Run("bad keys", func(t *testing.T) { testBadKeys(t, open(t)) })
	t.Run("canceled", func(t *testing.T) { testCanceled(t, open(t)) })
	t.Run("concurrent", func(t *testing.T) { testConcurrent(t, open(t)) })
}

func testReadBack(t *testing.T, s Store) {
	for _, size := range []int{0, 1, 1000, 300_000} {
		key := Key(fmt.Sprintf("t/day/%d.seg", size))
		data := make([]byte, size)
		rand.NewChaCha8([32]byte{1}).Read(data)
		body := bytes.NewReader(data)
		_, _ = body.Seek(int64(size)/2, io.SeekStart) // Put reads from the start all the same
		must(t, s.Put(t.Context(), key, body, int64(size)))

		got, n, err := s.Get(t.Context(), key)
		must(t, err)
		all, err := io.ReadAll(got)
		must(t, err)
		must(t, got.Close())
		if n != int64(size) || !bytes.Equal(all, data) {
			t.Errorf("%s: Get gives %d bytes, announced %d", key, len(all), n)
		}
		info, err := s.Stat(t.Context(), key)
		must(t, err)
		if info.Key != key || info.Size != int64(size) || info.Modified.IsZero() {
			t.Errorf("%s: Stat gives %+v", key, info)
		}
		for _, r := range [][2]int{{0, size}, {size / 3, size / 2}, {size, 0}, {max(size-1, 0), min(size, 1)}} {
			p := make([]byte, r[1])
			must(t, s.ReadAt(t.Context(), key, p, int64(r[0])))
			if !bytes.Equal(p, data[r[0]:r[0]+r[1]]) {
				t.Errorf("%s: ReadAt(%d, %d) gives other bytes", key, r[0], r[1])
			}
		}
		for _, r := range [][2]int{{0, size + 1}, {size, 1}, {size + 5, 3}} {
			err := s.ReadAt(t.Context(), key, make([]byte, r[1]), int64(r[0]))
			if !errors.Is(err, io.ErrUnexpectedEOF) || IsTransient(err) {
				t.Errorf("%s: ReadAt(%d, %d) gives %v, want a permanent ErrUnexpectedEOF", key, r[0], r[1], err)
			}
		}
	}
	put(t, s, "t/day/1000.seg", "new")
	data, err := ReadAll(t.Context(), s, "t/day/1000.seg", 3)
	if string(data) != "new" || err != nil {
		t.Errorf("after replacing: got %q, %v", data, err)
	}
	if _, err := ReadAll(t.Context(), s, "t/day/1000.seg", 2); err == nil {
		t.Error("ReadAll ignores its maximum")
	}
}

func testMissing(t *testing.T, s Store) {
	put(t, s, "a/b/c", "x")
	must(t, s.Delete(t.Context(), "a/b/c"))
	must(t, s.Delete(t.Context(), "a/b/c"))
	put(t, s, "a/d/e", "x")
	for _, key := range []Key{"a/b/c", "nothing", "a/d", "a/d/e/f"} {
		_, _, getErr := s.Get(t.Context(), key)
		readErr := s.ReadAt(t.Context(), key, make([]byte, 1), 0)
		_, statErr := s.Stat(t.Context(), key)
		for op, err := range map[string]error{"get": getErr, "read": readErr, "stat": statErr} {
			if !errors.Is(err, ErrNotFound) || IsTransient(err) {
				t.Errorf("%s %q: got %v, want a permanent ErrNotFound", op, key, err)
			} else if !strings.Contains(err.Error(), string(key)) || !strings.Contains(err.Error(), s.String()) {
				t.Errorf("%s %q: %q names neither key nor store", op, key, err)
			}
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	if d := cmp.Diff([]Key{"a/d/e"}, keys(t, s, "")); d != "" {
		t.Errorf("left (-want +got):\n%s", d)
	}
}

func testList(t *testing.T, s Store) {
	all := []Key{"a!/x", "a-b/2", "a-b/10", "a/1", "a/2/deep/er", "a/20", "a0", "B/1", "tenant(1)/2026-11-24/0-1.seg", "ü/x", "z"}
	for _, key := range all {
		put(t, s, key, "12345")
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/2", "a-b/", "a/2/", "a/2/deep/er", "none", "none/", "a/2/x", "tenant(1)/2026-11-24/0", "z/"} {
		var want []Key
		for _, key := range all {
			if strings.HasPrefix(string(key), prefix) {
				want = append(want, key)
			}
		}
		if d := cmp.Diff(want, keys(t, s, prefix)); d != "" {
			t.Errorf("List(%q) (-want +got):\n%s", prefix, d)
		}
	}
	for _, info := range collect(t, s.List(t.Context(), "a0")) {
		if info.Size != 5 || info.Modified.IsZero() {
			t.Errorf("got %+v", info)
		}
	}
	for prefix, want := range map[string][]string{
		"": {"B/", "a!/", "a-b/", "a/", "tenant(1)/", "ü/"}, "a/": {"a/2/"}, "a/2/": {"a/2/deep/"}, "a-b/": nil, "none/": nil,
	} {
		if d := cmp.Diff(want, collect(t, s.ListPrefixes(t.Context(), prefix))); d != "" {
			t.Errorf("ListPrefixes(%q) (-want +got):\n%s", prefix, d)
		}
	}
	for range s.List(t.Context(), "") {
		break // stopping early is allowed
	}
	for range s.ListPrefixes(t.Context(), "") {
		break
	}
}

func testFailedPut(t *testing.T, s Store) {
	put(t, s, "d/kept", "old")
	for name, body := range map[string]io.ReadSeeker{
		"short": strings.NewReader("1234"), "long": strings.NewReader("123456"),
		"broken": &brokenReader{strings.NewReader("12345"), 3},
	} {
		for _, key := range []Key{"d/new", "d/kept"} {
			if err := s.Put(t.Context(), key, body, 5); err == nil {
				t.Errorf("%s body over %s: no error", name, key)
			}
		}
	}
	if d := cmp.Diff([]Key{"d/kept"}, keys(t, s, "")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if data, err := ReadAll(t.Context(), s, "d/kept", 10); string(data) != "old" || err != nil {
		t.Errorf("got %q, %v", data, err)
	}
}

// brokenReader fails after some bytes.
type brokenReader struct {
	*strings.Reader
	good int64
}

func (r *brokenReader) Read(p []byte) (int, error) {
	at := r.Size() - int64(r.Len())
	if at >= r.good {
		return 0, errors.New("disk error")
	}
	return r.Reader.Read(p[:min(int64(len(p)), r.good-at)])
}

func testBadKeys(t *testing.T, s Store) {
	for _, key := range []Key{"", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", "../x", "~tmp", "a/~x", "a\x00b", "a\nb", `a\b`, "a\xffb",
		Key(strings.Repeat("x", 256)), Key(strings.Repeat("abc/", 300) + "x")} {
		if err := s.Put(t.Context(), key, strings.NewReader("x"), 1); err == nil {
			t.Errorf("put %q: no error", string(key))
		}
		if _, _, err := s.Get(t.Context(), key); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("get %q: got %v", string(key), err)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("delete %q: no error", string(key))
		}
	}
	for _, prefix := range []string{"../", "/", "a//", "a/../b"} {
		for _, err := range s.List(t.Context(), prefix) {
			if err == nil {
				t.Errorf("List(%q): no error", prefix)
			}
		}
	}
	for _, prefix := range []string{"../", "a"} {
		ok := false
		for _, err := range s.ListPrefixes(t.Context(), prefix) {
			ok = err != nil
		}
		if !ok {
			t.Errorf("ListPrefixes(%q): no error", prefix)
		}
	}
}

func testCanceled(t *testing.T, s Store) {
	put(t, s, "a/b", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, getErr := s.Get(ctx, "a/b")
	_, statErr := s.Stat(ctx, "a/b")
	var listErr, foldersErr error
	for _, listErr = range s.List(ctx, "") {
	}
	for _, foldersErr = range s.ListPrefixes(ctx, "") {
	}
	for op, err := range map[string]error{
		"put": s.Put(ctx, "a/c", strings.NewReader("x"), 1), "get": getErr, "stat": statErr, "list": listErr, "folders": foldersErr,
		"read": s.ReadAt(ctx, "a/b", make([]byte, 1), 0), "delete": s.Delete(ctx, "a/b"),
	} {
		if !errors.Is(err, context.Canceled) || IsTransient(err) {
			t.Errorf("%s: got %v, want canceled", op, err)
		}
	}
}

// testConcurrent puts, replaces and deletes in the same folders from many goroutines: no
// operation may fail, and a reader sees whole objects only. The anchors keep the folders
// alive, because versitygw may fail to put into one that is just being emptied.
func testConcurrent(t *testing.T, s Store) {
	for i := range 3 {
		put(t, s, Key(fmt.Sprintf("shared/%d/anchor", i)), "x")
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 15 {
				key := Key(fmt.Sprintf("shared/%d/%d", i%3, i%2))
				data := strings.Repeat(string(rune('a'+w)), 1000)
				if err := s.Put(t.Context(), key, strings.NewReader(data), 1000); err != nil {
					t.Error(err)
				}
				got, err := ReadAll(t.Context(), s, key, 1000)
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				if err == nil && string(got) != strings.Repeat(string(got[:1]), 1000) {
					t.Errorf("%s is mixed: %.20q…", key, got)
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
				for _, err := range s.List(t.Context(), "shared/") {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}
