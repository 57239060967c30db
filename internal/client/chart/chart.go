// Package chart draws samples on a terminal: Lines for series over time, in braille dots,
// and Bars for one value per series. The command line calls it for --chart. Nothing is
// wider than asked for; without colour, several lines are told apart by symbols.
package chart

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Series is a named sequence of points in order of time.
type Series struct {
	Name   string
	Points []Point
}

// Point is a sample at a time in seconds since 1970.
type Point struct{ T, V float64 }

// Options say how much room there is. The zero value works.
type Options struct {
	Width  int // columns in all, 80 by default
	Height int // rows of the plot, 12 by default
	Color  bool
	Zone   *time.Location // of the times below the plot, UTC by default
}

// MaxSeries is the most series drawn; of more, those with the largest sums are kept,
// because a person cannot tell more lines apart.
const MaxSeries = 12

const minWidth, minHeight = 24, 3

func (o Options) withDefaults() Options {
	if o.Width <= 0 {
		o.Width = 80
	}
	if o.Height <= 0 {
		o.Height = 12
	}
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	o.Width, o.Height = max(o.Width, minWidth), max(o.Height, minHeight)
	return o
}

var palette = []int{36, 33, 32, 35, 34, 31, 96, 93, 92, 95, 94, 91}

const symbols = "•x+*o#@%=~&$"

// mark returns text in the colour of the i-th series.
func (o Options) mark(i int, text string) string {
	if !o.Color {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", palette[i%len(palette)], text)
}

// Lines draws the series over their common time, with axes and a legend.
func Lines(w io.Writer, series []Series, o Options) error {
	o = o.withDefaults()
	series, left := choose(series)
	xr, yr := extent(series)
	if math.IsInf(xr.lo, 0) {
		_, err := io.WriteString(w, "nothing to draw\n")
		return err
	}
	ticks := ticksFor(&yr, o.Height)
	width := 0
	for _, t := range ticks {
		width = max(width, utf8.RuneCountInString(Number(t)))
	}
	c := newCanvas(o.Width-width-2, o.Height, !o.Color && len(series) > 1)
	gap := 1.5 * step(series)
	for i, s := range series {
		c.line(i, s.Points, gap, xr, yr)
	}
	var b strings.Builder
	for row := range o.Height {
		label := ""
		for _, t := range ticks {
			if c.rowOf(yr.at(t)) == row {
				label = Number(t)
			}
		}
		corner := "│"
		if label != "" {
			corner = "┤"
		}
		fmt.Fprintf(&b, "%s%s %s%s\n", strings.Repeat(" ", width-utf8.RuneCountInString(label)), label, corner, c.row(row, o))
	}
	fmt.Fprintf(&b, "%s └%s\n", strings.Repeat(" ", width), strings.Repeat("─", c.cols))
	fmt.Fprintf(&b, "%s  %s\n", strings.Repeat(" ", width), timeAxis(xr, c.cols, o.Zone))
	legend(&b, series, left, c.symbolic, o)
	_, err := io.WriteString(w, b.String())
	return err
}

// choose keeps the largest series and says how many it left out.
func choose(series []Series) ([]Series, int) {
	if len(series) <= MaxSeries {
		return series, 0
	}
	sum := func(s Series) (total float64) {
		for _, p := range s.Points {
			if finite(p.V) {
				total += math.Abs(p.V)
			}
		}
		return total
	}
	kept := slices.Clone(series)
	slices.SortStableFunc(kept, func(a, b Series) int {
		switch x, y := sum(a), sum(b); {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	return kept[:MaxSeries], len(series) - MaxSeries
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func (p Point) drawn() bool { return finite(p.T) && finite(p.V) }

// span is an interval of one axis.
type span struct{ lo, hi float64 }

func (s *span) add(v float64) { s.lo, s.hi = min(s.lo, v), max(s.hi, v) }

// at is where v stands in the interval, 0 to 1.
func (s span) at(v float64) float64 {
	// Halves, because the length of an interval may be too large for a number.
	if length := s.hi/2 - s.lo/2; length > 0 {
		return min(max((v/2-s.lo/2)/length, 0), 1)
	}
	return 0
}

// extent finds the intervals of both axes. Values are shown from zero on, so that heights
// can be compared.
func extent(series []Series) (x, y span) {
	x, y = span{math.Inf(1), math.Inf(-1)}, span{0, 0}
	for _, s := range series {
		for _, p := range s.Points {
			if p.drawn() {
				x.add(p.T)
				y.add(p.V)
			}
		}
	}
	return x, y
}

// step is the smallest distance in time between neighbours.
func step(series []Series) float64 {
	least := math.Inf(1)
	for _, s := range series {
		for i := 1; i < len(s.Points); i++ {
			if d := s.Points[i].T - s.Points[i-1].T; d > 0 {
				least = min(least, d)
			}
		}
	}
	return least
}

// ticksFor returns the round numbers to be written beside the plot; the interval begins at
// one.
func ticksFor(y *span, rows int) []float64 {
	if y.lo == y.hi {
		y.hi = y.lo + 1
	}
	want := max(rows/3, 1)
	raw := y.hi/float64(want) - y.lo/float64(want)
	magnitude := math.Pow(10, math.Floor(math.Log10(raw)))
	size := 10 * magnitude
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*magnitude >= raw {
			size = m * magnitude
			break
		}
	}
	if !finite(size) || size == 0 {
		return []float64{y.lo, y.hi}
	}
	if lo := math.Floor(y.lo/size) * size; finite(lo) {
		y.lo = lo
	}
	var ticks []float64
	for i := 0; i <= rows; i++ {
		t := y.lo + float64(i)*size
		if t > y.hi {
			break
		}
		ticks = append(ticks, t)
	}
	if len(ticks) < 2 {
		ticks = append(ticks, y.hi)
	}
	return ticks
}

// Number prints a value briefly: 1.5k, 20M, 0.25.
func Number(v float64) string {
	abs := math.Abs(v)
	for _, unit := range []struct {
		size float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if abs >= unit.size && abs < 1e15 {
			return trimZeros(fmt.Sprintf("%.2f", v/unit.size)) + unit.name
		}
	}
	if abs >= 1e15 || abs > 0 && abs < 1e-3 {
		return fmt.Sprintf("%.2g", v)
	}
	switch {
	case abs >= 100:
		return trimZeros(fmt.Sprintf("%.1f", v))
	case abs >= 1:
		return trimZeros(fmt.Sprintf("%.2f", v))
	}
	return trimZeros(fmt.Sprintf("%.4f", v))
}

func trimZeros(s string) string {
	if !strings.Contains(s, ".") {
		return s
	}
	s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	if s == "-0" {
		return "0"
	}
	return s
}

// timeAxis writes the times at both ends and, when there is room, in the middle.
func timeAxis(x span, cols int, zone *time.Location) string {
	layout := "15:04:05"
	first, last := clock(x.lo, zone), clock(x.hi, zone)
	if first.YearDay() != last.YearDay() || first.Year() != last.Year() {
		layout = "01-02 15:04"
	}
	start, end := first.Format(layout), last.Format(layout)
	if x.lo == x.hi || cols < len(start)+len(end)+2 {
		return start
	}
	middle := ""
	if cols >= 3*len(start)+6 {
		middle = clock((x.lo+x.hi)/2, zone).Format(layout)
	}
	before := cols/2 - len(start) - len(middle)/2
	if middle == "" {
		before = 0
	}
	after := cols - len(start) - before - len(middle) - len(end)
	return start + strings.Repeat(" ", before) + middle + strings.Repeat(" ", after) + end
}

func clock(seconds float64, zone *time.Location) time.Time {
	return time.UnixMilli(int64(seconds * 1000)).In(zone)
}

// legend names the lines with their least, largest and last values.
func legend(b *strings.Builder, series []Series, left int, symbolic bool, o Options) {
	for i, s := range series {
		sign := "━"
		if symbolic {
			sign = string([]rune(symbols)[i])
		}
		y := span{math.Inf(1), math.Inf(-1)}
		last := math.NaN()
		for _, p := range s.Points {
			if finite(p.V) {
				y.add(p.V)
				last = p.V
			}
		}
		numbers := ""
		if finite(last) {
			numbers = fmt.Sprintf("  min %s  max %s  last %s", Number(y.lo), Number(y.hi), Number(last))
		}
		name := clip(s.Name, o.Width-2-utf8.RuneCountInString(numbers))
		fmt.Fprintf(b, "%s %s%s\n", o.mark(i, sign), name, numbers)
	}
	if left > 0 {
		fmt.Fprintf(b, "and %d smaller series, not drawn\n", left)
	}
}

// clip shortens a text to so many columns, at least eight.
func clip(s string, width int) string {
	width = max(width, 8)
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	return string(runes[:width-1]) + "…"
}
