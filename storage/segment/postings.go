package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/prometheus/prometheus/model/labels"
)

// Postings: for each label name one frame that says which streams have which value. A
// query reads the names of its matchers only. Raw bytes of a frame:
//
//	values    uvarint     distinct values, then their lengths and bytes, sorted
//	counts                a uvarint for each value: its streams
//	lists                 for each value the numbers of its streams, as uvarints: the first, then
//	                      differences
//
// The lists are plain because they compress to next to nothing; in memory they become
// roaring bitmaps.

// nameEntry says where a name's postings are; it stands in the block index.
type nameEntry struct {
	name   string
	offset int64
	length int
}

// posting says that a stream has a value, the number of a word.
type posting struct{ value, stream uint32 }

// postingsBuilder has the postings of all names, end to end, and makes the frame of one.
type postingsBuilder struct {
	table    *labelTable
	postings []posting
	ends     []uint32 // where the postings of each word, as a name, end
	counts   []uint32 // of each word as a value; all zero between frames

	values, streams []uint32 // of the frame being made
}

func buildPostings(t *labelTable) *postingsBuilder {
	b := &postingsBuilder{table: t, postings: make([]posting, len(t.pairs)/2), ends: make([]uint32, len(t.words)), counts: make([]uint32, len(t.words))}
	for i := 0; i < len(t.pairs); i += 2 {
		b.ends[t.pairs[i]]++
	}
	at := uint32(0)
	for word, n := range b.ends {
		b.ends[word] = at
		at += n
	}
	from := uint32(0)
	for stream, end := range t.ends {
		for ; from < end; from += 2 {
			next := &b.ends[t.pairs[from]]
			b.postings[*next] = posting{t.pairs[from+1], uint32(stream)}
			*next++
		}
	}
	return b
}

// of returns the postings of a word, none when it is no name.
func (b *postingsBuilder) of(word uint32) []posting {
	start := uint32(0)
	if word > 0 {
		start = b.ends[word-1]
	}
	return b.postings[start:b.ends[word]]
}

// names returns the words that are names, sorted.
func (b *postingsBuilder) names() []uint32 {
	var names []uint32
	for word := range b.ends {
		if len(b.of(uint32(word))) > 0 {
			names = append(names, uint32(word))
		}
	}
	b.sort(names)
	return names
}

func (b *postingsBuilder) sort(words []uint32) {
	slices.SortFunc(words, func(x, y uint32) int { return strings.Compare(b.table.words[x], b.table.words[y]) })
}

// append appends the raw bytes of a name's frame.
func (b *postingsBuilder) append(dst []byte, name uint32) []byte {
	list := b.of(name)
	values := b.values[:0]
	for _, p := range list {
		if b.counts[p.value]++; b.counts[p.value] == 1 {
			values = append(values, p.value)
		}
	}
	b.values = values
	b.sort(values)
	dst = binary.AppendUvarint(dst, uint64(len(values)))
	for _, v := range values {
		dst = binary.AppendUvarint(dst, uint64(len(b.table.words[v])))
	}
	for _, v := range values {
		dst = append(dst, b.table.words[v]...)
	}
	// From here on a value's count is where its next stream goes.
	at := uint32(0)
	for _, v := range values {
		n := b.counts[v]
		dst = binary.AppendUvarint(dst, uint64(n))
		b.counts[v] = at
		at += n
	}
	b.streams = slices.Grow(b.streams[:0], len(list))
	streams := b.streams[:len(list)]
	for _, p := range list {
		streams[b.counts[p.value]] = p.stream
		b.counts[p.value]++
	}
	start := uint32(0)
	for _, v := range values {
		before := uint32(0)
		for _, id := range streams[start:b.counts[v]] {
			dst = binary.AppendUvarint(dst, uint64(id-before))
			before = id
		}
		start, b.counts[v] = b.counts[v], 0
	}
	return dst
}

// postings are one name's decoded postings.
type postings struct {
	values []string
	ids    []uint32 // of all values
	ends   []uint32 // where each value's streams end in ids
}

func decodePostings(raw []byte, streams int) (*postings, error) {
	f := fields{b: raw}
	p := &postings{}
	p.values = f.strings(f.count(1, "values"), "value")
	p.ends = make([]uint32, len(p.values))
	total := uint64(0)
	for i := range p.ends {
		total += f.upTo(uint64(streams), "count")
		p.ends[i] = uint32(total)
	}
	// A stream has one value for a name.
	if f.err == nil && (total > uint64(streams) || total > uint64(len(f.b))) {
		return nil, fmt.Errorf("%d postings for %d streams", total, streams)
	}
	if f.err != nil {
		return nil, f.err
	}
	p.ids = make([]uint32, 0, total)
	start := uint32(0)
	for _, end := range p.ends {
		id := uint64(0)
		for k := start; k < end; k++ {
			step := f.upTo(uint64(streams), "stream")
			if k > start && step == 0 && f.err == nil {
				return nil, errors.New("streams out of order")
			}
			if id += step; id >= uint64(streams) && f.err == nil {
				return nil, fmt.Errorf("stream %d of %d", id, streams)
			}
			p.ids = append(p.ids, uint32(id))
		}
		start = end
	}
	return p, f.done()
}

func (p *postings) list(i int) []uint32 {
	start := uint32(0)
	if i > 0 {
		start = p.ends[i-1]
	}
	return p.ids[start:p.ends[i]]
}

// match returns the streams whose value the matcher accepts. A nil p stands for a name
// that no stream has.
func (p *postings) match(m *labels.Matcher, streams int) *roaring.Bitmap {
	// A stream without the name has the value "". When that is accepted it is easier to
	// say which streams are not.
	absent := m.Matches("")
	found := roaring.New()
	if p != nil {
		p.collect(found, m, !absent)
	}
	if absent {
		found.Flip(0, uint64(streams))
	}
	return found
}

// collect adds the streams of the values for which the matcher's answer is want.
func (p *postings) collect(found *roaring.Bitmap, m *labels.Matcher, want bool) {
	if m.Type == labels.MatchEqual || m.Type == labels.MatchNotEqual {
		if want == (m.Type == labels.MatchEqual) {
			if i := sort.SearchStrings(p.values, m.Value); i < len(p.values) && p.values[i] == m.Value {
				found.AddMany(p.list(i))
			}
			return
		}
	}
	for i, v := range p.values {
		if m.Matches(v) == want {
			found.AddMany(p.list(i))
		}
	}
}
