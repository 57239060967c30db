package pipeline

import (
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/syntax"
)

// Options says what surrounds the stages. The zero value is a log query.
type Options struct {
	// Sample is set when the pipeline feeds a range aggregation.
	Sample *Sample
}

// Sample describes the range aggregation that a pipeline feeds.
type Sample struct {
	// Unwrap is nil when the aggregation works on lines.
	Unwrap *syntax.Unwrap
	// Grouping is how Labels.Group groups: the aggregation's own clause, or that of the
	// sum around it. Nil keeps all labels (all but the unwrapped one).
	Grouping *syntax.Grouping
	// NoLabels says that the result has no labels at all, as for absent_over_time.
	NoLabels bool
	// KeepLine says that the text of the resulting line matters, as for bytes_over_time.
	KeepLine bool
}

// SampleFor describes a range aggregation. Outer is the grouping of a vector
// aggregation that may be pushed down to the rows, nil when there is none.
func SampleFor(agg *syntax.RangeAgg, outer *syntax.Grouping) *Sample {
	s := &Sample{Unwrap: agg.Range.Unwrap, Grouping: agg.Grouping}
	if outer != nil {
		s.Grouping = outer
	}
	s.NoLabels = agg.Op == "absent_over_time"
	s.KeepLine = agg.Op == "bytes_over_time" || agg.Op == "bytes_rate"
	return s
}

// Pipeline is a compiled query pipeline. It is not safe for concurrent use: each
// goroutine works on its own Clone.
type Pipeline struct {
	source []syntax.Stage
	opts   Options

	lead   *lineFilter // the line filters in front of everything else, nil when there are none
	stages []stage     // what comes after lead
	unwrap *unwrapper
	names  []string // the labels that stages refer to, by slot
	hints  hints
	group  grouping

	row     row
	labels  Labels
	shapes  map[string]*shape
	streams map[uint64]*StreamPipeline
	sets    setCache
	symbols uint32 // symbols made so far
	// packedFrom is where in the packed text of the block at hand rows that may pass begin.
	packedFrom uint32
}

// stage is one compiled step. It returns the line, changed or not, and whether the row
// stays. It must not write into the line it is given.
type stage interface {
	process(r *row, line []byte) ([]byte, bool)
}

// New compiles stages, in the order written. A stage that makes no sense gives a
// fault.Invalid error with the text "parse error : stage '…' : …".
func New(stages []syntax.Stage, opts Options) (*Pipeline, error) {
	p := &Pipeline{
		source: stages, opts: opts,
		shapes: map[string]*shape{}, streams: map[uint64]*StreamPipeline{},
	}
	if opts.Sample != nil && !opts.Sample.KeepLine {
		stages = withoutIdleLineFormats(stages)
	}
	c := compiler{p: p}
	for _, segment := range segments(stages) {
		if err := c.add(segment); err != nil {
			return nil, err
		}
	}
	if opts.Sample != nil && opts.Sample.Unwrap != nil {
		if err := c.addUnwrap(opts.Sample.Unwrap); err != nil {
			return nil, err
		}
	}
	p.group = newGrouping(opts.Sample)
	p.group.slots = c.slots(p.group.names)
	p.hints = newHints(opts.Sample, p.group, c.required, c.filters)
	p.row.p = p
	p.row.gen = 1
	p.labels.r = &p.row
	p.sets.init()
	return p, nil
}

// Clone returns an independent pipeline for another goroutine.
func (p *Pipeline) Clone() *Pipeline {
	c, err := New(p.source, p.opts)
	if err != nil {
		panic("pipeline: stages that compiled once do not compile again: " + err.Error())
	}
	return c
}

// maxStreams bounds the streams that a Pipeline remembers. Past it the memory starts
// afresh, which costs a lookup of the stream's names for each run.
const maxStreams = 1 << 16

// maxShapes bounds the distinct sets of label names, each with memory for the names
// in its lines.
const maxShapes = 256

// StreamPipeline is a Pipeline bound to the labels of a stream. It shares the
// Pipeline's memory.
type StreamPipeline struct {
	p    *Pipeline
	sh   *shape
	base labels.Labels
	hash uint64
	id   uint32
	vals []string // base values by slot, "" when the stream lacks the label
	set  *Set     // the unchanged label set
	gset *Set     // the unchanged label set, grouped
	hdr  [4]byte  // id, as the prefix of cache keys
}

// ForStream binds the pipeline to a stream. Hash identifies the labels, as
// labels.Labels.Hash does.
func (p *Pipeline) ForStream(stream labels.Labels, hash uint64) *StreamPipeline {
	if s, ok := p.streams[hash]; ok && labels.Equal(s.base, stream) {
		return s
	}
	if len(p.streams) >= maxStreams || len(p.shapes) >= maxShapes {
		clear(p.streams)
		clear(p.shapes)
	}
	s := &StreamPipeline{p: p, sh: p.shapeOf(stream), base: stream, hash: hash}
	s.id = p.sets.nextStream()
	s.hdr = [4]byte{byte(s.id), byte(s.id >> 8), byte(s.id >> 16), byte(s.id >> 24)}
	if len(s.sh.slots) > 0 {
		s.vals = make([]string, len(s.sh.slots))
		for i, sym := range s.sh.slots {
			if sym.inBase {
				s.vals[i] = stream.Get(sym.name)
			}
		}
	}
	p.streams[hash] = s
	return s
}

// Process runs all stages over a row. It returns the line, changed or not, and the
// row's labels, both valid until the next call on the Pipeline; ok is false when the row
// is dropped. Metadata is sorted by name, values are not empty.
func (s *StreamPipeline) Process(ts int64, line []byte, metadata []labels.Label) (out []byte, lbs *Labels, ok bool) {
	if f := s.p.lead; f != nil && !f.match(line) {
		return nil, nil, false
	}
	return s.ProcessRest(ts, line, metadata)
}

// ProcessRest is Process for a row that has already passed FilterBatch.
func (s *StreamPipeline) ProcessRest(ts int64, line []byte, metadata []labels.Label) (out []byte, lbs *Labels, ok bool) {
	r := &s.p.row
	r.begin(s, ts)
	if len(metadata) > 0 {
		r.addMetadata(metadata)
	}
	for _, st := range s.p.stages {
		if line, ok = st.process(r, line); !ok {
			return nil, nil, false
		}
	}
	if u := s.p.unwrap; u != nil && !u.process(r, line) {
		return nil, nil, false
	}
	return line, &s.p.labels, true
}

// stageError is the error for a stage that does not compile.
func stageError(stages []syntax.Stage, cause error) error {
	texts := make([]string, len(stages))
	for i, s := range stages {
		texts[i] = s.String()
	}
	return syntax.StageError(strings.Join(texts, " "), cause)
}
