package object

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFaultMatching(t *testing.T) {
	f := func(pattern, key string, want bool) {
		t.Helper()
		if got := matchKey(pattern, key); got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, key, got, want)
		}
	}
	f("", "a/b/c.seg", true)
	f("*.seg", "a/b/c.seg", true)
	f("*.seg", "c.seg", true)
	f("*.seg", "a.seg/c", false)
	f("b/*", "a/b/c.seg", true)
	f("a/*", "a/b/c.seg", false)
	f("a/*/*", "a/b/c.seg", true)
	f("x/a/b/c.seg", "a/b/c.seg", false)
}

func TestFaultsByCall(t *testing.T) {
	s := faulty(t, NewMem())
	put(t, s, "a", "x")
	s.SetFaults(Fault{Op: "stat", Call: 2}, Fault{Op: "delete", After: true})
	var failed []bool
	for range 3 {
		_, err := s.Stat(t.Context(), "a")
		failed = append(failed, errors.Is(err, ErrInjected))
	}
	if d := cmp.Diff([]bool{false, true, false}, failed); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, ErrInjected) {
		t.Errorf("delete: got %v", err)
	}
	if got := keys(t, s, ""); got != nil {
		t.Errorf("a lost answer: %v should be deleted", got)
	}
	if got := s.Calls(); got != 5 {
		t.Errorf("counted %d calls, want 5", got)
	}
}

func TestLaggingListings(t *testing.T) {
	mem := NewMem()
	put(t, mem, "before", "x")
	s := faulty(t, mem)
	put(t, s, "a", "x")
	put(t, s, "b", "x")
	must(t, s.Delete(t.Context(), "a"))
	for lag, want := range [][]Key{{"b", "before"}, {"a", "b", "before"}, {"a", "before"}, {"before"}, {"before"}} {
		s.LagListings(func(int) int { return lag })
		if d := cmp.Diff(want, keys(t, s, "")); d != "" {
			t.Errorf("lag %d (-want +got):\n%s", lag, d)
		}
	}
	s.LagListings(nil)
	if d := cmp.Diff([]Key{"b", "before"}, keys(t, s, "")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
