package wire

import (
	"bytes"
	"strconv"
	"time"

	"github.com/skaldlog/skald/internal/fault"
)

var (
	keyStreams = []byte("streams")
	keyStream  = []byte("stream")
	keyValues  = []byte("values")
	keyLabels  = []byte("labels")
	keyEntries = []byte("entries")
	keyTS      = []byte("ts")
	keyLine    = []byte("line")
	keyPairs   = []byte("structuredMetadata")
	plus       = []byte("+")
)

// pushJSON reads {"streams":[…]}. Unknown members, and whatever follows the first value,
// are ignored.
func (d *Decoder) pushJSON(b *Batch, legacy bool) error {
	s := scanner{buf: b.body}
	switch s.peek() {
	case 0:
		return fault.New(fault.Invalid, "EOF")
	case '{':
	default:
		if s.null() {
			return nil
		}
		return s.fail("expect { or n, but found %s", s.found())
	}
	stream := d.streamJSON
	if legacy {
		stream = d.streamLegacy
	}
	return s.object(func(name []byte) error {
		if !bytes.EqualFold(name, keyStreams) {
			return s.skip()
		}
		if s.null() {
			return nil
		}
		return s.array(func(int) error {
			return stream(b, &s)
		})
	})
}

// streamJSON reads {"stream":{"app":"x"},"values":[["1700000000000000000","line"],…]}.
func (d *Decoder) streamJSON(b *Batch, s *scanner) error {
	var object []byte
	first := len(b.entries)
	err := s.object(func(name []byte) (err error) {
		switch {
		case bytes.Equal(name, keyStream):
			object, err = s.raw()
		case bytes.Equal(name, keyValues):
			if s.null() {
				return nil
			}
			err = s.array(func(int) error { return b.entryJSON(s) })
		default:
			err = s.skip()
		}
		return err
	})
	if err != nil || len(b.entries) == first {
		return closed(err, b)
	}
	var known *Known
	if object == nil {
		known, err = d.labels.text([]byte("{}"))
	} else {
		known, err = d.labels.object(object)
	}
	if err != nil {
		return err
	}
	return b.closeStream(known)
}

// closed ends a stream that failed or has no entries.
func closed(err error, b *Batch) error {
	if err != nil {
		return err
	}
	return b.closeStream(nil)
}

// entryJSON reads ["1700000000000000000","line",{"trace_id":"abc"}]; null is no entry,
// and elements from the fourth on are ignored.
func (b *Batch) entryJSON(s *scanner) error {
	if s.null() {
		return nil
	}
	var ts int64
	var line []byte
	pairs := len(b.pairs)
	err := s.array(func(i int) (err error) {
		switch i {
		case 0:
			ts, err = s.timestamp()
		case 1:
			line, err = s.str()
		case 2:
			err = b.pairsJSON(s)
		default:
			err = s.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := b.addEntry(ts, line); err != nil {
		return err
	}
	return b.closePairs(pairs)
}

// pairsJSON reads {"trace_id":"abc"}.
func (b *Batch) pairsJSON(s *scanner) error {
	return s.object(func(name []byte) error {
		value, err := s.str()
		if err != nil {
			return err
		}
		return b.addPair(alias(name), alias(value))
	})
}

// timestamp reads a string that holds an integer.
func (s *scanner) timestamp() (int64, error) {
	text, err := s.str()
	if err != nil {
		return 0, err
	}
	ts, ok := decimal(text)
	if !ok && bytes.HasPrefix(text, plus) {
		return 0, s.fail("strconv.ParseInt: parsing %q: invalid syntax", text)
	}
	if !ok {
		if ts, err = strconv.ParseInt(string(text), 10, 64); err != nil {
			return 0, s.fail("%v", err)
		}
	}
	return ts, nil
}

// decimal reads up to 19 digits that surely fit; not ok leaves the text to strconv.
func decimal(text []byte) (v int64, ok bool) {
	if len(text) == 0 || len(text) > 19 || len(text) == 19 && text[0] > '8' {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	return v, true
}

// streamLegacy reads {"labels":"{app=\"x\"}","entries":[{"ts":"…","line":"…"}]}.
func (d *Decoder) streamLegacy(b *Batch, s *scanner) error {
	var text []byte
	first := len(b.entries)
	err := s.object(func(name []byte) (err error) {
		switch {
		case bytes.EqualFold(name, keyLabels):
			text, err = s.str()
		case bytes.EqualFold(name, keyEntries):
			if s.null() {
				return nil
			}
			err = s.array(func(int) error { return b.entryLegacy(s) })
		default:
			err = s.skip()
		}
		return err
	})
	if err != nil || len(b.entries) == first {
		return closed(err, b)
	}
	known, err := d.labels.text(text)
	if err != nil {
		return err
	}
	return b.closeStream(known)
}

func (b *Batch) entryLegacy(s *scanner) error {
	if s.null() {
		return nil
	}
	var ts int64
	var line []byte
	pairs := len(b.pairs)
	err := s.object(func(name []byte) (err error) {
		switch {
		case bytes.EqualFold(name, keyTS):
			ts, err = s.moment()
		case bytes.EqualFold(name, keyLine):
			line, err = s.str()
		case bytes.EqualFold(name, keyPairs):
			if s.null() {
				return nil
			}
			err = b.pairsJSON(s)
		default:
			err = s.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := b.addEntry(ts, line); err != nil {
		return err
	}
	return b.closePairs(pairs)
}

// moment reads an RFC 3339 time.
func (s *scanner) moment() (int64, error) {
	text, err := s.str()
	if err != nil {
		return 0, err
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return 0, s.fail("%v", err)
	}
	ns, ok := nanoseconds(t.Unix(), int64(t.Nanosecond()))
	if !ok {
		return 0, s.fail("timestamp %s is out of range", text)
	}
	return ns, nil
}
