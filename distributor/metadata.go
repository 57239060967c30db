package distributor

import (
	"strings"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/wire"
)

// metadataBuilder makes the metadata of entries in its stored form. Consecutive entries
// often have the same metadata, which is then built once. The zero value is ready; one
// goroutine uses it at a time.
type metadataBuilder struct {
	pairs   []labels.Label // normalised, sorted; aliases the push
	builder labels.ScratchBuilder
	last    []labels.Label // what built was made of
	built   labels.Labels
}

// normalise prepares the metadata of the next entry: names in normal form, values without
// U+FFFD or invalid UTF-8, no empty values, sorted, and of equal names the last one. It returns the bytes
// of names and values.
func (m *metadataBuilder) normalise(raw []labels.Label) (size int, err error) {
	m.pairs = m.pairs[:0]
	for _, p := range raw {
		if p.Name, err = wire.NormalName(p.Name); err != nil {
			return 0, fault.Wrap(fault.Internal, err)
		}
		if !utf8.ValidString(p.Value) || strings.Contains(p.Value, "\uFFFD") {
			p.Value = strings.Map(blankErrors, p.Value)
		}
		if p.Value != "" {
			m.insert(p)
		}
	}
	for _, p := range m.pairs {
		if p.Name != detectedLevel {
			size += len(p.Name) + len(p.Value)
		}
	}
	return size, nil
}

// blankErrors turns what is no character into a space; strings.Map calls it for each byte of
// invalid UTF-8.
func blankErrors(r rune) rune {
	if r == utf8.RuneError {
		return ' '
	}
	return r
}

// insert puts a pair in its place, replacing one of the same name.
func (m *metadataBuilder) insert(p labels.Label) {
	i := len(m.pairs)
	for i > 0 && m.pairs[i-1].Name > p.Name {
		i--
	}
	if i > 0 && m.pairs[i-1].Name == p.Name {
		m.pairs[i-1] = p
		return
	}
	m.pairs = append(m.pairs, labels.Label{})
	copy(m.pairs[i+1:], m.pairs[i:])
	m.pairs[i] = p
}

// level returns the value of detected_level, in its stored spelling; "" if there is none.
func (m *metadataBuilder) level() string {
	for i := range m.pairs {
		if p := &m.pairs[i]; p.Name == detectedLevel {
			p.Value = kept(p.Value)
			return p.Value
		}
	}
	return ""
}

// build returns the prepared metadata, copied.
func (m *metadataBuilder) build() labels.Labels {
	if len(m.pairs) == 0 {
		return labels.EmptyLabels()
	}
	if samePairs(m.pairs, m.last) {
		return m.built
	}
	m.builder.Reset()
	for _, p := range m.pairs {
		m.builder.Add(p.Name, p.Value)
	}
	m.built = m.builder.Labels()
	m.last, m.pairs = m.pairs, m.last
	return m.built
}

func samePairs(a, b []labels.Label) bool {
	if len(a) != len(b) {
		return false
	}
	// Values differ more often than names, and ids more often than what sorts before them.
	for i := len(a) - 1; i >= 0; i-- {
		if a[i].Value != b[i].Value || a[i].Name != b[i].Name {
			return false
		}
	}
	return true
}
