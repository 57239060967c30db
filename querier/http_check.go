package querier

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/syntax"
)

// checkQuery applies the tenant's limits that concern a query's text.
func checkQuery(expr syntax.Expr, p engine.Params, lim *limits.Limits) error {
	if lim.MaxQueryParallelism == 0 && lim.TSDBMaxQueryParallelism == 0 {
		return fault.New(fault.RateLimited, "querying is disabled, please contact your Loki operator")
	}
	for _, b := range lim.BlockedQueries {
		if forbids(b, p.Query, expr) {
			return fault.New(fault.Invalid, "query blocked by policy")
		}
	}
	for _, log := range syntax.LogExprs(expr) {
		if err := checkMatchers(log.Matchers, lim); err != nil {
			return err
		}
	}
	return nil
}

func checkMatchers(matchers []*labels.Matcher, lim *limits.Limits) error {
	if n, most := len(matchers), lim.MaxStreamsMatchersPerQuery; most > 0 && n > most {
		return fault.New(fault.Invalid, "max streams matchers per query exceeded, matchers-count > limit (%d > %d)", n, most)
	}
	names := make([]string, len(matchers))
	for i, m := range matchers {
		names[i] = m.Name
	}
	var missing []string
	for _, want := range lim.RequiredLabels {
		if !slices.Contains(names, want) {
			missing = append(missing, want)
		}
	}
	if len(missing) > 0 {
		return fault.New(fault.Invalid, "stream selector is missing required matchers [%s], labels present in the query were [%s]",
			strings.Join(missing, ", "), strings.Join(names, ", "))
	}
	if least := lim.MinimumLabelsNumber; len(names) < least {
		return fault.New(fault.Invalid, "stream selector has less label matchers than required: (present: [%s], number_present: %d, required_number_label_matchers: %d)",
			strings.Join(names, ", "), len(names), least)
	}
	return nil
}

// forbids reports whether a rule forbids the query: by its text, a regular expression over
// it, or its type.
func forbids(rule limits.BlockedQuery, query string, expr syntax.Expr) bool {
	if len(rule.Types) > 0 && !slices.Contains(rule.Types, queryKind(expr)) {
		return false
	}
	switch {
	case rule.Pattern == "":
		return true
	case rule.Regex:
		re, err := regexp.Compile(rule.Pattern)
		return err == nil && re.MatchString(query)
	}
	return rule.Pattern == query
}

// queryKind is Loki's word for a query in blocking rules.
func queryKind(expr syntax.Expr) string {
	log, ok := expr.(*syntax.LogExpr)
	switch {
	case !ok:
		return "metric"
	case len(log.Stages) > 0:
		return "filter"
	}
	return "limited"
}

// hidden reports whether a query names Loki's internal streams, which only Logs Drilldown
// may read; others get an empty answer.
func hidden(expr syntax.Expr, r *http.Request) bool {
	if fromDrilldown(r) {
		return false
	}
	for _, log := range syntax.LogExprs(expr) {
		for _, m := range log.Matchers {
			if m.Name == "__aggregated_metric__" || m.Name == "__pattern__" {
				return true
			}
		}
	}
	return false
}
