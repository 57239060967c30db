package pipeline

import (
	"encoding/binary"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
)

// Labels are the labels of the row that was processed last. They are a view of the
// Pipeline's state: valid until the next call of Process. What its methods return stays
// valid.
type Labels struct{ r *row }

// Set is a label set that rows share.
type Set struct {
	// Labels are sorted by name; values may be empty.
	Labels labels.Labels
	// Hash is Labels.Hash().
	Hash uint64
	// Slot is 0 in a new set and belongs to the caller, who may remember what it keeps
	// for the set. A set that was evicted from the cache comes back as a new one.
	Slot int32

	stream, metadata, parsed labels.Labels
	categorized              bool
}

// Get returns a label of the row, of whatever category. The value is valid until the next
// call of Process.
func (l *Labels) Get(name string) (string, bool) {
	r := l.r
	switch {
	case name == errorLabel && r.err != "":
		return r.err, true
	case name == errorDetailsLabel && r.errDetails != "":
		return r.errDetails, true
	}
	if sym, ok := r.sh.byName[name]; ok {
		return r.get(sym)
	}
	return "", false
}

// Err returns the value of __error__ that a stage has set, "" when all went well.
func (l *Labels) Err() string { return l.r.err }

// ErrDetails returns the text that goes with Err.
func (l *Labels) ErrDetails() string { return l.r.errDetails }

// Value is the unwrapped value of the row; 0 when the unwrapping failed, which Err tells.
func (l *Labels) Value() float64 { return l.r.value }

// Labels returns the merged label set, as Set does.
func (l *Labels) Labels() labels.Labels { return l.Set().Labels }

// Hash returns the hash of the merged label set.
func (l *Labels) Hash() uint64 { return l.Set().Hash }

// Stream returns the stream labels that the pipeline has left as they are.
func (l *Labels) Stream() labels.Labels { return l.categorized().stream }

// Metadata returns the structured metadata among the row's labels.
func (l *Labels) Metadata() labels.Labels { return l.categorized().metadata }

// Parsed returns the labels that stages have set, errors among them.
func (l *Labels) Parsed() labels.Labels { return l.categorized().parsed }

// Set returns the row's labels as one set, without grouping. Rows with equal labels in
// equal categories get the same *Set as long as it is in the cache.
func (l *Labels) Set() *Set {
	r := l.r
	if r.unchanged() {
		if r.s.set == nil {
			r.s.set = &Set{Labels: r.s.base, Hash: r.s.base.Hash()}
		}
		return r.s.set
	}
	c := &r.p.sets
	c.key = r.appendKey(append(c.key[:0], 'f'))
	if s, ok := c.byKey[string(c.key)]; ok {
		return s
	}
	c.scratch = r.appendLabels(c.scratch[:0])
	s := &Set{Labels: c.build()}
	s.Hash = s.Labels.Hash()
	c.put(s)
	return s
}

// Group returns the row's labels by the grouping in Options.Sample. Rows of equal result
// get the same *Set as long as it is in the cache. A row with an error keeps all its
// labels, whatever the grouping: __error__ is among them, and unless __preserve_error__ is
// there too, the query asked for no errors and should fail.
func (l *Labels) Group() *Set {
	r := l.r
	g := &r.p.group
	switch {
	case r.err != "":
		return l.Set()
	case g.noLabels:
		return r.p.sets.empty
	case !r.changed:
		return r.s.grouped()
	case len(g.names) == 0:
		return l.Set()
	}
	c := &r.p.sets
	if g.without {
		c.key = r.appendKey(append(c.key[:0], 'w'))
	} else {
		c.key = append(c.key[:0], 'b')
		for _, slot := range g.slots {
			v, ok := r.groupValue(slot)
			c.key = appendValue(c.key, v, ok)
		}
	}
	if s, ok := c.byKey[string(c.key)]; ok {
		return s
	}
	return c.canonical(r.appendGroup(c.scratch[:0]))
}

// unchanged reports whether the row has just its stream's labels.
func (r *row) unchanged() bool { return !r.changed && r.err == "" }

// appendKey appends an identification of the row's labels and their categories.
func (r *row) appendKey(b []byte) []byte {
	b = append(b, r.s.hdr[:]...)
	for _, sym := range r.touched {
		switch {
		case sym.cat != catNone:
			b = append(b, byte(sym.cat))
			b = binary.LittleEndian.AppendUint32(b, sym.id)
			b = appendValue(b, sym.value, true)
		case sym.deleted && sym.inBase:
			b = append(b, 0xff)
			b = binary.LittleEndian.AppendUint32(b, sym.id)
		}
	}
	b = append(b, 0xfe)
	b = appendValue(b, r.err, true)
	return append(b, r.errDetails...)
}

func appendValue(b []byte, v string, ok bool) []byte {
	if !ok {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(v))+1)
	return append(b, v...)
}

// appendLabels appends all labels of the row, unsorted.
func (r *row) appendLabels(out []labels.Label) []labels.Label {
	i := 0
	r.s.base.Range(func(l labels.Label) {
		sym := r.sh.base[i]
		i++
		if sym.gen != r.gen || (sym.cat == catNone && !sym.deleted) {
			out = append(out, l)
		}
	})
	for _, sym := range r.touched {
		if sym.cat != catNone && !(sym.name == errorLabel && r.err != "") {
			out = append(out, labels.Label{Name: sym.name, Value: sym.value})
		}
	}
	return r.appendErrors(out)
}

func (r *row) appendErrors(out []labels.Label) []labels.Label {
	if r.err != "" {
		out = append(out, labels.Label{Name: errorLabel, Value: r.err})
	}
	if r.errDetails != "" {
		out = append(out, labels.Label{Name: errorDetailsLabel, Value: r.errDetails})
	}
	return out
}

// appendGroup appends the labels that the grouping leaves, unsorted.
func (r *row) appendGroup(out []labels.Label) []labels.Label {
	g := &r.p.group
	if !g.without {
		for i, slot := range g.slots {
			if v, ok := r.groupValue(slot); ok {
				out = append(out, labels.Label{Name: g.names[i], Value: v})
			}
		}
		return out
	}
	i := 0
	r.s.base.Range(func(l labels.Label) {
		sym := r.sh.base[i]
		i++
		if (sym.gen != r.gen || (sym.cat == catNone && !sym.deleted)) && !slices.Contains(g.names, l.Name) {
			out = append(out, l)
		}
	})
	for _, sym := range r.touched {
		if sym.cat != catNone && !slices.Contains(g.names, sym.name) {
			out = append(out, labels.Label{Name: sym.name, Value: sym.value})
		}
	}
	return out
}

// groupValue returns a label's value for a by clause. A label that was dropped counts as
// missing there even when it was set again afterwards.
func (r *row) groupValue(slot int) (string, bool) {
	if sym := r.sh.slots[slot]; sym.gen == r.gen && sym.deleted {
		return "", false
	}
	return r.getSlot(slot)
}

// grouped returns the grouped labels of rows that have just the stream's labels.
func (s *StreamPipeline) grouped() *Set {
	if s.gset == nil {
		g := &s.p.group
		c := &s.p.sets
		c.scratch = c.scratch[:0]
		s.base.Range(func(l labels.Label) {
			if len(g.names) == 0 || slices.Contains(g.names, l.Name) != g.without {
				c.scratch = append(c.scratch, l)
			}
		})
		c.key = c.key[:0]
		s.gset = c.canonical(c.scratch)
	}
	return s.gset
}

// categorized returns the row's set with its labels divided by category. Most sets are
// never asked for it.
func (l *Labels) categorized() *Set {
	s := l.Set()
	if !s.categorized {
		l.categorize(s)
	}
	return s
}

func (l *Labels) categorize(s *Set) {
	r := l.r
	s.categorized = true
	if r.unchanged() {
		s.stream = r.s.base
		return
	}
	var stream, meta, parsed []labels.Label
	i := 0
	r.s.base.Range(func(lb labels.Label) {
		sym := r.sh.base[i]
		i++
		if sym.gen != r.gen || (sym.cat == catNone && !sym.deleted) {
			stream = append(stream, lb)
		}
	})
	for _, sym := range r.touched {
		lb := labels.Label{Name: sym.name, Value: sym.value}
		switch {
		case sym.cat == catMeta:
			meta = append(meta, lb)
		case sym.cat == catParsed && !(sym.name == errorLabel && r.err != ""):
			parsed = append(parsed, lb)
		}
	}
	s.stream, s.metadata = labels.New(stream...), labels.New(meta...)
	s.parsed = labels.New(r.appendErrors(parsed)...)
}

// grouping is a by or without clause, as rows need it.
type grouping struct {
	names    []string
	slots    []int
	without  bool
	noLabels bool
}

// newGrouping settles what Labels.Group does. Without a by clause, the unwrapped label
// goes.
func newGrouping(s *Sample) grouping {
	if s == nil {
		return grouping{}
	}
	g := grouping{noLabels: s.NoLabels}
	if s.Grouping != nil {
		g.names, g.without = slices.Clone(s.Grouping.Labels), s.Grouping.Without
		g.noLabels = g.noLabels || (!g.without && len(g.names) == 0)
	}
	if s.Unwrap != nil && (len(g.names) == 0 || g.without) {
		g.without = true
		g.names = append(g.names, s.Unwrap.Label)
	}
	slices.Sort(g.names)
	g.names = slices.Compact(g.names)
	return g
}

// setCache keeps label sets by what they were made of and by content.
type setCache struct {
	byKey    map[string]*Set
	byLabels map[string]*Set
	empty    *Set
	size     int // bytes of keys
	key      []byte
	scratch  []labels.Label
	builder  labels.ScratchBuilder
	streams  uint32
}

// maxSetBytes bounds the keys of a Pipeline's cached label sets; the sets themselves
// take about as much again. When it is reached the cache starts afresh.
const maxSetBytes = 16 << 20

func (c *setCache) init() {
	c.byKey, c.byLabels = map[string]*Set{}, map[string]*Set{}
	c.empty = &Set{Labels: labels.EmptyLabels(), Hash: labels.EmptyLabels().Hash()}
	c.builder = labels.NewScratchBuilder(16)
}

func (c *setCache) nextStream() uint32 {
	c.streams++
	return c.streams
}

// build sorts and copies the scratch into a label set.
func (c *setCache) build() labels.Labels {
	c.builder.Reset()
	for _, l := range c.scratch {
		c.builder.Add(l.Name, l.Value)
	}
	c.builder.Sort()
	return c.builder.Labels()
}

// put stores a set under the current key.
func (c *setCache) put(s *Set) {
	if c.size += len(c.key) + setOverhead; c.size > maxSetBytes {
		clear(c.byKey)
		clear(c.byLabels)
		c.size = len(c.key) + setOverhead
	}
	c.byKey[string(c.key)] = s
}

const setOverhead = 256 // bytes of a set and two map entries, roughly

// canonical stores the set of the given labels under the current key, and returns the
// set that other keys with the same labels have.
func (c *setCache) canonical(lbs []labels.Label) *Set {
	c.scratch = lbs
	built := c.build()
	if built.IsEmpty() {
		return c.empty
	}
	id := built.Bytes(nil)
	s, ok := c.byLabels[string(id)]
	if !ok {
		s = &Set{Labels: built, Hash: built.Hash()}
	}
	c.put(s)
	c.byLabels[string(id)] = s
	return s
}
