package wal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// arrival makes a push whose lines are parts of its text, with what may stand between them.
func arrival(rng *rand.Rand, lines int) ([]model.Stream, model.Arrival) {
	var text []byte
	var ends [][2]int
	for range lines {
		text = append(text, "\x12\x34\x0a"[:rng.IntN(4)]...)
		from := len(text)
		text = fmt.Appendf(text, "line %d of %s", rng.IntN(50), bytes.Repeat([]byte("many "), rng.IntN(20)))
		if rng.IntN(10) == 0 {
			text = text[:from]
		}
		ends = append(ends, [2]int{from, len(text)})
	}
	var streams []model.Stream
	for i, end := range ends {
		if i == 0 || rng.IntN(20) == 0 {
			streams = append(streams, model.Stream{Labels: labels.FromStrings("app", fmt.Sprint(rng.IntN(9)))})
		}
		s := &streams[len(streams)-1]
		en := model.Entry{Timestamp: rng.Int64() - rng.Int64(), Line: text[end[0]:end[1]:end[1]]}
		switch rng.IntN(4) {
		case 0:
		case 1:
			en.Metadata = labels.FromStrings("trace_id", fmt.Sprint(rng.IntN(1000)))
		default:
			en.Metadata = labels.FromStrings("detected_level", fmt.Sprint(rng.IntN(4)))
		}
		s.Entries = append(s.Entries, en)
	}
	return streams, model.Arrival{Text: text, Packed: snappy.Encode(nil, text)}
}

func TestArrivalRoundTrip(t *testing.T) {
	var e Encoder
	var d decoder
	check := func(streams []model.Stream, a model.Arrival, arrived bool) {
		t.Helper()
		records, err := e.Encode("t", streams, a)
		if err != nil {
			t.Fatal(err)
		}
		if (records[0] == encodingArrived) != arrived {
			t.Errorf("record of %d streams has encoding %d; should it be as it arrived: %v", len(streams), records[0], arrived)
		}
		var got []string
		for len(records) > 0 {
			var batch Batch
			if batch, records, err = d.record(records); err != nil {
				t.Fatal(err)
			}
			got = append(got, flat(batch.Tenant, batch.Streams)...)
		}
		if diff := cmp.Diff(flat("t", streams), got); diff != "" {
			t.Errorf("what was read differs (-written +read):\n%s", diff)
		}
	}
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 9))
		streams, a := arrival(rng, 200)
		check(streams, a, true)
		// Refused and moved entries change nothing in the body.
		streams[0].Entries = streams[0].Entries[rng.IntN(2):]
		check(streams, a, true)
		rng.Shuffle(len(streams), func(i, j int) { streams[i], streams[j] = streams[j], streams[i] })
		check(streams, a, true)
		// A replica of a few of many does not keep them all.
		few := model.Stream{Labels: streams[0].Labels, Entries: streams[0].Entries[:1]}
		check([]model.Stream{few}, a, false)
		// A line that was changed on the way is no part of the body.
		last := &streams[len(streams)-1]
		last.Entries[0].Line = []byte("cut...")
		check(streams, a, false)
	}
}
