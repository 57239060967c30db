package wire

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
)

// OTLPOptions say what becomes of attributes.
type OTLPOptions struct {
	Config limits.OTLPConfig
	// ServiceNames are the labels that may give a stream its service_name, in normal
	// form; none switches discovery off.
	ServiceNames []string
	Now          func() time.Time // for records without a time; nil is time.Now
}

// OTLP decodes an ExportLogsServiceRequest, in protobuf or JSON. Resource attributes that
// the options promote become labels; everything else becomes metadata. The caller must
// Release the batch.
func (d *Decoder) OTLP(body Body, opts OTLPOptions) (*Batch, error) {
	if body.ContentType != "application/x-protobuf" && body.ContentType != "application/json" {
		return nil, fault.New(fault.Invalid, "content type: %s is not supported", body.ContentType)
	}
	b, err := newBatch(body.Reserve)
	if err != nil {
		return nil, err
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	m := otlpMapper{d: d, b: b, opts: &opts}
	err = d.receive(b, &b.body, body, tooLargeProto, func() error {
		if err := d.unpack(b, &b.body, body, unpackOTLP); err != nil {
			return err
		}
		if body.ContentType == "application/json" {
			return m.requestJSON()
		}
		return m.requestProto()
	})
	if err != nil {
		b.Release()
		return nil, err
	}
	b.finish()
	return b, nil
}

// otlpMapper turns resources, scopes and records, in the order in which they nest, into
// streams of the batch. Both encodings feed it.
type otlpMapper struct {
	d    *Decoder
	b    *Batch
	opts *OTLPOptions

	labels   []labels.Label // of the resource
	resource []labels.Label // metadata from the resource, then from the scope
	inScope  int            // where the scope's metadata begins in resource

	open    []labels.Label  // labels that records of the stream being built add
	first   int             // number of entries before the stream being built
	scratch []otlpAttribute // of the record being decoded
	record  struct {        // scratch of addRecord
		labels, pairs []labels.Label
	}
}

// otlpRecord is a log record.
type otlpRecord struct {
	time, observed  uint64
	severity        int64
	severityText    []byte
	body            otlpValue
	attributes      []otlpAttribute
	dropped, flags  uint64
	traceID, spanID []byte
	idsAreHex       bool // as JSON writes them
}

// beginResource starts the streams of a resource.
func (m *otlpMapper) beginResource(attributes []otlpAttribute) error {
	m.labels, m.resource, m.inScope = m.labels[:0], m.resource[:0], 0
	m.first, m.open = len(m.b.entries), m.open[:0]
	named, discovered := false, ""
	for i := range attributes {
		a := &attributes[i]
		action := action(m.opts.Config.ResourceAttributes.Rules, string(a.key))
		from := len(m.labels)
		if err := m.place(action, a, &m.labels, &m.resource); err != nil {
			return err
		}
		for _, l := range m.labels[from:] {
			named = named || l.Name == "service_name" && l.Value != ""
			if discovered == "" && slices.Contains(m.opts.ServiceNames, l.Name) {
				discovered = l.Value
			}
		}
	}
	if !named && len(m.opts.ServiceNames) > 0 {
		if discovered == "" {
			discovered = "unknown_service"
		}
		m.labels = append(m.labels, labels.Label{Name: "service_name", Value: discovered})
	}
	m.inScope = len(m.resource)
	return nil
}

// beginScope starts the records of one instrumentation scope.
func (m *otlpMapper) beginScope(name, version []byte, attributes []otlpAttribute, dropped uint64) error {
	m.resource = m.resource[:m.inScope]
	for i := range attributes {
		act := action(m.opts.Config.ScopeAttributes, string(attributes[i].key))
		if err := m.place(act, &attributes[i], nil, &m.resource); err != nil {
			return err
		}
	}
	add := func(key, value string) {
		if value != "" {
			m.resource = append(m.resource, labels.Label{Name: key, Value: value})
		}
	}
	add("scope_name", string(name))
	add("scope_version", string(version))
	add("scope_dropped_attributes_count", count(dropped))
	return nil
}

// count prints a number, and nothing for 0.
func count(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func (m *otlpMapper) addRecord(r *otlpRecord) error {
	s := &m.record
	s.labels, s.pairs = s.labels[:0], s.pairs[:0]
	for i := range r.attributes {
		act := action(m.opts.Config.LogAttributes, string(r.attributes[i].key))
		if err := m.place(act, &r.attributes[i], &s.labels, &s.pairs); err != nil {
			return err
		}
	}
	add := func(key, value string) {
		if value != "" {
			s.pairs = append(s.pairs, labels.Label{Name: key, Value: value})
		}
	}
	ts := r.time
	switch {
	case r.time != 0 && r.observed != 0:
		add("observed_timestamp", count(r.observed))
	case r.time == 0 && r.observed != 0:
		ts = r.observed
	case r.time == 0:
		ts = uint64(m.opts.Now().UnixNano())
	}
	if ts > math.MaxInt64 {
		return fault.New(fault.Invalid, "time_unix_nano %d is out of range", ts)
	}
	if r.severity != 0 {
		add("severity_number", strconv.FormatInt(r.severity, 10))
	}
	if m.opts.Config.SeverityTextAsLabel && len(r.severityText) > 0 {
		s.labels = append(s.labels, labels.Label{Name: "severity_text", Value: alias(r.severityText)})
	} else {
		add("severity_text", alias(r.severityText))
	}
	add("dropped_attributes_count", count(r.dropped))
	add("flags", count(r.flags))
	trace, err := id("TraceID", r.traceID, r.idsAreHex, 16)
	if err != nil {
		return err
	}
	span, err := id("SpanID", r.spanID, r.idsAreHex, 8)
	if err != nil {
		return err
	}
	add("trace_id", trace)
	add("span_id", span)

	// A record that adds other labels than the one before begins another stream.
	if !slices.Equal(s.labels, m.open) {
		if err := m.endStream(); err != nil {
			return err
		}
		m.open = append(m.open[:0], s.labels...)
	}
	line := r.body.data
	if r.body.kind != otlpString {
		text, err := m.text(&r.body)
		if err != nil {
			return err
		}
		line = []byte(text)
	}
	return m.add(int64(ts), line)
}

// add appends the entry with the metadata of its resource, scope and record. Where names
// are equal the receiver lets the last one win, so the most specific stands last.
func (m *otlpMapper) add(ts int64, line []byte) error {
	before := len(m.b.pairs)
	for _, list := range [2][]labels.Label{m.resource, m.record.pairs} {
		for _, p := range list {
			if err := m.b.addPair(p.Name, p.Value); err != nil {
				return err
			}
		}
	}
	if err := m.b.addEntry(ts, line); err != nil {
		return err
	}
	return m.b.closePairs(before)
}

// endStream closes the stream being built, if it has entries.
func (m *otlpMapper) endStream() error {
	if len(m.b.entries) == m.first {
		return nil
	}
	m.first = len(m.b.entries)
	text := renderLabels(append(slices.Clone(m.labels), m.open...))
	known, err := m.d.labels.text([]byte(text))
	if err != nil {
		return err
	}
	return m.b.closeStream(known)
}

// action returns what the first rule about an attribute says.
func action(rules []limits.OTLPRule, attribute string) string {
	for i := range rules {
		if rules[i].Matches(attribute) {
			return rules[i].Action
		}
	}
	return limits.OTLPMetadata
}

// place adds an attribute to the labels or to the metadata.
func (m *otlpMapper) place(action string, a *otlpAttribute, lbs, metadata *[]labels.Label) error {
	dst := metadata
	switch {
	case action == limits.OTLPDrop:
		return nil
	case action == limits.OTLPIndexLabel && lbs != nil:
		dst = lbs
	}
	return m.flatten(string(a.key), &a.value, dst)
}

// flatten adds the attribute, a map as one pair for each of its leaves.
func (m *otlpMapper) flatten(name string, v *otlpValue, dst *[]labels.Label) error {
	if v.kind == otlpMap {
		for i := range v.members {
			member := &v.members[i]
			if err := m.b.reserve(int64(len(name) + len(member.key) + 1)); err != nil {
				return err
			}
			if err := m.flatten(name+"_"+string(member.key), &member.value, dst); err != nil {
				return err
			}
		}
		return nil
	}
	name, err := NormalName(name)
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	text, err := m.text(v)
	if err != nil {
		return err
	}
	*dst = append(*dst, labels.Label{Name: name, Value: text})
	return nil
}

// text renders a value: strings alias the body, arrays and maps become JSON, bytes base64.
func (m *otlpMapper) text(v *otlpValue) (string, error) {
	switch v.kind {
	case otlpString:
		return alias(v.data), nil
	case otlpNone:
		return "", nil
	case otlpBool:
		return strconv.FormatBool(v.integer != 0), nil
	case otlpInt:
		return strconv.FormatInt(v.integer, 10), nil
	}
	if err := m.b.reserve(2 * v.size()); err != nil {
		return "", err
	}
	switch v.kind {
	case otlpDouble:
		switch f := v.double; {
		case math.IsNaN(f):
			return "NaN", nil
		case math.IsInf(f, 1):
			return "Infinity", nil
		case math.IsInf(f, -1):
			return "-Infinity", nil
		}
	case otlpBytes:
		return base64.StdEncoding.EncodeToString(v.data), nil
	}
	out, err := json.Marshal(v.plain())
	if err != nil { // JSON has no infinity, and no NaN; without the value the entry is still worth keeping
		return "", nil //nolint:nilerr
	}
	return string(out), nil
}

// id prints an id of size bytes, as nothing when there is none.
func id(what string, raw []byte, isHex bool, size int) (string, error) {
	if isHex {
		var err error
		if raw, err = hex.AppendDecode(nil, raw); err != nil {
			return "", fault.New(fault.Invalid, "%s is not hexadecimal: %w", what, err)
		}
	}
	if len(raw) != 0 && len(raw) != size {
		return "", fault.New(fault.Invalid, "unmarshal: invalid %s length: %d bytes, want %d", what, len(raw), size)
	}
	if !slices.ContainsFunc(raw, func(c byte) bool { return c != 0 }) {
		return "", nil
	}
	return hex.EncodeToString(raw), nil
}

// otlpAttribute is a KeyValue.
type otlpAttribute struct {
	key   []byte
	value otlpValue
}

type otlpKind uint8

const (
	otlpNone otlpKind = iota
	otlpString
	otlpBool
	otlpInt
	otlpDouble
	otlpBytes
	otlpArray
	otlpMap
)

// otlpValue is an AnyValue; data aliases the body.
type otlpValue struct {
	kind    otlpKind
	data    []byte
	integer int64
	double  float64
	items   []otlpValue
	members []otlpAttribute
}

// maxOTLPDepth bounds how deep values nest.
const maxOTLPDepth = 64

// size is about the length of the value's JSON.
func (v *otlpValue) size() int64 {
	n := int64(len(v.data)) + 24
	for i := range v.items {
		n += v.items[i].size()
	}
	for i := range v.members {
		n += int64(len(v.members[i].key)) + v.members[i].value.size()
	}
	return n
}

// plain converts to what encoding/json knows.
func (v *otlpValue) plain() any {
	switch v.kind {
	case otlpString:
		return string(v.data)
	case otlpBool:
		return v.integer != 0
	case otlpInt:
		return v.integer
	case otlpDouble:
		return v.double
	case otlpBytes:
		return v.data
	case otlpArray:
		out := make([]any, len(v.items))
		for i := range v.items {
			out[i] = v.items[i].plain()
		}
		return out
	case otlpMap:
		out := make(map[string]any, len(v.members))
		for i := range v.members {
			out[string(v.members[i].key)] = v.members[i].value.plain()
		}
		return out
	}
	return nil
}
