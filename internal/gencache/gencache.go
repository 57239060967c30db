// Package gencache is a small bounded cache in two generations. New values go to the
// young generation; when that is full it becomes the old one and the former old one is
// dropped. A hit in the old generation moves the value back to the young one, so what is
// in use stays. There is no list to maintain, and a hit costs one map lookup under a
// read lock.
//
// The wire decoders and the distributor keep parsed labels here.
package gencache

import "sync"

// Cache maps keys to values whose weights together stay below a bound. It is safe for
// concurrent use.
type Cache[K comparable, V any] struct {
	half int // weight at which the young generation is full
	mu   struct {
		sync.RWMutex
		young, old map[K]item[K, V]
		weight     int // of young
	}
}

type item[K comparable, V any] struct {
	key    K
	value  V
	weight int
}

// New returns a cache that holds at most maxWeight.
func New[K comparable, V any](maxWeight int) *Cache[K, V] {
	c := &Cache[K, V]{half: maxWeight / 2}
	c.mu.young = map[K]item[K, V]{}
	return c
}

// Get returns the value of key. It keeps no reference to key, which may therefore be a
// string that aliases a buffer.
func (c *Cache[K, V]) Get(key K) (V, bool) {
	c.mu.RLock()
	it, ok := c.mu.young[key]
	if ok {
		c.mu.RUnlock()
		return it.value, true
	}
	it, ok = c.mu.old[key]
	c.mu.RUnlock()
	if ok {
		c.Put(it.key, it.value, it.weight)
	}
	return it.value, ok
}

// Put stores a value, unless it alone would fill a generation.
func (c *Cache[K, V]) Put(key K, value V, weight int) {
	if weight > c.half {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.mu.young[key]; ok {
		c.mu.weight -= have.weight
	} else if c.mu.weight+weight > c.half {
		c.mu.old, c.mu.young, c.mu.weight = c.mu.young, map[K]item[K, V]{}, 0
	}
	c.mu.young[key] = item[K, V]{key, value, weight}
	c.mu.weight += weight
}
