package patterns

import (
	"bytes"

	"github.com/cespare/xxhash/v2"
)

// Bounds of what one worker keeps before it clusters.
const (
	maxShapes     = 1 << 14
	maxShapeBytes = 16 << 20
)

// shape counts the lines that are equal but for their values.
type shape struct {
	masked []byte
	values [][]byte // by placeholder; nil once two lines differed
	total  int64
	counts counts
}

// counts are numbers of lines by step, in pages, since a rare shape occurs in few steps.
type counts struct {
	pages map[int]*page
	last  *page
	at    int // the page that last is
}

const pageSteps = 64

type page [pageSteps]uint32

// add counts n lines at a step. It returns the bytes that it had to allocate.
func (c *counts) add(step int, n uint32) int64 {
	at := step / pageSteps
	if c.last != nil && c.at == at {
		c.last[step%pageSteps] += n
		return 0
	}
	var grown int64
	p := c.pages[at]
	if p == nil {
		if c.pages == nil {
			c.pages = make(map[int]*page, 1)
		}
		p = new(page)
		c.pages[at] = p
		grown = pageBytes
	}
	c.last, c.at = p, at
	p[step%pageSteps] += n
	return grown
}

const pageBytes = pageSteps*4 + 64

// adopt adds the counts of o, whose pages it may keep.
func (c *counts) adopt(o *counts) {
	for at, p := range o.pages {
		mine := c.pages[at]
		if mine == nil {
			if c.pages == nil {
				c.pages = map[int]*page{}
			}
			c.pages[at] = p
			continue
		}
		for i, n := range p {
			mine[i] += n
		}
	}
}

// shapes are the shapes of one level.
type shapes struct {
	byHash map[uint64]*shape
	bytes  int64
}

func newShapes() *shapes { return &shapes{byHash: map[uint64]*shape{}} }

// find returns the shape of a masked line, new or known, with its values brought up to date.
func (s *shapes) find(m *masker) *shape {
	hash := xxhash.Sum64(m.masked)
	known := s.byHash[hash]
	if known == nil {
		known = &shape{masked: bytes.Clone(m.masked), values: make([][]byte, len(m.values))}
		for i, v := range m.values {
			known.values[i] = bytes.Clone(v)
			s.bytes += int64(len(v))
		}
		s.byHash[hash] = known
		s.bytes += int64(len(m.masked)) + 24*int64(len(m.values)) + shapeOverhead
		return known
	}
	known.meet(m.values)
	return known
}

// shapeOverhead is the memory of a shape besides its text.
const shapeOverhead = 200

// meet forgets the values in which another line differs.
func (s *shape) meet(values [][]byte) {
	for i, v := range s.values {
		if v != nil && (i >= len(values) || !bytes.Equal(v, values[i])) {
			s.values[i] = nil
		}
	}
}

// adopt takes over a shape of another table.
func (s *shapes) adopt(o *shape) {
	hash := xxhash.Sum64(o.masked)
	known := s.byHash[hash]
	if known == nil {
		s.byHash[hash] = o
		s.bytes += int64(len(o.masked)) + 24*int64(len(o.values)) + shapeOverhead
		for _, v := range o.values {
			s.bytes += int64(len(v))
		}
		return
	}
	known.meet(o.values)
	known.total += o.total
	known.counts.adopt(&o.counts)
}

func (s *shapes) full() bool { return len(s.byHash) >= maxShapes || s.bytes >= maxShapeBytes }
