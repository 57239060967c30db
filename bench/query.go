package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skaldlog/skald/bench/corpus"
)

// measured is what one question cost.
type measured struct {
	question *question
	cold     time.Duration
	warm     []time.Duration // sorted
	cpu      time.Duration   // of the server, for one warm run
	cores    float64         // that the server used during warm runs, on average
	wanted   float64         // cores that it used or waited for
	stats    queryStats      // of the first run
	wrong    error
}

func (m *measured) median() time.Duration { return m.warm[len(m.warm)/2] }

// query asks every question, checks the answers and prints the table.
func query(ctx context.Context, o options) error {
	if o.skald != "" {
		var err error
		if o.corpus, err = recall(o.dir); err != nil {
			return err
		}
	}
	asked, err := chosen(o.only)
	if err != nil {
		return err
	}
	began := time.Now()
	truth, err := findTruth(ctx, o.corpus, asked)
	if err != nil {
		return err
	}
	fmt.Printf("truth                      %8.1f s to scan %.1f MB in %d lines, seed %d\n", time.Since(began).Seconds(), float64(truth.bytes)/1e6, truth.lines, o.corpus.Seed)
	results := make([]measured, len(asked))
	for i := range asked {
		results[i].question = &asked[i]
	}
	if o.skald != "" && o.cold {
		if err := runCold(ctx, o, truth, results); err != nil {
			return err
		}
	}
	t := target{addr: o.addr, pid: o.pid}
	if o.skald != "" {
		p, err := startServer(ctx, o)
		if err != nil {
			return err
		}
		defer p.kill()
		t = p.target()
	}
	if err := runWarm(ctx, o, t, truth, results); err != nil {
		return err
	}
	report(os.Stdout, t, results)
	return verdict(results)
}

// chosen are the questions of that names, or all.
func chosen(only string) ([]question, error) {
	if only == "" {
		return questions, nil
	}
	var out []question
	for _, name := range strings.Split(only, ",") {
		known := slices.Concat(questions, extra)
		i := slices.IndexFunc(known, func(q question) bool { return q.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only=%s: no such query", name)
		}
		out = append(out, known[i])
	}
	return out, nil
}

// runCold gives each question a process that has read nothing yet. The kernel's page cache
// may still hold the files.
func runCold(ctx context.Context, o options, t *truth, results []measured) error {
	for i := range results {
		p, err := startServer(ctx, o)
		if err != nil {
			return err
		}
		m := &results[i]
		m.cold, m.stats, m.wrong = ask(ctx, p.addr, t, i, m.question)
		if err := p.stop(); err != nil {
			return err
		}
	}
	return nil
}

func runWarm(ctx context.Context, o options, tg target, t *truth, results []measured) error {
	for i := range results {
		m := &results[i]
		took, stats, err := ask(ctx, tg.addr, t, i, m.question)
		if m.cold == 0 {
			m.cold, m.stats = took, stats
		}
		m.wrong = errors.Join(m.wrong, err)
	}
	for i := range results {
		m := &results[i]
		var before, waitedBefore time.Duration
		if tg.pid != 0 {
			var err error
			if before, waitedBefore, err = schedOf(tg.pid); err != nil {
				return err
			}
		}
		began := time.Now()
		for range max(1, o.runs) {
			took, _, err := ask(ctx, tg.addr, t, i, m.question)
			if err != nil && m.wrong == nil {
				m.wrong = fmt.Errorf("not always: %w", err)
			}
			m.warm = append(m.warm, took)
		}
		took := time.Since(began)
		slices.Sort(m.warm)
		if tg.pid != 0 {
			after, waited, err := schedOf(tg.pid)
			if err != nil {
				return err
			}
			m.cpu = (after - before) / time.Duration(len(m.warm))
			m.cores = (after - before).Seconds() / took.Seconds()
			m.wanted = m.cores + (waited-waitedBefore).Seconds()/took.Seconds()
		}
		fmt.Fprintf(os.Stderr, "%-16s %8.1f ms\n", m.question.name, ms(m.median()))
		if err := profileQuery(ctx, o, tg.addr, t, i, m.question); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// profileQuery repeats a question while a CPU profile is taken.
func profileQuery(ctx context.Context, o options, addr string, t *truth, i int, q *question) error {
	if o.profiles == "" {
		return nil
	}
	wait := profile(ctx, o, addr, q.name, queryProfileSeconds)
	for until := time.Now().Add(queryProfileSeconds * time.Second); time.Now().Before(until); {
		if _, _, err := ask(ctx, addr, t, i, q); err != nil {
			break // it has been reported by the warm runs
		}
	}
	return wait()
}

// ask sends a question, times it to the last byte of the answer, and checks it.
func ask(ctx context.Context, addr string, t *truth, i int, q *question) (time.Duration, queryStats, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr+q.path(t.cfg), nil)
	if err != nil {
		return 0, queryStats{}, err
	}
	began := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, queryStats{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	took := time.Since(began)
	if err != nil {
		return took, queryStats{}, err
	}
	if res.StatusCode != http.StatusOK {
		return took, queryStats{}, &statusError{res.StatusCode, string(body)}
	}
	stats, err := t.check(q, &t.answers[i], body)
	return took, stats, err
}

// path is the question as a request.
func (q *question) path(cfg corpus.Config) string {
	start, end := q.from(cfg), cfg.Start.Add(cfg.Span)
	logql := strings.ReplaceAll(q.logql, "SPAN", cfg.Span.String())
	v := url.Values{"start": {fmt.Sprint(start.UnixNano())}, "end": {fmt.Sprint(end.UnixNano())}}
	switch m := q.metric; {
	case q.metadata != nil:
		return logql + "&" + v.Encode()
	case m == nil:
		v.Set("limit", fmt.Sprint(q.limit))
		v.Set("direction", "backward")
	case m.step == 0:
		return "/loki/api/v1/query?" + url.Values{"query": {logql}, "time": {fmt.Sprint(end.UnixNano())}}.Encode()
	default:
		v.Set("step", fmt.Sprint(m.step.Seconds()))
	}
	v.Set("query", logql)
	return "/loki/api/v1/query_range?" + v.Encode()
}

func verdict(results []measured) error {
	var wrong []error
	for _, m := range results {
		if m.wrong != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", m.question.name, m.wrong))
		}
	}
	return errors.Join(wrong...)
}
