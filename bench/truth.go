package main

import (
	"context"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/bench/corpus"
)

// row is an entry as a scan sees it.
type row struct {
	app, namespace, pod, traceID string
	ts                           int64
	line                         []byte
	object                       *object
}

// object holds the members of a JSON line that queries ask for.
type object struct {
	Level    any     `json:"level"`
	Status   float64 `json:"status"`
	Route    string  `json:"route"`
	Duration float64 `json:"duration_ms"`
}

// json parses the line once.
func (r *row) json() *object {
	if r.object == nil {
		r.object = &object{}
		if err := json.Unmarshal(r.line, r.object); err != nil {
			panic("the corpus has a broken JSON line: " + string(r.line))
		}
	}
	return r.object
}

var levelWord = regexp.MustCompile(`(?i)(?:^|[ \t\n\[({"=])(trace|debug|info|warn|warning|err|error|critical|fatal)(?:[ \t\n\[\](){}:,!"=]|$)`)

// level is the level that a line states in a field, or in its first word that is one.
func level(r *row) string {
	stated := ""
	if r.line[0] == '{' {
		stated, _ = r.json().Level.(string)
	} else {
		stated = capture(logfmtLevel, r.line)
	}
	if stated == "" {
		stated = strings.ToLower(capture(levelWord, r.line))
	}
	switch stated {
	case "":
		return "unknown"
	case "err":
		return "error"
	case "warning":
		return "warn"
	}
	return stated
}

// logEntry is an entry of an answer; pod tells the stream.
type logEntry struct {
	ts        int64
	pod, line string
}

// answer is the true answer to one question.
type answer struct {
	entries []logEntry // log queries: the newest, newest first; entries of equal time in any order, all of them
	groups  map[string]map[int]*window
	rows    int64 // that matched
}

// window is the rows of a group in one step.
type window struct {
	count, sum float64
	values     []float64 // for quantiles only
}

func (w *window) add(v float64, keep bool) {
	w.count++
	w.sum += v
	if keep {
		w.values = append(w.values, v)
	}
}

// value is what the server must say for the window.
func (w *window) value(m *metric) float64 {
	switch {
	case m.avg:
		return w.sum / w.count
	case m.q > 0:
		return quantile(m.q, w.values)
	case m.per > 0:
		return w.sum / m.per
	}
	return w.sum
}

// quantile interpolates linearly between the two nearest ranks.
func quantile(q float64, values []float64) float64 {
	slices.Sort(values)
	rank := q * float64(len(values)-1)
	low := int(math.Floor(rank))
	high := min(low+1, len(values)-1)
	part := rank - float64(low)
	return values[low]*(1-part) + values[high]*part
}

// truth holds the answers to all questions about one corpus.
type truth struct {
	cfg         corpus.Config
	lines       int64
	bytes       int64
	answers     []answer
	allPods     map[string]bool
	shopStreams map[string]bool
}

func (t *truth) pods() []string { return sortedKeys(t.allPods) }

func (t *truth) streamsOf(string) []string { return sortedKeys(t.shopStreams) }

func sortedKeys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// findTruth makes the corpus again and scans it once, in parallel.
func findTruth(ctx context.Context, cfg corpus.Config, asked []question) (*truth, error) {
	const workers, batchBytes = 4, 2 << 20
	free, full := make(chan *corpus.Batch, workers), make(chan *corpus.Batch, workers)
	for range workers {
		free <- &corpus.Batch{}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(full)
		for c := corpus.New(cfg); ; {
			select {
			case b := <-free:
				if !c.Next(b, batchBytes) {
					return nil
				}
				full <- b
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	var mu sync.Mutex
	total := newTruth(cfg, len(asked))
	for range workers {
		g.Go(func() error {
			t := newTruth(cfg, len(asked))
			for b := range full {
				t.scan(asked, b)
				free <- b
			}
			mu.Lock()
			defer mu.Unlock()
			total.merge(asked, t)
			return nil
		})
	}
	return total, g.Wait()
}

func newTruth(cfg corpus.Config, n int) *truth {
	t := &truth{cfg: cfg, answers: make([]answer, n), allPods: map[string]bool{}, shopStreams: map[string]bool{}}
	for i := range t.answers {
		t.answers[i].groups = map[string]map[int]*window{}
	}
	return t
}

func (t *truth) scan(asked []question, b *corpus.Batch) {
	t.lines += b.Lines
	t.bytes += b.Bytes
	for _, s := range b.Streams {
		r := row{app: s.Labels.Get("app"), namespace: s.Labels.Get("namespace"), pod: s.Labels.Get("pod")}
		t.allPods[r.pod] = true
		if r.namespace == "shop" {
			t.shopStreams[r.pod] = true
		}
		for i := range s.Entries {
			e := &s.Entries[i]
			r.ts, r.line, r.object = e.Timestamp, e.Line, nil
			r.traceID = ""
			if e.Metadata.Len() > 0 {
				r.traceID = e.Metadata.Get("trace_id")
			}
			for q := range asked {
				t.answers[q].look(&asked[q], t.cfg, &r)
			}
		}
	}
}

// look adds a row to the answer if the question is about it.
func (a *answer) look(q *question, cfg corpus.Config, r *row) {
	if q.metadata != nil || q.last > 0 && r.ts < q.from(cfg).UnixNano() || !q.match(r) {
		return
	}
	a.rows++
	m := q.metric
	if m == nil {
		a.entries = append(a.entries, logEntry{r.ts, r.pod, string(r.line)})
		if len(a.entries) > 16*q.limit {
			a.cut(q.limit)
		}
		return
	}
	// The window of a step reaches back to the step before, which it does not contain.
	step, since := m.step, r.ts-cfg.Start.UnixNano()
	if step == 0 {
		step = cfg.Span
	}
	tick := int((since + int64(step) - 1) / int64(step))
	if m.step == 0 && tick != 1 {
		return
	}
	group := m.group(r)
	windows := a.groups[group]
	if windows == nil {
		windows = map[int]*window{}
		a.groups[group] = windows
	}
	w := windows[tick]
	if w == nil {
		w = &window{}
		windows[tick] = w
	}
	v := 1.0
	if m.value != nil {
		v = m.value(r)
	}
	w.add(v, m.q > 0)
}

// cut keeps the newest entries, and those as old as the last one.
func (a *answer) cut(limit int) {
	slices.SortFunc(a.entries, func(x, y logEntry) int { return int(y.ts - x.ts) })
	if len(a.entries) <= limit {
		return
	}
	end := limit
	for end < len(a.entries) && a.entries[end].ts == a.entries[limit-1].ts {
		end++
	}
	a.entries = a.entries[:end]
}

func (t *truth) merge(asked []question, from *truth) {
	t.lines += from.lines
	t.bytes += from.bytes
	for pod := range from.allPods {
		t.allPods[pod] = true
	}
	for pod := range from.shopStreams {
		t.shopStreams[pod] = true
	}
	for i := range asked {
		a, b := &t.answers[i], &from.answers[i]
		a.rows += b.rows
		a.entries = append(a.entries, b.entries...)
		a.cut(asked[i].limit)
		for group, windows := range b.groups {
			if a.groups[group] == nil {
				a.groups[group] = map[int]*window{}
			}
			for tick, w := range windows {
				sum := a.groups[group][tick]
				if sum == nil {
					a.groups[group][tick] = w
					continue
				}
				sum.count += w.count
				sum.sum += w.sum
				sum.values = append(sum.values, w.values...)
			}
		}
	}
}

// from is the begin of the question's time range.
func (q *question) from(cfg corpus.Config) time.Time {
	if q.last > 0 {
		return cfg.Start.Add(cfg.Span - q.last)
	}
	return cfg.Start
}
