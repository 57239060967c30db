package remote

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

func asLost(err error, to **Lost) bool { return errors.As(err, to) }

// waitFor waits for what another goroutine is about to do.
func waitFor(t *testing.T, done func() bool, what string) {
	t.Helper()
	for range 1000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(what)
}

func seeds() [][]byte {
	req := &model.Request{
		Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "a", "b.*")}, Range: model.TimeRange{From: -5, Through: 5},
		Needles: []model.Needles{{{Text: "x", Fold: true}, {Name: "n", Text: "y"}}}, Columns: model.Columns{Lines: true, Metadata: []string{"m"}},
	}
	head := &blockHead{name: "b", rows: 3, first: -1, last: 9, raw: 12, runs: []model.Run{{End: 1}, {Start: 1, End: 3}}, table: []int{0, 1}, names: []string{"m"}}
	series := model.Series{Labels: labels.FromStrings("a", "b"), Entries: 1, Bytes: 2, Blocks: 3, First: -4, Last: 5}
	batch := model.TailBatch{Streams: []model.Stream{{Labels: series.Labels, Entries: []model.Entry{{Timestamp: 7, Line: []byte("l"), Metadata: series.Labels}}}}, Dropped: []model.Dropped{{Timestamp: 1, Labels: series.Labels}}, DroppedMore: 2}
	return [][]byte{
		appendSelectRequest(nil, "t", req, Zstd),
		(&fetch{block: 1, columns: wantTimes, metadata: []string{"m"}, dead: model.NewBitmap(70), released: []int{3}}).append(nil),
		head.append(nil), rpc.AppendString(nil, 1, appendOneSeries(nil, &series)), appendBatch(nil, &batch),
	}
}

// FuzzMessages gives anything to the decoders of messages: they must not panic, nor
// allocate for what is not there, and what they accept means the same when it is encoded
// again.
func FuzzMessages(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	table := []labelSet{{labels.FromStrings("a", "b"), 1}, {labels.FromStrings("c", "d"), 2}}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if req, err := readSelectRequest(msg); err == nil {
			again := appendSelectRequest(nil, req.tenant, &req.Request, req.compression)
			if _, err := readSelectRequest(again); err != nil {
				t.Fatalf("encoded again: %v", err)
			}
		}
		if fe, err := readFetch(msg); err == nil {
			if _, err := readFetch(fe.append(nil)); err != nil {
				t.Fatalf("encoded again: %v", err)
			}
		}
		if head, err := readBlockHead(msg, table); err == nil && head.rows > 0 {
			if n := len(head.runs); head.runs[n-1].End != head.rows {
				t.Fatal("runs do not cover the block")
			}
		}
		_, _ = readSeries(msg, nil, &model.Stats{})
		_, _ = readBatch(msg)
		_, _ = readPart(msg)
	})
}

// FuzzColumns gives anything to the decoders of columns.
func FuzzColumns(f *testing.F) {
	times, kept := []int64{5, 7, 7, 100}, []span{{0, 2}, {3, 4}}
	offsets, lines := []uint32{0, 2, 2, 5, 6}, []byte("abcdef")
	column := model.Column{Values: []string{"", "x", "y"}, Codes: []uint32{1, 0, 2, 1}}
	f.Add(uint16(3), appendTimes(nil, times, kept, 5))
	f.Add(uint16(3), appendLengths(nil, offsets, kept))
	f.Add(uint16(3), appendLines(nil, lines, offsets, kept, model.Bitmap{5}))
	f.Add(uint16(3), appendMetadata(nil, column, kept))
	f.Add(uint16(3), appendHashes(nil, []uint64{1, 2, 3, 4}, kept))
	f.Fuzz(func(_ *testing.T, rows uint16, raw []byte) {
		n := int(rows)
		_, _ = readTimes(raw, n, 0)
		_, _ = readHashes(raw, n)
		_, _ = readMetadata(raw, n)
		if offsets, err := readLengths(raw, n, 1<<20); err == nil {
			_, _ = readLines(raw, offsets)
		}
		for c := None; c <= Zstd; c++ {
			_, _ = unpackColumn(raw, c, n)
		}
	})
}

var sameLabels = []cmp.Option{cmp.Comparer(labels.Equal), cmpopts.EquateEmpty()}
