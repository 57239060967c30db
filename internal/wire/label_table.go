package wire

import (
	"hash/maphash"
	"sync"
)

// labelTable remembers labels by their text, in two generations as package gencache does. It is
// a table of its own so that the labels of many streams are looked up together: with a hundred
// thousand streams each look-up waits for memory several times, and the waits of look-ups that
// do not depend on each other overlap. It is safe for concurrent use.
type labelTable struct {
	half int // weight at which the young generation is full
	seed maphash.Seed
	mu   struct {
		sync.RWMutex
		young, old labelSet
	}
}

// lookUps is how many streams are looked up together. What is read for so many fits the
// processor's first cache.
const lookUps = 64

func newLabelTable(maxWeight int) *labelTable {
	t := &labelTable{half: maxWeight / 2, seed: maphash.MakeSeed()}
	t.mu.young = newLabelSet()
	t.mu.old = newLabelSet()
	return t
}

// get returns the labels with the text, nil when it is not remembered.
func (t *labelTable) get(text []byte, object bool) *Known {
	return t.find(maphash.Bytes(t.seed, text), text, object)
}

// getAll sets known to the labels of the texts, at most lookUps, and to nil for others. A text
// that is nil is none.
func (t *labelTable) getAll(texts [][]byte, known []*Known) {
	var hashes [lookUps]uint64
	for i, text := range texts {
		hashes[i] = maphash.Bytes(t.seed, text)
	}
	t.mu.RLock()
	t.mu.young.touch(hashes[:len(texts)])
	t.mu.RUnlock()
	for i, text := range texts {
		known[i] = nil
		if text != nil {
			known[i] = t.find(hashes[i], text, false)
		}
	}
}

func (t *labelTable) find(hash uint64, text []byte, object bool) *Known {
	t.mu.RLock()
	k, young := t.mu.young.find(hash, text, object), true
	if k == nil {
		k, young = t.mu.old.find(hash, text, object), false
	}
	t.mu.RUnlock()
	if k != nil && !young {
		t.put(k)
	}
	return k
}

// put remembers labels, in the place of those with the same text, unless they alone would fill
// a generation.
func (t *labelTable) put(k *Known) {
	weight := textCopies*len(k.text) + itemOverhead
	if weight > t.half {
		return
	}
	hash := maphash.String(t.seed, k.text)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.young.weight+weight > t.half {
		t.mu.old, t.mu.young = t.mu.young, newLabelSet()
	}
	t.mu.young.put(hash, k, weight)
}

// labelSet is a hash table with open addressing; nothing is ever removed from it.
type labelSet struct {
	slots  []labelSlot // their number is a power of two
	taken  int
	weight int
}

type labelSlot struct {
	hash  uint64
	known *Known // nil when the slot is free
}

const firstSlots = 16

func newLabelSet() labelSet { return labelSet{slots: make([]labelSlot, firstSlots)} }

func (s *labelSet) find(hash uint64, text []byte, object bool) *Known {
	last := uint64(len(s.slots) - 1)
	for at := hash & last; s.slots[at].known != nil; at = (at + 1) & last {
		if k := s.slots[at].known; s.slots[at].hash == hash && k.object == object && k.text == string(text) {
			return k
		}
	}
	return nil
}

// touch reads what find will for each of the hashes, at most lookUps. It has a loop for each
// load that needs the one before.
//
//go:noinline
func (s *labelSet) touch(hashes []uint64) (sum byte) {
	var first [lookUps]*Known
	last := uint64(len(s.slots) - 1)
	for i, hash := range hashes {
		first[i] = s.slots[hash&last].known
	}
	for _, k := range first[:len(hashes)] {
		if k != nil && len(k.text) > 0 {
			sum += k.text[0]
		}
	}
	return sum // so that the reads are none that a compiler leaves out
}

func (s *labelSet) put(hash uint64, k *Known, weight int) {
	if 2*s.taken >= len(s.slots) {
		s.grow()
	}
	last := uint64(len(s.slots) - 1)
	at := hash & last
	for s.slots[at].known != nil {
		if have := s.slots[at].known; s.slots[at].hash == hash && have.object == k.object && have.text == k.text {
			s.slots[at].known = k // of the same weight
			return
		}
		at = (at + 1) & last
	}
	s.slots[at] = labelSlot{hash, k}
	s.taken++
	s.weight += weight
}

func (s *labelSet) grow() {
	old := s.slots
	s.slots = make([]labelSlot, 2*len(old))
	last := uint64(len(s.slots) - 1)
	for _, slot := range old {
		if slot.known == nil {
			continue
		}
		at := slot.hash & last
		for s.slots[at].known != nil {
			at = (at + 1) & last
		}
		s.slots[at] = slot
	}
}
