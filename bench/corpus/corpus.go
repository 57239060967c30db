// Package corpus makes log data that looks like a day of a mid-sized platform: a dozen and
// a half services in the formats people really run (JSON of several loggers, logfmt, nginx,
// Apache and Envoy access logs, klog, Java with stack traces, PostgreSQL, sshd …) in seven
// namespaces, with a daily rhythm and planted needles.
//
// # What it promises
//
// The same Config gives the same bytes on every machine, so a benchmark is a command line.
// Entries come in order of time over all streams, as shippers would send them.
//
// # How random the lines are
//
// Random bytes decide how well a store can compress, so they are rationed as real systems
// ration them. Stream sizes, urls, users, hosts and messages follow Zipf's law; a message
// goes with its level. A trace or request id is new in one line of several and is repeated
// by the lines of the same request; most formats carry none. Durations and ports keep their
// full entropy. At 1 GB and 200 streams, `zstd -3` of the lines of each stream gives about
// raw/6.4 (`bench size` measures it), which is what logs of such services give.
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

// Default is the corpus of the published figures: 1 GB in 200 streams over 24 hours, which
// reach from one UTC day into the next.
func Default() Config {
	return Config{Seed: 1, Bytes: 1e9, Streams: 200, Start: time.Date(2025, 11, 3, 6, 0, 0, 0, time.UTC), Span: 24 * time.Hour}
}

// Needle is a text that was planted, with the number of entries that hold it.
type Needle struct {
	Name, Text string
	Entries    int
	// App is the only app that holds it; any may if it is empty.
	App string
	// Metadata says that it is the value of trace_id in the structured metadata, and not in the line.
	Metadata bool
}

// Needles are planted in every corpus, spread over its span. One of an app goes to that
// app's largest stream, others to streams at random.
var Needles = []Needle{
	{Name: "trace", Text: "4bf92f3577b34da6a3ce929d0e0e4736", Entries: 3},
	{Name: "uuid", Text: "c9a646d3-9c61-4cb7-bfcd-ee2522c8f633", Entries: 1, App: "gateway"},
	{Name: "phrase", Text: "error: lease renewal refused by quorum witness", Entries: 50},
	{Name: "metadata", Text: "9d1f0c3b7a5e48d2a6b4f8e07c12d95a", Entries: 5, Metadata: true},
}

// Absent is an id that is in no entry.
const Absent = "00f067aa0ba902b7b9c7c989f97918e1"

// maxSliceBytes bounds the lines of one slice of time, on average.
const maxSliceBytes = 1 << 20

// Corpus yields entries; it is not safe for concurrent use.
type Corpus struct {
	cfg     Config
	rng     *rand.Rand
	streams []*stream
	now     time.Duration // since cfg.Start
	slice   time.Duration
	plants  []plant
}

// Batch is a piece of a corpus, reusable: Next overwrites what a Batch held. The zero value works.
type Batch struct {
	// Streams hold the entries, each in order of time.
	Streams []model.Stream
	// Bytes and Lines count the lines in all Streams.
	Bytes, Lines int64

	arena   []byte
	entries [][]model.Entry // by stream
}

type stream struct {
	labels labels.Labels
	svc    *service
	// perSlice is the mean number of lines in one slice of time at the daily average.
	perSlice float64
	state    state
}

type plant struct {
	at     time.Duration
	stream int
	needle *Needle
}

// New prepares a corpus.
func New(cfg Config) *Corpus {
	c := &Corpus{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x5ca1d))}
	// Each stream is asked for lines once in a slice, so more streams get fewer slices; but a
	// slice is the least that Next gives, and must not be more than shippers push at once.
	slices := max(100, 10_000_000/max(cfg.Streams, 200), int(cfg.Bytes/maxSliceBytes))
	c.slice = max(cfg.Span/time.Duration(slices), time.Millisecond)
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
	means := make([]float64, len(services))
	for i := range services {
		means[i] = meanLine(&services[i])
	}
	// A stride that shares no factor with the number of services spreads every service
	// over large and small streams.
	for i, w := range weights {
		n := (i * 7) % len(services)
		svc := &services[n]
		bytesPerSlice := float64(c.cfg.Bytes) * w / total * float64(c.slice) / float64(c.cfg.Span)
		c.streams = append(c.streams, &stream{
			labels: labels.FromStrings(
				"app", svc.app, "namespace", svc.namespace, "env", []string{"prod", "prod", "staging"}[i%3],
				"cluster", fmt.Sprintf("eu-%d", 1+i%2), "pod", fmt.Sprintf("%s-%08x-%05x", svc.app, c.rng.Uint32(), c.rng.Uint32()&0xfffff)),
			svc:      svc,
			perSlice: bytesPerSlice / means[n],
			state:    newState(c.rng),
		})
	}
}

// meanLine measures how long a service's lines are, to turn a wanted volume into a number of lines.
func meanLine(svc *service) float64 {
	const lines = 4000
	r := rand.New(rand.NewPCG(1, 2))
	st := newState(r)
	var b []byte
	for range lines {
		b = svc.write(b, r, &st, time.Unix(1_700_000_000, 123_456_789))
	}
	return float64(len(b)) / lines
}

func (c *Corpus) makePlants() {
	for n := range Needles {
		needle := &Needles[n]
		for i := range needle.Entries {
			c.plants = append(c.plants, plant{
				at:     time.Duration(float64(c.cfg.Span) * (float64(i) + 0.5) / float64(needle.Entries)),
				stream: c.home(needle),
				needle: needle,
			})
		}
	}
	sort.SliceStable(c.plants, func(i, j int) bool { return c.plants[i].at < c.plants[j].at })
}

// home picks the stream for an occurrence of a needle.
func (c *Corpus) home(n *Needle) int {
	for i, s := range c.streams {
		if s.svc.app == n.App {
			return i
		}
	}
	return c.rng.IntN(len(c.streams))
}

// Next fills b with the next want bytes of lines, about, grouped by stream. It returns
// false when the corpus is at its end.
func (c *Corpus) Next(b *Batch, want int) bool {
	if b.entries == nil {
		b.entries = make([][]model.Entry, len(c.streams))
	}
	for i := range b.entries {
		b.entries[i] = b.entries[i][:0]
	}
	if cap(b.arena) < want+want/8 {
		b.arena = make([]byte, 0, want+want/8)
	}
	b.arena, b.Streams, b.Bytes, b.Lines = b.arena[:0], b.Streams[:0], 0, 0
	for b.Bytes < int64(want) && c.now < c.cfg.Span {
		c.oneSlice(b)
	}
	for i, s := range c.streams {
		if len(b.entries[i]) > 0 {
			b.Streams = append(b.Streams, model.Stream{Labels: s.labels, Entries: b.entries[i]})
		}
	}
	return len(b.Streams) > 0
}

func (c *Corpus) oneSlice(b *Batch) {
	traffic := c.traffic()
	for i, s := range c.streams {
		n := c.poisson(s.perSlice * traffic)
		step := c.slice / time.Duration(n+1)
		for j := range n {
			ts := c.cfg.Start.Add(c.now + step*time.Duration(j) + time.Duration(c.rng.Int64N(int64(step)+1)))
			c.add(b, i, ts, nil)
		}
	}
	for len(c.plants) > 0 && c.plants[0].at < c.now+c.slice {
		c.add(b, c.plants[0].stream, c.cfg.Start.Add(c.now+c.slice-1), c.plants[0].needle)
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

func (c *Corpus) add(b *Batch, i int, ts time.Time, planted *Needle) {
	s := c.streams[i]
	start := len(b.arena)
	s.state.planted = ""
	if planted != nil && !planted.Metadata {
		s.state.planted = planted.Text
	}
	b.arena = s.svc.write(b.arena, c.rng, &s.state, ts)
	if s.state.planted != "" {
		// The format has no field for an id: it stands at the end.
		b.arena = append(append(b.arena, ' '), s.state.planted...)
	}
	line := b.arena[start:len(b.arena):len(b.arena)]
	e := model.Entry{Timestamp: ts.UnixNano(), Line: line}
	switch {
	case planted != nil && planted.Metadata:
		e.Metadata = labels.FromStrings("trace_id", planted.Text)
	case s.svc.metadata && s.state.sampled:
		e.Metadata = s.state.traceMetadata()
	}
	b.entries[i] = append(b.entries[i], e)
	b.Bytes += int64(len(line))
	b.Lines++
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
