package wire

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/skaldlog/skald/internal/fault"
)

// OTLP's JSON is protobuf's: names in lowerCamel or snake case, 64-bit integers as
// strings or numbers; except that trace and span ids are hex. As in protobuf, children
// may stand before what they depend on, so their text is set aside and read afterwards.

// member folds the two spellings of a name.
func member(name []byte) string {
	return strings.ToLower(strings.ReplaceAll(string(name), "_", ""))
}

func (m *otlpMapper) requestJSON() error {
	s := scanner{buf: m.b.body}
	if s.peek() == 0 {
		return fault.New(fault.Invalid, "EOF")
	}
	if s.null() {
		return nil
	}
	return s.object(func(name []byte) error {
		if member(name) != "resourcelogs" {
			return s.skip()
		}
		return s.list(func() error { return m.resourceJSON(&s) })
	})
}

// text reads a string, or null for an empty one.
func (s *scanner) text() ([]byte, error) {
	if s.null() {
		return nil, nil
	}
	return s.str()
}

// list reads an array, or null for none; a null element is skipped.
func (s *scanner) list(item func() error) error {
	if s.null() {
		return nil
	}
	return s.array(func(int) error {
		if s.null() {
			return nil
		}
		return item()
	})
}

func (m *otlpMapper) resourceJSON(s *scanner) error {
	var attributes []otlpAttribute
	var scopes [][]byte
	err := s.object(func(name []byte) (err error) {
		switch member(name) {
		case "resource":
			if s.null() {
				return nil
			}
			return s.object(func(name []byte) error {
				if member(name) != "attributes" {
					return s.skip()
				}
				return m.attributesJSON(&attributes, s, 0)
			})
		case "scopelogs":
			return m.setAside(&scopes, s)
		}
		return s.skip()
	})
	if err != nil {
		return err
	}
	if err := m.beginResource(attributes); err != nil {
		return err
	}
	for _, text := range scopes {
		sub := &scanner{buf: text}
		if err := sub.list(func() error { return m.scopeJSON(sub) }); err != nil {
			return err
		}
	}
	return m.endStream()
}

func (m *otlpMapper) setAside(dst *[][]byte, s *scanner) (err error) {
	text, err := s.raw()
	if err != nil {
		return err
	}
	if *dst, err = grow(m.b, *dst); err != nil {
		return err
	}
	*dst = append(*dst, text)
	return nil
}

func (m *otlpMapper) scopeJSON(s *scanner) error {
	var name, version []byte
	var dropped uint64
	var attributes []otlpAttribute
	var records [][]byte
	err := s.object(func(key []byte) error {
		switch member(key) {
		case "scope":
			if s.null() {
				return nil
			}
			return s.object(func(key []byte) (err error) {
				switch member(key) {
				case "name":
					name, err = s.str()
				case "version":
					version, err = s.str()
				case "attributes":
					err = m.attributesJSON(&attributes, s, 0)
				case "droppedattributescount":
					dropped, err = s.unsigned()
				default:
					err = s.skip()
				}
				return err
			})
		case "logrecords":
			return m.setAside(&records, s)
		}
		return s.skip()
	})
	if err != nil {
		return err
	}
	if err := m.beginScope(name, version, attributes, dropped); err != nil {
		return err
	}
	for _, text := range records {
		sub := &scanner{buf: text}
		if err := sub.list(func() error { return m.recordJSON(sub) }); err != nil {
			return err
		}
	}
	return nil
}

func (m *otlpMapper) recordJSON(s *scanner) error {
	r := otlpRecord{attributes: m.scratch[:0], idsAreHex: true}
	err := s.object(func(name []byte) (err error) {
		switch member(name) {
		case "timeunixnano":
			r.time, err = s.unsigned()
		case "observedtimeunixnano":
			r.observed, err = s.unsigned()
		case "severitynumber":
			r.severity, err = s.severity()
		case "severitytext":
			r.severityText, err = s.text()
		case "body":
			err = m.valueJSON(&r.body, s, 0)
		case "attributes":
			err = m.attributesJSON(&r.attributes, s, 0)
		case "droppedattributescount":
			r.dropped, err = s.unsigned()
		case "flags":
			r.flags, err = s.unsigned()
		case "traceid":
			r.traceID, err = s.str()
		case "spanid":
			r.spanID, err = s.str()
		default:
			err = s.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	m.scratch = r.attributes
	return m.addRecord(&r)
}

func (m *otlpMapper) attributesJSON(dst *[]otlpAttribute, s *scanner, depth int) error {
	return s.list(func() (err error) {
		var a otlpAttribute
		err = s.object(func(name []byte) (err error) {
			switch member(name) {
			case "key":
				a.key, err = s.str()
			case "value":
				err = m.valueJSON(&a.value, s, depth)
			default:
				err = s.skip()
			}
			return err
		})
		if err != nil {
			return err
		}
		if *dst, err = grow(m.b, *dst); err != nil {
			return err
		}
		*dst = append(*dst, a)
		return nil
	})
}

func (m *otlpMapper) valueJSON(v *otlpValue, s *scanner, depth int) error {
	if depth > maxOTLPDepth {
		return errOTLPDepth()
	}
	if s.null() {
		return nil
	}
	return s.object(func(name []byte) (err error) {
		*v = otlpValue{}
		switch member(name) {
		case "stringvalue":
			v.kind = otlpString
			v.data, err = s.text()
		case "boolvalue":
			v.kind = otlpBool
			v.integer, err = s.boolean()
		case "intvalue":
			v.kind = otlpInt
			v.integer, err = s.integer()
		case "doublevalue":
			v.kind = otlpDouble
			v.double, err = s.double()
		case "bytesvalue":
			v.kind = otlpBytes
			v.data, err = m.base64(s)
		case "arrayvalue":
			v.kind = otlpArray
			err = s.values(func() error { return m.itemJSON(v, s, depth+1) })
		case "kvlistvalue":
			v.kind = otlpMap
			err = s.object(func(name []byte) error {
				if member(name) != "values" {
					return s.skip()
				}
				return m.attributesJSON(&v.members, s, depth+1)
			})
		default:
			err = s.skip()
		}
		return err
	})
}

// values reads {"values":[…]}.
func (s *scanner) values(item func() error) error {
	return s.object(func(name []byte) error {
		if member(name) != "values" {
			return s.skip()
		}
		return s.list(item)
	})
}

func (m *otlpMapper) itemJSON(v *otlpValue, s *scanner, depth int) error {
	var item otlpValue
	err := m.valueJSON(&item, s, depth)
	if err != nil {
		return err
	}
	if v.items, err = grow(m.b, v.items); err != nil {
		return err
	}
	v.items = append(v.items, item)
	return nil
}

func (m *otlpMapper) base64(s *scanner) ([]byte, error) {
	text, err := s.str()
	if err != nil {
		return nil, err
	}
	n, err := base64.StdEncoding.Decode(text, text) // shorter than the text, so in place
	if err != nil {
		return nil, s.fail("%v", err)
	}
	return text[:n], nil
}

// numeral reads a number or a string that holds one.
func (s *scanner) numeral() (string, error) {
	if s.null() {
		return "0", nil
	}
	text, err := s.labelValue()
	return alias(text), err
}

func (s *scanner) unsigned() (uint64, error) {
	text, err := s.numeral()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, s.fail("%v", err)
	}
	return v, nil
}

func (s *scanner) integer() (int64, error) {
	text, err := s.numeral()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, s.fail("%v", err)
	}
	return v, nil
}

func (s *scanner) double() (float64, error) {
	text, err := s.numeral()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, s.fail("%v", err)
	}
	return v, nil
}

func (s *scanner) boolean() (int64, error) {
	text, err := s.raw()
	switch {
	case err != nil:
		return 0, err
	case string(text) == "true":
		return 1, nil
	case string(text) == "false":
		return 0, nil
	}
	return 0, s.fail("expect true or false, but found %s", text)
}

// severity reads a severity number, which may be written as its name.
func (s *scanner) severity() (int64, error) {
	if s.peek() != '"' {
		return s.integer()
	}
	text, err := s.str()
	if err != nil {
		return 0, err
	}
	if n, ok := severityNumbers[strings.TrimPrefix(string(text), "SEVERITY_NUMBER_")]; ok {
		return n, nil
	}
	v, err := strconv.ParseInt(string(text), 10, 32)
	if err != nil {
		return 0, s.fail("unknown severity number %q", text)
	}
	return v, nil
}

var severityNumbers = func() map[string]int64 {
	out := map[string]int64{"UNSPECIFIED": 0}
	for i, name := range []string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"} {
		for j, suffix := range []string{"", "2", "3", "4"} {
			out[name+suffix] = int64(4*i + j + 1)
		}
	}
	return out
}()
