package wire

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/limits"
)

// The constructors of OTLP's protobuf that the test needs.

func msg(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), bytes.Join(parts, nil))
}
func str(num protowire.Number, s string) []byte { return msg(num, []byte(s)) }
func vint(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}
func fix64(num protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), v)
}
func attr(num protowire.Number, key string, value []byte) []byte {
	return msg(num, str(1, key), msg(2, value))
}

func otlpOptions() OTLPOptions {
	l := limits.Defaults()
	return OTLPOptions{
		Config: l.OTLPConfig, ServiceNames: l.DiscoverServiceName,
		Now: func() time.Time { return time.Unix(1700000000, 0) },
	}
}

func exampleProto() []byte {
	record := msg(2,
		fix64(1, 1700000000000000001), fix64(11, 1700000000000000002), vint(2, 17), str(3, "ERROR"),
		msg(5, str(1, "it broke")),
		attr(6, "http.status", vint(3, 500)), attr(6, "ratio", fix64(4, math.Float64bits(0.5))),
		attr(6, "user", msg(6, attr(1, "id", str(1, "7")), attr(1, "tags", msg(5, msg(1, str(1, "a")), msg(1, vint(2, 1)))))),
		attr(6, "raw", msg(7, []byte{1, 2})),
		vint(7, 3), protowire.AppendFixed32(protowire.AppendTag(nil, 8, protowire.Fixed32Type), 1),
		str(9, "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"), str(10, "\x01\x02\x03\x04\x05\x06\x07\x08"),
	)
	mapBody := msg(2, fix64(11, 1700000000000000003), msg(5, msg(6, attr(1, "b", vint(3, 1)), attr(1, "a", str(1, "x")))))
	// The scope's records stand before the scope, the scopes before the resource.
	return msg(1,
		msg(2, record, mapBody, msg(1, str(1, "lib"), str(2, "1.0"), attr(3, "scope.attr", str(1, "s")), vint(4, 2))),
		msg(1, attr(1, "service.name", str(1, "shop")), attr(1, "k8s.pod.name", str(1, "p-1")), attr(1, "host.name", str(1, "h"))),
	)
}

const exampleJSON = `{"resourceLogs":[{"scopeLogs":[{"logRecords":[
 {"timeUnixNano":"1700000000000000001","observed_time_unix_nano":1700000000000000002,"severityNumber":"SEVERITY_NUMBER_ERROR","severityText":"ERROR",
  "body":{"stringValue":"it broke"},"attributes":[{"key":"http.status","value":{"intValue":"500"}},{"key":"ratio","value":{"doubleValue":0.5}},
  {"key":"user","value":{"kvlistValue":{"values":[{"key":"id","value":{"stringValue":"7"}},{"key":"tags","value":{"arrayValue":{"values":[{"stringValue":"a"},{"boolValue":true}]}}}]}}},
  {"key":"raw","value":{"bytesValue":"AQI="}}],"droppedAttributesCount":3,"flags":1,"traceId":"0102030405060708090A0b0c0d0e0f10","spanId":"0102030405060708"},
 {"observedTimeUnixNano":"1700000000000000003","body":{"kvlistValue":{"values":[{"key":"b","value":{"intValue":1}},{"key":"a","value":{"stringValue":"x"}}]}}}],
 "scope":{"name":"lib","version":"1.0","attributes":[{"key":"scope.attr","value":{"stringValue":"s"}}],"droppedAttributesCount":2}}],
 "resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},{"key":"k8s.pod.name","value":{"stringValue":"p-1"}},{"key":"host.name","value":{"stringValue":"h"}}]}}]}`

func decodeOTLP(contentType, encoding string, body []byte, opts OTLPOptions) ([]plainStream, error) {
	b, err := newTestDecoder().OTLP(Body{ContentType: contentType, ContentEncoding: encoding, Length: -1, Reader: bytes.NewReader(body)}, opts)
	if err != nil {
		return nil, err
	}
	return plain(b), nil
}

func TestOTLPMapping(t *testing.T) {
	const want = `[{{k8s_pod_name="p-1", service_name="shop"} [` +
		`{1700000000000000001 it broke [{host_name h} {scope_attr s} {scope_name lib} {scope_version 1.0} {scope_dropped_attributes_count 2} ` +
		`{http_status 500} {ratio 0.5} {user_id 7} {user_tags ["a",true]} {raw AQI=} {observed_timestamp 1700000000000000002} ` +
		`{severity_number 17} {severity_text ERROR} {dropped_attributes_count 3} {flags 1} {trace_id 0102030405060708090a0b0c0d0e0f10} {span_id 0102030405060708}]} ` +
		`{1700000000000000003 {"a":"x","b":1} [{host_name h} {scope_attr s} {scope_name lib} {scope_version 1.0} {scope_dropped_attributes_count 2}]}]}]`
	for contentType, body := range map[string]string{"application/x-protobuf": string(exampleProto()), "application/json": exampleJSON} {
		got, err := decodeOTLP(contentType, "", []byte(body), otlpOptions())
		if err != nil {
			t.Fatal(contentType, err)
		}
		if diff := cmp.Diff(want, fmt.Sprint(got)); diff != "" {
			t.Errorf("%s: %s", contentType, diff)
		}
	}
}

func TestOTLPRules(t *testing.T) {
	opts := otlpOptions()
	opts.Config = limits.OTLPConfig{
		ResourceAttributes:  limits.OTLPResource{Rules: []limits.OTLPRule{{Action: limits.OTLPIndexLabel, Attributes: []string{"app", "m"}}, {Action: limits.OTLPDrop, Attributes: []string{"secret"}}}},
		LogAttributes:       []limits.OTLPRule{{Action: limits.OTLPIndexLabel, Attributes: []string{"kind"}}},
		SeverityTextAsLabel: true,
	}
	record := func(kind, severity string) []byte {
		return msg(2, str(3, severity), msg(5, str(1, kind)), attr(6, "kind", str(1, kind)))
	}
	resource := msg(1, attr(1, "app", str(1, "shop")), attr(1, "secret", str(1, "s")), attr(1, "m", msg(6, attr(1, "x", str(1, "1")))))
	body := msg(1, resource, msg(2, record("a", ""), record("a", ""), record("b", "WARN"), record("a", "")))
	got, err := decodeOTLP("application/x-protobuf", "", body, opts)
	want := `[{{app="shop", kind="a", m_x="1", service_name="shop"} [{1700000000000000000 a []} {1700000000000000000 a []}]} ` +
		`{{app="shop", kind="b", m_x="1", service_name="shop", severity_text="WARN"} [{1700000000000000000 b []}]} ` +
		`{{app="shop", kind="a", m_x="1", service_name="shop"} [{1700000000000000000 a []}]}]`
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("got  %v %v\nwant %s", got, err, want)
	}
	scope := func(name string) []byte { return msg(2, msg(1, str(1, name)), msg(2)) }
	got, _ = decodeOTLP("application/x-protobuf", "", msg(1, scope("one"), scope("two")), opts)
	if want := `[{{service_name="unknown_service"} [{1700000000000000000  [{scope_name one}]} {1700000000000000000  [{scope_name two}]}]}]`; fmt.Sprint(got) != want {
		t.Errorf("two scopes: got %v, want %s", got, want)
	}
	opts.ServiceNames = nil
	got, _ = decodeOTLP("application/x-protobuf", "", msg(1, resource, msg(2, msg(2))), opts)
	if got[0].Labels != `{app="shop", m_x="1"}` {
		t.Errorf("without discovery: %s", got[0].Labels)
	}
	got, _ = decodeOTLP("application/x-protobuf", "", msg(1, msg(2, msg(2))), otlpOptions())
	if got[0].Labels != `{service_name="unknown_service"}` {
		t.Errorf("without a resource: %s", got[0].Labels)
	}
}

// TestOTLPOddValues: each value has a text, and none costs the entry.
func TestOTLPOddValues(t *testing.T) {
	for value, want := range map[string]string{
		`{"doubleValue":"Infinity"}`:                        "Infinity",
		`{"doubleValue":"-Infinity"}`:                       "-Infinity",
		`{"doubleValue":"NaN"}`:                             "NaN",
		`{"doubleValue":1e21}`:                              "1e+21",
		`{"stringValue":null}`:                              "",
		`{"arrayValue":{"values":[{"doubleValue":"NaN"}]}}`: "",
		`{}`: "",
	} {
		got, err := decodeOTLP("application/json", "", []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":`+value+`}]}]}]}`), otlpOptions())
		if err != nil || got[0].Entries[0].Line != want {
			t.Errorf("%s: %v %v, want %q", value, got, err, want)
		}
	}
	if got, err := decodeOTLP("application/json", "", []byte("null"), otlpOptions()); err != nil || len(got) != 0 {
		t.Errorf("null: %v %v", got, err)
	}
}

func TestOTLPEncodingsAndErrors(t *testing.T) {
	var z, l bytes.Buffer
	zw, _ := zstd.NewWriter(&z)
	_, _ = zw.Write(exampleProto())
	_ = zw.Close()
	lw := lz4.NewWriter(&l)
	_, _ = lw.Write(exampleProto())
	_ = lw.Close()
	for encoding, body := range map[string][]byte{"gzip": packed(t, "gzip", exampleProto()), "zstd": z.Bytes(), "lz4": l.Bytes()} {
		if got, err := decodeOTLP("application/x-protobuf", encoding, body, otlpOptions()); err != nil || len(got) != 1 {
			t.Errorf("%s: %v %v", encoding, got, err)
		}
	}
	deep := str(1, "x")
	for range 100 {
		deep = msg(5, msg(1, deep))
	}
	f := func(contentType, encoding, body, want string) {
		t.Helper()
		if _, err := decodeOTLP(contentType, encoding, []byte(body), otlpOptions()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	f("application/json; charset=utf-8", "", "{}", "content type: application/json; charset=utf-8 is not supported")
	f("application/json", "br", "{}", "unsupported content encoding br: only gzip, lz4 and zstd are supported")
	f("application/json", "", "", "EOF")
	f("application/json", "", `{"resourceLogs":5}`, "Value is array")
	f("application/json", "", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"x"}]}]}]}`, `parsing "x"`)
	f("application/json", "", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"5b8e"}]}]}]}`, `invalid TraceID length: 2 bytes, want 16`)
	f("application/json", "", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"spanId":"zz"}]}]}]}`, `SpanID is not hexadecimal`)
	f("application/x-protobuf", "", string(msg(1, msg(2, msg(2, str(10, "\x01"))))), "invalid SpanID length")
	f("application/x-protobuf", "", "\x0a\x7f", "unexpected EOF")
	f("application/x-protobuf", "", string(msg(1, msg(1, attr(1, "", str(1, "x"))))), "label name is empty")
	f("application/x-protobuf", "", string(msg(1, msg(2, msg(2, msg(5, deep))))), "nest more than 64 deep")
	f("application/x-protobuf", "", string(msg(1, msg(2, msg(2, fix64(1, 1<<63))))), "out of range")
}
