package stage

import (
	"fmt"
	"log/slog"
	"math"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/agent/clock"
)

// Env is what stages need from outside.
type Env struct {
	// Logger receives warnings about the configuration. Nil discards them.
	Logger *slog.Logger
	// Dropped is told about every entry that a stage drops on purpose, and why. It may be
	// called from many goroutines. Nil ignores them.
	Dropped func(reason string)
	// Limited is told about every entry that a limit stage drops for a value of a label.
	Limited func(label, value string)
	// Custom receives what metrics stages count. Nil keeps it nowhere.
	Custom *Custom
	// Job is the name of the scrape config, for messages.
	Job string
	// Inspect, when set, shows what each stage does to each entry.
	Inspect *Inspector
	// Now is the wall clock, in nanoseconds since 1970. Nil means the real one.
	Now func() int64
	// Clock measures how long text is kept back; for tests. Nil means package clock.
	Clock func() int64
	// MaxLine bounds the text that cri and multiline join, in bytes; what exceeds it is cut.
	// 0 means DefaultMaxLine.
	MaxLine int
}

// DefaultMaxLine is the longest line that is read or joined, in bytes.
const DefaultMaxLine = 1 << 20

// definition is a compiled stage, shared by all pipelines of a job.
type definition interface {
	// attach makes the stage's link for one pipeline.
	attach(next Processor, p *Pipeline) Processor
}

// flusher is a link that keeps text back.
type flusher interface {
	// flush emits what has waited until now, or everything, and returns when it wants to be
	// called again: a time of package clock, math.MaxInt64 for never.
	flush(now int64, everything bool) (next int64)
	rehome(from, to Origin)
}

// Program is the compiled form of a job's pipeline_stages.
type Program struct {
	env    Env
	stages []named

	limiters sync.Map // *limiters by limiterKey
}

// named is a compiled stage with its name in the configuration.
type named struct {
	definition
	name string
}

// builders has a constructor for each stage by its name in the configuration.
var builders map[string]func(node *yaml.Node, env *Env) (definition, error)

func init() {
	builders = map[string]func(*yaml.Node, *Env) (definition, error){
		"cri":                 buildCRI,
		"decolorize":          buildDecolorize,
		"docker":              buildDocker,
		"drop":                buildDrop,
		"eventlogmessage":     buildEventLog,
		"geoip":               buildGeoIP,
		"json":                buildJSON,
		"labelallow":          buildLabelAllow,
		"labeldrop":           buildLabelDrop,
		"labels":              buildLabels,
		"limit":               buildLimit,
		"logfmt":              buildLogfmt,
		"match":               buildMatch,
		"metrics":             buildMetrics,
		"multiline":           buildMultiline,
		"non_indexed_labels":  buildMetadata,
		"output":              buildOutput,
		"pack":                buildPack,
		"regex":               buildRegex,
		"replace":             buildReplace,
		"sampling":            buildSampling,
		"static_labels":       buildStaticLabels,
		"structured_metadata": buildMetadata,
		"template":            buildTemplate,
		"tenant":              buildTenant,
		"timestamp":           buildTimestamp,
	}
}

// Build compiles the items of pipeline_stages. Each must be a map with exactly one key.
// Errors name the line of the configuration file.
func Build(nodes []yaml.Node, env Env) (*Program, error) {
	if env.Logger == nil {
		env.Logger = slog.New(slog.DiscardHandler)
	}
	if env.Dropped == nil {
		env.Dropped = func(string) {}
	}
	if env.Limited == nil {
		env.Limited = func(string, string) {}
	}
	if env.Custom == nil {
		env.Custom = NewCustom()
	}
	if env.Now == nil {
		env.Now = wallClock
	}
	if env.Clock == nil {
		env.Clock = clock.Now
	}
	if env.MaxLine <= 0 {
		env.MaxLine = DefaultMaxLine
	}
	p := &Program{env: env}
	var err error
	p.stages, err = buildAll(nodes, &p.env)
	return p, err
}

func buildAll(nodes []yaml.Node, env *Env) ([]named, error) {
	var out []named
	for i := range nodes {
		n := resolve(&nodes[i])
		if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
			return nil, fmt.Errorf("line %d: a pipeline stage must be a map with exactly one key, its name", n.Line)
		}
		name := n.Content[0].Value
		build, ok := builders[name]
		if !ok {
			return nil, fmt.Errorf("line %d: unknown pipeline stage %q", n.Line, name)
		}
		d, err := build(resolve(n.Content[1]), env)
		if err != nil {
			return nil, fmt.Errorf("line %d: pipeline stage %s: %w", n.Line, name, err)
		}
		out = append(out, named{d, name})
	}
	return out, nil
}

func chain(stages []named, end Processor, p *Pipeline) Processor {
	for i := len(stages) - 1; i >= 0; i-- {
		if p.env.Inspect != nil {
			end = inspected(stages[i], end, p)
		} else {
			end = stages[i].attach(end, p)
		}
	}
	return end
}

// Options say how a pipeline differs from the others of its program. The zero value works.
type Options struct {
	// Silent counts nothing: another pipeline sees the same lines, and counts them.
	Silent bool
	// Group names the pipelines that see different lines and share limits: a client's.
	Group string
}

// Pipeline is a job's program at work on one log. One goroutine uses it at a time.
type Pipeline struct {
	env      *Env
	program  *Program
	silent   bool
	group    string
	blocked  int64       // a limit stage wants no lines before then, ns since 1970
	notes    *inspection // nil unless stages are inspected
	head     Processor
	sets     *sets
	flushers []flusher // in the order of the pipeline
	entry    Entry
	held     int // entries kept back by stages
	fresh    int // of these, the ones that begin with the present line
	line     uint64
}

// New returns a pipeline for a log with the given labels, which sends finished entries to sink.
func (g *Program) New(base labels.Labels, sink Processor, opts Options) *Pipeline {
	p := &Pipeline{env: &g.env, sets: newSets(base), program: g, silent: opts.Silent, group: opts.Group}
	if g.env.Inspect != nil {
		p.notes = &inspection{to: g.env.Inspect}
	}
	p.head = chain(g.stages, sink, p)
	// chain attaches from the end, and a flush must go from the front.
	for i, j := 0, len(p.flushers)-1; i < j; i, j = i+1, j-1 {
		p.flushers[i], p.flushers[j] = p.flushers[j], p.flushers[i]
	}
	return p
}

// Line sends a line, without its line feed, through the stages. ts is the time of reading.
func (p *Pipeline) Line(line []byte, ts int64, o Origin) { p.Entry(line, ts, nil, o) }

// Entry is Line for an entry that comes with structured metadata, which is copied.
func (p *Pipeline) Entry(line []byte, ts int64, meta []labels.Label, o Origin) {
	e := &p.entry
	e.Timestamp, e.Line, e.Labels, e.Origin = ts, line, p.sets.root, o
	e.Metadata, e.Held = append(e.Metadata[:0], meta...), nil
	e.extracted.reset(p.sets.root)
	p.fresh = 0
	p.line++
	if p.notes != nil {
		p.notes.begin(e)
	}
	p.head.Process(e)
	if p.notes != nil {
		p.notes.write()
	}
}

// Blocked returns the time (of package clock) before which a limit stage wants no more lines, 0
// when there is none.
func (p *Pipeline) Blocked() int64 { return p.blocked }

// dropped counts an entry that a stage drops.
func (p *Pipeline) dropped(reason string) {
	if !p.silent {
		p.env.Dropped(reason)
	}
}

// Flush emits what stages have kept back for long enough, or everything. It returns when
// it must be called again: a time of package clock as now is one, math.MaxInt64 for never.
func (p *Pipeline) Flush(now int64, everything bool) (next int64) {
	next = math.MaxInt64
	for _, f := range p.flushers {
		next = min(next, f.flush(now, everything))
	}
	if p.notes != nil {
		p.notes.write()
	}
	return next
}

// Pending reports whether a stage keeps text back.
func (p *Pipeline) Pending() bool { return p.held > 0 }

// Fresh reports whether all text that is kept back began with the last line.
func (p *Pipeline) Fresh() bool { return p.held == p.fresh }

// Rehome makes text that is kept back hold another origin instead of from.
func (p *Pipeline) Rehome(from, to Origin) {
	for _, f := range p.flushers {
		f.rehome(from, to)
	}
}

// keep counts an entry that a stage begins to keep back, and returns the number of the line
// that it begins with, 0 when it began earlier.
func (p *Pipeline) keep(e *Entry) uint64 {
	p.held++
	if len(e.Held) > 0 {
		return 0
	}
	p.fresh++
	return p.line
}

// unkeep ends what keep began.
func (p *Pipeline) unkeep(line uint64) {
	p.held--
	if line == p.line {
		p.fresh--
	}
}

func rehome(held []Origin, from, to Origin) {
	for i, o := range held {
		if o == from {
			to.Retain()
			held[i] = to
			from.Release()
		}
	}
}
