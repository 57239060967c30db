package syntax

import (
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

const (
	// minNeedle is the shortest text worth looking for, in bytes. Shorter ones occur
	// nearly everywhere.
	minNeedle = 3
	// maxAlternatives bounds the texts of one condition: each costs a look-up.
	maxAlternatives = 16
	// maxConditions bounds the conditions of a query.
	maxConditions = 32
)

// Needles returns conditions that every row which passes the pipeline of e fulfils; a
// block without such a row need not be read. They come from the line filters that see
// the line as it is stored: no stage that rewrites it (line_format, unpack, decolorize)
// may stand before.
func Needles(e *LogExpr) []model.Needles { return NeedlesKnowing(e, nil) }

// NeedlesKnowing is Needles for a caller that knows something about the streams:
// streamLabel reports whether a selected stream may have a label of that name. The
// comparisons of label filters with a name that no stream has become conditions too,
// on metadata and, behind a parser, on the text that the parser must have found.
func NeedlesKnowing(e *LogExpr, streamLabel func(name string) bool) []model.Needles {
	c := collector{streamLabel: streamLabel}
	for _, s := range e.Stages {
		if !c.stage(s) || len(c.found) >= maxConditions {
			break
		}
	}
	return c.found[:min(len(c.found), maxConditions)]
}

// collector gathers conditions along a pipeline.
type collector struct {
	streamLabel func(string) bool
	found       []model.Needles
	parsed      bool            // labels may come from the line
	assigned    map[string]bool // labels that may hold anything
}

// stage adds the conditions of s. It returns false when nothing behind s can be used.
func (c *collector) stage(s Stage) bool {
	switch s := s.(type) {
	case *LineFilter:
		c.add(lineConditions(s)...)
	case *LabelFilter:
		if c.streamLabel != nil {
			c.add(c.filterConditions(s)...)
		}
	case *JSONStage, *LogfmtStage, *RegexpStage, *PatternStage:
		c.parsed = true
	case *LabelFormat:
		if c.assigned == nil {
			c.assigned = make(map[string]bool)
		}
		for _, a := range s.Formats {
			c.assigned[a.Dst] = true
		}
	case *DropStage, *KeepStage: // can only take values away
	default:
		return false
	}
	return true
}

// add keeps the conditions that are worth checking.
func (c *collector) add(conditions ...model.Needles) {
	for _, n := range conditions {
		if len(n) > 0 && shortest(n) >= minNeedle {
			c.found = append(c.found, n)
		}
	}
}

// shortest returns the length of the shortest text; metadata is looked up whole, so its
// values are never too short.
func shortest(n model.Needles) int {
	least := 1 << 30
	for _, x := range n {
		if x.Name == "" {
			least = min(least, len(x.Text))
		}
	}
	return least
}

// lineConditions returns what a line filter demands of a line.
func lineConditions(f *LineFilter) []model.Needles {
	if f.Op.Negative() {
		return nil
	}
	var all model.Needles
	for _, o := range f.Operands {
		conditions := operandConditions(f.Op, o)
		if len(f.Operands) == 1 {
			return conditions
		}
		one := best(conditions)
		if one == nil || len(all)+len(one) > maxAlternatives {
			return nil // an alternative demands nothing
		}
		all = append(all, one...)
	}
	return []model.Needles{all}
}

func operandConditions(op LineOp, o LineOperand) []model.Needles {
	if o.IP {
		return nil
	}
	switch op {
	case LineContains:
		return []model.Needles{{{Text: o.Text}}}
	case LineMatches:
		return regexpConditions(o.Text)
	case LinePattern:
		parts, err := ParseLinePattern(o.Text)
		if err != nil {
			return nil
		}
		var conditions []model.Needles
		for _, p := range parts {
			if p.Literal != "" {
				conditions = append(conditions, model.Needles{{Text: p.Literal}})
			}
		}
		return conditions
	}
	return nil
}

// best returns the most selective condition that is worth checking: the longest, then
// the one with the fewest alternatives. It is nil when there is none.
func best(conditions []model.Needles) model.Needles {
	var found model.Needles
	for _, n := range conditions {
		size := shortest(n)
		if size < minNeedle {
			continue
		}
		if have := shortest(found); found == nil || size > have || size == have && len(n) < len(found) {
			found = n
		}
	}
	return found
}

// filterConditions returns what a label filter demands of a row.
func (c *collector) filterConditions(f *LabelFilter) []model.Needles {
	switch {
	case f.Binary != nil && f.Binary.Or:
		left := best(c.filterConditions(f.Binary.Left))
		right := best(c.filterConditions(f.Binary.Right))
		if left == nil || right == nil || len(left)+len(right) > maxAlternatives {
			return nil
		}
		return []model.Needles{append(left[:len(left):len(left)], right...)}
	case f.Binary != nil:
		return append(c.filterConditions(f.Binary.Left), c.filterConditions(f.Binary.Right)...)
	case f.Matcher != nil && f.Matcher.Type == labels.MatchEqual:
		return c.equalConditions(f.Matcher.Name, f.Matcher.Value)
	}
	return nil
}

// equalConditions returns what name=value demands, when the value can only come from
// metadata or, behind a parser, from the line.
func (c *collector) equalConditions(name, value string) []model.Needles {
	switch {
	case value == "", c.assigned[name], c.streamLabel(name):
		return nil
	case strings.HasPrefix(name, "__"), strings.HasSuffix(name, "_extracted"):
		return nil // made by the pipeline itself, from whatever
	}
	n := model.Needles{{Name: name, Text: value}}
	if !c.parsed {
		return []model.Needles{n}
	}
	if !isPlain(value) {
		return nil
	}
	// A parser finds plain characters as they are, or written as \u00XX.
	return []model.Needles{append(n, model.Needle{Text: value}, model.Needle{Text: `\u00`})}
}

// isPlain reports whether a value's characters have no other notation in JSON and
// quoted logfmt values than themselves and \u00XX. A space is not plain, since parsers
// put it in place of invalid characters.
func isPlain(value string) bool {
	for _, c := range []byte(value) {
		if !isNameByte(c) && strings.IndexByte("-.:@+=#", c) < 0 {
			return false
		}
	}
	return true
}
