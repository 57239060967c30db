package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/journal"
)

// journalSource reads the systemd journal for one client. Its cursor moves when the client's
// server has acknowledged.
type journalSource struct {
	job     *job
	rt      *engine
	feed    *feed
	cursor  *cursor
	problem atomic.Pointer[string]
}

func newJournalSource(rt *engine, j *job, f *feed) *journalSource {
	return &journalSource{job: j, rt: rt, feed: f, cursor: newCursor(f.lane, j.JobName)}
}

// checkJournal says what would keep a journal from being read here.
func checkJournal(j *Journal) error {
	if _, err := exec.LookPath("journalctl"); err != nil {
		return fmt.Errorf("journal: journalctl is not in PATH; it is what reads the journal: %w", err)
	}
	if j.Path != "" {
		if fi, err := os.Stat(j.Path); err != nil {
			return fmt.Errorf("journal: path: %w", err)
		} else if !fi.IsDir() {
			return fmt.Errorf("journal: path: %s is not a directory", j.Path)
		}
	}
	for _, m := range strings.Fields(j.Matches) {
		if !strings.Contains(m, "=") {
			return fmt.Errorf("journal: matches: %q is not FIELD=value", m)
		}
	}
	return nil
}

func (s *journalSource) info() sourceInfo {
	i := sourceInfo{Job: s.job.JobName, Type: "Journal", Where: "the journal", Labels: labels.FromMap(s.job.Journal.Labels).String(), Ready: true}
	if s.job.Journal.Path != "" {
		i.Where = s.job.Journal.Path
	}
	if p := s.problem.Load(); p != nil {
		i.Problem, i.Ready = *p, false
	}
	return i
}

func (s *journalSource) close() error { return nil }

func (s *journalSource) run(ctx context.Context) {
	c := s.job.Journal
	cfg := journal.Config{
		Command: s.rt.agent.opts.Journalctl, Cursor: s.start(), MaxAge: c.MaxAge, Path: c.Path,
		Matches: strings.Fields(c.Matches), Logger: s.rt.log.With("job", s.job.JobName),
	}
	_ = journal.Run(ctx, cfg, func(list []journal.Entry) error { return s.emit(ctx, list) }, func(err error) {
		if err == nil {
			s.problem.Store(nil)
			return
		}
		text := err.Error()
		s.problem.Store(&text)
	}) // it ends with the context
}

// start is the cursor to begin with. Promtail had another name for it once.
func (s *journalSource) start() string {
	if c := s.cursor.get(); c != "" || !s.feed.lane.first {
		return c
	}
	return s.rt.store.Cursor("journal-" + s.job.JobName)
}

func (s *journalSource) emit(ctx context.Context, list []journal.Entry) error {
	if !s.feed.wait(ctx) {
		return ctx.Err()
	}
	entries := make([]entry, 0, len(list))
	for i := range list {
		if e, ok := s.entry(&list[i]); ok {
			entries = append(entries, e)
		}
	}
	r := s.cursor.begin(list[len(list)-1].Cursor)
	s.feed.add(entries, r)
	r.Release()
	if s.feed.lane.first {
		s.rt.agent.metrics.entries.WithLabelValues("journal").Add(float64(len(entries)))
	}
	return nil
}

func (s *journalSource) entry(j *journal.Entry) (entry, bool) {
	bad := func(reason string) (entry, bool) {
		if s.feed.lane.first {
			s.rt.agent.metrics.errors.WithLabelValues("journal", reason).Inc()
		}
		return entry{}, false
	}
	line, ok := j.Message()
	if s.job.Journal.JSON {
		text, err := json.Marshal(j.Fields)
		line, ok = string(text), err == nil
	}
	if !ok {
		return bad("no_message")
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	for k, v := range j.Fields {
		b.Set(journal.Label(k), v)
	}
	if p := j.Priority(); p != "" {
		b.Set("__journal_priority_keyword", p)
	}
	ls, keep := relabelEntry(b, s.job.Relabel, s.job.Journal.Labels)
	if !keep {
		return entry{}, false
	}
	if ls.IsEmpty() {
		return bad("empty_labels")
	}
	return entry{labels: ls, ts: j.Time, line: []byte(line)}, true
}
