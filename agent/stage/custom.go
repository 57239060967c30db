package stage

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
)

// Custom holds what metrics stages have counted, over all jobs, clients and reloads of a
// configuration. It is a prometheus.Collector. A metric that two jobs name is one metric.
type Custom struct {
	mu      sync.Mutex
	metrics map[string]*customMetric
	now     func() time.Time
}

// NewCustom returns an empty one.
func NewCustom() *Custom { return &Custom{metrics: map[string]*customMetric{}, now: time.Now} }

// maxSeries bounds the label sets of one metric. What exceeds it is not counted.
const maxSeries = 10000

// customMetric is a metric with a series for each set of labels.
type customMetric struct {
	owner      *Custom
	name, help string
	kind       string
	buckets    []float64
	idle       time.Duration

	mu     sync.Mutex
	series map[uint64][]*customSeries
	count  int
}

type customSeries struct {
	labels  labels.Labels
	value   float64 // of a counter or gauge, sum of a histogram
	count   uint64
	buckets []uint64 // not cumulative
	last    time.Time
}

// metric returns the metric of that name, made when it is new.
func (c *Custom) metric(name, help, kind string, buckets []float64, idle time.Duration) (*customMetric, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.metrics[name]
	if m == nil {
		m = &customMetric{owner: c, name: name, kind: kind, series: map[uint64][]*customSeries{}}
		c.metrics[name] = m
	}
	if m.kind != kind {
		return nil, fmt.Errorf("%s is a %s already, in another job or before a reload", name, m.kind)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if kind == "histogram" && !slices.Equal(m.buckets, buckets) {
		m.series, m.count = map[uint64][]*customSeries{}, 0
	}
	m.help, m.buckets, m.idle = help, buckets, idle
	return m, nil
}

// add changes the series of a set of labels.
func (m *customMetric) add(set *Set, v float64, action string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.find(set)
	if s == nil {
		return
	}
	s.last = m.owner.now()
	switch {
	case m.kind == "histogram":
		s.value += v
		s.count++
		i, _ := slices.BinarySearch(m.buckets, v)
		s.buckets[i]++
	case action == "set":
		s.value = v
	case action == "sub":
		s.value -= v
	case m.kind == "counter" && !(v >= 0):
		// A counter does not go back.
	default:
		s.value += v
	}
}

func (m *customMetric) find(set *Set) *customSeries {
	for _, s := range m.series[set.Hash] {
		if labels.Equal(s.labels, set.Labels) {
			return s
		}
	}
	if m.count >= maxSeries {
		m.expire()
		if m.count >= maxSeries {
			return nil
		}
	}
	s := &customSeries{labels: set.Labels}
	if m.kind == "histogram" {
		s.buckets = make([]uint64, len(m.buckets)+1)
	}
	m.series[set.Hash] = append(m.series[set.Hash], s)
	m.count++
	return s
}

// expire removes the series that have not changed for long.
func (m *customMetric) expire() {
	before := m.owner.now().Add(-m.idle)
	for h, list := range m.series {
		kept := slices.DeleteFunc(list, func(s *customSeries) bool { return s.last.Before(before) })
		m.count -= len(list) - len(kept)
		if len(kept) == 0 {
			delete(m.series, h)
		} else {
			m.series[h] = kept
		}
	}
}

// Describe implements prometheus.Collector; nothing is known in advance.
func (c *Custom) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *Custom) Collect(to chan<- prometheus.Metric) {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.metrics))
	c.mu.Unlock()
	for _, m := range all {
		m.collect(to)
	}
}

func (m *customMetric) collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	for _, list := range m.series {
		for _, s := range list {
			if out := m.export(s); out != nil {
				to <- out
			}
		}
	}
}

func (m *customMetric) export(s *customSeries) prometheus.Metric {
	ls := prometheus.Labels{}
	s.labels.Range(func(l labels.Label) {
		if len(l.Name) < 2 || l.Name[:2] != "__" {
			ls[l.Name] = l.Value
		}
	})
	desc := prometheus.NewDesc(m.name, m.help, nil, ls)
	var out prometheus.Metric
	var err error
	switch m.kind {
	case "histogram":
		cumulative, n := map[float64]uint64{}, uint64(0)
		for i, b := range m.buckets {
			n += s.buckets[i]
			cumulative[b] = n
		}
		out, err = prometheus.NewConstHistogram(desc, s.count, s.value, cumulative)
	case "counter":
		out, err = prometheus.NewConstMetric(desc, prometheus.CounterValue, s.value)
	default:
		out, err = prometheus.NewConstMetric(desc, prometheus.GaugeValue, s.value)
	}
	if err != nil {
		return nil // a label that no metric may have, such as le
	}
	return out
}
