package wire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// The targets ask three things of any input: no panic, memory reserved in proportion to
// the input, and that what was understood survives being encoded and decoded again.

func seeds(f *testing.F) []model.Stream {
	return []model.Stream{{Labels: labels.FromStrings("app", "x", "env", "p"), Entries: []model.Entry{
		{Timestamp: 1700000000000000001, Line: []byte("line \"one\"\n")},
		{Timestamp: -5, Line: nil, Metadata: labels.FromStrings("trace_id", "abc", "z", "1")},
	}}, {Labels: labels.FromStrings("b", "c")}}
}

func fuzzPush(t *testing.T, d *Decoder, contentType string, legacy bool, body []byte) {
	reserved := int64(0)
	b, err := d.Push(Body{
		ContentType: contentType, Length: int64(len(body)), Reader: bytes.NewReader(body), Legacy: legacy,
		Reserve: func(n int64) error { reserved += n; return nil },
	})
	// Two bytes can become an entry of 48, a snappy byte 22 others, and doubling counts twice.
	if most := int64(retained+64<<10) + 22*200*int64(len(body)); reserved > most {
		t.Fatalf("%d bytes of input reserve %d", len(body), reserved)
	}
	if err != nil {
		return
	}
	own := make([]model.Stream, 0, len(b.Streams))
	i := 0
	for _, s := range b.Streams {
		if _, duplicate := s.Labels.HasDuplicateLabelNames(); duplicate {
			b.Release()
			return // no such stream can be written down again
		}
		o := model.Stream{Labels: s.Labels}
		for _, e := range s.Entries {
			sb := labels.NewScratchBuilder(0)
			for _, p := range b.Metadata(i) {
				sb.Add(p.Name, p.Value)
			}
			i++
			o.Entries = append(o.Entries, model.Entry{Timestamp: e.Timestamp, Line: bytes.Clone(e.Line), Metadata: sb.Labels()})
		}
		own = append(own, o)
	}
	first := plain(b)
	var enc Encoder
	second, err := decode(d, ContentTypeProto, "", enc.Push(own))
	if err != nil {
		t.Fatalf("decoding what was encoded: %v", err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Fatal(diff)
	}
}

func FuzzPushProto(f *testing.F) {
	f.Add(AppendPush(nil, seeds(f)))
	d := newTestDecoder()
	f.Fuzz(func(t *testing.T, msg []byte) { fuzzPush(t, d, ContentTypeProto, false, snappy.Encode(nil, msg)) })
}

func FuzzPushSnappy(f *testing.F) {
	f.Add(snappy.Encode(nil, AppendPush(nil, seeds(f))))
	d := newTestDecoder()
	f.Fuzz(func(t *testing.T, body []byte) { fuzzPush(t, d, ContentTypeProto, false, body) })
}

func FuzzPushJSON(f *testing.F) {
	f.Add([]byte(`{"streams":[{"stream":{"app":"x","n":5},"values":[["1700000000000000000","li\u00e9\"ne"],["1","l",{"k":"v"},7],null]}],"x":[{}]}`))
	d := newTestDecoder()
	f.Fuzz(func(t *testing.T, body []byte) { fuzzPush(t, d, "application/json", false, body) })
}

func FuzzPushLegacy(f *testing.F) {
	f.Add([]byte(`{"streams":[{"labels":"{app=\"x\"}","entries":[{"ts":"2023-11-14T22:13:20.5Z","line":"a\tb"}]}]}`))
	d := newTestDecoder()
	f.Fuzz(func(t *testing.T, body []byte) { fuzzPush(t, d, "application/json", true, body) })
}

func fuzzOTLP(t *testing.T, d *Decoder, contentType string, body []byte) {
	left := int64(64 << 20)
	b, err := d.OTLP(Body{ContentType: contentType, Length: -1, Reader: bytes.NewReader(body), Reserve: func(n int64) error {
		if left -= n; left < 0 {
			return errors.New("enough")
		}
		return nil
	}}, otlpOptions())
	if err != nil {
		return
	}
	for _, s := range b.Streams {
		if s.Labels.IsEmpty() || len(s.Entries) == 0 {
			t.Fatalf("stream %s has %d entries", s.Labels, len(s.Entries))
		}
	}
	plain(b)
}

func FuzzOTLPProto(f *testing.F) {
	f.Add(exampleProto())
	d := newTestDecoder()
	f.Fuzz(func(t *testing.T, body []byte) { fuzzOTLP(t, d, "application/x-protobuf", body) })
}

func FuzzOTLPJSON(f *testing.F) {
	f.Add([]byte(exampleJSON))
	d := newTestDecoder()
	f.Fuzz(func(t *testing.T, body []byte) { fuzzOTLP(t, d, "application/json", body) })
}

// What the short way understands the whole parser understands alike.
func FuzzPlainLabels(f *testing.F) {
	for _, text := range []string{`{a="b"}`, `{a="b", c="d e"}`, `{a="b",c=""}`, `{b="1",a="2"}`, `{a="\n"}`, `{__name__="x"}`, `{a="b",}`, `{by="x", nan="y"}`, `{a="ä"}`} {
		f.Add(text)
	}
	lp := newLabelParser(0, MaxLabelText)
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := lp.plain(text)
		if !ok {
			return
		}
		want, err := lp.parser.ParseMetric(text)
		if err != nil || !labels.Equal(got, want) {
			t.Fatalf("%q: %s, want %s (%v)", text, got, want, err)
		}
	})
}
