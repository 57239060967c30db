package chart

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata")

func wave(name string, n int, f func(i int) float64) Series {
	s := Series{Name: name}
	for i := range n {
		s.Points = append(s.Points, Point{1700000000 + 60*float64(i), f(i)})
	}
	return s
}

var codes = regexp.MustCompile("\x1b\\[[0-9]*m")

// The drawings in testdata are to be looked at; -update draws them again.
func TestDrawings(t *testing.T) {
	sine := wave(`{app="sine"}`, 60, func(i int) float64 { return 500 + 400*math.Sin(float64(i)/6) })
	ramp := wave(`{app="ramp"}`, 60, func(i int) float64 { return 20 * float64(i) })
	gap := wave(`{app="gap"}`, 60, func(i int) float64 {
		if i > 20 && i < 40 {
			return math.NaN()
		}
		return 3
	})
	below := wave(`{}`, 30, func(i int) float64 { return float64(i) - 15 })
	for _, test := range []struct {
		name string
		draw func(b *strings.Builder) error
		most int // columns
	}{
		{"one", func(b *strings.Builder) error { return Lines(b, []Series{sine}, Options{Width: 60}) }, 60},
		{"two", func(b *strings.Builder) error { return Lines(b, []Series{sine, ramp}, Options{Width: 60}) }, 60},
		{"two-color", func(b *strings.Builder) error {
			return Lines(b, []Series{sine, ramp}, Options{Width: 60, Height: 8, Color: true})
		}, 60},
		{"gap", func(b *strings.Builder) error { return Lines(b, []Series{gap}, Options{Width: 40, Height: 6}) }, 40},
		{"negative", func(b *strings.Builder) error { return Lines(b, []Series{below}, Options{Width: 40, Height: 9}) }, 40},
		{"point", func(b *strings.Builder) error {
			return Lines(b, []Series{wave("{}", 1, func(int) float64 { return 7 })}, Options{Width: 40, Height: 4})
		}, 40},
		{"narrow", func(b *strings.Builder) error { return Lines(b, []Series{sine}, Options{Width: 1, Height: 1}) }, 0},
		{"empty", func(b *strings.Builder) error { return Lines(b, nil, Options{}) }, 80},
		{"bars", func(b *strings.Builder) error {
			return Bars(b, []Series{sine, ramp, wave(`{app="minus"}`, 1, func(int) float64 { return -300 }), wave("nan", 1, func(int) float64 { return math.NaN() })}, Options{Width: 50})
		}, 50},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b strings.Builder
			if err := test.draw(&b); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(codes.ReplaceAllString(b.String(), "")) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); test.most > 0 && n > test.most {
					t.Errorf("%d columns: %s", n, line)
				}
			}
			file := filepath.Join("testdata", test.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 12.5: "12.5", 999: "999", 1500: "1.5k", 20e6: "20M", 3.21e9: "3.21G", -2000: "-2k",
		0.25: "0.25", 0.0001: "0.0001", 1e20: "1e+20",
	} {
		if got := Number(v); got != want {
			t.Errorf("Number(%v) = %s, want %s", v, got, want)
		}
	}
}

// No samples, whatever they are, break a drawing.
func FuzzLines(f *testing.F) {
	f.Add(1.0, 2.0, 3.0, 60, 10)
	f.Add(math.Inf(1), math.NaN(), -1e308, 5, 1)
	f.Add(1e308, -1e308, 5e-324, 200, 50)
	f.Fuzz(func(t *testing.T, a, b, c float64, width, height int) {
		series := []Series{{"a", []Point{{1, a}, {2, b}, {a, c}}}, {"b", []Point{{c, a}}}}
		o := Options{Width: width % 300, Height: height % 100}
		var out strings.Builder
		if err := Lines(&out, series, o); err != nil {
			t.Fatal(err)
		}
		if err := Bars(&out, series, o); err != nil {
			t.Fatal(err)
		}
	})
}
