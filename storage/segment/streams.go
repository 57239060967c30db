package segment

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
)

// The stream table: the labels of every stream, and how many rows and line bytes it has
// in which span of time. Streams are numbered from 0 in the order of their rows, which
// is labels.Compare. Raw bytes of the section:
//
//	symbols   uvarint              distinct names and values, then their lengths and bytes
//	pairs     uvarint              label pairs of all streams together
//	streams                        for each: uvarint pairs shared with the stream before (from
//	                               the first on), uvarint further pairs, then those, each a name
//	                               symbol and a value symbol
//	rows                           a uvarint for each stream
//	bytes                          a uvarint for each stream
//	first                          a uvarint for each stream: first time minus the segment's
//	span                           a uvarint for each stream: last time minus first time
//
// The number of streams is in the footer.

// streamEntry is what a writer keeps of a stream.
type streamEntry struct {
	rows, bytes int64
	first, last int64
}

// labelTable has the labels of a writer's streams in numbers, from which the stream table and
// the postings are made. Streams are added as they are written, when their labels are in the
// processor's cache, and need not be kept.
type labelTable struct {
	words []string // distinct names and values
	pairs []uint32 // the word of a name and of its value, of all streams
	ends  []uint32 // where each stream's pairs end in pairs

	numbers map[string]uint32 // of words
	start   int               // where the last stream's pairs start
	streams int               // how many are expected
	// own has words copied, for streams whose labels nobody else keeps: a word alone would keep
	// all labels of its stream.
	own bool
}

func newLabelTable(streams int) labelTable {
	return labelTable{numbers: make(map[string]uint32, streams), streams: streams, ends: make([]uint32, 0, streams)}
}

// add adds a stream, and numbers names and values as they come. A hundred thousand streams have
// a million labels, most of which the stream before has too, so those are not looked up.
func (t *labelTable) add(ls labels.Labels) {
	if len(t.ends) == 0 {
		t.pairs = make([]uint32, 0, 2*ls.Len()*t.streams)
	}
	from, before := len(t.pairs), t.start
	ls.Range(func(l labels.Label) {
		known := before < from && t.words[t.pairs[before]] == l.Name
		switch {
		case known && t.words[t.pairs[before+1]] == l.Value:
			t.pairs = append(t.pairs, t.pairs[before], t.pairs[before+1])
		case known:
			t.pairs = append(t.pairs, t.pairs[before], t.number(l.Value))
		default:
			t.pairs = append(t.pairs, t.number(l.Name), t.number(l.Value))
		}
		before += 2
	})
	t.ends, t.start = append(t.ends, uint32(len(t.pairs))), from
}

func (t *labelTable) number(s string) uint32 {
	n, ok := t.numbers[s]
	if !ok {
		if t.own {
			s = strings.Clone(s)
		}
		n = uint32(len(t.words))
		t.numbers[s] = n
		t.words = append(t.words, s)
	}
	return n
}

func appendStreams(dst []byte, streams []streamEntry, t *labelTable, minTime int64) []byte {
	sets := make([]byte, 0, 8*len(streams))
	var before []uint32
	start := uint32(0)
	for _, end := range t.ends {
		pairs := t.pairs[start:end]
		shared := 0
		for shared < len(pairs) && shared < len(before) && pairs[shared] == before[shared] && pairs[shared+1] == before[shared+1] {
			shared += 2
		}
		sets = binary.AppendUvarint(sets, uint64(shared/2))
		sets = binary.AppendUvarint(sets, uint64(len(pairs)-shared)/2)
		for _, n := range pairs[shared:] {
			sets = binary.AppendUvarint(sets, uint64(n))
		}
		before, start = pairs, end
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.words)))
	dst = appendStrings(dst, t.words)
	dst = binary.AppendUvarint(dst, uint64(len(t.pairs)/2))
	dst = append(dst, sets...)
	for i := range streams {
		dst = binary.AppendUvarint(dst, uint64(streams[i].rows))
	}
	for i := range streams {
		dst = binary.AppendUvarint(dst, uint64(streams[i].bytes))
	}
	for i := range streams {
		dst = binary.AppendUvarint(dst, uint64(streams[i].first)-uint64(minTime))
	}
	for i := range streams {
		dst = binary.AppendUvarint(dst, uint64(streams[i].last)-uint64(streams[i].first))
	}
	return dst
}

// streamTable is the decoded stream table. Labels are put together when first asked for.
type streamTable struct {
	symbols     []string
	pairs       []uint32 // name, value, name, value … of all streams
	ends        []uint32 // where each stream's pairs end in pairs
	starts      []int64  // first row of each stream in the segment, and the number of rows
	bytes       []int64
	first, last []int64
	labels      []atomic.Pointer[streamLabels]
	size        int64 // decoded bytes
}

type streamLabels struct {
	labels labels.Labels
	hash   uint64
}

func decodeStreams(raw []byte, n int, minTime int64) (*streamTable, error) {
	f := fields{b: raw}
	t := &streamTable{size: int64(len(raw))}
	// A stream takes six bytes at least.
	if n > len(raw)/6 {
		return nil, fmt.Errorf("%d streams in %d bytes", n, len(raw))
	}
	t.symbols = f.strings(f.count(1, "symbols"), "symbol")
	if err := t.decodePairs(&f, n); err != nil {
		return nil, err
	}
	t.starts = make([]int64, n+1)
	for i := range n {
		rows := int64(f.upTo(1<<40, "rows"))
		if rows == 0 && f.err == nil {
			return nil, fmt.Errorf("stream %d has no rows", i)
		}
		t.starts[i+1] = t.starts[i] + rows
	}
	t.bytes, t.first, t.last = make([]int64, n), make([]int64, n), make([]int64, n)
	for i := range n {
		t.bytes[i] = int64(f.upTo(1<<50, "bytes"))
	}
	for i := range n {
		t.first[i] = minTime + int64(f.uvarint())
	}
	for i := range n {
		t.last[i] = t.first[i] + int64(f.uvarint())
	}
	if err := f.done(); err != nil {
		return nil, err
	}
	t.labels = make([]atomic.Pointer[streamLabels], n)
	return t, nil
}

func (t *streamTable) decodePairs(f *fields, n int) error {
	// Shared pairs take no bytes, so the total is bounded by what a stream may have.
	total := f.upTo(uint64(n)*maxLabels, "label pairs")
	if f.err == nil && total > uint64(len(f.b))*maxLabels {
		return fmt.Errorf("%d label pairs in %d bytes", total, len(f.b))
	}
	t.pairs = make([]uint32, 0, min(2*total, 1<<20))
	t.ends = make([]uint32, n)
	most := uint64(len(t.symbols)) - 1
	start := 0 // of the stream before
	for i := range n {
		had := len(t.pairs) - start
		shared := int(f.upTo(uint64(had/2), "shared pairs"))
		further := f.count(2, "pairs")
		if f.err != nil {
			return f.err
		}
		if uint64(len(t.pairs)/2+shared+further) > total {
			return fmt.Errorf("stream %d: more than %d label pairs", i, total)
		}
		from := start
		start = len(t.pairs)
		t.pairs = append(t.pairs, t.pairs[from:from+2*shared]...)
		for range 2 * further {
			t.pairs = append(t.pairs, uint32(f.upTo(most, "symbol")))
		}
		t.ends[i] = uint32(len(t.pairs))
	}
	return f.err
}

// maxLabels is more than any limit lets a stream have.
const maxLabels = 4096

func (t *streamTable) len() int    { return len(t.ends) }
func (t *streamTable) rows() int64 { return t.starts[len(t.starts)-1] }

// get returns a stream's labels and their hash.
func (t *streamTable) get(i int) *streamLabels {
	if l := t.labels[i].Load(); l != nil {
		return l
	}
	start := uint32(0)
	if i > 0 {
		start = t.ends[i-1]
	}
	pairs := t.pairs[start:t.ends[i]]
	b := labels.NewScratchBuilder(len(pairs) / 2)
	for k := 0; k < len(pairs); k += 2 {
		b.Add(t.symbols[pairs[k]], t.symbols[pairs[k+1]])
	}
	ls := b.Labels()
	l := &streamLabels{labels: ls, hash: ls.Hash()}
	// Two goroutines may get here; either result is as good.
	t.labels[i].Store(l)
	return l
}

// at returns the stream of a row of the segment.
func (t *streamTable) at(row int64) int {
	i, ok := slices.BinarySearch(t.starts, row)
	if !ok {
		i--
	}
	return i
}
