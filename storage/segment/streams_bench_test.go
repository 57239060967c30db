package segment

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// manyStreams is a segment of 100 000 streams with ten rows each.
var manyStreams = sync.OnceValue(func() []byte {
	var entries []entry
	for i := range 100000 {
		stream := labels.FromStrings("app", fmt.Sprintf("app-%d", i%40), "env", "prod", "namespace", fmt.Sprintf("team-%d", i%12), "pod", fmt.Sprintf("app-%d-%07x-%05x", i%40, i*7919, i))
		for k := range 10 {
			entries = append(entries, entry{stream: stream, ts: corpusStart + int64(i*k)*1e6, line: fmt.Sprintf("level=info msg=\"request served\" path=/api/%d took=%dms n=%d", i%100, (i*k)%977, k)})
		}
	}
	var buf bytes.Buffer
	if _, err := writeTo(&buf, WriterOptions{}, sorted(entries)); err != nil {
		panic(err)
	}
	return buf.Bytes()
})

// BenchmarkManyStreams opens a segment of 100 000 streams and selects one app of forty,
// cold (stream table and postings are decoded) and warm.
func BenchmarkManyStreams(b *testing.B) {
	data := manyStreams()
	req := &model.Request{Range: allTime, Matchers: []*labels.Matcher{
		labels.MustNewMatcher(labels.MatchEqual, "app", "app-7"), labels.MustNewMatcher(labels.MatchRegexp, "namespace", "team-(3|7).*")}}
	open := func() *Reader {
		r, err := Open(b.Context(), &memory{data: data}, ReaderOptions{})
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	sel := func(r *Reader) {
		part, err := r.Select(b.Context(), req)
		if err != nil || len(part.Blocks) == 0 {
			b.Fatal(len(part.Blocks), err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sel(open())
		}
		b.ReportMetric(float64(len(data)), "segment-B")
	})
	r := open()
	b.Run("warm", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sel(r)
		}
	})
	b.Run("series-all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s, err := r.Series(b.Context(), &model.Request{Range: allTime}); err != nil || len(s) != 100000 {
				b.Fatal(len(s), err)
			}
		}
	})
}
