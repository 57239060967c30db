package main

import (
	"bytes"
	"regexp"
	"strconv"
	"time"

	"github.com/skaldlog/skald/bench/corpus"
)

// question is one kind of query with the means to know its answer.
type question struct {
	name, what string
	logql      string // SPAN stands for the time that the corpus covers; or a path of the API, for metadata

	// loki and vlogs are the published warm medians in ms of Loki 3.7.6 and VictoriaLogs
	// 1.26 for this kind of query over a corpus of this kind: 1 GB, two cores.
	loki, vlogs float64

	// match says which rows count. It is plain bytes, regexp and encoding/json on purpose:
	// nothing of the server's code may vouch for the server.
	match func(*row) bool

	// For log queries:
	limit int
	last  time.Duration // only the end of the corpus; 0: all

	// For metric queries: rows fall into windows of one step each. A step of 0 is the whole
	// span, asked as an instant query.
	metric *metric

	// For metadata:
	metadata func(*truth) []string
}

// metric says how the rows of a window become a value.
type metric struct {
	step  time.Duration
	label string // the only label of the results; "" for none
	group func(*row) string
	value func(*row) float64 // nil: 1
	per   float64            // the sum is divided by it; 0: not
	avg   bool
	q     float64 // quantile, if > 0
	topk  int
}

func everything(*row) bool { return true }

func contains(text string) func(*row) bool {
	b := []byte(text)
	return func(r *row) bool { return bytes.Contains(r.line, b) }
}

func matches(pattern string) func(*row) bool {
	re := regexp.MustCompile(pattern)
	return func(r *row) bool { return re.Match(r.line) }
}

func app(name string, also ...func(*row) bool) func(*row) bool {
	return func(r *row) bool { return r.app == name && all2(r, also) }
}

func namespace(name string, also ...func(*row) bool) func(*row) bool {
	return func(r *row) bool { return r.namespace == name && all2(r, also) }
}

func not(f func(*row) bool) func(*row) bool { return func(r *row) bool { return !f(r) } }

func all2(r *row, tests []func(*row) bool) bool {
	for _, f := range tests {
		if !f(r) {
			return false
		}
	}
	return true
}

func needle(name string) string {
	for _, n := range corpus.Needles {
		if n.Name == name {
			return n.Text
		}
	}
	panic("no needle " + name)
}

func byApp(r *row) string       { return r.app }
func byPod(r *row) string       { return r.pod }
func byNamespace(r *row) string { return r.namespace }
func byNothing(*row) string     { return "" }

var (
	logfmtLevel     = regexp.MustCompile(`(?:^| )level=(\w+)`)
	logfmtComponent = regexp.MustCompile(`(?:^| )component=(\w+)`)
)

func capture(re *regexp.Regexp, line []byte) string {
	if m := re.FindSubmatch(line); m != nil {
		return string(m[1])
	}
	return ""
}

const everywhere = `{namespace=~".+"}`

var questions = []question{
	{name: "tail100_app", what: "newest 100 lines of one app", logql: `{app="checkout"}`, loki: 14.0, vlogs: 23.2, limit: 100, match: app("checkout")},
	{name: "tail1000_ns", what: "newest 1000 lines of a namespace", logql: `{namespace="shop"}`, loki: 63.8, vlogs: 63.3, limit: 1000, match: namespace("shop")},
	{
		name: "needle_all", what: "trace id in all namespaces (3 lines)", loki: 3398, vlogs: 6.0,
		logql: everywhere + ` |= "` + needle("trace") + `"`, limit: 100, match: contains(needle("trace")),
	},
	{
		name: "needle_app", what: "uuid in one app (1 line)", loki: 279, vlogs: 1.7,
		logql: `{app="gateway"} |= "` + needle("uuid") + `"`, limit: 100, match: app("gateway", contains(needle("uuid"))),
	},
	{
		name: "needle_absent", what: "trace id that is nowhere", loki: 3489, vlogs: 3.3,
		logql: everywhere + ` |= "` + corpus.Absent + `"`, limit: 100, match: contains(corpus.Absent),
	},
	{
		name: "rare_phrase", what: "rare error phrase (50 lines)", loki: 3171, vlogs: 35.3,
		logql: everywhere + ` |= "refused by quorum witness"`, limit: 100, match: contains("refused by quorum witness"),
	},
	{
		name: "sm_equal", what: "structured metadata trace_id = x (5 lines)", loki: 3233, vlogs: 2.1,
		logql: everywhere + ` | trace_id="` + needle("metadata") + `"`, limit: 100,
		match: func(r *row) bool { return r.traceID == needle("metadata") },
	},
	{name: "common_100", what: `newest 100 lines with "error"`, loki: 4267, vlogs: 128, logql: everywhere + ` |= "error"`, limit: 100, match: contains("error")},
	{
		name: "regex_literal", what: "regex with a literal, one app", loki: 407, vlogs: 71.9,
		logql: `{app="gateway"} |~ "POST /api/v1/orders/[0-9]+ HTTP/1.1\" 50[03]"`, limit: 100,
		match: app("gateway", matches(`POST /api/v1/orders/[0-9]+ HTTP/1.1" 50[03]`)),
	},
	{
		name: "negative", what: "two negative filters, one app", loki: 2613, vlogs: 28.2,
		logql: `{app="worker"} != "succeeded" != "received"`, limit: 100,
		match: app("worker", not(contains("succeeded")), not(contains("received"))),
	},
	{
		name: "chain_3h", what: "chain of 3 filters, last 3 h", loki: 400, vlogs: 107,
		logql: `{namespace="shop"} |= "error" |= "timeout" != "POST"`, limit: 100, last: 3 * time.Hour,
		match: namespace("shop", contains("error"), contains("timeout"), not(contains("POST"))),
	},
	{
		name: "json_5xx", what: "json | status >= 500, newest 100", loki: 2334, vlogs: 121,
		logql: `{app="checkout"} | json | status >= 500`, limit: 100,
		match: app("checkout", func(r *row) bool { return r.json().Status >= 500 }),
	},
	{
		name: "count_by_app", what: "lines by app, 5 m steps", loki: 6694, vlogs: 65.5,
		logql: `sum by (app) (count_over_time(` + everywhere + ` [5m]))`,
		match: everything, metric: &metric{step: 5 * time.Minute, label: "app", group: byApp},
	},
	{
		name: "volume_levels", what: "Grafana volume histogram by level, 2 m steps", loki: 1724, vlogs: 45.5,
		logql: `sum by (detected_level) (count_over_time({namespace="shop"} [2m]))`,
		match: namespace("shop"), metric: &metric{step: 2 * time.Minute, label: "detected_level", group: level},
	},
	{
		name: "rate_error", what: `rate of "error" by app, 5 m steps`, loki: 3533, vlogs: 729,
		logql: `sum by (app) (rate(` + everywhere + ` |= "error" [5m]))`,
		match: contains("error"), metric: &metric{step: 5 * time.Minute, label: "app", group: byApp, per: 300},
	},
	{
		name: "count_ci", what: "count of a case-insensitive phrase, 1 h steps", loki: 6077, vlogs: 983,
		logql:  `sum(count_over_time(` + everywhere + ` |~ "(?i)connection reset by peer" [1h]))`,
		match:  func(r *row) bool { return bytes.Contains(bytes.ToLower(r.line), []byte("connection reset by peer")) },
		metric: &metric{step: time.Hour, group: byNothing},
	},
	{
		name: "count_regex", what: "count of a regex without a literal, one app, 1 h steps", loki: 2660, vlogs: 1045,
		logql: `sum(count_over_time({app="gateway"} |~ "\\s[45]\\d\\d\\s\\d{4,5}\\s" [1h]))`,
		match: app("gateway", matches(`\s[45]\d\d\s\d{4,5}\s`)), metric: &metric{step: time.Hour, group: byNothing},
	},
	{
		name: "logfmt_errors", what: "logfmt | level=error by component, 15 m steps", loki: 342, vlogs: 134,
		logql:  `sum by (component) (count_over_time({app="cart"} | logfmt | level="error" [15m]))`,
		match:  app("cart", func(r *row) bool { return capture(logfmtLevel, r.line) == "error" }),
		metric: &metric{step: 15 * time.Minute, label: "component", group: func(r *row) string { return capture(logfmtComponent, r.line) }},
	},
	{
		name: "unwrap_avg", what: "avg duration by route from JSON, 5 m steps", loki: 1246, vlogs: 300,
		logql: `avg_over_time({app="checkout"} | json | unwrap duration_ms [5m]) by (route)`,
		match: app("checkout"), metric: &metric{step: 5 * time.Minute, label: "route", group: byRoute, value: duration, avg: true},
	},
	{
		name: "unwrap_p99", what: "p99 duration by route from JSON, 1 h steps", loki: 1097, vlogs: 365,
		logql: `quantile_over_time(0.99, {app="checkout"} | json | unwrap duration_ms [1h]) by (route)`,
		match: app("checkout"), metric: &metric{step: time.Hour, label: "route", group: byRoute, value: duration, q: 0.99},
	},
	{
		name: "bytes_by_ns", what: "bytes by namespace, 1 h steps", loki: 8540, vlogs: 589,
		logql: `sum by (namespace) (bytes_over_time(` + everywhere + ` [1h]))`,
		match: everything, metric: &metric{step: time.Hour, label: "namespace", group: byNamespace, value: func(r *row) float64 { return float64(len(r.line)) }},
	},
	{
		name: "topk_pods", what: `top 10 pods by lines with "error"`, loki: 3650, vlogs: 758,
		logql: `topk(10, sum by (pod) (count_over_time(` + everywhere + ` |= "error" [SPAN])))`,
		match: contains("error"), metric: &metric{label: "pod", group: byPod, topk: 10},
	},
	{
		name: "series", what: "series of a namespace", logql: `/loki/api/v1/series?match[]=%7Bnamespace%3D%22shop%22%7D`, loki: 0.65, vlogs: 0.84,
		metadata: func(t *truth) []string { return t.streamsOf("shop") },
	},
	{
		name: "labels", what: "label names", logql: `/loki/api/v1/labels?`, loki: 0.26, vlogs: 1.4,
		metadata: func(*truth) []string { return []string{"app", "cluster", "env", "namespace", "pod", "service_name"} },
	},
	{
		name: "values_pod", what: "label values of pod", logql: `/loki/api/v1/label/pod/values?`, loki: 0.48, vlogs: 1.4,
		metadata: func(t *truth) []string { return t.pods() },
	},
}

// extra are questions for which nobody else's figure is known; -only names them.
var extra = []question{
	{
		name: "json_status", what: "rate by status from the JSON lines of all apps, 1 m steps",
		logql: `sum by (status) (rate({app=~".+"} | json | __error__="" | status!="" [1m]))`,
		match: func(r *row) bool { return r.line[0] == '{' && r.json().Status != 0 },
		metric: &metric{step: time.Minute, label: "status", per: 60, group: func(r *row) string {
			return strconv.FormatFloat(r.json().Status, 'f', -1, 64)
		}},
	},
}

func byRoute(r *row) string   { return r.json().Route }
func duration(r *row) float64 { return r.json().Duration }
