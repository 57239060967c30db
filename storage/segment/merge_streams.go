package segment

import (
	"cmp"
	"context"
	"encoding/binary"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// A merge goes through the streams of all inputs once, in order. With a hundred thousand
// streams in each, their decoded tables would be most of a merge's memory; so each table is
// packed again, to some ten bytes a stream, and names and values are kept once for all inputs.

// vocabulary has the names and values of all inputs.
type vocabulary struct {
	numbers map[string]uint32
	texts   []string
}

func (w *vocabulary) number(text string) uint32 {
	n, ok := w.numbers[text]
	if !ok {
		text = strings.Clone(text) // else the whole table stays
		n = uint32(len(w.texts))
		w.numbers[text], w.texts = n, append(w.texts, text)
	}
	return n
}

// streamWalk goes through the streams of a segment.
type streamWalk struct {
	words  *vocabulary
	packed []byte // for each stream to come: pairs shared with the one before, further pairs, those, rows
	left   int    // streams to come
	// first and last are the times of the streams to come; nil when nobody asks.
	first, last []int64

	// The current stream: its rows are [row, end) of the segment.
	pairs    []uint32
	row, end int64
}

// walkStreams returns the streams of a segment, standing before the first one.
func (r *Reader) walkStreams(ctx context.Context, w *vocabulary, times bool) (*streamWalk, error) {
	t, err := r.readStreams(ctx)
	if err != nil {
		return nil, err
	}
	numbers := make([]uint32, len(t.symbols))
	for i, s := range t.symbols {
		numbers[i] = w.number(s)
	}
	walk := &streamWalk{words: w, left: t.len()}
	if times {
		walk.first, walk.last = t.first, t.last
	}
	var before []uint32
	start := uint32(0)
	for i, end := range t.ends {
		pairs := t.pairs[start:end]
		shared := 0
		for shared < len(pairs) && shared < len(before) && pairs[shared] == before[shared] && pairs[shared+1] == before[shared+1] {
			shared += 2
		}
		walk.packed = binary.AppendUvarint(walk.packed, uint64(shared))
		walk.packed = binary.AppendUvarint(walk.packed, uint64(len(pairs)-shared))
		for _, symbol := range pairs[shared:] {
			walk.packed = binary.AppendUvarint(walk.packed, uint64(numbers[symbol]))
		}
		walk.packed = binary.AppendUvarint(walk.packed, uint64(t.starts[i+1]-t.starts[i]))
		before, start = pairs, end
	}
	return walk, nil
}

// next moves to the next stream; false after the last one.
func (w *streamWalk) next() bool {
	if w.left == 0 {
		return false
	}
	w.left--
	if len(w.first) > 0 && w.end > 0 {
		w.first, w.last = w.first[1:], w.last[1:]
	}
	number := func() uint64 {
		v, n := binary.Uvarint(w.packed)
		w.packed = w.packed[n:]
		return v
	}
	w.pairs = w.pairs[:number()]
	for range number() {
		w.pairs = append(w.pairs, uint32(number()))
	}
	w.row, w.end = w.end, w.end+int64(number())
	return true
}

// compare is labels.Compare of the current streams of two walks over one vocabulary.
func (w *streamWalk) compare(o *streamWalk) int {
	for i := range min(len(w.pairs), len(o.pairs)) {
		if w.pairs[i] != o.pairs[i] {
			return strings.Compare(w.words.texts[w.pairs[i]], w.words.texts[o.pairs[i]])
		}
	}
	return cmp.Compare(len(w.pairs), len(o.pairs))
}

// appendLabels adds the labels of the current stream to b.
func (w *streamWalk) appendLabels(b *labels.ScratchBuilder) {
	for i := 0; i < len(w.pairs); i += 2 {
		b.Add(w.words.texts[w.pairs[i]], w.words.texts[w.pairs[i+1]])
	}
}
