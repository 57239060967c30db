package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func faulty(t *testing.T, next Store) *Faulty {
	t.Helper()
	f, err := NewFaulty(t.Context(), next)
	must(t, err)
	return f
}

// every runs each operation once and returns its error.
func every(t *testing.T, s Store) map[string]error {
	errs := map[string]error{}
	errs["put"] = s.Put(t.Context(), "a/b", strings.NewReader("data"), 4)
	body, _, err := s.Get(t.Context(), "a/b")
	if err == nil {
		var data []byte
		if data, err = io.ReadAll(body); string(data) != "data" && err == nil {
			t.Errorf("got %q", data)
		}
	}
	errs["get"] = err
	errs["read"] = s.ReadAt(t.Context(), "a/b", make([]byte, 2), 1)
	_, errs["stat"] = s.Stat(t.Context(), "a/b")
	for _, err := range s.List(t.Context(), "a/") {
		errs["list"] = err
	}
	errs["delete"] = s.Delete(t.Context(), "a/b")
	return errs
}

func TestRetry(t *testing.T) {
	for _, tt := range []struct {
		name      string
		failures  int // first calls of each operation that fail
		transient bool
		fails     bool
	}{
		{"transient once", 1, true, false},
		{"transient up to the last attempt", 3, true, false},
		{"transient too often", 4, true, true},
		{"permanent", 1, false, true},
	} {
		for _, op := range []string{"put", "get", "read", "stat", "list", "delete"} {
			t.Run(tt.name+" "+op, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := faulty(t, NewMem())
					var faults []Fault
					for call := 1; call <= tt.failures; call++ {
						faults = append(faults, Fault{Op: op, Call: call, Transient: tt.transient})
					}
					f.SetFaults(faults...)
					m := NewMetrics(nil)
					begin := time.Now()
					for o, err := range every(t, Retry(f, RetryConfig{MaxAttempts: 4}, m, nil)) {
						wrong := tt.fails && o == op && !errors.Is(err, ErrInjected) || !(tt.fails && o == op) && err != nil && !errors.Is(err, ErrNotFound)
						if wrong {
							t.Errorf("%s: got %v", o, err)
						}
					}
					took := time.Since(begin)
					if tt.transient && (took == 0 || took > 2*time.Second) || !tt.transient && took != 0 {
						t.Errorf("it took %v", took)
					}
					wantRetries := 0
					if tt.transient {
						wantRetries = min(tt.failures, 3)
					}
					if got := testutil.ToFloat64(m.retries.WithLabelValues(op)); got != float64(wantRetries) {
						t.Errorf("%v retries counted, want %d", got, wantRetries)
					}
				})
			})
		}
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faulty(t, NewMem())
		f.SetFaults(Fault{Transient: true})
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		_, err := Retry(f, RetryConfig{MaxAttempts: 1000}, nil, nil).Stat(ctx, "a")
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrInjected) {
			t.Errorf("got %v, want the deadline and the last failure", err)
		}
	})
}

// A listing that breaks after each object, or now and then, still yields each once.
func TestRetryResumesListings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMem()
		var want []Key
		for i := range 20 {
			key := Key(fmt.Sprintf("a/%02d/x", i))
			put(t, mem, key, "x")
			want = append(want, key)
		}
		s := Retry(&breakingList{Store: mem}, RetryConfig{MaxAttempts: 3}, nil, nil)
		if d := cmp.Diff(want, keys(t, s, "a/")); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if got := collect(t, s.ListPrefixes(t.Context(), "a/")); len(got) != 20 {
			t.Errorf("got folders %v", got)
		}
	})
}

// breakingList fails before its second new object, each time it is listed.
type breakingList struct {
	Store
	seen int
}

func (b *breakingList) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		n := 0
		for info, err := range b.Store.List(ctx, prefix) {
			n++
			if n == b.seen+2 {
				b.seen++
				yield(Info{}, &Error{Op: "list", Transient: true, Err: ErrInjected})
				return
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (b *breakingList) ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		n := 0
		for folder, err := range b.Store.ListPrefixes(ctx, prefix) {
			n++
			if n%3 == 0 && b.seen%2 == 0 {
				b.seen++
				yield("", &Error{Op: "list", Transient: true, Err: ErrInjected})
				return
			}
			if !yield(folder, err) {
				return
			}
		}
		b.seen++
	}
}

func TestReadAllStartsAgain(t *testing.T) {
	f := faulty(t, NewMem())
	put(t, f, "a", "some data")
	f.SetFaults(Fault{Op: "get", Call: 1, After: true, Transient: true}, Fault{Op: "get", Call: 2, After: true, Transient: true})
	data, err := ReadAll(t.Context(), f, "a", 100)
	if string(data) != "some data" || err != nil {
		t.Errorf("got %q, %v", data, err)
	}
	f.SetFaults(Fault{Op: "get", After: true, Transient: true})
	if _, err := ReadAll(t.Context(), f, "a", 100); !errors.Is(err, ErrInjected) {
		t.Errorf("got %v", err)
	}
}
