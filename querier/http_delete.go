package querier

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	regexpsyntax "regexp/syntax"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
	"github.com/skaldlog/skald/storage/compact"
)

// CompileDelete makes the filters of a delete request's query: a selector, which may be {},
// and stages that the rows must pass.
func CompileDelete(query string) (*compact.Filters, error) {
	expr, err := syntax.ParseLogOfAny(query)
	if err != nil {
		return nil, err
	}
	return compileDelete(expr)
}

func compileDelete(expr *syntax.LogExpr) (*compact.Filters, error) {
	if _, err := pipeline.New(expr.Stages, pipeline.Options{}); err != nil {
		return nil, err
	}
	return &compact.Filters{
		New:   func() compact.RowFilter { return (&deleteFilter{expr: expr}).stream },
		Bytes: deleteBytes(expr),
	}, nil
}

// deleteBytes is about what a query keeps in memory: for its text, measured, up to ten bytes a
// byte, and a hundred for each instruction of a matcher's regular expression, of which a few
// bytes make thousands.
func deleteBytes(expr *syntax.LogExpr) int64 {
	n := int64(16 * len(expr.String()))
	for _, m := range expr.Matchers {
		if tree, err := regexpsyntax.Parse(m.GetRegexString(), regexpsyntax.Perl); err == nil {
			if prog, err := regexpsyntax.Compile(tree.Simplify()); err == nil {
				n += int64(128 * len(prog.Inst))
			}
		}
	}
	return n
}

// deleteFilter is a delete request's query for one goroutine.
type deleteFilter struct {
	expr *syntax.LogExpr
	// pipeline is nil until a stream matches: most queries meet none of most requests' streams.
	pipeline *pipeline.Pipeline
}

// stream is a compact.RowFilter.
func (f *deleteFilter) stream(stream labels.Labels) (all bool, row func(int64, []byte, labels.Labels) bool) {
	switch {
	case !matchAll(f.expr.Matchers, stream):
		return false, nil
	case len(f.expr.Stages) == 0:
		return true, nil
	}
	if f.pipeline == nil {
		var err error
		if f.pipeline, err = pipeline.New(f.expr.Stages, pipeline.Options{}); err != nil {
			panic("querier: a delete request that compiled once does not compile again: " + err.Error())
		}
	}
	sp := f.pipeline.ForStream(stream, stream.Hash())
	return false, func(ts int64, line []byte, metadata labels.Labels) bool {
		_, _, ok := sp.Process(ts, line, pairs(metadata))
		return ok
	}
}

// hide takes rows that delete requests name out of a selection.
func (q *Querier) hide(ctx context.Context, tenant model.Tenant, req *model.Request, sel *model.Selection) error {
	if q.deletes == nil {
		return nil
	}
	return q.deletes.Hide(ctx, tenant, req.Range, sel, CompileDelete)
}

// serveDelete is Loki's API for delete requests. Parameters come from the URL alone.
func (q *Querier) serveDelete(w http.ResponseWriter, r *http.Request) error {
	tenant, err := server.TenantOf(r)
	if err != nil {
		return err
	}
	if err := q.deletes.Allowed(tenant); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet:
		return q.listDeletes(w, r, tenant)
	case http.MethodDelete:
		return q.cancelDelete(w, r, tenant)
	}
	return q.createDelete(w, r, tenant)
}

func (q *Querier) createDelete(w http.ResponseWriter, r *http.Request, tenant model.Tenant) error {
	params := r.URL.Query()
	query := params.Get("query")
	if query == "" {
		return fault.New(fault.Invalid, "query not set")
	}
	expr, err := syntax.ParseLogOfAny(query)
	if err == nil {
		_, err = compileDelete(expr)
	}
	if err != nil {
		return fault.New(fault.Invalid, "invalid query expression")
	}
	if params.Get("start") == "" {
		return fault.New(fault.Invalid, "start time not set")
	}
	start, err := deleteTime("start", params.Get("start"))
	if err != nil {
		return err
	}
	end := time.Now()
	if text := params.Get("end"); text != "" {
		if end, err = deleteTime("end", text); err != nil {
			return err
		}
	}
	if err := q.deletes.CheckSpan(start, end); err != nil {
		return err
	}
	if text := params.Get("max_interval"); text != "" && choosesLines(expr) {
		if err := checkInterval(text, end.Sub(start)); err != nil {
			return err
		}
	}
	created, err := q.deletes.Create(r.Context(), tenant, query, start, end)
	if err != nil {
		return err
	}
	w.Header().Set("X-Delete-Request-ID", created.ID)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxDeleteInterval is Loki's default for its server-wide limit.
const maxDeleteInterval = 24 * time.Hour

// choosesLines reports whether a request is for some lines of its streams: others have no
// use for max_interval, whatever it says.
func choosesLines(expr *syntax.LogExpr) bool {
	return slices.ContainsFunc(expr.Stages, func(s syntax.Stage) bool {
		switch s := s.(type) {
		case *syntax.LabelFilter:
			return true
		case *syntax.LineFilter:
			all := (s.Op == syntax.LineContains || s.Op == syntax.LineMatches) && s.Operands[0].Text == ""
			return !all
		}
		return false
	})
}

// checkInterval checks max_interval, which has no effect here: a request of any length is
// one pass over the segments of its days.
func checkInterval(text string, length time.Duration) error {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil, d < time.Second:
		return fault.New(fault.Invalid, "invalid max_interval: valid time units are 's', 'm', 'h'")
	case d > maxDeleteInterval:
		return fault.New(fault.Invalid, "max_interval can't be greater than %s", maxDeleteInterval)
	case d > length:
		return fault.New(fault.Invalid, "max_interval can't be greater than the interval to be deleted (%s)", length)
	}
	return nil
}

// deleteTime reads RFC 3339, or unix seconds of exactly ten characters.
func deleteTime(name, text string) (time.Time, error) {
	if len(text) == secondsMaxChars {
		if f, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(f) <= math.MaxInt64/1e9-1 {
			seconds, part := math.Modf(f)
			return time.Unix(int64(seconds), int64(math.Round(part*1e3))*1e6), nil
		}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fault.New(fault.Invalid, "invalid %s time: require unix seconds or RFC3339 format", name)
	}
	return t, nil
}

func (q *Querier) listDeletes(w http.ResponseWriter, r *http.Request, tenant model.Tenant) error {
	requests, err := q.deletes.List(r.Context(), tenant)
	if err != nil {
		return err
	}
	params := r.URL.Query()
	if from, to := params.Get("start"), params.Get("end"); from != "" && to != "" {
		start, err := deleteTime("start", from)
		if err != nil {
			return err
		}
		end, err := deleteTime("end", to)
		if err != nil {
			return err
		}
		requests = slices.DeleteFunc(requests, func(d compact.Request) bool {
			return d.End < start.UnixNano() || d.Start > end.UnixNano() || end.Before(start)
		})
	}
	type item struct {
		ID        string  `json:"request_id"`
		Start     float64 `json:"start_time"`
		End       float64 `json:"end_time"`
		Query     string  `json:"query"`
		Status    string  `json:"status"`
		CreatedAt float64 `json:"created_at"`
		UserID    string  `json:"user_id"`
	}
	list := make([]item, len(requests))
	for i := range requests {
		d := &requests[i]
		list[i] = item{d.ID, unixSeconds(d.Start), unixSeconds(d.End), d.Query, d.Status(), unixSeconds(d.Created), ""}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(list)
}

func unixSeconds(ns int64) float64 { return float64(ns/int64(time.Millisecond)) / 1000 }

func (q *Querier) cancelDelete(w http.ResponseWriter, r *http.Request, tenant model.Tenant) error {
	params := r.URL.Query()
	if err := q.deletes.Cancel(r.Context(), tenant, params.Get("request_id"), params.Get("force") == "true"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// serveGenerations answers clients that cache results: their number changes whenever
// deletes make cached answers wrong. Queries see deletes at once, so there is none.
func (q *Querier) serveGenerations(w http.ResponseWriter, r *http.Request) error {
	tenant, err := server.TenantOf(r)
	if err != nil {
		return err
	}
	if err := q.deletes.Allowed(tenant); err != nil {
		return err
	}
	_, _ = w.Write([]byte(`""` + "\n")) // the client may have gone
	return nil
}
