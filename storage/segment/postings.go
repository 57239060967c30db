package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

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

// postingsBuilder collects the streams of each value.
type postingsBuilder map[string]map[string][]uint32

func buildPostings(streams []streamEntry) postingsBuilder {
	b := make(postingsBuilder)
	for i := range streams {
		streams[i].labels.Range(func(l labels.Label) {
			values := b[l.Name]
			if values == nil {
				values = make(map[string][]uint32)
				b[l.Name] = values
			}
			values[l.Value] = append(values[l.Value], uint32(i))
		})
	}
	return b
}

func (b postingsBuilder) names() []string {
	names := make([]string, 0, len(b))
	for name := range b {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (b postingsBuilder) append(dst []byte, name string) []byte {
	lists := b[name]
	values := make([]string, 0, len(lists))
	for v := range lists {
		values = append(values, v)
	}
	slices.Sort(values)
	dst = binary.AppendUvarint(dst, uint64(len(values)))
	dst = appendStrings(dst, values)
	for _, v := range values {
		dst = binary.AppendUvarint(dst, uint64(len(lists[v])))
	}
	for _, v := range values {
		before := uint32(0)
		for _, id := range lists[v] {
			dst = binary.AppendUvarint(dst, uint64(id-before))
			before = id
		}
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
