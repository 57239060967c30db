package stage

import (
	"fmt"
	"log/slog"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
)

// Env is what stages need from outside.
type Env struct {
	// Logger receives warnings about the configuration. Nil discards them.
	Logger *slog.Logger
	// Dropped is told about every entry that a stage drops on purpose, and why. It may be
	// called from many goroutines. Nil ignores them.
	Dropped func(reason string)
	// Now is the clock, in nanoseconds since 1970; for tests. Nil means the real one.
	Now func() int64
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
	// called again: nanoseconds since 1970, math.MaxInt64 for never.
	flush(now int64, everything bool) (next int64)
	rehome(from, to Origin)
}

// Program is the compiled form of a job's pipeline_stages.
type Program struct {
	env    Env
	stages []definition
}

// builders has a constructor for each stage by its name in the configuration.
var builders map[string]func(node *yaml.Node, env *Env) (definition, error)

func init() {
	builders = map[string]func(*yaml.Node, *Env) (definition, error){
		"cri":                 buildCRI,
		"decolorize":          buildDecolorize,
		"docker":              buildDocker,
		"drop":                buildDrop,
		"json":                buildJSON,
		"labelallow":          buildLabelAllow,
		"labeldrop":           buildLabelDrop,
		"labels":              buildLabels,
		"logfmt":              buildLogfmt,
		"match":               buildMatch,
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

// unsupported are Promtail's stages that this version refuses.
var unsupported = map[string]bool{"eventlogmessage": true, "geoip": true, "limit": true, "metrics": true}

// Build compiles the items of pipeline_stages. Each must be a map with exactly one key.
// Errors name the line of the configuration file.
func Build(nodes []yaml.Node, env Env) (*Program, error) {
	if env.Logger == nil {
		env.Logger = slog.New(slog.DiscardHandler)
	}
	if env.Dropped == nil {
		env.Dropped = func(string) {}
	}
	if env.Now == nil {
		env.Now = wallClock
	}
	if env.MaxLine <= 0 {
		env.MaxLine = DefaultMaxLine
	}
	p := &Program{env: env}
	var err error
	p.stages, err = buildAll(nodes, &p.env)
	return p, err
}

func buildAll(nodes []yaml.Node, env *Env) ([]definition, error) {
	var out []definition
	for i := range nodes {
		n := resolve(&nodes[i])
		if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
			return nil, fmt.Errorf("line %d: a pipeline stage must be a map with exactly one key, its name", n.Line)
		}
		name := n.Content[0].Value
		build, ok := builders[name]
		switch {
		case unsupported[name]:
			return nil, fmt.Errorf("line %d: not supported by this version of Skald: pipeline stage %q", n.Line, name)
		case !ok:
			return nil, fmt.Errorf("line %d: unknown pipeline stage %q", n.Line, name)
		}
		d, err := build(resolve(n.Content[1]), env)
		if err != nil {
			return nil, fmt.Errorf("line %d: pipeline stage %s: %w", n.Line, name, err)
		}
		out = append(out, d)
	}
	return out, nil
}

func chain(stages []definition, end Processor, p *Pipeline) Processor {
	for i := len(stages) - 1; i >= 0; i-- {
		end = stages[i].attach(end, p)
	}
	return end
}

// Pipeline is a job's program at work on one log. One goroutine uses it at a time.
type Pipeline struct {
	env      *Env
	head     Processor
	sets     *sets
	flushers []flusher // in the order of the pipeline
	entry    Entry
	held     int // entries kept back by stages
	fresh    int // of these, the ones that begin with the present line
	line     uint64
}

// New returns a pipeline for a log with the given labels, which sends finished entries to sink.
func (g *Program) New(base labels.Labels, sink Processor) *Pipeline {
	p := &Pipeline{env: &g.env, sets: newSets(base)}
	p.head = chain(g.stages, sink, p)
	// chain attaches from the end, and a flush must go from the front.
	for i, j := 0, len(p.flushers)-1; i < j; i, j = i+1, j-1 {
		p.flushers[i], p.flushers[j] = p.flushers[j], p.flushers[i]
	}
	return p
}

// Line sends a line, without its line feed, through the stages. ts is the time of reading.
func (p *Pipeline) Line(line []byte, ts int64, o Origin) {
	e := &p.entry
	e.Timestamp, e.Line, e.Labels, e.Origin = ts, line, p.sets.root, o
	e.Metadata, e.Held = e.Metadata[:0], nil
	e.extracted.reset(p.sets.root)
	p.fresh = 0
	p.line++
	p.head.Process(e)
}

// Flush emits what stages have kept back for long enough, or everything. It returns when
// it must be called again: nanoseconds since 1970, math.MaxInt64 for never.
func (p *Pipeline) Flush(now int64, everything bool) (next int64) {
	next = math.MaxInt64
	for _, f := range p.flushers {
		next = min(next, f.flush(now, everything))
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
