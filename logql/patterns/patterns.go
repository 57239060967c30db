package patterns

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// MaxPatterns is the most patterns that Mine returns, besides those that stand for the rest.
const MaxPatterns = 300

const (
	// rest is the pattern of lines that have no pattern of their own.
	rest         = "<_>"
	levelLabel   = "detected_level"
	unknownLevel = "unknown"
	maxLevels    = 64 // more are counted as unknown
)

// Query says which lines are looked at.
type Query struct {
	Range model.TimeRange
	// Step is the length of the intervals in which lines are counted; they begin at its
	// multiples since 1970.
	Step time.Duration
}

// Pattern is a template with the number of its lines over time.
type Pattern struct {
	// Text has <_> where lines differ.
	Text string
	// Level is the level of all its lines; the same text may occur with several.
	Level   string
	Samples []Sample // those that are not zero, in order of time
	Total   int64
}

// Sample is a number of lines in the step that begins at T, in nanoseconds since 1970.
type Sample struct{ T, N int64 }

// Mine finds the patterns of the lines that pass a log query, the most frequent first.
// Errors are those of scan.Visit.
func Mine(ctx context.Context, src scan.Selector, expr *syntax.LogExpr, q Query, opts scan.Options) ([]Pattern, error) {
	step := int64(q.Step)
	grid := grid{base: q.Range.From - ((q.Range.From%step)+step)%step, step: step}
	budget := scan.NewBudget(ctx, opts.MaxMemory)
	var miners []*miner
	err := scan.Visit(ctx, src, expr, q.Range, []string{levelLabel}, opts, func() scan.Visitor {
		m := &miner{ctx: ctx, grid: grid, budget: budget, levels: map[string]*shapes{}}
		miners = append(miners, m)
		return m
	})
	if err != nil {
		return nil, err
	}
	levels := map[string]*shapes{}
	for _, m := range miners {
		for name, table := range m.levels {
			if levels[name] == nil {
				levels[name] = table
				continue
			}
			for _, s := range table.byHash {
				levels[name].adopt(s)
			}
		}
	}
	var all []Pattern
	for name, table := range levels {
		found, err := clustered(ctx, slices.Collect(maps.Values(table.byHash)))
		if err != nil {
			return nil, err
		}
		all = append(all, grid.patterns(name, found)...)
	}
	return most(all), nil
}

// most returns the most frequent patterns; what the others counted goes to the rest.
func most(all []Pattern) []Pattern {
	slices.SortFunc(all, func(a, b Pattern) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), strings.Compare(a.Text, b.Text), strings.Compare(a.Level, b.Level))
	})
	if len(all) <= MaxPatterns {
		return all
	}
	kept, rare := all[:MaxPatterns:MaxPatterns], all[MaxPatterns:]
	rests := map[string]map[int64]int64{}
	for _, p := range rare {
		if rests[p.Level] == nil {
			rests[p.Level] = map[int64]int64{}
		}
		for _, s := range p.Samples {
			rests[p.Level][s.T] += s.N
		}
	}
	for _, level := range slices.Sorted(maps.Keys(rests)) {
		at := slices.IndexFunc(kept, func(p Pattern) bool { return p.Text == rest && p.Level == level })
		if at < 0 {
			at = len(kept)
			kept = append(kept, Pattern{Text: rest, Level: level})
		}
		p := &kept[at]
		for _, s := range p.Samples {
			rests[level][s.T] += s.N
		}
		p.Samples, p.Total = nil, 0
		for _, t := range slices.Sorted(maps.Keys(rests[level])) {
			p.Samples = append(p.Samples, Sample{t, rests[level][t]})
			p.Total += rests[level][t]
		}
	}
	return kept
}

// grid numbers steps.
type grid struct{ base, step int64 }

func (g grid) at(ts int64) int { return int((ts - g.base) / g.step) }

// patterns prints the templates of a level.
func (g grid) patterns(level string, templates []*shape) []Pattern {
	byText := map[string]*shape{}
	for _, s := range templates {
		t := split(s.masked, s.values)
		text := t.pattern()
		if known := byText[text]; known != nil { // the kinds of their tokens differ
			known.total += s.total
			known.counts.adopt(&s.counts)
			continue
		}
		byText[text] = s
	}
	out := make([]Pattern, 0, len(byText))
	for text, s := range byText {
		p := Pattern{Text: text, Level: level, Total: s.total}
		for _, at := range slices.Sorted(maps.Keys(s.counts.pages)) {
			for i, n := range s.counts.pages[at] {
				if n > 0 {
					p.Samples = append(p.Samples, Sample{g.base + int64(at*pageSteps+i)*g.step, int64(n)})
				}
			}
		}
		out = append(out, p)
	}
	return out
}

// miner is one worker's share.
type miner struct {
	ctx    context.Context // of the visit
	grid   grid
	budget *scan.Budget
	mask   masker
	levels map[string]*shapes
	// The level of the row before.
	level string
	table *shapes
	// charged is what pages of counts have cost the budget.
	charged int64
}

// Visit counts a line under its shape.
func (m *miner) Visit(ts int64, line []byte, labels *pipeline.Labels) error {
	if level, _ := labels.Get(levelLabel); m.table == nil || level != m.level {
		m.turnTo(level)
	}
	m.mask.mask(line)
	s := m.table.find(&m.mask)
	s.total++
	if grown := s.counts.add(m.grid.at(ts), 1); grown > 0 {
		m.charged += grown
		if err := m.budget.Charge(grown); err != nil {
			return err
		}
	}
	if m.table.full() {
		return m.compact()
	}
	return nil
}

func (m *miner) turnTo(level string) {
	m.level = strings.Clone(level)
	name := m.level
	if name == "" || m.levels[name] == nil && len(m.levels) >= maxLevels {
		name = unknownLevel
	}
	m.table = m.levels[name]
	if m.table == nil {
		m.table = newShapes()
		m.levels[name] = m.table
	}
}

// compact puts clusters in the place of a level's shapes. When that does not make enough
// room, the rare ones become the rest.
func (m *miner) compact() error {
	found, err := clustered(m.ctx, slices.Collect(maps.Values(m.table.byHash)))
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b *shape) int {
		return cmp.Or(cmp.Compare(b.total, a.total), strings.Compare(string(a.masked), string(b.masked)))
	})
	table := newShapes()
	for _, s := range found {
		if len(table.byHash) >= maxShapes/2 || table.bytes >= maxShapeBytes/2 {
			s.masked, s.values = []byte{placeholder}, [][]byte{nil}
		}
		table.adopt(s)
	}
	*m.table = *table
	var pages int64
	for _, level := range m.levels {
		for _, s := range level.byHash {
			pages += int64(len(s.counts.pages))
		}
	}
	grown := pages*pageBytes - m.charged
	m.charged += grown
	return m.budget.Charge(grown)
}
