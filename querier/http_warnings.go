package querier

import (
	"slices"
	"sync"
)

// warnings gathers what an answer does not hold, each text once. It is safe for concurrent
// use.
type warnings struct {
	mu struct {
		sync.Mutex
		texts []string
	}
}

func (w *warnings) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.mu.texts, text) {
		w.mu.texts = append(w.mu.texts, text)
	}
}

// list is what has been gathered, nil when nothing is missing.
func (w *warnings) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.mu.texts)
}

// append appends the member "warnings" and a comma to an answer, or nothing. Loki's answers
// to these requests have no such member; clients pass over what they do not know.
func (w *warnings) append(b []byte) []byte { return appendWarnings(b, w.list()) }

func appendWarnings(b []byte, texts []string) []byte {
	if len(texts) == 0 {
		return b
	}
	b = append(b, `"warnings":`...)
	return append(appendStringList(b, texts), ',')
}
