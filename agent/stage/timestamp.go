package stage

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// fudge remembers the last good timestamp of each label set, for lines whose own time
// cannot be read: they follow their neighbours, a nanosecond apart.
type fudge struct {
	set  *Set // the entry in use; the map is only touched when the set changes
	ts   int64
	rest map[*Set]int64
}

func newFudge() *fudge { return &fudge{} }

func (f *fudge) good(s *Set, ts int64) {
	if f.set != s {
		f.use(s)
	}
	f.ts = ts
}

// guess returns the last good timestamp plus a nanosecond, or ts when there is none.
func (f *fudge) guess(s *Set, ts int64) int64 {
	if f.set != s {
		f.use(s)
	}
	if f.ts == math.MinInt64 {
		return ts
	}
	f.ts++
	return f.ts
}

func (f *fudge) use(s *Set) {
	if f.set != nil {
		if f.rest == nil || len(f.rest) > maxSets {
			f.rest = make(map[*Set]int64)
		}
		f.rest[f.set] = f.ts
	}
	f.set, f.ts = s, math.MinInt64
	if ts, ok := f.rest[s]; ok {
		f.ts = ts
	}
}

// timestamp takes the entry's time from an extracted value.
type timestamp struct {
	source string
	parse  []func(string) (time.Time, error)
	fudge  bool
	env    *Env
}

func buildTimestamp(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Source          string   `yaml:"source"`
		Format          string   `yaml:"format"`
		FallbackFormats []string `yaml:"fallback_formats"`
		Location        *string  `yaml:"location"`
		ActionOnFailure *string  `yaml:"action_on_failure"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	if c.Source == "" {
		return nil, errors.New("source is required")
	}
	if c.Format == "" {
		return nil, errors.New("format is required")
	}
	loc := time.UTC
	if c.Location != nil {
		var err error
		if loc, err = time.LoadLocation(*c.Location); err != nil {
			return nil, fmt.Errorf("location: %w", err)
		}
	}
	d := timestamp{source: c.Source, fudge: true, env: env}
	if c.ActionOnFailure != nil {
		switch *c.ActionOnFailure {
		case "fudge":
		case "skip":
			d.fudge = false
		default:
			return nil, fmt.Errorf("action_on_failure is %q, want fudge or skip", *c.ActionOnFailure)
		}
	}
	for _, f := range append([]string{c.Format}, c.FallbackFormats...) {
		d.parse = append(d.parse, timeParser(f, loc, env.Now))
	}
	return d, nil
}

var namedLayouts = map[string]string{
	"ANSIC": time.ANSIC, "UnixDate": time.UnixDate, "RubyDate": time.RubyDate,
	"RFC822": time.RFC822, "RFC822Z": time.RFC822Z, "RFC850": time.RFC850,
	"RFC1123": time.RFC1123, "RFC1123Z": time.RFC1123Z,
	"RFC3339": time.RFC3339, "RFC3339Nano": time.RFC3339Nano,
}

func timeParser(format string, loc *time.Location, now func() int64) func(string) (time.Time, error) {
	if layout, ok := namedLayouts[format]; ok {
		return func(s string) (time.Time, error) { return time.Parse(layout, s) }
	}
	switch format {
	case "Unix":
		return parseUnix
	case "UnixMs":
		return unixParser(func(n int64) time.Time { return time.UnixMilli(n) })
	case "UnixUs":
		return unixParser(func(n int64) time.Time { return time.UnixMicro(n) })
	case "UnixNs":
		return unixParser(func(n int64) time.Time { return time.Unix(0, n) })
	}
	hasYear := strings.Contains(format, "2006") || strings.Contains(format, "06")
	return func(s string) (time.Time, error) {
		t, err := time.ParseInLocation(format, s, loc)
		if err == nil && !hasYear {
			t = guessYear(t, time.Unix(0, now()))
		}
		return t, err
	}
}

func unixParser(f func(int64) time.Time) func(string) (time.Time, error) {
	return func(s string) (time.Time, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		return f(n), err
	}
}

// parseUnix reads seconds with an optional fraction.
func parseUnix(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	if fraction == "" {
		return time.Unix(sec, 0), nil
	}
	if len(fraction) > 9 {
		fraction = fraction[:9]
	}
	nanos, err := strconv.ParseUint(fraction, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	for range 9 - len(fraction) {
		nanos *= 10
	}
	return time.Unix(sec, int64(nanos)), nil
}

// guessYear gives a time without a year the year that is meant: this one, except around
// New Year.
func guessYear(t, now time.Time) time.Time {
	year := now.Year()
	switch {
	case t.Month() == time.December && now.Month() == time.January:
		year--
	case t.Month() == time.January && now.Month() == time.December:
		year++
	}
	return time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
}

func (d timestamp) attach(next Processor, _ *Pipeline) Processor {
	return &timestampLink{timestamp: d, next: next, times: newFudge()}
}

type timestampLink struct {
	timestamp
	next  Processor
	times *fudge
}

func (l *timestampLink) Process(e *Entry) {
	ts, ok := l.read(e)
	switch {
	case ok:
		e.Timestamp = ts
		l.times.good(e.Labels, ts)
	case l.fudge:
		e.Timestamp = l.times.guess(e.Labels, e.Timestamp)
	}
	l.next.Process(e)
}

func (l *timestampLink) read(e *Entry) (int64, bool) {
	v, ok := e.extracted.get(l.source)
	if !ok {
		return 0, false
	}
	s, ok := v.text()
	if !ok {
		return 0, false
	}
	for _, parse := range l.parse {
		if t, err := parse(s); err == nil {
			return t.UnixNano(), true
		}
	}
	return 0, false
}
