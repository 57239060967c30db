package segment

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// memory is a Source over bytes.
type memory struct {
	data  []byte
	reads atomic.Int64
}

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(m.data)) {
		return fmt.Errorf("read of %d bytes at %d outside of %d", len(p), off, len(m.data))
	}
	copy(p, m.data[off:])
	m.reads.Add(1)
	return nil
}
func (m *memory) Size() int64  { return int64(len(m.data)) }
func (m *memory) Name() string { return "test.seg" }

// row is a row as tests see it.
type row struct {
	Stream, Line, Metadata string
	Time                   int64
}

// entry is a row to be written.
type entry struct {
	stream   labels.Labels
	ts       int64
	line     string
	metadata labels.Labels
}

func (e entry) row() row { return row{e.stream.String(), e.line, e.metadata.String(), e.ts} }

// sorted orders entries as a writer wants them, keeping the order of arrival.
func sorted(entries []entry) []entry {
	out := slices.Clone(entries)
	slices.SortStableFunc(out, func(a, b entry) int {
		if c := labels.Compare(a.stream, b.stream); c != 0 {
			return c
		}
		return compare(a.ts, b.ts)
	})
	return out
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// unique is what a segment must hold of sorted entries: each once, the first of equals.
func unique(entries []entry) []row {
	var out []row
	seen := make(map[row]bool)
	for _, e := range entries {
		if r := e.row(); !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	return out
}

func write(t testing.TB, opts WriterOptions, entries []entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := NewWriter(&buf, opts)
	for _, e := range sorted(entries) {
		if err := w.Append(e.stream, e.stream.Hash(), e.ts, []byte(e.line), e.metadata); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != int64(buf.Len()) {
		t.Fatalf("Close says %d bytes, %d were written", info.Size, buf.Len())
	}
	return buf.Bytes()
}

func open(t testing.TB, data []byte) *Reader {
	t.Helper()
	r, err := Open(t.Context(), &memory{data: data}, ReaderOptions{})
	if err == nil {
		_, err = r.blocks() // which many tests look at
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var (
	allTime    = model.TimeRange{From: math.MinInt64, Through: math.MaxInt64}
	allColumns = model.Columns{Lines: true, AllMetadata: true}
)

// rowsOf reads the rows of a part's runs that lie in the range.
func rowsOf(ctx context.Context, part model.Part, span model.TimeRange) ([]row, error) {
	var out []row
	for _, b := range part.Blocks {
		times, err := b.Times(ctx)
		if err != nil {
			return nil, err
		}
		offsets, err := b.Offsets(ctx)
		if err != nil {
			return nil, err
		}
		lines, err := b.Lines(ctx)
		if err != nil {
			return nil, err
		}
		names := b.MetadataNames()
		columns := make([]model.Column, len(names))
		for i, name := range names {
			if columns[i], err = b.Metadata(ctx, name); err != nil {
				return nil, err
			}
		}
		for _, run := range b.Runs() {
			for i := run.Start; i < run.End; i++ {
				if !span.Contains(times[i]) {
					continue
				}
				var md []labels.Label
				for k, c := range columns {
					if v := c.Value(i); v != "" {
						md = append(md, labels.Label{Name: names[k], Value: v})
					}
				}
				out = append(out, row{run.Labels.String(), string(lines[offsets[i]:offsets[i+1]]), labels.New(md...).String(), times[i]})
			}
		}
	}
	return out, nil
}

func selectRows(t testing.TB, r *Reader, req *model.Request) []row {
	t.Helper()
	part, err := r.Select(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	sel := model.Selection{Parts: []model.Part{part}}
	defer sel.Release()
	rows, err := rowsOf(t.Context(), part, req.Range)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// randomEntries makes entries that try everything: many or few streams, repeated rows,
// equal timestamps, clocks of several precisions, odd bytes, sparse and dense metadata.
func randomEntries(rng *rand.Rand, n int) []entry {
	streams := make([]labels.Labels, 1+rng.IntN(20))
	for i := range streams {
		b := labels.NewScratchBuilder(4)
		b.Add("app", fmt.Sprint("app", rng.IntN(5)))
		if rng.IntN(2) == 0 {
			b.Add("env", []string{"prod", "dev"}[rng.IntN(2)])
		}
		b.Add("pod", fmt.Sprint("pod-", i))
		streams[i] = b.Labels()
	}
	unit := []int64{1, 1000, 1e6, 1e9}[rng.IntN(4)]
	span := int64(1 + rng.IntN(1<<uint(1+rng.IntN(20))))
	out := make([]entry, 0, n)
	for range n {
		e := entry{stream: streams[rng.IntN(len(streams))], ts: (rng.Int64N(span) - span/8) * unit, line: randomLine(rng)}
		if len(out) > 0 && rng.IntN(8) == 0 {
			e = out[rng.IntN(len(out))]
		}
		if rng.IntN(3) == 0 {
			b := labels.NewScratchBuilder(3)
			b.Add("detected_level", []string{"info", "warn", "error"}[rng.IntN(3)])
			if rng.IntN(2) == 0 {
				b.Add("trace_id", fmt.Sprintf("%016x%016X", rng.Uint64(), rng.Uint64()))
			}
			e.metadata = b.Labels()
		}
		out = append(out, e)
	}
	return out
}

var words = []string{"error", "timeout", "Connection", "refused", "GET", "/api/v1/users", "200", "user=", "αβγδε", "ſtraße", "K", "K",
	"deadbeef", "0123456789", "\xff\xfe\x00", "", "status", "ABCDEF", "latency_ms", "{\"level\":\"info\"}"}

func randomLine(rng *rand.Rand) string {
	var b strings.Builder
	for range rng.IntN(8) {
		b.WriteString(words[rng.IntN(len(words))])
		switch rng.IntN(6) {
		case 5:
			fmt.Fprintf(&b, "00-%016x%016X-%016x-01", rng.Uint64(), rng.Uint64(), rng.Uint64())
		case 4:
			fmt.Fprintf(&b, "%08x-%04x-4444-%04x-%012x", rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<16), rng.Uint64()>>16)
		case 0:
			fmt.Fprintf(&b, "%x", rng.Uint64())
		case 1:
			fmt.Fprint(&b, rng.IntN(1000))
		case 2:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func randomOptions(rng *rand.Rand) WriterOptions {
	return WriterOptions{
		Tenant: "t", BlockBytes: 1 << (9 + rng.IntN(11)), BlockRows: 1 << (3 + rng.IntN(9)), RowHash: rng.IntN(2) == 0,
		Codec: Codec(rng.IntN(6)), ZstdLevel: ZstdLevel(rng.IntN(3)), NoNeedles: rng.IntN(8) == 0,
	}
}

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		entries := randomEntries(rng, rng.IntN(2000))
		data := write(t, randomOptions(rng), entries)
		if _, err := Verify(t.Context(), &memory{data: data}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		r := open(t, data)
		got := selectRows(t, r, &model.Request{Range: allTime, Columns: allColumns})
		if diff := cmp.Diff(unique(sorted(entries)), got); diff != "" {
			t.Fatalf("seed %d: rows (-want +got):\n%s", seed, diff)
		}
	}
}
