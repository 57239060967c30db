package pipeline

import (
	"strings"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
)

// The labels with a meaning of their own.
const (
	errorLabel         = "__error__"
	errorDetailsLabel  = "__error_details__"
	preserveErrorLabel = "__preserve_error__"
	duplicateSuffix    = "_extracted"
)

// The values of __error__ that stages set.
const (
	errJSON             = "JSONParserErr"
	errLogfmt           = "LogfmtParserErr"
	errLabelFilter      = "LabelFilterErr"
	errTemplateFormat   = "TemplateFormatErr"
	errSampleExtraction = "SampleExtractionErr"
)

// shape is what streams with the same label names have in common: the symbols of all
// names that occur in their rows. The number of shapes is small whatever the number of
// streams.
type shape struct {
	p      *Pipeline
	base   []*symbol // the stream labels' symbols, sorted by name
	byName map[string]*symbol
	slots  []*symbol  // the names that stages refer to, by slot
	meta   []metaName // the metadata names of the latest row, by position
	roots  []*keyNode // what parsers know of the keys they meet, by parser
	size   int        // bytes spent on names since they were forgotten last
}

// maxShapeBytes bounds the memory that a shape spends on names. Lines whose keys are
// identifiers would otherwise fill it; past the bound names are forgotten before the
// next row begins.
const maxShapeBytes = 8 << 20

// nameOverhead is what remembering a name costs besides its bytes, roughly.
const nameOverhead = 256

// category says where a row's label came from.
type category uint8

const (
	catNone category = iota // not set by the row; the stream label counts, if any
	catMeta
	catParsed
)

// symbol is a label name inside a shape, and its state in the current row. The state is
// valid only while gen is the row's number.
type symbol struct {
	name     string
	id       uint32
	slot     int  // in the shape's slots, or -1
	inBase   bool // the stream has this label
	want     bool // parsers should extract it
	required bool // the query asks for it by name
	dup      *symbol
	filter   labelFilter // applied as soon as a parser extracts the label

	gen       uint64
	cat       category
	extracted bool // a parser or format has set it, though it may have been dropped since
	deleted   bool
	value     string // borrowed from the line, the arena or the metadata
}

type metaName struct {
	name string
	sym  *symbol // nil for the error labels
	err  uint8
}

// shapeOf returns the shape for a stream's label names.
func (p *Pipeline) shapeOf(stream labels.Labels) *shape {
	var b strings.Builder
	stream.Range(func(l labels.Label) {
		b.WriteString(l.Name)
		b.WriteByte(0xff)
	})
	if sh, ok := p.shapes[b.String()]; ok {
		return sh
	}
	sh := &shape{p: p, byName: map[string]*symbol{}}
	stream.Range(func(l labels.Label) {
		sym := sh.add(l.Name)
		sym.inBase = true
		sh.base = append(sh.base, sym)
	})
	for i, name := range p.names {
		sym := sh.symbol(name)
		sym.slot = i
		sh.slots = append(sh.slots, sym)
	}
	p.shapes[b.String()] = sh
	return sh
}

// symbol returns the symbol for a name.
func (sh *shape) symbol(name string) *symbol {
	if sym, ok := sh.byName[name]; ok {
		return sym
	}
	return sh.add(strings.Clone(name))
}

func (sh *shape) add(name string) *symbol {
	h := &sh.p.hints
	sym := &symbol{name: name, id: sh.p.symbols, slot: -1, required: h.isRequired(name)}
	sh.p.symbols++
	sh.size += len(name) + nameOverhead
	sym.want = len(h.required) == 0 || sym.required
	sym.filter = h.filterFor(name)
	sh.byName[name] = sym
	return sym
}

// forget drops the names that came from lines.
func (sh *shape) forget() {
	clear(sh.byName)
	sh.roots, sh.meta, sh.size = nil, nil, 0
	for _, s := range sh.base {
		s.dup = nil
		sh.byName[s.name] = s
	}
	for _, s := range sh.slots {
		s.dup = nil
		sh.byName[s.name] = s
	}
}

// duplicate returns the symbol that a parser uses when sym's name is taken.
func (sh *shape) duplicate(sym *symbol) *symbol {
	if sym.dup == nil {
		sym.dup = sh.symbol(sym.name + duplicateSuffix)
	}
	return sym.dup
}

// row is the state of the row being processed.
type row struct {
	p   *Pipeline
	s   *StreamPipeline
	sh  *shape
	gen uint64
	ts  int64
	// touched are the symbols whose state belongs to this row, in the order of first use.
	touched    []*symbol
	changed    bool // a label was set or deleted
	nRequired  int  // required labels extracted
	err        string
	errDetails string
	value      float64
	arena      []byte // memory for values that stand nowhere in the line
}

func (r *row) begin(s *StreamPipeline, ts int64) {
	r.s, r.sh, r.ts = s, s.sh, ts
	r.gen++
	r.touched = r.touched[:0]
	r.changed, r.nRequired = false, 0
	r.err, r.errDetails = "", ""
	r.value = 0
	if r.sh.size > maxShapeBytes {
		r.sh.forget()
	}
	if cap(r.arena) > maxArena {
		r.arena = nil
	}
	r.arena = r.arena[:0]
}

// maxArena bounds the scratch memory that is kept from row to row.
const maxArena = 1 << 20

// live makes sym's state that of the current row.
func (r *row) live(sym *symbol) {
	if sym.gen != r.gen {
		sym.gen = r.gen
		sym.cat, sym.extracted, sym.deleted, sym.value = catNone, false, false, ""
		r.touched = append(r.touched, sym)
	}
}

// addMetadata starts the row with its structured metadata.
func (r *row) addMetadata(md []labels.Label) {
	sh := r.sh
	for i := range md {
		if i >= len(sh.meta) || sh.meta[i].name != md[i].Name {
			sh.setMeta(i, md[i].Name)
		}
		m := &sh.meta[i]
		switch {
		case m.sym != nil:
			r.live(m.sym)
			m.sym.cat, m.sym.value = catMeta, md[i].Value
			r.changed = true
		case m.err == 1:
			r.err = md[i].Value
		default:
			r.errDetails = md[i].Value
		}
	}
}

func (sh *shape) setMeta(i int, name string) {
	m := metaName{name: strings.Clone(name)}
	final := name
	if base, ok := sh.byName[name]; ok && base.inBase {
		final += duplicateSuffix
	}
	switch final {
	case errorLabel:
		m.err = 1
	case errorDetailsLabel:
		m.err = 2
	default:
		m.sym = sh.symbol(final)
	}
	sh.meta = append(sh.meta[:i], m)
}

// get returns a label's value as the pipeline sees it now.
func (r *row) get(sym *symbol) (string, bool) {
	if sym.gen == r.gen {
		if sym.cat != catNone {
			return sym.value, true
		}
		if sym.deleted {
			return "", false
		}
	}
	if !sym.inBase {
		return "", false
	}
	v := r.baseValue(sym)
	return v, v != ""
}

func (r *row) baseValue(sym *symbol) string {
	if sym.slot >= 0 {
		return r.s.vals[sym.slot]
	}
	return r.s.base.Get(sym.name)
}

// getSlot returns the value of a label that a stage refers to.
func (r *row) getSlot(slot int) (string, bool) { return r.get(r.sh.slots[slot]) }

// taken reports whether a parser must not use sym's name as it is.
func (r *row) taken(sym *symbol) bool {
	return sym.inBase || (sym.gen == r.gen && sym.cat == catMeta)
}

// target returns the symbol that a parser sets for an extracted name, after collisions.
func (r *row) target(sym *symbol) *symbol {
	if r.taken(sym) {
		return r.sh.duplicate(sym)
	}
	return sym
}

// extracted reports whether the label was already set by a parser or a format.
func (r *row) extracted(sym *symbol) bool { return sym.gen == r.gen && sym.extracted }

// set makes sym a parsed label. The value must stay valid until the row is over.
func (r *row) set(sym *symbol, value string) {
	r.live(sym)
	sym.value = value
	r.changed = true
	if sym.cat == catParsed {
		return
	}
	sym.cat = catParsed
	if !sym.extracted {
		sym.extracted = true
		if sym.required {
			r.nRequired++
		}
	}
}

// del removes a label of whatever category.
func (r *row) del(sym *symbol) {
	r.live(sym)
	sym.cat, sym.deleted = catNone, true
	r.changed = true
}

// setError records a failure of a parser.
func (r *row) setError(kind, details string) {
	r.err = kind
	if details != "" {
		r.errDetails = details
	}
	if r.p.hints.preserveError {
		r.set(r.sh.symbol(preserveErrorLabel), "true")
	}
}

// allRequired reports whether every label that the query names has been extracted.
func (r *row) allRequired() bool {
	return r.nRequired > 0 && r.nRequired == len(r.p.hints.required)
}

// skipParsing reports whether parsers have nothing to do.
func (r *row) skipParsing() bool { return r.p.hints.noLabels || r.allRequired() }

// extract sets a parsed label and applies the filter that waits for it, if any. It
// returns false when the row is to be dropped.
func (r *row) extract(sym *symbol, value string) bool {
	r.set(sym, value)
	return sym.filter == nil || sym.filter.match(r)
}

// appendArena copies parts into the arena and returns them as one string.
func (r *row) appendArena(b []byte) string {
	n := len(r.arena)
	r.arena = append(r.arena, b...)
	return view(r.arena[n:])
}

// clean replaces invalid UTF-8 and U+FFFD by spaces.
func (r *row) clean(v []byte) string {
	if isASCII(v) || !strings.ContainsRune(view(v), utf8.RuneError) {
		return view(v)
	}
	n := len(r.arena)
	for _, c := range view(v) {
		if c == utf8.RuneError {
			c = ' '
		}
		r.arena = utf8.AppendRune(r.arena, c)
	}
	return view(r.arena[n:])
}
