package querier

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/patterns"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// minPatternStep is the finest step that the answer's whole seconds can name.
const minPatternStep = time.Second

// servePatterns finds the templates of the lines that a query selects, from the lines
// themselves, so that any range of time has patterns.
func (q *Querier) servePatterns(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(w, r)
	if err != nil {
		return err
	}
	e := engine.Params{Query: p.get("query")}
	if e.Start, e.End, err = p.orderedBounds(); err != nil {
		return err
	}
	if e.Step, err = p.step(e.Start, e.End); err != nil {
		return err
	}
	expr, err := syntax.ParseLog(e.Query)
	if err != nil {
		return err
	}
	tenants, err := server.TenantsOf(r)
	if err != nil {
		return err
	}
	lim := q.limitsFor(tenants)
	if err := checkQuery(expr, e, lim); err != nil {
		return err
	}
	if err := engine.CheckLength(e.Start, e.End, lim.MaxQueryLength.Duration()); err != nil {
		return err
	}
	if clampLookback(&e, lim, p.now) || hidden(expr, r) {
		return q.writeJSON(w, r, appendPatterns(nil, nil, &warnings{}))
	}
	leave, err := q.admit(r.Context(), tenants, nil)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := r.Context(), context.CancelFunc(func() {})
	if timeout := lim.QueryTimeout.Duration(); timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	var (
		stats, began = &model.Stats{}, time.Now()
		found        []patterns.Pattern
		warned       *warnings
	)
	err = q.retry(ctx, func() error {
		warned = &warnings{}
		return q.pool.Within(ctx, func(ctx context.Context) (err error) {
			found, err = patterns.Mine(ctx, boundSelector{q: q, tenants: tenants, turns: true}, expr,
				patterns.Query{Range: model.TimeRange{From: e.Start, Through: e.End}, Step: max(e.Step, minPatternStep)},
				scan.Options{MaxMemory: q.cfg.MaxMemory, Stats: stats, Warn: warned.add})
			return err
		})
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.Timeout, engine.TimedOut)
	}
	if err != nil {
		return err
	}
	q.count(&engine.Result{Type: "patterns", Stats: stats}, time.Since(began))
	return q.writeJSON(w, r, appendPatterns(nil, found, warned))
}

// appendPatterns appends an answer. Texts are escaped as lines are, and times are seconds.
func appendPatterns(b []byte, found []patterns.Pattern, warned *warnings) []byte {
	b = append(warned.append(append(b, '{')), `"status":"success","data":[`...)
	for i, p := range found {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"pattern":`...)
		b = appendLine(b, []byte(p.Text))
		b = append(b, `,"level":`...)
		b = appendLine(b, []byte(p.Level))
		b = append(b, `,"samples":[`...)
		for j, s := range p.Samples {
			if j > 0 {
				b = append(b, ',')
			}
			b = append(b, '[')
			b = strconv.AppendInt(b, s.T/int64(time.Second), 10)
			b = append(b, ',')
			b = strconv.AppendInt(b, s.N, 10)
			b = append(b, ']')
		}
		b = append(b, "]}"...)
	}
	return append(b, "]}\n"...)
}
