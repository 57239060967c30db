package agent

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/discover"
	"github.com/skaldlog/skald/agent/tail"
)

// target is a pattern of files with its labels, after relabelling.
type target struct {
	job           *job
	labels        labels.Labels
	path, exclude string
	found         discover.Target // what it was made of
	// hold is the time (of package clock) before which nothing is read: labels that only the
	// Kubernetes API knows may still come. 0 when nothing is waited for.
	hold atomic.Int64
}

func (t *target) id() string {
	return t.job.JobName + "\xff" + t.path + "\xff" + t.exclude + "\xff" + t.labels.String()
}

// unwanted is a discovered target that is not followed, and why.
type unwanted struct {
	found  discover.Target
	reason string // as in promtail_targets_failed_total
	why    string
}

// targetSet keeps the targets of all jobs up to date: what is discovered is relabelled, and
// what relabelling keeps is given to the tailers.
type targetSet struct {
	rt *engine
	mu struct {
		sync.Mutex
		jobs map[*job]*jobTargets
		byID map[string]*target
		held []*target // whose lines wait, also of those that are gone meanwhile
	}
	timer *time.Timer // when the next hold ends
}

type jobTargets struct {
	active  []*target
	dropped []unwanted
}

func (s *targetSet) init(rt *engine) {
	s.rt = rt
	s.mu.jobs = map[*job]*jobTargets{}
	s.mu.byID = map[string]*target{}
}

// staticTargets are the targets of static_configs.
func (rt *engine) staticTargets(j *job) []discover.Target {
	var out []discover.Target
	for _, g := range j.Static {
		addresses := g.Targets
		if len(addresses) == 0 {
			addresses = []string{"localhost"}
		}
		for _, addr := range addresses {
			b := labels.NewBuilder(labels.FromMap(g.Labels))
			b.Set("__address__", addr)
			out = append(out, discover.Target{Labels: b.Labels(), Source: "static"})
		}
	}
	return out
}

// start gives the tailers the targets that need no discovery.
func (s *targetSet) start() error {
	for _, j := range s.rt.jobs {
		if j.files() && s.rt.agent.opts.Stdin == nil {
			s.set(j, nil)
		}
	}
	return s.apply()
}

// run discovers until the context ends.
func (s *targetSet) run(ctx context.Context) {
	if s.rt.agent.opts.Stdin != nil {
		return
	}
	s.timer = time.NewTimer(time.Hour)
	defer s.timer.Stop()
	var wg sync.WaitGroup
	changed := make(chan struct{}, 1)
	for _, j := range s.rt.jobs {
		if j.discover == nil || !j.files() {
			continue
		}
		wg.Go(func() {
			j.discover.Run(ctx, func(found []discover.Target) {
				s.set(j, found)
				select {
				case changed <- struct{}{}:
				default: // one is due already
				}
			})
		})
	}
	s.release()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-changed:
			if err := s.apply(); err != nil {
				s.rt.log.Error("targets cannot be followed", "err", err)
			}
			s.release()
		case <-s.timer.C:
			s.release()
		}
	}
	wg.Wait()
}

// set relabels a job's targets and remembers the result.
func (s *targetSet) set(j *job, found []discover.Target) {
	active, dropped := s.relabel(j, append(s.rt.staticTargets(j), found...))
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, paths := map[*target]bool{}, map[string]bool{}
	for i, t := range active {
		if old := s.mu.byID[t.id()]; old != nil {
			// Consumers hold on to the old one.
			old.hold.Store(t.hold.Load())
			active[i] = old
		}
		kept[active[i]], paths[t.path] = true, true
	}
	now := clock.Now()
	if was := s.mu.jobs[j]; was != nil {
		for _, t := range was.active {
			if kept[t] || paths[t.path] || t.hold.Load() <= now {
				continue
			}
			// A pod that is gone before the API has told about it: its lines are still to go,
			// with what the API says if that comes in time.
			if last := now + int64(s.rt.agent.opts.LabelWait); t.hold.Load() > last {
				t.hold.Store(last)
			}
			active = append(active, t)
		}
	}
	for _, t := range active {
		if t.hold.Load() > now && !slices.Contains(s.mu.held, t) {
			s.mu.held = append(s.mu.held, t)
		}
	}
	s.mu.jobs[j] = &jobTargets{active, dropped}
}

// apply gives the tailers what the jobs want.
func (s *targetSet) apply() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.byID = map[string]*target{}
	var all []*target
	for _, j := range s.rt.jobs {
		if jt := s.mu.jobs[j]; jt != nil {
			for _, t := range jt.active {
				s.mu.byID[t.id()] = t
				all = append(all, t)
			}
		}
	}
	for _, l := range s.rt.lanes {
		targets := make([]tail.Target, len(all))
		for i, t := range all {
			targets[i] = tail.Target{
				Job: t.job.JobName, Labels: t.labels, Path: t.path, Exclude: t.exclude,
				Encoding: t.job.encoding, Decompress: t.job.decompress, Passing: t.found.Labels.Has(discover.PodUID),
				Consumer: func(path string) tail.Consumer { return newConsumer(l, t, path) },
			}
		}
		if err := l.tailer.SetTargets(targets); err != nil {
			return err
		}
	}
	return nil
}

// release lets readers look again when the wait of a target is over, and sets when it must be
// called next.
func (s *targetSet) release() {
	s.mu.Lock()
	now := clock.Now()
	next, over := int64(math.MaxInt64), false
	s.mu.held = slices.DeleteFunc(s.mu.held, func(t *target) bool {
		h := t.hold.Load()
		if h <= now {
			over = true
			return true
		}
		next = min(next, h)
		return false
	})
	s.mu.Unlock()
	wait := time.Hour
	if next != math.MaxInt64 {
		wait = time.Duration(next-now) + time.Millisecond
	}
	s.timer.Reset(wait)
	if over {
		for _, l := range s.rt.lanes {
			l.tailer.Resume()
		}
	}
}

// snapshot returns the targets of a job, for people.
func (s *targetSet) snapshot(j *job) jobTargets {
	s.mu.Lock()
	defer s.mu.Unlock()
	if jt := s.mu.jobs[j]; jt != nil {
		return *jt
	}
	return jobTargets{}
}

// maxUnwanted bounds the dropped targets that are remembered for each job.
const maxUnwanted = 1000

// relabel decides what becomes of discovered targets. Those that end equal are one.
func (s *targetSet) relabel(j *job, found []discover.Target) (active []*target, dropped []unwanted) {
	seen := map[string]bool{}
	failed := s.rt.agent.metrics.targetsFailed
	drop := func(f discover.Target, reason, why string) {
		failed.WithLabelValues(reason).Inc()
		if len(dropped) < maxUnwanted {
			dropped = append(dropped, unwanted{f, reason, why})
		}
	}
	for _, f := range found {
		b := labels.NewBuilder(f.Labels)
		if i, ok := process(b, j.Relabel); !ok {
			drop(f, "dropped", fmt.Sprintf("relabel_configs[%d] (%s) dropped it", i, j.Relabel[i].Action))
			continue
		}
		t := &target{job: j, path: b.Get("__path__"), exclude: b.Get("__path_exclude__"), found: f}
		if h := b.Get("__host__"); h != "" && h != s.rt.host {
			drop(f, "wrong_host", "__host__ is "+h+", this host is "+s.rt.host)
			continue
		}
		if t.path == "" {
			drop(f, "no_path", "relabelling left no __path__ label")
			continue
		}
		b.Range(func(l labels.Label) {
			if strings.HasPrefix(l.Name, "__") {
				b.Del(l.Name)
			}
		})
		t.labels = b.Labels()
		t.hold.Store(j.fromAPI.holdUntil(f.Guess, s.rt.agent.opts.LabelWait))
		if id := t.id(); !seen[id] {
			seen[id] = true
			active = append(active, t)
		}
	}
	return active, dropped
}

// process relabels as relabel.ProcessBuilder does, and tells which rule dropped the target.
func process(b *labels.Builder, rules []*relabel.Config) (rule int, keep bool) {
	for i, r := range rules {
		if !relabel.ProcessBuilder(b, r) {
			return i, false
		}
	}
	return 0, true
}

// apiNeeds says what relabelling wants of the Kubernetes API.
type apiNeeds struct {
	labels bool // labels that a log's path does not tell
	filter bool // keeping or dropping depends on them
}

// needsOfAPI reads the rules: which labels that only the API knows have an effect.
func needsOfAPI(rules []*relabel.Config) (n apiNeeds) {
	tainted := map[string]bool{}
	for _, r := range rules {
		uses := r.Action == relabel.LabelMap
		for _, s := range r.SourceLabels {
			uses = uses || !discover.FromPath(string(s)) || tainted[string(s)]
		}
		if !uses {
			continue
		}
		n.labels = true
		switch r.Action {
		case relabel.Keep, relabel.Drop, relabel.KeepEqual, relabel.DropEqual:
			n.filter = true
		default:
			tainted[r.TargetLabel] = true
		}
	}
	return n
}

// holdUntil says how long a target known by its path waits for the API. Where rules keep or
// drop by what only the API knows, it waits until the API has answered: a silent API must not
// make lines go out that are to stay.
func (n apiNeeds) holdUntil(g *discover.Guess, wait time.Duration) int64 {
	switch {
	case g == nil || !n.labels || wait < 0:
		return 0
	case n.filter && !g.Answered:
		return math.MaxInt64
	}
	return clock.At(g.Since.Add(wait))
}
