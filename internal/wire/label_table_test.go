package wire

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// What is in use stays, and what is remembered stays below the bound.
func TestLabelTableBoundAndRecency(t *testing.T) {
	const room = 100
	table := newLabelTable(room * (itemOverhead + 4*textCopies))
	put := func(text string) { table.put(&Known{text: text}) }
	put("used")
	for i := range 10 * room {
		put(fmt.Sprintf("%04d", i))
		if table.get([]byte("used"), false) == nil {
			t.Fatalf("after %d others, the text in use is gone", i)
		}
		if n := table.mu.young.taken + table.mu.old.taken; n > room {
			t.Fatalf("%d texts where there is room for %d", n, room)
		}
	}
	if table.get([]byte("0999"), false) == nil {
		t.Error("the newest text is gone")
	}
	if table.get([]byte("0001"), false) != nil {
		t.Error("a text of long ago is still there")
	}
	put(string(make([]byte, room*itemOverhead)))
	if n := table.mu.young.taken; n == 1 {
		t.Error("a text heavier than a generation has cleared it")
	}
}

// Texts with one hash, and one text in two forms, are told apart.
func TestLabelSetWithEqualHashes(t *testing.T) {
	s := newLabelSet()
	hash := func(i int) uint64 { return uint64(i % 7) }
	for i := range 10 * firstSlots {
		for _, object := range []bool{false, true} {
			s.put(hash(i), &Known{text: fmt.Sprint(i), object: object}, 1)
		}
	}
	for i := range 10 * firstSlots {
		for _, object := range []bool{false, true} {
			k := s.find(hash(i), []byte(fmt.Sprint(i)), object)
			if k == nil || k.text != fmt.Sprint(i) || k.object != object {
				t.Fatalf("text %d, object %t: found %+v", i, object, k)
			}
		}
	}
	if k := s.find(3, []byte("none"), false); k != nil {
		t.Errorf("a text that was never put is %s", k.text)
	}
	again := &Known{text: "3"}
	taken := s.taken
	if s.put(3, again, 1); s.taken != taken || s.find(3, []byte("3"), false) != again {
		t.Error("labels with a known text do not take its place")
	}
}

// Each stream of a large push has its own labels, whether they were remembered, are new, or stand
// twice in the push; a stream without entries has none.
func TestLabelsOfManyStreams(t *testing.T) {
	d := newTestDecoder()
	push := func(streams []model.Stream) (*Batch, error) {
		body := snappy.Encode(nil, AppendPush(nil, streams))
		return d.Push(Body{ContentType: ContentTypeProto, Length: int64(len(body)), Reader: bytes.NewReader(body)})
	}
	for round := range 3 {
		var streams []model.Stream
		for i := range 3*lookUps + 7 {
			s := model.Stream{Labels: labels.FromStrings("pod", fmt.Sprint((i+round*lookUps)%(3*lookUps)))}
			if i%5 != 0 {
				s.Entries = []model.Entry{{Timestamp: int64(i), Line: []byte("x")}}
			}
			streams = append(streams, s)
		}
		b, err := push(streams)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range streams {
			want := s.Labels
			if len(s.Entries) == 0 {
				want = labels.EmptyLabels()
			}
			if got := b.Streams[i]; !labels.Equal(got.Labels, want) || len(got.Entries) != len(s.Entries) {
				t.Fatalf("round %d: stream %d is %s with %d entries, want %s with %d", round, i, got.Labels, len(got.Entries), want, len(s.Entries))
			}
			if k := b.Known(i); (k != nil) != (len(s.Entries) > 0) || k != nil && !labels.Equal(k.Labels, want) {
				t.Fatalf("round %d: what is known of stream %d is %+v", round, i, k)
			}
		}
		b.Release()
	}
	// A stream with an entry and without labels is the receiver's to refuse.
	body := snappy.Encode(nil, []byte("\x0a\x02\x12\x00"))
	b, err := d.Push(Body{ContentType: ContentTypeProto, Length: int64(len(body)), Reader: bytes.NewReader(body)})
	if err != nil || b.Known(0) == nil || !b.Streams[0].Labels.IsEmpty() {
		t.Errorf("a stream without labels: %v, %v", b, err)
	}
}
