package pipeline

import (
	"slices"
	"strings"
)

// hints tell parsers what they may leave out.
type hints struct {
	noLabels      bool     // parsers have nothing to do
	required      []string // the only labels to extract; all of them when empty
	preserveError bool     // the query works on __error__
	filters       []earlyFilter
}

// newHints derives the hints from the labels that stages and the grouping name.
func newHints(s *Sample, g grouping, stageNames []string, filters []earlyFilter) hints {
	if s == nil {
		return hints{filters: filters}
	}
	var req []string
	add := func(names ...string) {
		for _, n := range names {
			for _, v := range []string{n, strings.TrimSuffix(n, duplicateSuffix)} {
				if v != "" && !slices.Contains(req, v) {
					req = append(req, v)
				}
			}
		}
	}
	add(stageNames...)
	add(g.names...)
	if s.Unwrap != nil {
		add(s.Unwrap.Label)
	}
	preserve := slices.Contains(req, errorLabel)
	switch {
	case g.noLabels && len(req) == 0:
		return hints{noLabels: true}
	case g.noLabels:
		return hints{required: req, preserveError: preserve, filters: filters}
	case g.without || len(g.names) == 0:
		return hints{filters: filters}
	}
	return hints{required: req, preserveError: preserve}
}

func (h *hints) isRequired(name string) bool { return slices.Contains(h.required, name) }

// mayHavePrefix reports whether a wanted label can start with prefix.
func (h *hints) mayHavePrefix(prefix string) bool {
	if len(h.required) == 0 {
		return true
	}
	return slices.ContainsFunc(h.required, func(r string) bool { return strings.HasPrefix(r, prefix) })
}

// filterFor returns the first filter on the name.
func (h *hints) filterFor(name string) labelFilter {
	for _, f := range h.filters {
		if f.name == name {
			return f.filter
		}
	}
	return nil
}
