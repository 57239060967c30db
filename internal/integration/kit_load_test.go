package integration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load pushes numbered lines without pause: each writer sends one push after the other,
// and each push again, to the next door, until it is acknowledged. So when it has stopped,
// every line below a writer's number was acknowledged, and should be there once.
type load struct {
	t       testing.TB
	started time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	writers []*writer

	mu struct {
		sync.Mutex
		doors    []*member
		attempts []attempt
		wrong    []string
		checks   int
		refused  map[string]int // queries that failed, by reason
	}
}

type writer struct {
	name          string
	sent, written atomic.Int64 // lines pushed at least once, and acknowledged
}

// attempt is one HTTP request of a push.
type attempt struct {
	at   time.Time
	took time.Duration
	door *member
	code int // 0: no answer
	text string
}

const (
	linesPerPush = 50
	pushEvery    = 100 * time.Millisecond
)

// startLoad begins with some writers. Doors are members that take pushes and queries.
func startLoad(t testing.TB, writers int, doors ...*member) *load {
	l := &load{t: t, started: time.Now()}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.mu.doors, l.mu.refused = doors, map[string]int{}
	for i := range writers {
		w := &writer{name: fmt.Sprint("w", i)}
		l.writers = append(l.writers, w)
		l.wg.Go(func() { l.write(w, i) })
	}
	t.Cleanup(l.stop)
	return l
}

// stop ends the writers; pushes under way are repeated until they are acknowledged.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// use changes the doors.
func (l *load) use(doors ...*member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.doors = doors
}

func (l *load) door(n int) *member {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.doors[n%len(l.mu.doors)]
}

func (l *load) write(w *writer, number int) {
	tick := time.NewTicker(pushEvery)
	defer tick.Stop()
	turn := number
	for n := int64(0); ; n += linesPerPush {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		streams := []pushStream{l.part(w, n, "a"), l.part(w, n+linesPerPush/2, "b")}
		w.sent.Add(linesPerPush)
		for deadline := time.Now().Add(patience); ; turn++ {
			door := l.door(turn)
			a := attempt{at: time.Now(), door: door}
			code, text, err := door.push(streams...)
			a.took, a.code, a.text = time.Since(a.at), code, string(text)
			if err != nil {
				a.code, a.text = 0, err.Error()
			}
			l.mu.Lock()
			l.mu.attempts = append(l.mu.attempts, a)
			l.mu.Unlock()
			if a.code == http.StatusNoContent {
				break
			}
			if time.Now().After(deadline) {
				l.t.Errorf("writer %s: line %d cannot be pushed for %s: %d %s", w.name, n, patience, a.code, a.text)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		w.written.Add(linesPerPush)
	}
}

// part is half a push: lines from n of one of the writer's streams.
func (l *load) part(w *writer, n int64, part string) pushStream {
	now := time.Now().UnixNano()
	s := pushStream{Stream: map[string]string{"job": "ring", "writer": w.name, "part": part, "group": strconv.FormatInt(n/1000%7, 10)}}
	for i := n; i < n+linesPerPush/2; i++ {
		s.Values = append(s.Values, pushEntry{ts: now + i - n, line: fmt.Sprintf("writer=%s n=%d level=info some text that makes a line of usual length", w.name, i)})
	}
	return s
}

func (l *load) totals() (sent, written int64) {
	for _, w := range l.writers {
		written += w.written.Load()
	}
	for _, w := range l.writers {
		sent += w.sent.Load()
	}
	return sent, written
}

// watch asks a door every second how many lines there are, and compares: all that were
// acknowledged before the question, and none that was not sent by the time of the answer.
func (l *load) watch() {
	l.wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for turn := 0; ; turn++ {
			select {
			case <-l.ctx.Done():
				return
			case <-tick.C:
			}
			l.check(l.door(turn))
		}
	})
}

func (l *load) check(door *member) {
	_, atLeast := l.totals()
	at := time.Now()
	got, err := door.count(fmt.Sprintf(`sum(count_over_time({job="ring"}[%ds]))`, int(at.Sub(l.started).Seconds())+60), at)
	atMost, _ := l.totals()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.checks++
	switch {
	case err != nil:
		_, reason, _ := strings.Cut(err.Error(), "]))") // the rest of the query differs each time
		l.mu.refused[door.id+": "+shortened(reason, 100)]++
	case int64(got) < atLeast || int64(got) > atMost:
		l.mu.wrong = append(l.mu.wrong, fmt.Sprintf("after %.1fs %s counts %d lines, want %d to %d", at.Sub(l.started).Seconds(), door.id, got, atLeast, atMost))
	}
}

func shortened(s string, n int) string { return s[:min(n, len(s))] }

// expectRightCounts demands that every count since the start was right, and returns how
// many there were and how many queries were refused.
func (l *load) expectRightCounts() (checks int, refused map[string]int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.mu.wrong[:min(10, len(l.mu.wrong))] {
		l.t.Errorf("wrong count: %s (%d of %d)", w, len(l.mu.wrong), l.mu.checks)
	}
	return l.mu.checks, l.mu.refused
}

// phase sums up the pushes of a span of time to doors that were up.
type phase struct {
	pushes, failed int
	p50, p99, max  time.Duration
	span           time.Duration // between the first failure and the last
	last           time.Time
	reasons        map[string]int
}

func (p phase) String() string {
	text := fmt.Sprintf("%d pushes, p50 %s, p99 %s, max %s; %d failed", p.pushes, ms(p.p50), ms(p.p99), ms(p.max), p.failed)
	if p.failed > 0 {
		text += fmt.Sprintf(" within %s", ms(p.span))
	}
	return text
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// phase looks at the pushes that began between two moments, without those to a door that
// was down itself, which any client's balancer leaves out.
func (l *load) phase(from, to time.Time, down ...*member) phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := phase{reasons: map[string]int{}}
	var took []time.Duration
	var first time.Time
	for _, a := range l.mu.attempts {
		if a.at.Before(from) || a.at.After(to) || slices.Contains(down, a.door) {
			continue
		}
		p.pushes++
		if a.code == http.StatusNoContent {
			took = append(took, a.took)
			continue
		}
		p.failed++
		p.reasons[fmt.Sprintf("%s: %d %s", a.door.id, a.code, shortened(a.text, 60))]++
		if first.IsZero() {
			first = a.at
		}
		p.last = a.at.Add(a.took)
		p.span = p.last.Sub(first)
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	if n := len(took); n > 0 {
		p.p50, p.p99, p.max = took[n/2], took[n*99/100], took[n-1]
	}
	return p
}

// verify stops the load and reads every line back: each acknowledged one must be there once.
func (l *load) verify(door *member) {
	l.t.Helper()
	l.stop()
	end := time.Now().Add(time.Second)
	for _, w := range l.writers {
		want := int(w.written.Load())
		lines, err := door.lines(fmt.Sprintf(`{job="ring",writer=%q}`, w.name), l.started.Add(-time.Second), end)
		if err != nil {
			l.t.Errorf("reading back: %v", err)
			return
		}
		seen := make([]int, want)
		beyond := 0
		for _, line := range lines {
			_, text, _ := strings.Cut(line, " n=")
			text, _, _ = strings.Cut(text, " ")
			n, err := strconv.Atoi(text)
			if err != nil {
				l.t.Fatalf("a line that nobody pushed: %q", line)
			}
			if n >= want {
				beyond++
				continue
			}
			seen[n]++
		}
		missing, twice := 0, 0
		example := -1
		for n, times := range seen {
			if times == 0 {
				missing++
			} else if times > 1 {
				twice++
			}
			if times != 1 && example < 0 {
				example = n
			}
		}
		if missing > 0 || twice > 0 {
			l.t.Errorf("writer %s: of %d acknowledged lines %d are missing, %d there more than once (the first is n=%d), read at %s", w.name, want, missing, twice, example, door.id)
		}
		if beyond > 0 {
			l.t.Errorf("writer %s: %d lines beyond the last push", w.name, beyond)
		}
	}
}
