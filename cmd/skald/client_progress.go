package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
)

// progressAfter is how long work takes before it gets a bar; progressEvery is how often
// the bar is drawn again.
const (
	progressAfter = 700 * time.Millisecond
	progressEvery = 100 * time.Millisecond
	progressWidth = 30
)

// progress is a bar in the last line of a terminal. It is the writer for everything else
// on that terminal, so that messages stand above the bar. A nil progress draws nothing.
type progress struct {
	mu struct {
		sync.Mutex
		drawn       bool
		last        time.Time
		done        float64 // 0 to 1
		lines, text int64
	}
	w     io.Writer
	start time.Time
}

// newProgress returns nil unless standard error is a terminal that results do not go to.
func newProgress(std stdio, o clientOptions) *progress {
	if o.quiet || !isTerminal(std.err) || isTerminal(std.out) {
		return nil
	}
	return &progress{w: std.err, start: time.Now()}
}

// at reports how much is done, 0 to 1, and what came in since the last report.
func (p *progress) at(done float64, lines, bytes int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.done = min(max(p.mu.done, done), 1)
	p.mu.lines += int64(lines)
	p.mu.text += int64(bytes)
	now := time.Now()
	if now.Sub(p.start) < progressAfter || now.Sub(p.mu.last) < progressEvery {
		return
	}
	p.mu.last, p.mu.drawn = now, true
	text := fmt.Sprintf("] %s lines, %s, %s", humanize.Comma(p.mu.lines), humanize.Bytes(uint64(p.mu.text)), now.Sub(p.start).Round(time.Second))
	// A bar that wraps could not be drawn over.
	width := progressWidth
	if columns := terminalWidth(p.w); columns > 0 {
		width = max(min(width, columns-len(text)-len("100% [")-1), 0)
	}
	full := int(p.mu.done * float64(width))
	fmt.Fprintf(p.w, "\r\x1b[K%3.0f%% [%s%s%s", p.mu.done*100, strings.Repeat("█", full), strings.Repeat("·", width-full), text)
}

// Write prints above the bar.
func (p *progress) Write(text []byte) (int, error) {
	p.clear()
	return p.w.Write(text)
}

func (p *progress) clear() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.drawn {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
		p.mu.drawn = false
	}
}
