package distributor

import (
	"fmt"
	"strings"
)

// refusals collects why parts of a push were refused, equal texts together.
type refusals struct {
	counts map[string]int
	order  []string
	total  int // with those that have no text
}

const (
	maxRefusalTexts = 100    // distinct texts a client is told
	maxRefusals     = 10_000 // refusals worth making a text for
	maxRefusalBytes = 1 << 20
)

// add notes a refusal. The text is made only while there is use for it: a push may hold
// a million bad lines.
func (r *refusals) add(format string, args ...any) {
	r.total++
	if r.total > maxRefusals {
		return
	}
	text := fmt.Sprintf(format, args...)
	if n, ok := r.counts[text]; ok {
		r.counts[text] = n + 1
		return
	}
	if len(r.order) == maxRefusalTexts {
		return
	}
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	r.counts[text] = 1
	r.order = append(r.order, text)
}

// String is the one text, or "2 errors like: …; 1 errors like: …".
func (r *refusals) String() string {
	if r.total == 1 {
		return r.order[0]
	}
	var b strings.Builder
	told := 0
	for i, text := range r.order {
		if b.Len()+len(text) > maxRefusalBytes && i > 0 {
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%d errors like: %s", r.counts[text], text)
		told += r.counts[text]
	}
	if rest := r.total - told; rest > 0 {
		fmt.Fprintf(&b, "; %d other errors", rest)
	}
	return b.String()
}
