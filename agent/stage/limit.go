package stage

import (
	"errors"
	"fmt"
	"sync"

	"go.yaml.in/yaml/v3"
	"golang.org/x/time/rate"

	"github.com/skaldlog/skald/agent/clock"
)

// limit bounds the rate of a job's entries: it drops what exceeds it or makes reading wait,
// for all entries together or for each value of a label.
type limit struct {
	rate    rate.Limit
	burst   int
	drop    bool
	byLabel string
	max     int // values of the label that are told apart
	env     *Env
}

// minDistinct is the least number of values of a label that a limit tells apart.
const minDistinct = 10000

func buildLimit(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		Rate    looseFloat `yaml:"rate"`
		Burst   looseInt   `yaml:"burst"`
		Drop    looseBool  `yaml:"drop"`
		ByLabel string     `yaml:"by_label_name"`
		Max     looseInt   `yaml:"max_distinct_labels"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	switch {
	case !(c.Rate > 0):
		return nil, fmt.Errorf("rate is %v, want more than 0", c.Rate)
	case c.Burst <= 0:
		return nil, fmt.Errorf("burst is %d, want more than 0", c.Burst)
	case c.ByLabel != "" && !bool(c.Drop):
		return nil, errors.New("by_label_name needs drop: true")
	}
	return &limit{
		rate: rate.Limit(c.Rate), burst: int(c.Burst), drop: bool(c.Drop), byLabel: c.ByLabel,
		max: max(int(c.Max), minDistinct), env: env,
	}, nil
}

// limiters are shared by the pipelines that see different lines: those of all files of a job,
// for one client.
type limiters struct {
	mu  sync.Mutex
	all *rate.Limiter
	by  map[string]*rate.Limiter
}

func (d *limit) attach(next Processor, p *Pipeline) Processor {
	l := p.limiters(d)
	return &link{next, func(e *Entry) bool {
		if d.byLabel != "" {
			return d.allowLabel(l, e, p)
		}
		if d.drop {
			if l.all.Allow() {
				return true
			}
			p.dropped("ratelimit_drop_stage")
			return false
		}
		// The entry goes on; no more lines are read until the debt is paid.
		if wait := l.all.Reserve().Delay(); wait > 0 {
			p.blocked = clock.Now() + int64(wait)
		}
		return true
	}}
}

func (d *limit) allowLabel(l *limiters, e *Entry, p *Pipeline) bool {
	v, ok := e.Labels.lookup(d.byLabel)
	if !ok {
		return true
	}
	l.mu.Lock()
	one := l.by[v]
	if one == nil {
		if len(l.by) >= d.max {
			clear(l.by) // every value gets a fresh burst; the memory stays bounded
		}
		one = rate.NewLimiter(d.rate, d.burst)
		l.by[v] = one
	}
	l.mu.Unlock()
	if one.Allow() {
		return true
	}
	p.dropped("ratelimit_drop_stage")
	if !p.silent {
		d.env.Limited(d.byLabel, v)
	}
	return false
}

// limiters returns the limiters of a stage that a pipeline shares with its likes.
func (p *Pipeline) limiters(d *limit) *limiters {
	key := limiterKey{d, p.group}
	fresh := &limiters{all: rate.NewLimiter(d.rate, d.burst), by: map[string]*rate.Limiter{}}
	l, _ := p.program.limiters.LoadOrStore(key, fresh)
	return l.(*limiters) //nolint:forcetypeassert // nothing else is stored
}

type limiterKey struct {
	stage *limit
	group string
}
