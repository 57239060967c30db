package segment

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// lower lowers ASCII letters only.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// matches is what a needle means.
func matches(n model.Needle, e entry) bool {
	text, in := n.Text, e.line
	if n.Name != "" {
		in = e.metadata.Get(n.Name)
	}
	if n.Fold {
		text, in = lower(text), lower(in)
	}
	if n.Name != "" {
		return text == in
	}
	return strings.Contains(in, text)
}

func matchesAll(clauses []model.Needles, e entry) bool {
	for _, clause := range clauses {
		if !slices.ContainsFunc(clause, func(n model.Needle) bool { return matches(n, e) }) {
			return false
		}
	}
	return true
}

// randomNeedle cuts a needle out of a row, or makes one that occurs nowhere.
func randomNeedle(rng *rand.Rand, e entry) model.Needle {
	var n model.Needle
	if rng.IntN(3) == 0 && !e.metadata.IsEmpty() {
		e.metadata.Range(func(l labels.Label) { n = model.Needle{Name: l.Name, Text: l.Value} })
	} else if len(e.line) > 0 {
		from := rng.IntN(len(e.line))
		n.Text = e.line[from : from+rng.IntN(len(e.line)-from+1)]
	}
	switch rng.IntN(8) {
	case 0:
		n.Text += "x"
	case 1:
		n.Text = fmt.Sprintf("%x", rng.Uint64())
	}
	if n.Fold = rng.IntN(2) == 0; n.Fold {
		n.Text = lower(n.Text)
	} else if rng.IntN(4) == 0 {
		n.Text = strings.ToUpper(n.Text)
	}
	return n
}

// Whatever the needles, a pruned answer has all rows that match: same answer with and
// without the index.
func TestNeedlesNeverHideARow(t *testing.T) {
	var pruned, kept int64
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 4))
		entries := randomEntries(rng, 200+rng.IntN(1500))
		opts := randomOptions(rng)
		opts.NoNeedles, opts.BlockBytes = false, 1<<(8+rng.IntN(6))
		r := open(t, write(t, opts, entries))
		entries = sorted(entries)
		for range 40 {
			var clauses []model.Needles
			for range 1 + rng.IntN(3) {
				var clause model.Needles
				for range 1 + rng.IntN(3) {
					clause = append(clause, randomNeedle(rng, entries[rng.IntN(len(entries))]))
				}
				clauses = append(clauses, clause)
			}
			var matchers []*labels.Matcher
			if rng.IntN(2) == 0 { // blocks are considered one by one
				matchers = append(matchers, labels.MustNewMatcher(labels.MatchNotEqual, "app", fmt.Sprint("app", rng.IntN(5))))
			}
			var want []entry
			for _, e := range entries {
				if matchesAll(clauses, e) && (matchers == nil || matchers[0].Matches(e.stream.Get("app"))) {
					want = append(want, e)
				}
			}
			var stats model.Stats
			got := make(map[row]bool)
			for _, g := range selectRows(t, r, &model.Request{Matchers: matchers, Range: allTime, Needles: clauses, Columns: allColumns, Stats: &stats}) {
				got[g] = true
			}
			for _, e := range want {
				if !got[e.row()] {
					t.Fatalf("seed %d: needles %+v hide row %+v", seed, clauses, e.row())
				}
			}
			pruned += stats.BlocksPrunedNeedle.Load()
			kept += stats.LineBlocks.Load()
		}
	}
	if pruned < kept/2 {
		t.Errorf("the index is of little use: %d blocks pruned, %d kept", pruned, kept)
	}
}

func TestSelectByLabelsAndTime(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 5))
		entries := randomEntries(rng, 300+rng.IntN(2000))
		r := open(t, write(t, randomOptions(rng), entries))
		info := r.Info()
		for _, matchers := range [][]*labels.Matcher{
			nil,
			{labels.MustNewMatcher(labels.MatchEqual, "app", "app1")},
			{labels.MustNewMatcher(labels.MatchNotEqual, "app", "app1")},
			{labels.MustNewMatcher(labels.MatchRegexp, "app", "app[12]"), labels.MustNewMatcher(labels.MatchEqual, "env", "prod")},
			{labels.MustNewMatcher(labels.MatchEqual, "env", "")},
			{labels.MustNewMatcher(labels.MatchRegexp, "env", "|dev")},
			{labels.MustNewMatcher(labels.MatchNotRegexp, "env", "prod|")},
			{labels.MustNewMatcher(labels.MatchNotEqual, "nosuch", "")},
			{labels.MustNewMatcher(labels.MatchEqual, "nosuch", ""), labels.MustNewMatcher(labels.MatchNotEqual, "pod", "pod-0")},
		} {
			span := allTime
			if rng.IntN(2) == 0 && info.MaxTime > info.MinTime {
				span.From = info.MinTime + rng.Int64N(info.MaxTime-info.MinTime)
				span.Through = span.From + 1 + rng.Int64N(info.MaxTime-span.From+1)
			}
			var chosen []entry
			for _, e := range sorted(entries) {
				ok := span.Contains(e.ts)
				for _, m := range matchers {
					ok = ok && m.Matches(e.stream.Get(m.Name))
				}
				if ok {
					chosen = append(chosen, e)
				}
			}
			want := unique(chosen)
			got := selectRows(t, r, &model.Request{Matchers: matchers, Range: span, Columns: allColumns})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("seed %d, %v, %v: rows (-want +got):\n%s", seed, matchers, span, diff)
			}
			checkSeries(t, r, &model.Request{Matchers: matchers, Range: span}, want)
		}
	}
}

// checkSeries compares Series with the rows: exactly where the range covers a stream.
func checkSeries(t *testing.T, r *Reader, req *model.Request, rows []row) {
	t.Helper()
	count, size := make(map[string]int64), make(map[string]int64)
	for _, row := range rows {
		count[row.Stream]++
		size[row.Stream] += int64(len(row.Line))
	}
	series, err := r.Series(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, s := range series {
		name := s.Labels.String()
		got[name] = true
		if req.Range == allTime && (s.Entries != count[name] || s.Bytes != size[name]) {
			t.Fatalf("series %s: %d entries, %d bytes, want %d, %d", name, s.Entries, s.Bytes, count[name], size[name])
		}
	}
	for name := range count {
		if !got[name] {
			t.Fatalf("series: %s is missing", name)
		}
	}
}

// What is read and decoded is counted, and nothing is read without need.
func TestSelectReadsOnlyWhatIsAsked(t *testing.T) {
	var entries []entry
	for i := range 20000 {
		entries = append(entries, entry{
			stream: labels.FromStrings("app", fmt.Sprint("app", i%10)), ts: int64(i) * 1e6,
			line:     fmt.Sprintf("level=info msg=%q request=%032x", "a request came in", uint64(i)*0x9e3779b97f4a7c15),
			metadata: labels.FromStrings("detected_level", []string{"info", "error"}[i%2], "trace_id", fmt.Sprintf("%016x", uint64(i)*0xd6e8feb86659fd93)),
		})
	}
	src := &memory{data: write(t, WriterOptions{BlockBytes: 32 << 10, RowHash: true}, entries)}
	r, err := Open(t.Context(), src, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if src.reads.Load() != 1 {
		t.Errorf("Open took %d reads, want 1", src.reads.Load())
	}
	blocks := int64(r.Info().Blocks)
	everything := model.TimeRange{From: 0, Through: 20000 * 1e6}
	type counters struct{ Requests, Stream, Time, Length, Line, Metadata, Hash, Blocks, Labels, Times, Needle int64 }
	var last *model.Stats
	run := func(req model.Request, read func(model.Block) error) counters {
		var s model.Stats
		req.Stats, last = &s, &s
		part, err := r.Select(t.Context(), &req)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range part.Blocks {
			if err := read(b); err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
		return counters{s.FetchRequests.Load(), s.DecompressedStream.Load(), s.DecompressedTimestamp.Load(), s.DecompressedLength.Load(), s.DecompressedLine.Load(),
			s.DecompressedMetadata.Load(), s.DecompressedHash.Load(), s.LineBlocks.Load(), s.BlocksPrunedLabels.Load(), s.BlocksPrunedTime.Load(), s.BlocksPrunedNeedle.Load()}
	}
	times := func(b model.Block) error { _, err := b.Times(t.Context()); return err }

	got := run(model.Request{Range: everything}, times)
	want := counters{Requests: blocks, Time: 8 * 20000, Stream: got.Stream}
	if diff := cmp.Diff(want, got); diff != "" || got.Stream == 0 {
		t.Errorf("count (-want +got):\n%s", diff)
	}
	got = run(model.Request{Range: everything, Columns: model.Columns{Lengths: true}}, func(b model.Block) error {
		if err := times(b); err != nil {
			return err
		}
		_, err := b.Offsets(t.Context())
		return err
	})
	if diff := cmp.Diff(counters{Requests: blocks, Time: 8 * 20000, Length: 4 * 20000}, got); diff != "" {
		t.Errorf("bytes: one request for both columns (-want +got):\n%s", diff)
	}
	got = run(model.Request{Range: everything, Columns: model.Columns{Metadata: []string{"detected_level"}}}, func(b model.Block) error {
		if err := times(b); err != nil {
			return err
		}
		_, err := b.Metadata(t.Context(), "detected_level")
		return err
	})
	if got.Requests != blocks || got.Metadata > 25000 || got.Metadata == 0 || got.Line+got.Length > 0 {
		t.Errorf("levels: %+v", got)
	}
	// Whoever looks for rows that stand twice asks many blocks for their times before the first line.
	fetched := func(columns model.Columns) int64 {
		run(model.Request{Range: everything, Columns: columns}, times)
		return last.BytesFetched.Load()
	}
	if with, without := fetched(model.Columns{Lines: true}), fetched(model.Columns{Lengths: true}); with != without {
		t.Errorf("times of blocks whose lines are wanted, too: %d bytes were read, want %d as for times and lengths", with, without)
	}
	got = run(model.Request{Range: everything}, func(b model.Block) error { _, err := b.Hashes(t.Context()); return err })
	if got.Hash != 8*20000 || got.Line+got.Time+got.Metadata > 0 && got.Line > 0 {
		t.Errorf("hashes: %+v", got)
	}
	got = run(model.Request{Range: everything, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "app", "app3")}}, times)
	if got.Labels < blocks*8/10 || got.Labels == blocks {
		t.Errorf("one stream of ten: %+v of %d blocks", got, blocks)
	}
	got = run(model.Request{Range: model.TimeRange{From: 0, Through: 1e9}}, times)
	if got.Times < blocks/2 || got.Times == blocks {
		t.Errorf("a twentieth of the time: %+v of %d blocks", got, blocks)
	}
	lines := func(b model.Block) error { _, err := b.Lines(t.Context()); return err }
	needle := func(n model.Needle) []model.Needles { return []model.Needles{{n}} }
	got = run(model.Request{Range: everything, Columns: model.Columns{Lines: true}, Needles: needle(model.Needle{Text: entries[777].line[40:]})}, lines)
	if got.Blocks == 0 || got.Blocks > 2 || got.Needle != blocks-got.Blocks {
		t.Errorf("an id in the line: %+v of %d blocks", got, blocks)
	}
	got = run(model.Request{Range: everything, Columns: model.Columns{Lines: true}, Needles: needle(model.Needle{Name: "trace_id", Text: entries[777].metadata.Get("trace_id")})}, lines)
	if got.Blocks == 0 || got.Blocks > 2 {
		t.Errorf("an id in the metadata: %+v of %d blocks", got, blocks)
	}
	got = run(model.Request{Range: everything, Columns: model.Columns{Lines: true}, Needles: needle(model.Needle{Name: "span_id", Text: "1"})}, lines)
	if got.Blocks != 0 || got.Requests != 0 {
		t.Errorf("metadata that is nowhere: %+v", got)
	}
}

// One reader serves many goroutines at once, also while it reads its tables.
func TestSelectConcurrently(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	entries := randomEntries(rng, 2000)
	r := open(t, write(t, WriterOptions{BlockRows: 100}, entries))
	want := unique(sorted(entries))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			part, err := r.Select(t.Context(), &model.Request{Range: allTime, Columns: allColumns, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, "app", "")}})
			if err != nil {
				t.Error(err)
				return
			}
			sel := model.Selection{Parts: []model.Part{part}}
			defer sel.Release()
			got, err := rowsOf(t.Context(), part, allTime)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v, rows (-want +got):\n%s", err, diff)
			}
		})
	}
	wg.Wait()
}

// A segment of very many streams.
func TestManyStreams(t *testing.T) {
	const n = 30000
	var entries []entry
	for i := range n {
		entries = append(entries, entry{
			stream: labels.FromStrings("app", fmt.Sprintf("app%d", i%50), "pod", fmt.Sprintf("pod-%06d", i), "env", "prod"),
			ts:     int64(i), line: fmt.Sprintf("line %d", i)})
	}
	data := write(t, WriterOptions{}, entries)
	if _, err := Verify(t.Context(), &memory{data: data}); err != nil {
		t.Fatal(err)
	}
	r := open(t, data)
	got := selectRows(t, r, &model.Request{Range: allTime, Columns: allColumns, Matchers: []*labels.Matcher{
		labels.MustNewMatcher(labels.MatchRegexp, "pod", "pod-0012.*"), labels.MustNewMatcher(labels.MatchNotEqual, "app", "app7")}})
	if len(got) != 98 {
		t.Errorf("%d rows, want 98", len(got))
	}
	t.Logf("%d streams: %d bytes", n, len(data))
}

func TestWriterRefuses(t *testing.T) {
	a, b := labels.FromStrings("app", "a"), labels.FromStrings("app", "b")
	for name, write := range map[string]func(w *Writer) error{
		"streams out of order": func(w *Writer) error {
			_ = w.Append(b, b.Hash(), 1, nil, labels.EmptyLabels())
			return w.Append(a, a.Hash(), 1, nil, labels.EmptyLabels())
		},
		"times out of order": func(w *Writer) error {
			_ = w.Append(a, a.Hash(), 2, nil, labels.EmptyLabels())
			return w.Append(a, a.Hash(), 1, nil, labels.EmptyLabels())
		},
		"a line too long": func(w *Writer) error {
			return w.Append(a, a.Hash(), 2, make([]byte, MaxLineBytes+1), labels.EmptyLabels())
		},
	} {
		w := NewWriter(new(bytes.Buffer), WriterOptions{})
		if err := write(w); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := w.Close(); err == nil {
			t.Errorf("%s: Close after an error gives none", name)
		}
	}
}
