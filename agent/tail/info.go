package tail

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skaldlog/skald/agent/clock"
)

// TargetInfo describes a target for people.
type TargetInfo struct {
	Job, Path, Labels string
	Matches           int64 // files found by the last scan
	Why               string
}

// LogInfo describes a log for people.
type LogInfo struct {
	Job, Path string
	// Size and Read are in bytes, over all generations that are not done; Lag is the difference.
	Size, Read, Lag int64
	Age             time.Duration // since the last turn
	// Behind is for how long the log has not been read to its end, 0 when it is.
	Behind  time.Duration
	Lines   int64 // read since it is followed
	Problem string
}

// Targets returns what is known about the targets.
func (t *Tailer) Targets() []TargetInfo {
	targets := t.allTargets()
	out := make([]TargetInfo, len(targets))
	for i, tg := range targets {
		n := tg.matches.Load()
		out[i] = TargetInfo{Job: tg.Job, Path: tg.Path, Labels: tg.Labels.String(), Matches: n, Why: fmt.Sprintf("%d files", n)}
		if p := tg.problem.Load(); p != nil {
			out[i].Why += "; " + *p
		} else if n == 0 {
			out[i].Why = "the pattern matches no file"
		}
	}
	return out
}

// Logs returns what is known about the followed files, sorted by path.
func (t *Tailer) Logs() []LogInfo {
	t.mu.Lock()
	out := make([]LogInfo, 0, len(t.mu.logs))
	for _, l := range t.mu.logs {
		i := LogInfo{Job: l.target.Job, Path: l.path, Size: l.seen.size.Load(), Read: l.seen.read.Load()}
		i.Lag = max(i.Size-i.Read, 0)
		i.Lines = l.seen.lines.Load()
		if at := l.seen.behind.Load(); at != 0 && i.Lag > 0 {
			i.Behind = -clock.Until(at).Round(time.Millisecond)
		}
		if at := l.seen.at.Load(); at != 0 {
			i.Age = -clock.Until(at).Round(time.Second)
		}
		if p := l.problem.Load(); p != nil {
			i.Problem = *p
		}
		out = append(out, i)
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b LogInfo) int { return strings.Compare(a.Path, b.Path) })
	return out
}
