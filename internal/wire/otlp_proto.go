package wire

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/fault"
)

// The messages of opentelemetry.proto.logs.v1, as far as they are read:
//
//	ExportLogsServiceRequest 1 resource_logs
//	ResourceLogs             1 resource {1 attributes}   2 scope_logs
//	ScopeLogs                1 scope {1 name, 2 version, 3 attributes, 4 dropped}   2 log_records
//	LogRecord                1 time_unix_nano (fixed64)   2 severity_number   3 severity_text
//	                         5 body   6 attributes   7 dropped_attributes_count
//	                         8 flags (fixed32)   9 trace_id   10 span_id
//	                         11 observed_time_unix_nano (fixed64)
//	KeyValue                 1 key   2 value
//	AnyValue                 1 string   2 bool   3 int   4 double   5 array {1 values}
//	                         6 kvlist {1 values}   7 bytes
//
// A resource may stand behind its scopes, and a scope behind its records, so a message
// is walked twice: for what it says about its children, then for the children.

func (m *otlpMapper) requestProto() error {
	f := fields{buf: m.b.body}
	for f.next() {
		if f.is(1, protowire.BytesType) {
			if err := m.resourceProto(f.value); err != nil {
				return err
			}
		}
	}
	return badProto(f.err)
}

func (m *otlpMapper) resourceProto(msg []byte) error {
	var attributes []otlpAttribute
	f := fields{buf: msg}
	for f.next() {
		if !f.is(1, protowire.BytesType) {
			continue
		}
		r := fields{buf: f.value}
		for r.next() {
			if r.is(1, protowire.BytesType) {
				if err := m.attributeProto(&attributes, r.value, 0); err != nil {
					return err
				}
			}
		}
		if r.err != nil {
			return badProto(r.err)
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	if err := m.beginResource(attributes); err != nil {
		return err
	}
	for f = (fields{buf: msg}); f.next(); {
		if f.is(2, protowire.BytesType) {
			if err := m.scopeProto(f.value); err != nil {
				return err
			}
		}
	}
	return m.endStream()
}

func (m *otlpMapper) scopeProto(msg []byte) error {
	var name, version []byte
	var dropped uint64
	var attributes []otlpAttribute
	f := fields{buf: msg}
	for f.next() {
		if !f.is(1, protowire.BytesType) {
			continue
		}
		s := fields{buf: f.value}
		for s.next() {
			switch {
			case s.is(1, protowire.BytesType):
				name = s.value
			case s.is(2, protowire.BytesType):
				version = s.value
			case s.is(3, protowire.BytesType):
				if err := m.attributeProto(&attributes, s.value, 0); err != nil {
					return err
				}
			case s.is(4, protowire.VarintType):
				dropped = uint64(uint32(s.n))
			}
		}
		if s.err != nil {
			return badProto(s.err)
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	if err := m.beginScope(name, version, attributes, dropped); err != nil {
		return err
	}
	for f = (fields{buf: msg}); f.next(); {
		if f.is(2, protowire.BytesType) {
			if err := m.recordProto(f.value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *otlpMapper) recordProto(msg []byte) error {
	r := otlpRecord{attributes: m.scratch[:0]}
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(1, protowire.Fixed64Type):
			r.time = f.n
		case f.is(11, protowire.Fixed64Type):
			r.observed = f.n
		case f.is(2, protowire.VarintType):
			r.severity = int64(int32(f.n))
		case f.is(3, protowire.BytesType):
			r.severityText = f.value
		case f.is(5, protowire.BytesType):
			if err := m.valueProto(&r.body, f.value, 0); err != nil {
				return err
			}
		case f.is(6, protowire.BytesType):
			if err := m.attributeProto(&r.attributes, f.value, 0); err != nil {
				return err
			}
		case f.is(7, protowire.VarintType):
			r.dropped = uint64(uint32(f.n))
		case f.is(8, protowire.Fixed32Type):
			r.flags = f.n
		case f.is(9, protowire.BytesType):
			r.traceID = f.value
		case f.is(10, protowire.BytesType):
			r.spanID = f.value
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	m.scratch = r.attributes
	return m.addRecord(&r)
}

func (m *otlpMapper) attributeProto(dst *[]otlpAttribute, msg []byte, depth int) (err error) {
	var a otlpAttribute
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(1, protowire.BytesType):
			a.key = f.value
		case f.is(2, protowire.BytesType):
			if err := m.valueProto(&a.value, f.value, depth); err != nil {
				return err
			}
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	if *dst, err = grow(m.b, *dst); err != nil {
		return err
	}
	*dst = append(*dst, a)
	return nil
}

func (m *otlpMapper) valueProto(v *otlpValue, msg []byte, depth int) error {
	if depth > maxOTLPDepth {
		return errOTLPDepth()
	}
	f := fields{buf: msg}
	for f.next() {
		*v = otlpValue{data: f.value}
		switch {
		case f.is(1, protowire.BytesType):
			v.kind = otlpString
		case f.is(2, protowire.VarintType):
			v.kind, v.integer = otlpBool, int64(f.n)
		case f.is(3, protowire.VarintType):
			v.kind, v.integer = otlpInt, int64(f.n)
		case f.is(4, protowire.Fixed64Type):
			v.kind, v.double = otlpDouble, math.Float64frombits(f.n)
		case f.is(7, protowire.BytesType):
			v.kind = otlpBytes
		case f.is(5, protowire.BytesType), f.is(6, protowire.BytesType):
			if err := m.listProto(v, f.num == 6, f.value, depth); err != nil {
				return err
			}
		}
	}
	return badProto(f.err)
}

func (m *otlpMapper) listProto(v *otlpValue, isMap bool, msg []byte, depth int) (err error) {
	*v = otlpValue{kind: otlpArray}
	if isMap {
		v.kind = otlpMap
	}
	f := fields{buf: msg}
	for f.next() {
		switch {
		case !f.is(1, protowire.BytesType):
		case isMap:
			if err := m.attributeProto(&v.members, f.value, depth+1); err != nil {
				return err
			}
		default:
			var item otlpValue
			if err := m.valueProto(&item, f.value, depth+1); err != nil {
				return err
			}
			if v.items, err = grow(m.b, v.items); err != nil {
				return err
			}
			v.items = append(v.items, item)
		}
	}
	return badProto(f.err)
}

func errOTLPDepth() error {
	return fault.New(fault.Invalid, "attribute values nest more than %d deep", maxOTLPDepth)
}
