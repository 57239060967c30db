package pipeline

import (
	"bytes"

	"github.com/skaldlog/skald/logql/syntax"
)

// patternTest is a |> filter: texts that must follow each other in the line.
type patternTest struct {
	literals [][]byte
	// gap says that a placeholder stands before the first literal; rest that one
	// stands after the last.
	gap, rest bool
	empty     bool // the pattern is empty
}

func newPatternTest(pattern string) (lineTest, error) {
	parts, err := syntax.ParseLinePattern(pattern)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return &patternTest{empty: true}, nil
	}
	t := &patternTest{gap: parts[0].Name != "", rest: parts[len(parts)-1].Name != ""}
	for _, p := range parts {
		if p.Name == "" {
			t.literals = append(t.literals, []byte(p.Literal))
		}
	}
	return t, nil
}

// match looks for the first occurrence of each literal behind the one before. A
// placeholder takes at least one byte. The first literal may stand anywhere; the last
// must end the line unless a placeholder follows.
func (t *patternTest) match(line []byte) bool {
	if len(line) == 0 || t.empty {
		return len(line) == 0 && t.empty
	}
	off := 0
	for i, lit := range t.literals {
		j := bytes.Index(line[off:], lit)
		if j < 0 || j == 0 && (i > 0 || t.gap) {
			return false
		}
		off += j + len(lit)
	}
	return t.rest == (off < len(line))
}
