// Package corpus makes log data that looks like a day of a mid-sized platform: a dozen and
// a half services in the formats people really run (JSON of several loggers, logfmt, nginx
// and Envoy access logs, klog, Java with stack traces, PostgreSQL, sshd …), Zipf-distributed
// stream sizes, urls and users, random trace ids, a daily rhythm, and planted needles.
//
// The same Config gives the same bytes on every machine, so a benchmark is a command line.
// Entries come in order of time over all streams, as shippers would send them.
package corpus

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// Config describes a corpus.
type Config struct {
	Seed uint64
	// Bytes is the total of line bytes to aim at; the result is within a few percent.
	Bytes int64
	// Streams is the number of streams, at least 1.
	Streams int
	Start   time.Time
	Span    time.Duration
}

// Default is the corpus of the published figures at 1 GB: 200 streams over 24 hours.
func Default() Config {
	return Config{Seed: 1, Bytes: 1 << 30, Streams: 200, Start: time.Now().Add(-24 * time.Hour).Truncate(time.Hour), Span: 24 * time.Hour}
}

// Needle is a text that was planted, with the number of lines that hold it.
type Needle struct {
	Name, Text string
	Lines      int
}

// Needles are planted in every corpus, spread over its streams and its span.
var Needles = []Needle{
	{"trace", "4bf92f3577b34da6a3ce929d0e0e4736", 3},
	{"uuid", "c9a646d3-9c61-4cb7-bfcd-ee2522c8f633", 1},
	{"phrase", "lease renewal refused by quorum witness", 50},
}

// Corpus yields entries; it is not safe for concurrent use.
type Corpus struct {
	cfg     Config
	rng     *rand.Rand
	streams []*stream
	now     time.Duration // since cfg.Start
	slice   time.Duration
	plants  []plant
	arena   []byte
}

type stream struct {
	labels labels.Labels
	svc    service
	// perSlice is the mean number of lines in one slice of time at the daily average.
	perSlice float64
	state    state
	entries  []model.Entry
}

type plant struct {
	at     time.Duration
	stream int
	text   string
}

// New prepares a corpus.
func New(cfg Config) *Corpus {
	c := &Corpus{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x5ca1d)), slice: cfg.Span / 50_000}
	c.slice = max(c.slice, time.Millisecond)
	c.makeStreams()
	c.makePlants()
	return c
}

func (c *Corpus) makeStreams() {
	weights := make([]float64, c.cfg.Streams)
	total := 0.0
	for i := range weights {
		weights[i] = 1 / math.Pow(float64(i+1), 0.9)
		total += weights[i]
	}
	// A stride that shares no factor with the number of services spreads every service
	// over large and small streams.
	for i, w := range weights {
		svc := services[(i*7)%len(services)]
		bytesPerSlice := float64(c.cfg.Bytes) * w / total * float64(c.slice) / float64(c.cfg.Span)
		c.streams = append(c.streams, &stream{
			labels: labels.FromStrings(
				"app", svc.app, "namespace", svc.namespace, "env", []string{"prod", "prod", "staging"}[i%3],
				"cluster", fmt.Sprintf("eu-%d", 1+i%2), "pod", fmt.Sprintf("%s-%08x-%05x", svc.app, c.rng.Uint32(), c.rng.Uint32()&0xfffff)),
			svc:      svc,
			perSlice: bytesPerSlice / svc.meanLine,
			state:    newState(c.rng),
		})
	}
}

func (c *Corpus) makePlants() {
	for _, n := range Needles {
		for i := range n.Lines {
			c.plants = append(c.plants, plant{
				at:     time.Duration(float64(c.cfg.Span) * (float64(i) + 0.5) / float64(n.Lines)),
				stream: c.rng.IntN(len(c.streams)),
				text:   n.Text,
			})
		}
	}
	sort.SliceStable(c.plants, func(i, j int) bool { return c.plants[i].at < c.plants[j].at })
}

// Next returns about want bytes of lines, grouped by stream, and false when the corpus is
// at its end. The result is valid until the next call.
func (c *Corpus) Next(want int) ([]model.Stream, bool) {
	c.arena = c.arena[:0]
	for _, s := range c.streams {
		s.entries = s.entries[:0]
	}
	if cap(c.arena) < want*2 {
		c.arena = make([]byte, 0, want*2)
	}
	for len(c.arena) < want && c.now < c.cfg.Span {
		c.oneSlice()
	}
	var out []model.Stream
	for _, s := range c.streams {
		if len(s.entries) > 0 {
			out = append(out, model.Stream{Labels: s.labels, Entries: s.entries})
		}
	}
	return out, len(out) > 0
}

func (c *Corpus) oneSlice() {
	traffic := c.traffic()
	for _, s := range c.streams {
		n := c.poisson(s.perSlice * traffic)
		step := c.slice / time.Duration(n+1)
		for j := range n {
			ts := c.cfg.Start.Add(c.now + step*time.Duration(j) + time.Duration(c.rng.Int64N(int64(step)+1)))
			c.add(s, ts, "")
		}
	}
	for len(c.plants) > 0 && c.plants[0].at < c.now+c.slice {
		c.add(c.streams[c.plants[0].stream], c.cfg.Start.Add(c.now+c.slice-1), c.plants[0].text)
		c.plants = c.plants[1:]
	}
	c.now += c.slice
}

// traffic is more by day than by night, between 0.4 and 1.6 of the average; a corpus of
// less than a day has no rhythm.
func (c *Corpus) traffic() float64 {
	if c.cfg.Span < 24*time.Hour {
		return 1
	}
	return 1 + 0.6*math.Sin(2*math.Pi*(float64(c.now)/float64(24*time.Hour)-0.25))
}

func (c *Corpus) add(s *stream, ts time.Time, planted string) {
	start := len(c.arena)
	s.state.trace = planted
	c.arena = s.svc.write(c.arena, c.rng, &s.state, ts)
	if planted != "" && s.state.trace != "" {
		// The format has no place for an id: it stands at the end.
		c.arena = append(append(c.arena, ' '), planted...)
	}
	line := c.arena[start:len(c.arena):len(c.arena)]
	e := model.Entry{Timestamp: ts.UnixNano(), Line: line}
	if s.svc.metadata {
		e.Metadata = labels.FromStrings("trace_id", hex(c.rng, 16))
	}
	s.entries = append(s.entries, e)
}

// poisson draws from Poisson(mean); for large means the normal distribution is close enough.
func (c *Corpus) poisson(mean float64) int {
	if mean > 30 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*c.rng.NormFloat64())))
	}
	limit, n := math.Exp(-mean), 0
	for p := c.rng.Float64(); p > limit; p *= c.rng.Float64() {
		n++
	}
	return n
}
