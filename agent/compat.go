package agent

import (
	"maps"
	"net/http"
	"runtime/debug"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// Existing dashboards and alerts ask for Promtail's metrics. They are made of the agent's own
// when somebody asks: nothing is counted twice.

// compat says which of Promtail's metrics is made of one of the agent's.
type compat struct {
	name string
	typ  dto.MetricType
	// labels maps labels; a missing entry drops the label, and metrics that become equal add up.
	labels map[string]string
	// values maps values of a label of the result.
	values map[string]map[string]string
	// only keeps the metrics with these values of the agent's labels.
	only map[string]string
	// add are labels of the result that the agent does not tell.
	add map[string]string
}

const (
	gauge = dto.MetricType_GAUGE
	count = dto.MetricType_COUNTER
)

// statuses are the values of status_code for results that are no numbers. Promtail says -1
// when there is no answer, which the alerts that come with it do not look for; "failed" is
// what they do.
var statuses = map[string]string{"ok": "204", "refused": "400", "rate_limited": "429", "failed": "failed"}

var byClient = map[string]string{"client": "host"}

// compatible has Promtail's metrics by the name of the agent's.
var compatible = map[string][]compat{
	"skald_agent_sent_entries_total":  {{name: "promtail_sent_entries_total", typ: count, labels: byClient}},
	"skald_agent_sent_bytes_total":    {{name: "promtail_sent_bytes_total", typ: count, labels: byClient}},
	"skald_agent_encoded_bytes_total": {{name: "promtail_encoded_bytes_total", typ: count, labels: byClient}},
	"skald_agent_dropped_entries_total": {{
		name: "promtail_dropped_entries_total", typ: count, labels: map[string]string{"client": "host", "tenant": "tenant", "reason": "reason"},
		values: map[string]map[string]string{"reason": {"refused": "ingester_error"}}, add: map[string]string{"tenant": ""},
	}},
	"skald_agent_dropped_bytes_total": {{
		name: "promtail_dropped_bytes_total", typ: count, labels: map[string]string{"client": "host", "tenant": "tenant", "reason": "reason"},
		values: map[string]map[string]string{"reason": {"refused": "ingester_error"}}, add: map[string]string{"tenant": ""},
	}},
	"skald_agent_long_lines_total": {
		{name: "promtail_dropped_entries_total", typ: count, labels: map[string]string{"client": "host", "tenant": "tenant"}, only: map[string]string{"action": "dropped"}, add: map[string]string{"reason": "line_too_long"}},
		{name: "promtail_mutated_entries_total", typ: count, labels: map[string]string{"client": "host", "tenant": "tenant"}, only: map[string]string{"action": "cut"}, add: map[string]string{"reason": "line_too_long"}},
	},
	"skald_agent_long_lines_bytes_total": {
		{name: "promtail_dropped_bytes_total", typ: count, labels: map[string]string{"client": "host", "tenant": "tenant"}, only: map[string]string{"action": "dropped"}, add: map[string]string{"reason": "line_too_long"}},
		{name: "promtail_mutated_bytes_total", typ: count, labels: map[string]string{"client": "host", "tenant": "tenant"}, only: map[string]string{"action": "cut"}, add: map[string]string{"reason": "line_too_long"}},
	},
	"skald_agent_retries_total": {{name: "promtail_batch_retries_total", typ: count, labels: map[string]string{"client": "host", "tenant": "tenant"}, add: map[string]string{"tenant": ""}}},
	"skald_agent_request_duration_seconds": {{
		name: "promtail_request_duration_seconds", typ: dto.MetricType_HISTOGRAM, labels: map[string]string{"client": "host", "result": "status_code"},
		values: map[string]map[string]string{"status_code": statuses},
	}},
	"skald_agent_file_read_bytes":       {{name: "promtail_read_bytes_total", typ: gauge, labels: map[string]string{"path": "path"}}},
	"skald_agent_file_size_bytes":       {{name: "promtail_file_bytes_total", typ: gauge, labels: map[string]string{"path": "path"}}},
	"skald_agent_file_read_lines_total": {{name: "promtail_read_lines_total", typ: count, labels: map[string]string{"path": "path"}}},
	"skald_agent_files":                 {{name: "promtail_files_active_total", typ: gauge}},
	"skald_agent_targets":               {{name: "promtail_targets_active_total", typ: gauge}},
	"skald_agent_targets_failed_total":  {{name: "promtail_targets_failed_total", typ: count, labels: map[string]string{"reason": "reason"}}},
	"skald_agent_config_reloads_total": {
		{name: "promtail_config_reload_success_total", typ: count, only: map[string]string{"result": "success"}},
		{name: "promtail_config_reload_fail_total", typ: count, only: map[string]string{"result": "failure"}},
	},
	"skald_agent_stage_dropped_entries_total": {{name: "logentry_dropped_lines_total", typ: count, labels: map[string]string{"reason": "reason"}}},
	"skald_agent_stage_limited_entries_total": {{
		name: "logentry_dropped_lines_by_label_total", typ: count, labels: map[string]string{"label_name": "label_name", "label_value": "label_value"},
	}},
	"skald_agent_source_entries_total": {
		{name: "promtail_journal_target_lines_total", typ: count, only: map[string]string{"source": "journal"}},
		{name: "promtail_syslog_target_entries_total", typ: count, only: map[string]string{"source": "syslog"}},
		{name: "promtail_docker_target_entries_total", typ: count, only: map[string]string{"source": "docker"}},
	},
	"skald_agent_source_errors_total": {
		{name: "promtail_journal_target_parsing_errors_total", typ: count, labels: map[string]string{"reason": "error"}, only: map[string]string{"source": "journal"}},
		{name: "promtail_syslog_target_parsing_errors_total", typ: count, only: map[string]string{"source": "syslog", "reason": "unreadable"}},
		{name: "promtail_syslog_empty_messages_total", typ: count, only: map[string]string{"source": "syslog", "reason": "empty"}},
		{name: "promtail_docker_target_parsing_errors_total", typ: count, only: map[string]string{"source": "docker"}},
	},
}

// firstClientOnly are metrics of files: a file is read once for each client, and Promtail's
// metrics know it once.
var firstClientOnly = map[string]bool{
	"skald_agent_file_read_bytes": true, "skald_agent_file_size_bytes": true, "skald_agent_file_read_lines_total": true, "skald_agent_files": true,
}

// compatGatherer adds Promtail's metrics to what another gatherer has.
type compatGatherer struct {
	next  prometheus.Gatherer
	agent *Agent
}

// Gather implements prometheus.Gatherer.
func (g compatGatherer) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.next.Gather()
	hosts, first := map[string]string{}, ""
	if rt := g.agent.engine(); rt != nil {
		for i, l := range rt.lanes {
			hosts[l.name] = l.addr
			if i == 0 {
				first = l.name
			}
		}
	}
	made := map[string]*dto.MetricFamily{}
	for _, f := range families {
		for _, c := range compatible[f.GetName()] {
			out := made[c.name]
			if out == nil {
				out = &dto.MetricFamily{Name: &c.name, Help: f.Help, Type: &c.typ}
				made[c.name] = out
			}
			seen := map[string]*dto.Metric{}
			for _, m := range f.Metric {
				if firstClientOnly[f.GetName()] && label(m, "client") != first {
					continue
				}
				c.convert(out, m, hosts, seen)
			}
		}
	}
	made["promtail_build_info"] = buildInfo()
	families = append(families, slices.Collect(maps.Values(made))...)
	families = slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return len(f.Metric) == 0 })
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int {
		if a.GetName() < b.GetName() {
			return -1
		}
		return 1
	})
	return families, err
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// convert adds a metric to one of Promtail's.
func (c *compat) convert(to *dto.MetricFamily, m *dto.Metric, hosts map[string]string, seen map[string]*dto.Metric) {
	for k, v := range c.only {
		if label(m, k) != v {
			return
		}
	}
	ls := maps.Clone(c.add)
	if ls == nil {
		ls = map[string]string{}
	}
	for _, l := range m.Label {
		name, ok := c.labels[l.GetName()]
		if !ok {
			continue
		}
		v := l.GetValue()
		if name == "host" && hosts[v] != "" {
			v = hosts[v]
		}
		if as, ok := c.values[name][v]; ok {
			v = as
		}
		ls[name] = v
	}
	out := &dto.Metric{Counter: m.Counter, Gauge: m.Gauge, Histogram: m.Histogram}
	key := ""
	for _, k := range slices.Sorted(maps.Keys(ls)) {
		v := ls[k]
		out.Label = append(out.Label, &dto.LabelPair{Name: &k, Value: &v})
		key += k + "\xff" + v + "\xff"
	}
	old := seen[key]
	if old == nil {
		seen[key] = out
		to.Metric = append(to.Metric, out)
		return
	}
	switch c.typ {
	case count:
		v := old.GetCounter().GetValue() + m.GetCounter().GetValue()
		old.Counter = &dto.Counter{Value: &v}
	case gauge:
		v := old.GetGauge().GetValue() + m.GetGauge().GetValue()
		old.Gauge = &dto.Gauge{Value: &v}
	}
}

func buildInfo() *dto.MetricFamily {
	name, help, typ, one := "promtail_build_info", "The version of this agent, which is Skald's.", gauge, 1.0
	version := "dev"
	goversion := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		goversion = info.GoVersion
		if v := info.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
	}
	m := &dto.Metric{Gauge: &dto.Gauge{Value: &one}}
	for _, kv := range [][2]string{{"goversion", goversion}, {"version", version}} {
		m.Label = append(m.Label, &dto.LabelPair{Name: &kv[0], Value: &kv[1]})
	}
	return &dto.MetricFamily{Name: &name, Help: &help, Type: &typ, Metric: []*dto.Metric{m}}
}

// metricsHandler serves /metrics.
func (a *Agent) metricsHandler() http.Handler {
	g, ok := a.opts.Registerer.(prometheus.Gatherer)
	if !ok {
		g = prometheus.DefaultGatherer
	}
	return promhttp.HandlerFor(compatGatherer{g, a}, promhttp.HandlerOpts{})
}
