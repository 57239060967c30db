package pipeline

import (
	"fmt"
	"slices"

	"github.com/skaldlog/skald/logql/syntax"
)

// segments puts stages into the order in which they run: inside a segment the line
// filters come first, as one group. Segments end at label filters, line_format and unpack.
// Each group is either line filters only or a single other stage.
func segments(stages []syntax.Stage) [][]syntax.Stage {
	var out [][]syntax.Stage
	var filters, others []syntax.Stage
	end := func() {
		if len(filters) > 0 {
			out = append(out, filters)
		}
		for _, s := range others {
			out = append(out, []syntax.Stage{s})
		}
		filters, others = nil, nil
	}
	for _, s := range stages {
		switch s.(type) {
		case *syntax.LineFilter:
			filters = append(filters, s)
		case *syntax.LabelFilter:
			end()
			out = append(out, []syntax.Stage{s})
		case *syntax.LineFormat, *syntax.UnpackStage:
			others = append(others, s)
			end()
		default:
			others = append(others, s)
		}
	}
	end()
	return out
}

// withoutIdleLineFormats leaves out line_format stages that no parser and no line filter
// reads.
func withoutIdleLineFormats(stages []syntax.Stage) []syntax.Stage {
	last := -1 // the last stage that reads the line
	for i, s := range stages {
		switch s.(type) {
		case *syntax.JSONStage, *syntax.LogfmtStage, *syntax.RegexpStage, *syntax.PatternStage,
			*syntax.UnpackStage, *syntax.LineFilter:
			last = i
		}
	}
	return slices.DeleteFunc(slices.Clone(stages), func() func(syntax.Stage) bool {
		i := -1
		return func(s syntax.Stage) bool {
			i++
			_, ok := s.(*syntax.LineFormat)
			return ok && i > last
		}
	}())
}

// compiler collects what the stages of a pipeline have in common.
type compiler struct {
	p        *Pipeline
	parsers  int           // parsers that keep key tables
	required []string      // labels that stages name
	filters  []earlyFilter // filters that may be applied while a parser runs
}

// earlyFilter is a filter on a single label.
type earlyFilter struct {
	name   string
	filter labelFilter
}

// slot gives a label name its number in Pipeline.names.
func (c *compiler) slot(name string) int {
	if i := slices.Index(c.p.names, name); i >= 0 {
		return i
	}
	c.p.names = append(c.p.names, name)
	return len(c.p.names) - 1
}

func (c *compiler) slots(names []string) []int {
	out := make([]int, len(names))
	for i, n := range names {
		out[i] = c.slot(n)
	}
	return out
}

// parser numbers a parser that keeps a table of keys in each shape.
func (c *compiler) parser() int {
	c.parsers++
	return c.parsers - 1
}

// add compiles one group of segments.
func (c *compiler) add(group []syntax.Stage) error {
	if _, ok := group[0].(*syntax.LineFilter); ok {
		f, err := newLineFilter(group)
		if err != nil {
			return stageError(group, err)
		}
		switch {
		case f == nil:
		case len(c.p.stages) == 0 && c.p.lead == nil:
			c.p.lead = f
		default:
			c.p.stages = append(c.p.stages, f)
		}
		return nil
	}
	s, err := c.compile(group[0])
	if err != nil {
		return stageError(group, err)
	}
	if s != nil {
		c.p.stages = append(c.p.stages, s)
	}
	return nil
}

func (c *compiler) compile(s syntax.Stage) (stage, error) {
	switch s := s.(type) {
	case *syntax.JSONStage:
		if len(s.Extract) > 0 {
			return newJSONExpr(c, s.Extract)
		}
		return newJSONParser(c), nil
	case *syntax.LogfmtStage:
		if len(s.Extract) > 0 {
			return newLogfmtExpr(c, s)
		}
		return &logfmtParser{id: c.parser(), strict: s.Strict, keepEmpty: s.KeepEmpty}, nil
	case *syntax.RegexpStage:
		return newRegexpParser(c, s.Regex)
	case *syntax.PatternStage:
		return newPatternParser(c, s.Pattern)
	case *syntax.UnpackStage:
		return newUnpackParser(c), nil
	case *syntax.LineFormat:
		return newLineFormat(c, s.Template)
	case *syntax.LabelFormat:
		return newLabelFormat(c, s.Formats)
	case *syntax.Decolorize:
		return decolorize{}, nil
	case *syntax.DropStage:
		return newDrop(c, s.Labels), nil
	case *syntax.KeepStage:
		return newKeep(s.Labels), nil
	case *syntax.LabelFilter:
		return c.labelFilterStage(s)
	}
	return nil, fmt.Errorf("unknown stage %T", s)
}

// labelFilterStage compiles a label filter and notes it as an early filter when it
// looks at one label only.
func (c *compiler) labelFilterStage(s *syntax.LabelFilter) (stage, error) {
	f, err := c.labelFilter(s)
	if err != nil || f == nil {
		return nil, err
	}
	c.noteFilter(s, f)
	return filterStage{f}, nil
}

func (c *compiler) noteFilter(s *syntax.LabelFilter, f labelFilter) {
	names := filterNames(s, nil)
	c.required = append(c.required, names...)
	if s.Binary == nil && len(names) == 1 {
		c.filters = append(c.filters, earlyFilter{names[0], f})
	}
}
