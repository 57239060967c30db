package querier

import (
	"bytes"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// The endpoints under /api/prom are those of Loki before 1.0, which old shippers and
// scripts still call. They know log queries only, print labels as one string, and times in
// RFC 3339.

// serveLegacyQuery answers /api/prom/query: query_range with regexp as one more filter.
func (q *Querier) serveLegacyQuery(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(w, r)
	if err != nil {
		return err
	}
	e, err := rangeParams(p)
	if err != nil {
		return err
	}
	expr, err := syntax.Parse(e.Query)
	if err != nil {
		return err
	}
	log, ok := expr.(*syntax.LogExpr)
	if !ok {
		return fault.New(fault.Invalid, "legacy endpoints only support streams result type")
	}
	if re := p.get("regexp"); re != "" {
		log.Stages = append(log.Stages, &syntax.LineFilter{Op: syntax.LineMatches, Operands: []syntax.LineOperand{{Text: re}}})
		e.Query = log.String()
	}
	result, took, err := q.evaluate(r, e, log)
	if err != nil {
		return err
	}
	body, err := q.inTurn(r, func() []byte { return appendLegacyResult(nil, result, took) })
	if err != nil {
		return err
	}
	return q.writeJSON(w, r, body)
}

func (q *Querier) serveLegacyLabels(w http.ResponseWriter, r *http.Request) error {
	var warned warnings
	names, err := q.labelNames(w, r, &warned)
	if err != nil {
		return err
	}
	return q.writeLegacyStrings(w, r, names, &warned)
}

func (q *Querier) serveLegacyValues(w http.ResponseWriter, r *http.Request) error {
	var warned warnings
	values, err := q.labelValues(w, r, &warned)
	if err != nil {
		return err
	}
	return q.writeLegacyStrings(w, r, values, &warned)
}

func (q *Querier) writeLegacyStrings(w http.ResponseWriter, r *http.Request, list []string, warned *warnings) error {
	b := warned.append([]byte("{"))
	if len(list) > 0 {
		b = append(b, `"values":`...)
		b = appendStringList(b, list)
	} else {
		b = bytes.TrimSuffix(b, []byte(","))
	}
	return q.writeJSON(w, r, append(b, "}\n"...))
}

func appendLegacyResult(b []byte, res *engine.Result, took time.Duration) []byte {
	b = appendWarnings(append(b, '{'), res.Warnings)
	b = append(b, `"streams":[`...)
	for i := range res.Streams {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLegacyStream(b, res.Streams[i].Labels, res.Streams[i].Entries)
	}
	b = append(b, `],"stats":`...)
	b = appendStats(b, res, took)
	return append(b, "}\n"...)
}

func appendLegacyStream(b []byte, ls labels.Labels, entries []scan.Entry) []byte {
	b = append(b, `{"labels":`...)
	b = appendString(b, ls.String())
	b = append(b, `,"entries":[`...)
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"ts":"`...)
		b = time.Unix(0, entries[i].Timestamp).UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, `","line":`...)
		b = append(appendLine(b, entries[i].Line), '}')
	}
	return append(b, "]}"...)
}

// appendLegacyFrame appends a frame of /api/prom/tail.
func appendLegacyFrame(b []byte, entries []tailEntry, dropped []model.Dropped, warned []string) []byte {
	b = appendWarnings(append(b, '{'), warned)
	b = append(b, `"streams":[`...)
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLegacyStream(b, entries[i].labels, []scan.Entry{entries[i].Entry})
	}
	b = append(b, ']')
	if len(dropped) > 0 {
		b = append(b, `,"dropped_entries":[`...)
		for i, d := range dropped {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"timestamp":"`...)
			b = time.Unix(0, d.Timestamp).UTC().AppendFormat(b, time.RFC3339Nano)
			b = append(b, `","labels":`...)
			b = append(appendString(b, d.Labels.String()), '}')
		}
		b = append(b, ']')
	}
	return append(b, '}')
}
