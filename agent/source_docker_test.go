package agent

import (
	"bufio"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// What a container with a terminal prints comes without frames. A line that is longer than
// the reader's buffer comes in pieces, of which only the first has a time.
func TestDockerLongLineOfATerminal(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	l := &dockerLog{s: &dockerSource{job: &job{ScrapeConfig: &ScrapeConfig{}}, feed: &feed{lane: &lane{}}}, labels: labels.EmptyLabels()}
	d := &dockerReader{log: l}
	r := bufio.NewReaderSize(strings.NewReader("2026-01-02T03:04:05.6Z "+long+"\r\n2026-01-02T03:04:06Z next\n"), 64<<10)
	for {
		piece, err := r.ReadSlice('\n')
		if len(piece) == 0 {
			break
		}
		d.piece(1, piece)
		if err != nil && err != bufio.ErrBufferFull {
			break
		}
	}
	if len(d.batch) != 2 {
		t.Fatalf("%d lines, want 2", len(d.batch))
	}
	if at := time.Unix(0, d.batch[0].ts).UTC().Format(time.RFC3339Nano); string(d.batch[0].line) != long || at != "2026-01-02T03:04:05.6Z" {
		t.Errorf("a line of %d bytes at %s", len(d.batch[0].line), at)
	}
	if string(d.batch[1].line) != "next" || d.last != "2026-01-02T03:04:06Z" {
		t.Errorf("then %q, and the position is %s", d.batch[1].line, d.last)
	}
}
