package lru

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCache(t *testing.T) {
	c := New[string, string](10)
	step := func(what string, got, want any) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	step("first put", c.Put("a", "A", 4), []string(nil))
	step("second put", c.Put("b", "B", 4), []string(nil))
	_, ok := c.Get("a")
	step("a is used", ok, true)
	step("b was used before a, so it goes", c.Put("c", "C", 4), []string{"B"})
	step("replacing returns the former value", c.Put("a", "A2", 5), []string{"A"})
	step("too big comes back and harms nobody", c.Put("d", "D", 11), []string{"D"})
	step("too big replaces its former value too", c.Put("c", "C2", 11), []string{"C", "C2"})
	step("cost", c.Cost(), int64(5))
	step("the rest", c.RemoveAll(), []string{"A2"})
	step("empty", c.Len(), 0)
	step("no cost", c.Cost(), int64(0))
}
