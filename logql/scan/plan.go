package scan

import (
	"slices"
	"strings"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/syntax"
)

// The labels of errors. The pipeline reads the first two whether or not the query names
// them: an error that came with the row as structured metadata is one of the pipeline.
const (
	errorLabel        = "__error__"
	errorDetailsLabel = "__error_details__"
	// preserveErrorLabel marks errors that the query groups by and that do not fail it.
	preserveErrorLabel = "__preserve_error__"
)

// needs collects what the rows of a query must bring along.
type needs struct {
	lines   bool
	lengths bool
	// allLabels says that the labels of a row cannot be limited to names.
	allLabels bool
	names     map[string]bool
}

// rangeNeeds looks through a range aggregation whose series are grouped by g.
func rangeNeeds(agg *syntax.RangeAgg, g *syntax.Grouping) needs {
	n := needs{names: map[string]bool{}}
	sized := agg.Op == "bytes_over_time" || agg.Op == "bytes_rate"
	n.stages(agg.Range.Log.Stages, sized)
	n.lengths = sized || n.lines
	if u := agg.Range.Unwrap; u != nil {
		n.names[u.Label] = true
		for _, f := range u.Filters {
			n.filter(f)
		}
	}
	switch {
	case agg.Op == "absent_over_time":
	case g == nil || g.Without:
		n.allLabels = true
	default:
		for _, name := range g.Labels {
			n.names[name] = true
		}
	}
	return n
}

// logNeeds is what a log query reads: everything.
func logNeeds() needs { return needs{lines: true, lengths: true, allLabels: true} }

// stages walks the pipeline. lengthCounts says that the length of the final line is
// part of the answer, so that stages that only change the line matter.
func (n *needs) stages(stages []syntax.Stage, lengthCounts bool) {
	for i, s := range stages {
		switch s := s.(type) {
		case *syntax.LineFilter, *syntax.UnpackStage, *syntax.RegexpStage, *syntax.PatternStage, *syntax.JSONStage, *syntax.LogfmtStage:
			n.lines = true
		case *syntax.Decolorize:
			n.lines = n.lines || lengthCounts || readsLine(stages[i+1:])
		case *syntax.LineFormat:
			// A line nobody reads is not formatted; see package pipeline.
			if lengthCounts || readsLine(stages[i+1:]) {
				n.lines = true
			}
			n.allLabels = true
		case *syntax.LabelFormat:
			for _, f := range s.Formats {
				n.names[f.Dst] = true
				if f.Rename {
					n.names[f.Value] = true
					continue
				}
				n.allLabels = true
				n.lines = n.lines || strings.Contains(f.Value, "__line__")
			}
		case *syntax.DropStage:
			n.choices(s.Labels)
		case *syntax.KeepStage:
			n.choices(s.Labels)
		case *syntax.LabelFilter:
			n.filter(s)
		}
	}
}

// readsLine reports whether a stage looks at the line's text.
func readsLine(stages []syntax.Stage) bool {
	return slices.ContainsFunc(stages, func(s syntax.Stage) bool {
		switch s := s.(type) {
		case *syntax.LineFilter, *syntax.UnpackStage, *syntax.RegexpStage, *syntax.PatternStage, *syntax.JSONStage, *syntax.LogfmtStage:
			return true
		case *syntax.LineFormat:
			return strings.Contains(s.Template, "__line__")
		case *syntax.LabelFormat:
			return slices.ContainsFunc(s.Formats, func(f syntax.LabelAssign) bool { return !f.Rename && strings.Contains(f.Value, "__line__") })
		}
		return false
	})
}

func (n *needs) choices(list []syntax.NameOrMatcher) {
	for _, l := range list {
		if l.Matcher != nil {
			n.names[l.Matcher.Name] = true
			continue
		}
		n.names[l.Name] = true
	}
}

func (n *needs) filter(f *syntax.LabelFilter) {
	switch {
	case f.Matcher != nil:
		n.names[f.Matcher.Name] = true
	case f.Number != nil:
		n.names[f.Number.Name] = true
	case f.IP != nil:
		n.names[f.IP.Name] = true
	case f.Binary != nil:
		n.filter(f.Binary.Left)
		n.filter(f.Binary.Right)
	}
}

// columns turns the needs into a request. A label can come from structured metadata of
// its own name or, when a stream label is in the way, from one without the suffix
// "_extracted".
func (n *needs) columns() model.Columns {
	c := model.Columns{Lines: n.lines, Lengths: n.lengths || n.lines, AllMetadata: n.allLabels}
	if n.allLabels {
		return c
	}
	set := map[string]bool{errorLabel: true, errorDetailsLabel: true}
	for name := range n.names {
		set[name] = true
		if base, ok := strings.CutSuffix(name, "_extracted"); ok {
			set[base] = true
		}
	}
	for name := range set {
		c.Metadata = append(c.Metadata, name)
	}
	slices.Sort(c.Metadata)
	return c
}
