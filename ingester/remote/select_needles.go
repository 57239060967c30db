package remote

import (
	"bytes"
	"context"

	"github.com/skaldlog/skald/internal/model"
)

// rowTest applies the request's needles to single rows. They are necessary conditions,
// so a row that fails is of no use to the query, whatever else its line says.
type rowTest struct {
	groups  []model.Needles
	columns map[string]model.Column
	folded  []byte
	fold    bool
}

// newRowTest returns nil when no needle can be applied. A line that is left out reads as
// zero bytes, so a group with a text of nothing but zero bytes decides nothing.
func newRowTest(ctx context.Context, needles []model.Needles, block model.Block) (*rowTest, error) {
	t := &rowTest{columns: map[string]model.Column{}}
next:
	for _, group := range needles {
		for _, n := range group {
			if n.Name == "" && len(bytes.Trim([]byte(n.Text), "\x00")) == 0 {
				continue next
			}
		}
		for _, n := range group {
			t.fold = t.fold || n.Fold
			if n.Name == "" {
				continue
			}
			c, err := block.Metadata(ctx, n.Name)
			if err != nil {
				return nil, err
			}
			t.columns[n.Name] = c
		}
		t.groups = append(t.groups, group)
	}
	if len(t.groups) == 0 {
		return nil, nil
	}
	return t, nil
}

func (t *rowTest) passes(row int, line []byte) bool {
	if t.fold {
		t.folded = appendLower(t.folded[:0], line)
	}
	for _, group := range t.groups {
		if !t.any(group, row, line) {
			return false
		}
	}
	return true
}

func (t *rowTest) any(group model.Needles, row int, line []byte) bool {
	for i := range group {
		n := &group[i]
		text := line
		if n.Fold {
			text = t.folded
		}
		switch {
		case n.Name == "":
			if bytes.Contains(text, []byte(n.Text)) {
				return true
			}
		case n.Fold:
			if string(appendLower(nil, []byte(t.columns[n.Name].Value(row)))) == n.Text {
				return true
			}
		case t.columns[n.Name].Value(row) == n.Text:
			return true
		}
	}
	return false
}

// appendLower appends text with ASCII letters in lower case.
func appendLower(b, text []byte) []byte {
	for _, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}
