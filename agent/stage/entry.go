package stage

import (
	"strconv"
	"strings"
	"unsafe"

	"github.com/prometheus/prometheus/model/labels"
)

// Origin is the piece of a file that a line was read from. Whoever keeps a line's text
// beyond the call retains its origin and releases it when the text has been delivered;
// until then no position moves past it.
type Origin interface {
	Retain()
	Release()
	// Covers reports whether holding this origin also keeps the position before later,
	// because both are in one file and this one stands first.
	Covers(later Origin) bool
}

// Processor is one link of a pipeline. Process may change e and hand it on, any number of
// times, before it returns; e and all it refers to belong to the pipeline afterwards.
type Processor interface {
	Process(e *Entry)
}

// Entry is a line on its way through the stages.
type Entry struct {
	// Timestamp is nanoseconds since 1970; the time of reading until a stage sets it.
	Timestamp int64
	// Line is valid during Process and must not be modified in place.
	Line []byte
	// Labels are the entry's labels so far.
	Labels *Set
	// Metadata is structured metadata, in the order in which stages added it.
	Metadata []labels.Label
	// Origin is where the line, or the last of the lines that were joined, comes from.
	Origin Origin
	// Held are the origins of earlier lines that were joined into this one. They have been
	// retained; whoever receives the entry last must release them once it is delivered.
	Held []Origin

	extracted extracted
}

// releaseHeld gives up a dropped entry's earlier origins.
func (e *Entry) releaseHeld() {
	for _, o := range e.Held {
		o.Release()
	}
	e.Held = nil
}

// kind is the type of an extracted value.
type kind uint8

const (
	kindNil kind = iota
	kindString
	kindFloat
	kindBool
)

// value is what a stage extracted. Its string may alias the line, so it must be cloned
// by a stage that keeps it beyond Process.
type value struct {
	kind kind
	str  string
	num  float64
}

func stringValue(s string) value { return value{kind: kindString, str: s} }

// text converts to a string as Promtail does: floats without exponent, nil not at all.
func (v value) text() (string, bool) {
	switch v.kind {
	case kindString:
		return v.str, true
	case kindFloat:
		return strconv.FormatFloat(v.num, 'f', -1, 64), true
	case kindBool:
		return strconv.FormatBool(v.num != 0), true
	}
	return "", false
}

// extracted is a small map from names to values over the labels the entry began with. It
// is searched in sequence: pipelines extract a handful of names.
type extracted struct {
	base   *Set
	fields []field
}

type field struct {
	name    string
	value   value
	deleted bool
}

func (x *extracted) reset(base *Set) {
	x.base = base
	x.fields = x.fields[:0]
}

func (x *extracted) get(name string) (value, bool) {
	for i := range x.fields {
		if f := &x.fields[i]; f.name == name {
			return f.value, !f.deleted
		}
	}
	if s, ok := x.base.lookup(name); ok {
		return stringValue(s), true
	}
	return value{}, false
}

func (x *extracted) set(name string, v value) {
	for i := range x.fields {
		if f := &x.fields[i]; f.name == name {
			f.value, f.deleted = v, false
			return
		}
	}
	x.fields = append(x.fields, field{name: name, value: v})
}

func (x *extracted) delete(name string) {
	for i := range x.fields {
		if f := &x.fields[i]; f.name == name {
			f.value, f.deleted = value{}, true
			return
		}
	}
	x.fields = append(x.fields, field{name: name, deleted: true})
}

// all calls f for every value, labels included, each name once.
func (x *extracted) all(f func(name string, v value)) {
	x.base.all.Range(func(l labels.Label) {
		for i := range x.fields {
			if x.fields[i].name == l.Name {
				return
			}
		}
		f(l.Name, stringValue(l.Value))
	})
	for i := range x.fields {
		if !x.fields[i].deleted {
			f(x.fields[i].name, x.fields[i].value)
		}
	}
}

// clone copies the map and every string in it.
func (x *extracted) clone() extracted {
	c := extracted{base: x.base, fields: make([]field, len(x.fields))}
	for i, f := range x.fields {
		f.value.str = strings.Clone(f.value.str)
		c.fields[i] = f
	}
	return c
}

// text is b as a string that aliases it.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// raw is s as bytes that alias it; they must not be modified.
func raw(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
