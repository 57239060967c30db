package gencache

import (
	"strconv"
	"testing"
)

func TestBoundAndRecency(t *testing.T) {
	c := New[string, int](100)
	c.Put("used", -1, 10)
	for i := range 1000 {
		c.Put(strconv.Itoa(i), i, 10)
		if v, ok := c.Get("used"); !ok || v != -1 {
			t.Fatalf("after %d others, the value in use is gone", i)
		}
		if n := len(c.mu.young) + len(c.mu.old); n > 10 {
			t.Fatalf("%d values of weight 10 in a cache of 100", n)
		}
	}
	if v, ok := c.Get("999"); !ok || v != 999 {
		t.Errorf("the newest value: %d, %t", v, ok)
	}
	if _, ok := c.Get("1"); ok {
		t.Error("a value of long ago is still there")
	}
	c.Put("huge", 1, 51)
	if _, ok := c.Get("huge"); ok {
		t.Error("a value heavier than a generation is kept")
	}
	c.Put("used", 7, 10)
	if v, _ := c.Get("used"); v != 7 {
		t.Errorf("replaced value is %d, want 7", v)
	}
}
