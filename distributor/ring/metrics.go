package ring

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	news, refused, invalid, views, forgotten prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, m *Members) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	reg.MustRegister(&collector{m, prometheus.NewDesc("skald_ring_instances", "Instances of the ring as this process sees them, by role and health.", []string{"role", "state"}, nil)})
	return &metrics{
		news:      counter("skald_ring_news_total", "Entries heard of instances, this one included, that were news."),
		refused:   counter("skald_ring_refused_total", "Entries not taken because there are too many instances."),
		invalid:   counter("skald_ring_invalid_messages_total", "Gossip messages that made no sense."),
		views:     counter("skald_ring_views_total", "Changes of the ring."),
		forgotten: counter("skald_ring_forgotten_total", "Instances that this process has forgotten for their silence."),
	}
}

// collector counts instances when it is asked.
type collector struct {
	members *Members
	desc    *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	type key struct{ role, state string }
	count := map[key]int{}
	for _, in := range c.members.View().instances {
		for _, r := range roleNames {
			if in.Roles.Has(r.role) {
				count[key{r.name, in.Health()}]++
			}
		}
	}
	for k, n := range count {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), k.role, k.state)
	}
}
