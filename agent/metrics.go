package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/agent/deliver"
	"github.com/skaldlog/skald/agent/stage"
	"github.com/skaldlog/skald/agent/tail"
)

// metrics are the agent's numbers. They live as long as the agent, so that a reload does not
// set counters back; what belongs to an engine is collected from the present one.
type metrics struct {
	deliver *deliver.Metrics
	custom  *stage.Custom

	dropped       *prometheus.CounterVec
	limited       *prometheus.CounterVec
	longLines     *prometheus.CounterVec
	longBytes     *prometheus.CounterVec
	missed        *prometheus.CounterVec
	encoded       *prometheus.CounterVec
	lost          *prometheus.CounterVec
	targetsFailed *prometheus.CounterVec
	reloads       *prometheus.CounterVec
	stateFailed   prometheus.Counter
	entries       *prometheus.CounterVec
	errors        *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, a *Agent) *metrics {
	m := &metrics{
		deliver: deliver.NewMetrics(reg),
		custom:  stage.NewCustom(),

		dropped:       counter(reg, "stage_dropped_entries_total", "Entries that a stage of a pipeline dropped or cut, by reason.", "reason"),
		limited:       counter(reg, "stage_limited_entries_total", "Entries that a limit stage dropped for the value of a label.", "label_name", "label_value"),
		longLines:     counter(reg, "long_lines_total", "Lines longer than limits_config.max_line_size, by what became of them.", "client", "tenant", "action"),
		longBytes:     counter(reg, "long_lines_bytes_total", "Bytes that limits_config.max_line_size took away.", "client", "tenant", "action"),
		missed:        counter(reg, "missed_entries_total", "Entries from the network that a client missed, because its server was away and others had to go on.", "client"),
		encoded:       counter(reg, "encoded_bytes_total", "Bytes of request bodies, compressed.", "client"),
		lost:          counter(reg, "lost_generations_total", "Files that could not be read to their end, by reason.", "client", "reason"),
		targetsFailed: counter(reg, "targets_failed_total", "Discovered targets that are not followed, by reason.", "reason"),
		reloads:       counter(reg, "config_reloads_total", "Reloads of the configuration, by result.", "result"),
		stateFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skald_agent_positions_write_failures_total",
			Help: "Failed writes of positions; while it grows, a restart repeats lines.",
		}),
		entries: counter(reg, "source_entries_total", "Entries received from sources that are no files.", "source"),
		errors:  counter(reg, "source_errors_total", "What sources that are no files could not read, by reason.", "source", "reason"),
	}
	for _, r := range []string{"success", "failure"} {
		m.reloads.WithLabelValues(r)
	}
	if reg != nil {
		reg.MustRegister(m.stateFailed, m.custom, &engineCollector{a})
	}
	return m
}

// begin sets a client's counters to 0, as deliver does with its own.
func (m *metrics) begin(l *lane) {
	m.encoded.WithLabelValues(l.name)
	for _, action := range []string{"dropped", "cut"} {
		m.longLines.WithLabelValues(l.name, l.tenant, action)
		m.longBytes.WithLabelValues(l.name, l.tenant, action)
	}
}

func (m *metrics) reloaded(err error) {
	if err != nil {
		m.reloads.WithLabelValues("failure").Inc()
	} else {
		m.reloads.WithLabelValues("success").Inc()
	}
}

// longLine counts a line that exceeds max_line_size.
func (m *metrics) longLine(l *lane, e *stage.Entry, cut bool, bytes int) {
	action, tenant := "dropped", e.Labels.Tenant
	if cut {
		action = "cut"
	}
	if tenant == "" {
		tenant = l.tenant
	}
	m.longLines.WithLabelValues(l.name, tenant, action).Inc()
	m.longBytes.WithLabelValues(l.name, tenant, action).Add(float64(bytes))
}

// noRoom counts what a client misses.
func (m *metrics) noRoom(l *lane, entries []entry) {
	m.missed.WithLabelValues(l.name).Add(float64(len(entries)))
}

func counter(reg prometheus.Registerer, name, help string, ls ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "skald_agent_" + name, Help: help}, ls)
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}

// engineCollector tells about the files and targets of the present engine. Series of files
// end with the files.
type engineCollector struct{ agent *Agent }

// tailStat is a number of a tailer.
type tailStat struct {
	desc *prometheus.Desc
	typ  prometheus.ValueType
	get  func(*tail.Stats) int64
}

func stat(name, help string, typ prometheus.ValueType, get func(*tail.Stats) int64) tailStat {
	return tailStat{prometheus.NewDesc("skald_agent_"+name, help, []string{"client"}, nil), typ, get}
}

var tailStats = []tailStat{
	stat("read_bytes_total", "Bytes of files that went through the pipelines.", prometheus.CounterValue, func(s *tail.Stats) int64 { return s.BytesRead.Load() }),
	stat("read_lines_total", "Lines that went through the pipelines.", prometheus.CounterValue, func(s *tail.Stats) int64 { return s.LinesRead.Load() }),
	stat("rotations_total", "Times that a path named a new file.", prometheus.CounterValue, func(s *tail.Stats) int64 { return s.Rotations.Load() }),
	stat("truncations_total", "Files that were truncated while they were followed.", prometheus.CounterValue, func(s *tail.Stats) int64 { return s.Truncations.Load() }),
	stat("held_files", "Deleted files that are kept open because they are not read to their end.", prometheus.GaugeValue, func(s *tail.Stats) int64 { return s.HeldFiles.Load() }),
	stat("held_bytes", "Space on the disk that deleted files take which are kept open.", prometheus.GaugeValue, func(s *tail.Stats) int64 { return s.HeldBytes.Load() }),
	stat("cut_lines_total", "Lines that were longer than the longest allowed, and were cut.", prometheus.CounterValue, func(s *tail.Stats) int64 { return s.CutLines.Load() }),
	stat("open_files", "Open descriptors of followed files.", prometheus.GaugeValue, func(s *tail.Stats) int64 { return s.OpenFiles.Load() }),
	stat("watches", "Watched directories.", prometheus.GaugeValue, func(s *tail.Stats) int64 { return s.Watches.Load() }),
	stat("watch_errors", "Directories that cannot be watched; more than 0 makes the agent look at files every second.", prometheus.GaugeValue, func(s *tail.Stats) int64 { return s.WatchErrors.Load() }),
}

func fileDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("skald_agent_file_"+name, help, []string{"client", "path"}, nil)
}

var (
	fileRead    = fileDesc("read_bytes", "How much of a file has been read, all its generations that are not done together.")
	fileSize    = fileDesc("size_bytes", "Size of a file, all its generations that are not done together.")
	fileLag     = fileDesc("lag_bytes", "Bytes of a file that are not yet read.")
	fileLagTime = fileDesc("lag_seconds", "For how long a file has not been read to its end; 0 when it is.")
	fileLines   = fileDesc("read_lines_total", "Lines read from a file.")
	filesActive = prometheus.NewDesc("skald_agent_files", "Files that are followed.", []string{"client"}, nil)
	targets     = prometheus.NewDesc("skald_agent_targets", "Targets after relabelling, by kind of source.", []string{"type"}, nil)
)

// Describe implements prometheus.Collector.
func (c *engineCollector) Describe(to chan<- *prometheus.Desc) {
	for _, s := range tailStats {
		to <- s.desc
	}
	for _, d := range []*prometheus.Desc{fileRead, fileSize, fileLag, fileLagTime, fileLines, filesActive, targets} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *engineCollector) Collect(to chan<- prometheus.Metric) {
	rt := c.agent.engine()
	if rt == nil {
		return
	}
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, ls ...string) {
		to <- prometheus.MustNewConstMetric(d, t, v, ls...)
	}
	for _, l := range rt.lanes {
		for _, s := range tailStats {
			send(s.desc, s.typ, float64(s.get(&l.tailer.Stats)), l.name)
		}
		logs := l.tailer.Logs()
		send(filesActive, prometheus.GaugeValue, float64(len(logs)), l.name)
		seen := map[string]bool{}
		for _, f := range logs {
			if seen[f.Path] {
				continue // wanted by two jobs; the series would be one
			}
			seen[f.Path] = true
			send(fileRead, prometheus.GaugeValue, float64(f.Read), l.name, f.Path)
			send(fileSize, prometheus.GaugeValue, float64(f.Size), l.name, f.Path)
			send(fileLag, prometheus.GaugeValue, float64(f.Lag), l.name, f.Path)
			send(fileLagTime, prometheus.GaugeValue, f.Behind.Seconds(), l.name, f.Path)
			send(fileLines, prometheus.CounterValue, float64(f.Lines), l.name, f.Path)
		}
	}
	for kind, n := range rt.targetCounts() {
		send(targets, prometheus.GaugeValue, float64(n), kind)
	}
}
