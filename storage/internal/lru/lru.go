// Package lru keeps the most recently used values within a budget of cost. It is a plain
// data structure: its owner locks, and decides what happens to what fell out.
package lru

import "container/list"

// Cache maps keys to values, each with a cost, in order of use. The zero value holds
// nothing; make one with New.
type Cache[K comparable, V any] struct {
	max   int64
	cost  int64
	items map[K]*list.Element
	order *list.List // front: used last
}

type item[K comparable, V any] struct {
	key   K
	value V
	cost  int64
}

// New returns a cache whose costs add up to at most max.
func New[K comparable, V any](max int64) *Cache[K, V] {
	return &Cache[K, V]{max: max, items: make(map[K]*list.Element), order: list.New()}
}

// Get returns the value of key and marks it as used now.
func (c *Cache[K, V]) Get(key K) (v V, ok bool) {
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*item[K, V]).value, true
}

// Put stores a value and returns those that had to go: a former value of key, and the
// least recently used ones until the budget holds. A value that costs more than the whole
// budget comes back at once.
func (c *Cache[K, V]) Put(key K, value V, cost int64) (out []V) {
	if old, ok := c.Remove(key); ok {
		out = append(out, old)
	}
	if cost > c.max {
		return append(out, value)
	}
	c.items[key] = c.order.PushFront(&item[K, V]{key, value, cost})
	c.cost += cost
	for c.cost > c.max {
		out = append(out, c.drop(c.order.Back()))
	}
	return out
}

// Remove takes key out and returns its value.
func (c *Cache[K, V]) Remove(key K) (v V, ok bool) {
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	return c.drop(e), true
}

func (c *Cache[K, V]) drop(e *list.Element) V {
	it := c.order.Remove(e).(*item[K, V])
	delete(c.items, it.key)
	c.cost -= it.cost
	return it.value
}

// RemoveAll empties the cache and returns what it held, the value used last first.
func (c *Cache[K, V]) RemoveAll() (out []V) {
	for c.order.Len() > 0 {
		out = append(out, c.drop(c.order.Front()))
	}
	return out
}

// Len returns the number of values, and Cost the sum of their costs.
func (c *Cache[K, V]) Len() int { return len(c.items) }

// Cost returns the sum of the costs of the values held.
func (c *Cache[K, V]) Cost() int64 { return c.cost }
