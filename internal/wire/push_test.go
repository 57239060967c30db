package wire

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

func newTestDecoder() *Decoder { return NewDecoder(1<<20, 8<<20, 1<<20) }

// plainEntry and plainStream are what a test can compare.
type plainEntry struct {
	TS       int64
	Line     string
	Metadata []labels.Label
}
type plainStream struct {
	Labels  string
	Entries []plainEntry
}

// plain copies a batch, checks that metadata is where it belongs, and releases it.
func plain(b *Batch) (out []plainStream) {
	i := 0
	for _, s := range b.Streams {
		p := plainStream{Labels: s.Labels.String()}
		for _, e := range s.Entries {
			pe := plainEntry{TS: e.Timestamp, Line: string(e.Line)}
			for _, l := range b.Metadata(i) {
				pe.Metadata = append(pe.Metadata, labels.Label{Name: strings.Clone(l.Name), Value: strings.Clone(l.Value)})
			}
			i++
			p.Entries = append(p.Entries, pe)
		}
		out = append(out, p)
	}
	b.Release()
	return out
}

func decode(d *Decoder, contentType, encoding string, body []byte) ([]plainStream, error) {
	b, err := d.Push(Body{ContentType: contentType, ContentEncoding: encoding, Length: int64(len(body)), Reader: bytes.NewReader(body)})
	if err != nil {
		return nil, err
	}
	return plain(b), nil
}

func packed(t testing.TB, encoding string, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w, _ = flate.NewWriter(&out, flate.BestSpeed)
	default:
		return body
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// randomStreams makes text that JSON must escape.
func randomStreams(rnd *rand.Rand) []model.Stream {
	const alphabet = "ab \"\\/\n\t\x01é漢😀<{}[],:=\u2028"
	text := func(most int) string {
		runes, out := []rune(alphabet), []rune{}
		for range rnd.IntN(most) {
			out = append(out, runes[rnd.IntN(len(runes))])
		}
		return string(out)
	}
	streams := make([]model.Stream, rnd.IntN(4))
	for i := range streams {
		streams[i].Labels = labels.FromStrings("app", "x"+text(5), "n", fmt.Sprint(i))
		streams[i].Entries = make([]model.Entry, 1+rnd.IntN(4))
		for j := range streams[i].Entries {
			e := &streams[i].Entries[j]
			e.Timestamp, e.Line = rnd.Int64()-rnd.Int64(), []byte(text(30))
			if rnd.IntN(2) == 0 {
				e.Metadata = labels.FromStrings("m"+fmt.Sprint(rnd.IntN(3)), "v"+text(9), "z", "1")
			}
		}
	}
	return streams
}

func toJSON(t testing.TB, streams []model.Stream, rnd *rand.Rand) []byte {
	t.Helper()
	var list []any
	for _, s := range streams {
		var values []any
		for _, e := range s.Entries {
			v := []any{fmt.Sprint(e.Timestamp), string(e.Line)}
			if !e.Metadata.IsEmpty() {
				v = append(v, e.Metadata.Map())
			}
			values = append(values, v)
		}
		list = append(list, map[string]any{"stream": s.Labels.Map(), "values": values})
	}
	body := map[string]any{"streams": list, "ignored": []any{1, "]", nil, map[string]any{"a": true}}}
	var out []byte
	var err error
	if rnd.IntN(2) == 0 {
		out, err = json.Marshal(body)
	} else {
		out, err = json.MarshalIndent(body, "", "\t")
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestJSONAndProtobufSayTheSame(t *testing.T) {
	d := newTestDecoder()
	var enc Encoder
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		streams := randomStreams(rnd)
		var want []plainStream
		for _, s := range streams {
			p := plainStream{Labels: s.Labels.String()}
			for _, e := range s.Entries {
				pe := plainEntry{TS: e.Timestamp, Line: string(e.Line)}
				e.Metadata.Range(func(l labels.Label) { pe.Metadata = append(pe.Metadata, l) })
				p.Entries = append(p.Entries, pe)
			}
			want = append(want, p)
		}
		encoding := []string{"", "gzip", "deflate"}[rnd.IntN(3)]
		fromProto, err := decode(d, ContentTypeProto, encoding, packed(t, encoding, enc.Push(streams)))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		fromJSON, err := decode(d, "application/json; charset=utf-8", encoding, packed(t, encoding, toJSON(t, streams, rnd)))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(want, fromProto); diff != "" {
			t.Fatalf("seed %d, protobuf: %s", seed, diff)
		}
		if diff := cmp.Diff(want, fromJSON); diff != "" {
			t.Fatalf("seed %d, JSON: %s", seed, diff)
		}
	}
}

func TestJSONLeniency(t *testing.T) {
	d := newTestDecoder()
	ok := func(body, want string) {
		t.Helper()
		got, err := decode(d, "application/json", "", []byte(body))
		if text := fmt.Sprint(got); err != nil || text != want {
			t.Errorf("%s\n got %s, %v\nwant %s", body, text, err, want)
		}
	}
	ok(`{}`, `[]`)
	ok(`null`, `[]`)
	ok(`{"streams":null}`, `[]`)
	ok(`{"x":[{"]":"}"}],"streams":[]} trailing`, `[]`)
	ok(`{"streams":[{"stream":{"a":"b"},"values":[]}]}`, `[{{} []}]`)
	ok(`{"streams":[{"stream":{"a":"b"},"values":null}]}`, `[{{} []}]`)
	ok(`{"streams":[{"values":[["1","x"]],"stream":{"b":2.50,"a":"1","e":""},"y":{}}]}`, `[{{a="1", b="2.50"} [{1 x []}]}]`)
	ok(`{"streams":[{"stream":{},"values":[null,["1","x"],["2","y",{},4,[5]]]}]}`, `[{{} [{1 x []} {2 y []}]}]`)
	ok(`{"streams":[{"stream":{"a":"b"},"values":[["-5","\u00e9\ud83d\ude00\ud800\n",{"k":"\"v\""}]]}]}`, "[{{a=\"b\"} [{-5 é😀\uFFFD\n [{k \"v\"}]}]}]")
	ok(`{"streams":[{"stream":{"a":"1","a":"2"},"values":[["1","x"]]}]}`, `[{{a="2"} [{1 x []}]}]`)
	ok("{\"streams\":[{\"stream\":{\"a\":\"b\"},\"values\":[[\"1\",\"raw\tcontrol\xff\"]]}]}", "[{{a=\"b\"} [{1 raw\tcontrol\xff []}]}]")

	ok(`{"streams":[{"stream":{"a":true,"b":null,"c":{"d":[1]}},"values":[["1","x"]]}]}`, `[{{a="true", b="null", c="{\"d\":[1]}"} [{1 x []}]}]`)

	bad := func(body, want string) {
		t.Helper()
		_, err := decode(d, "application/json", "", []byte(body))
		if err == nil || !strings.Contains(err.Error(), want) || fault.Of(err) != fault.Invalid {
			t.Errorf("%s\n got %v\nwant %s", body, err, want)
		}
	}
	closing := `can't find closing '"' symbol`
	bad(``, `EOF`)
	bad(`hello`, `expect { or n, but found 'h', error found in #0 byte of ...|hello|...`)
	bad(`[]`, `expect { or n`)
	bad(`{"streams":[`, `but found the end`)
	bad(`{"streams":5}`, `Value is array`)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[[1,"x"]]}]}`, closing)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["noon","x"]]}]}`, `strconv.ParseInt: parsing "noon": invalid syntax`)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["9223372036854775808","x"]]}]}`, `value out of range`)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["1",5]]}]}`, closing)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["1","x","y"]]}]}`, `Value looks like object, but can't find closing '}' symbol`)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["1","x",{"a":5}]]}]}`, closing)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["1","x",null]]}]}`, `Value looks like object`)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["+1","x"]]}]}`, `invalid syntax`)
	bad(`{"streams":[{"stream":null,"values":[["1","x"]]}]}`, `Value looks like object`)
	bad(`{"streams":[null]}`, `Value looks like object`)
	bad(`{"streams":[{"stream":{"bad-name":"x"},"values":[["1","x"]]}]}`, `couldn't parse labels: 1:5: parse error: unexpected character inside braces: '-'`)
	bad(`{"streams":[{"stream":{"a":"\q"},"values":[["1","x"]]}]}`, `invalid escape`)
	bad(`{"streams":[{"stream":{"a":"b"},"values":[["1","x`, closing)
}

func TestLegacyJSON(t *testing.T) {
	d := newTestDecoder()
	body := `{"streams":[{"entries":[{"ts":"2023-11-14T22:13:20.5Z","line":"a\tb"},{"line":"c","ts":"2023-11-14T23:13:20+01:00","structuredMetadata":{"k":"v"}}],"labels":"{app=\"x\"}"}]}`
	b, err := d.Push(Body{ContentType: "application/json", Legacy: true, Length: -1, Reader: strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(plain(b)); got != "[{{app=\"x\"} [{1700000000500000000 a\tb []} {1700000000000000000 c [{k v}]}]}]" {
		t.Error(got)
	}
}

func TestContentTypesAndEncodings(t *testing.T) {
	d := newTestDecoder()
	f := func(contentType, encoding, body, want string) {
		t.Helper()
		if _, err := decode(d, contentType, encoding, []byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q %q: got %v, want %s", contentType, encoding, err, want)
		}
	}
	f("", "", "{}", "mime: no media type")
	f("application/json; x", "", "{}", "mime: invalid media parameter")
	f("text/plain", "", "{}", "snappy: corrupt input")
	f("application/json", "br", "{}", `Content-Encoding "br" not supported`)
	f("application/json", "gzip", "{}", "EOF")
	if _, err := decode(d, "application/json", "gzip", []byte(`{"streams":[]}`)); err == nil || err.Error() != "gzip: invalid header" {
		t.Errorf("no gzip: got %v", err)
	}
	f("application/x-protobuf", "", string(snappy.Encode(nil, []byte{0x0a, 0x05, 1})), "unexpected EOF")
	f("application/x-protobuf", "", string(snappy.Encode(nil, []byte{0x0a, 0x04, 0x12, 0x02, 0x0a, 0x05})), "unexpected EOF")
}

// TestSizesBeforeAllocation shows that what a small request claims or unfolds to is refused
// before memory is taken for it.
func TestSizesBeforeAllocation(t *testing.T) {
	const maxIn, maxOut = 1 << 20, 16 << 20
	d := NewDecoder(maxIn, maxOut, 1<<20)
	f := func(name, contentType, encoding string, body []byte, length, most int64, want fault.Kind, text string) {
		t.Helper()
		reserved := int64(0)
		_, err := d.Push(Body{
			ContentType: contentType, ContentEncoding: encoding, Length: length, Reader: bytes.NewReader(body),
			Reserve: func(n int64) error { reserved += n; return nil },
		})
		if err == nil || fault.Of(err) != want || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %s", name, err, text)
		}
		if most += retained; reserved > most { // a batch from the pool is reserved too
			t.Errorf("%s: %d bytes reserved, want at most %d", name, reserved, most)
		}
	}
	claim := func(n uint64) []byte { return append(protowire.AppendVarint(nil, n), 0, 'x') }
	zeros := make([]byte, 20<<20)
	f("claims 15 MB", ContentTypeProto, "", claim(15<<20), 6, 8<<10, fault.Invalid, "snappy: corrupt input")
	f("claims 1 GB", ContentTypeProto, "", claim(1<<30), 7, 8<<10, fault.Invalid, "decompressed message size too large than max (1073741824 vs 16777216)")
	f("gzip bomb", ContentTypeProto, "gzip", packed(t, "gzip", zeros), -1, 4*maxOut, fault.Invalid, "decompressed message size too large")
	f("gzip bomb", "application/json", "gzip", packed(t, "gzip", zeros), -1, 4*maxOut, fault.Invalid, "decompressed message size too large")
	f("large", ContentTypeProto, "", zeros, int64(len(zeros)), 0, fault.TooLarge, "request body too large: message size too large than max (20971520 vs 1048576)")
	f("large without a length", ContentTypeProto, "", zeros, -1, 4*maxIn, fault.TooLarge, "message size too large than max (1048577 vs 1048576)")
	f("large JSON", "application/json", "", zeros, -1, 4*maxIn, fault.Invalid, "compressed message size 1048577 exceeds limit 1048576")

	huge := strings.Repeat("x", 200)
	d.labels.maxBytes = 100
	body := snappy.Encode(nil, AppendPush(nil, []model.Stream{{Labels: labels.FromStrings("a", huge), Entries: make([]model.Entry, 1)}}))
	f("labels", ContentTypeProto, "", body, -1, 8<<10, fault.TooLarge, "request body too large: stream labels size 206 B exceeds limit of 100 B")

	// A million empty entries are two bytes each on the wire and 48 in memory.
	empties := bytes.Repeat([]byte{0x12, 0}, 1<<20)
	msg := append(protowire.AppendTag(nil, 1, protowire.BytesType), protowire.AppendBytes(nil, empties)...)
	left := int64(retained + 4<<20)
	_, err := d.Push(Body{ContentType: ContentTypeProto, Length: -1, Reader: bytes.NewReader(snappy.Encode(nil, msg)), Reserve: func(n int64) error {
		if left -= n; left < 0 {
			return fault.New(fault.Unavailable, "enough")
		}
		return nil
	}})
	if fault.Of(err) != fault.Unavailable {
		t.Errorf("a million empty entries: %v", err)
	}
}

func TestTimestampRange(t *testing.T) {
	for _, ts := range []int64{0, 1, -1, 1 << 62, -1 << 62, time.Now().UnixNano()} {
		sec, nanos := seconds(ts)
		if got, ok := nanoseconds(sec, nanos); !ok || got != ts {
			t.Errorf("%d becomes %d, %t", ts, got, ok)
		}
	}
	for _, bad := range [][2]int64{{1 << 40, 0}, {-1 << 40, 0}, {0, -1}, {0, 1e9}} {
		if _, ok := nanoseconds(bad[0], bad[1]); ok {
			t.Errorf("%v is accepted", bad)
		}
	}
}

// What one form of a push has made known is not accepted in the other, whichever came first.
func TestLabelForms(t *testing.T) {
	lp := newLabelParser(1<<20, 1<<20)
	for range 2 {
		for _, p := range []string{`{"a":"b"}`, `{}`} {
			if _, err := lp.object([]byte(p)); err != nil {
				t.Errorf("object %s: %v", p, err)
			}
		}
		if k, err := lp.text([]byte(`{"a":"b"}`)); err == nil {
			t.Errorf("the text of an object is taken as %s", k.Labels)
		}
		for _, p := range []string{`{a="b"}`, `{}`} {
			if _, err := lp.text([]byte(p)); err != nil {
				t.Errorf("text %s: %v", p, err)
			}
		}
	}
}

func TestLabelTexts(t *testing.T) {
	d := newTestDecoder()
	f := func(text, want string) {
		t.Helper()
		for range 2 { // parsed, then remembered
			var got string
			if known, err := d.labels.text([]byte(text)); err != nil {
				got = err.Error()
			} else {
				got = known.Labels.String()
			}
			if got != want {
				t.Errorf("%s: got %s, want %s", text, got, want)
			}
		}
	}
	f(`{b="2",a="1"}`, `{a="1", b="2"}`)
	f(`name{a="b"}`, `{__name__="name", a="b"}`)
	f(`{"with space"="x"}`, `{"with space"="x"}`)
	f(`{a="",b="x"}`, `{b="x"}`)
	f(`{}`, `{}`)
	f(`{a="1",a="2"}`, `{a="1", a="2"}`)
	f(`{a="b"`, `couldn't parse labels: 1:7: parse error: unexpected end of input inside braces`)
	f(`{a=~"b"}`, `couldn't parse labels: 1:3: parse error: unexpected <op:=~> in label set, expected "="`)
}

func TestNormalName(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		got, err := NormalName(name)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	f("trace_id", "trace_id")
	f("k8s.pod.name", "k8s_pod_name")
	f("a--b..c", "a_b_c")
	f("a__b", "a_b")
	f("_a_", "_a_")
	f("__a__", "__a__")
	f("__a.b__", "__a_b__")
	f("__a", "_a")
	f("1st", "key_1st")
	f("é", `normalization for label name "é" resulted in invalid name "_"`)
	f("éa", "_a")
	f("", "label name is empty")
	f("_", `normalization for label name "_" resulted in invalid name "_"`)
	f("____", `normalization for label name "____" resulted in invalid name "_"`)
	f("_____", `normalization for label name "_____" resulted in invalid name "_"`)
}

// TestDecodingDoesNotAllocate holds for all that depends on the number of entries.
func TestDecodingDoesNotAllocate(t *testing.T) {
	d := newTestDecoder()
	streams := []model.Stream{{Labels: labels.FromStrings("app", "x")}}
	for i := range 1000 {
		streams[0].Entries = append(streams[0].Entries, model.Entry{
			Timestamp: int64(i), Line: []byte("a line of text"), Metadata: labels.FromStrings("trace_id", "abc"),
		})
	}
	var enc Encoder
	proto := enc.Push(streams)
	text := toJSON(t, streams, rand.New(rand.NewPCG(1, 1)))
	for contentType, body := range map[string][]byte{ContentTypeProto: proto, "application/json": text} {
		n := testing.AllocsPerRun(50, func() {
			b, err := d.Push(Body{ContentType: contentType, Length: int64(len(body)), Reader: bytes.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		})
		if n > 40 {
			t.Errorf("%s: %v allocations for 1000 entries", contentType, n)
		}
	}
	if n := testing.AllocsPerRun(50, func() { enc.Push(streams) }); n > 2 {
		t.Errorf("encoding: %v allocations for 1000 entries of one stream", n)
	}
}
