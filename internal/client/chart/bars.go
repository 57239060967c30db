package chart

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// eighths are the ends of bars, by eighths of a column.
var eighths = []string{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"}

// maxBars bounds the rows that Bars draws.
const maxBars = 50

// Bars draws the last value of each series as a bar, in the order given.
func Bars(w io.Writer, series []Series, o Options) error {
	o = o.withDefaults()
	shown := series[:min(len(series), maxBars)]
	names, numbers, largest := 0, 0, 0.0
	for _, s := range shown {
		names = max(names, utf8.RuneCountInString(s.Name))
		numbers = max(numbers, utf8.RuneCountInString(Number(last(s))))
		if v := math.Abs(last(s)); finite(v) {
			largest = max(largest, v)
		}
	}
	names = min(names, max(o.Width/2, 8))
	room := max(o.Width-names-numbers-3, 4)
	var b strings.Builder
	if len(shown) == 0 {
		b.WriteString("nothing to draw\n")
	}
	for i, s := range shown {
		name := clip(s.Name, names)
		v := last(s)
		fmt.Fprintf(&b, "%s%s %s%s │%s\n", name, strings.Repeat(" ", max(names-utf8.RuneCountInString(name), 0)),
			strings.Repeat(" ", numbers-utf8.RuneCountInString(Number(v))), Number(v), o.mark(i, bar(v, largest, room)))
	}
	if n := len(series) - len(shown); n > 0 {
		fmt.Fprintf(&b, "and %d more\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func last(s Series) float64 {
	if len(s.Points) == 0 {
		return math.NaN()
	}
	return s.Points[len(s.Points)-1].V
}

// bar is as long as v's size among the largest; a negative value's is hatched.
func bar(v, largest float64, room int) string {
	if !finite(v) || largest == 0 {
		return ""
	}
	n := int(math.Round(math.Abs(v) / largest * float64(room) * 8))
	if v < 0 {
		return strings.Repeat("░", n/8)
	}
	return strings.Repeat("█", n/8) + eighths[n%8]
}
