package chart

import "strings"

// canvas is a raster of cells. A braille cell has two dots across and four down; in the
// symbolic raster a cell is one dot.
type canvas struct {
	cols, rows int
	symbolic   bool
	dots       []rune // the bits of braille cells, or the symbols
	owner      []int  // the series that drew into the cell last, -1 for none
}

func newCanvas(cols, rows int, symbolic bool) *canvas {
	cols = max(cols, 8)
	c := &canvas{cols: cols, rows: rows, symbolic: symbolic, dots: make([]rune, cols*rows), owner: make([]int, cols*rows)}
	for i := range c.owner {
		c.owner[i] = -1
	}
	return c
}

// braille are the bits of a cell's dots, by row and column.
var braille = [4][2]rune{{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}

// scale is the number of dots in a cell.
func (c *canvas) scale() (x, y int) {
	if c.symbolic {
		return 1, 1
	}
	return 2, 4
}

// rowOf is the row of cells in which a height of 0 to 1 stands.
func (c *canvas) rowOf(height float64) int {
	_, sy := c.scale()
	return (c.rows*sy - 1 - int(height*float64(c.rows*sy-1)+0.5)) / sy
}

// line draws a series. Points further apart than gap are not joined.
func (c *canvas) line(series int, points []Point, gap float64, x, y span) {
	sx, sy := c.scale()
	place := func(p Point) (int, int) {
		return int(x.at(p.T)*float64(c.cols*sx-1) + 0.5), c.rows*sy - 1 - int(y.at(p.V)*float64(c.rows*sy-1)+0.5)
	}
	joined := false
	var before Point
	for _, p := range points {
		if !p.drawn() {
			joined = false
			continue
		}
		px, py := place(p)
		if joined && p.T-before.T <= gap {
			bx, by := place(before)
			c.stroke(series, bx, by, px, py)
		} else {
			c.dot(series, px, py)
		}
		before, joined = p, true
	}
}

// stroke draws a straight line, Bresenham's way.
func (c *canvas) stroke(series, x0, y0, x1, y1 int) {
	dx, dy := abs(x1-x0), -abs(y1-y0)
	stepX, stepY := sign(x1-x0), sign(y1-y0)
	for e := dx + dy; ; {
		c.dot(series, x0, y0)
		if x0 == x1 && y0 == y1 {
			return
		}
		twice := 2 * e
		if twice >= dy {
			e += dy
			x0 += stepX
		}
		if twice <= dx {
			e += dx
			y0 += stepY
		}
	}
}

func (c *canvas) dot(series, x, y int) {
	sx, sy := c.scale()
	cell := y/sy*c.cols + x/sx
	c.owner[cell] = series
	if c.symbolic {
		c.dots[cell] = []rune(symbols)[series]
		return
	}
	c.dots[cell] |= braille[y%4][x%2]
}

// row is a row of cells as text; runs of one colour share their codes.
func (c *canvas) row(row int, o Options) string {
	var b strings.Builder
	cells, owners := c.dots[row*c.cols:(row+1)*c.cols], c.owner[row*c.cols:(row+1)*c.cols]
	for i := 0; i < len(cells); {
		var run []rune
		start := i
		for ; i < len(cells) && owners[i] == owners[start]; i++ {
			switch {
			case owners[i] < 0:
				run = append(run, ' ')
			case c.symbolic:
				run = append(run, cells[i])
			default:
				run = append(run, 0x2800+cells[i])
			}
		}
		switch {
		case owners[start] >= 0:
			b.WriteString(o.mark(owners[start], string(run)))
		case i < len(cells):
			b.WriteString(string(run))
		}
	}
	return b.String()
}

func abs(n int) int { return max(n, -n) }

func sign(n int) int {
	switch {
	case n > 0:
		return 1
	case n < 0:
		return -1
	}
	return 0
}
