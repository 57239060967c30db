// Package discover finds out what there is to read: it runs Prometheus' own service discovery
// for a job of the configuration (kubernetes, file, docker) and hands the targets, before
// relabelling, to package agent.
//
// Pods are found twice: in the API of Kubernetes, watched for this node only, and in the
// names of the directories under /var/log/pods. What the API knows wins; what only the
// directory knows (namespace, pod, uid, container) is enough to read a pod's lines when the
// API is away, or when the pod is gone before the API has told about it. See pods.
package discover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// Target is something to read, before relabelling.
type Target struct {
	// Labels are what discovery says, __meta_… and __address__ included.
	Labels labels.Labels
	// Source names the group the target is from, for people.
	Source string
	// Guess is set when only the path of a log directory told about the target.
	Guess *Guess
}

// Guess says how a target came about that the API has not confirmed.
type Guess struct {
	// Since is when its directory was first seen, or the API first answered, whichever is later.
	Since time.Time
	// Answered says that the API has answered since the start, though not about this target.
	Answered bool
}

// Options are what discovery is given besides its configuration.
type Options struct {
	Logger *slog.Logger
	// Host is the name of this node, as Kubernetes knows it.
	Host string
	// PodLogs is the directory of the pods' logs, "" to rely on the API alone.
	PodLogs string
	// Registerer receives the metrics of discovery; it may be nil.
	Registerer prometheus.Registerer
}

// Job is the discovery of one job. New builds it, Run is its life.
type Job struct {
	opts      Options
	providers []provider
	metrics   *metrics
}

// provider is one entry of a list such as kubernetes_sd_configs.
type provider struct {
	cfg  discovery.Config
	name string
	pods *kubernetes.SDConfig // set for role pod
}

// New prepares the discovery of a job. Nothing is contacted.
func New(cfgs []discovery.Config, opts Options) (*Job, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	j := &Job{opts: opts, metrics: newMetrics(opts.Registerer)}
	logOnce.Do(func() { klog.SetSlogLogger(opts.Logger) }) // what client-go has to say goes there
	for i, c := range cfgs {
		p := provider{cfg: c, name: fmt.Sprintf("%s/%d", c.Name(), i)}
		if k, ok := c.(*kubernetes.SDConfig); ok && k.Role == kubernetes.RolePod {
			p.pods = restrict(k, opts.Host)
			p.cfg = p.pods
		}
		j.providers = append(j.providers, p)
	}
	return j, nil
}

var logOnce sync.Once

// ErrNotInCluster says that a kubernetes_sd_config without api_server is used outside a pod.
var ErrNotInCluster = rest.ErrNotInCluster

// Check builds every discoverer and throws it away.
func (j *Job) Check() error {
	for _, p := range j.providers {
		if _, err := j.discoverer(p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// restrict makes the API tell about the pods of one node only.
func restrict(c *kubernetes.SDConfig, host string) *kubernetes.SDConfig {
	out := *c
	field := "spec.nodeName=" + host
	out.Selectors = slices.Clone(c.Selectors)
	for i := range out.Selectors {
		s := &out.Selectors[i]
		s.Role = kubernetes.RolePod
		if s.Field != "" {
			s.Field += ","
		}
		s.Field += field
	}
	if len(out.Selectors) == 0 {
		out.Selectors = []kubernetes.SelectorConfig{{Role: kubernetes.RolePod, Field: field}}
	}
	return &out
}

// update is what a provider says.
type update struct {
	provider int
	groups   []*targetgroup.Group
}

// Run discovers until the context ends. It calls changed with all targets when they have
// changed, at most every Interval, from one goroutine.
func (j *Job) Run(ctx context.Context, changed func([]Target)) {
	updates := make(chan update)
	var wg sync.WaitGroup
	states := make([]state, len(j.providers))
	var local chan map[string]localPod
	for i, p := range j.providers {
		states[i] = newState(p, j.opts)
		wg.Go(func() { j.runProvider(ctx, i, p, updates) })
		if p.pods != nil && local == nil && j.opts.PodLogs != "" {
			local = make(chan map[string]localPod)
			wg.Go(func() { watchPodLogs(ctx, j.opts.PodLogs, j.opts.Logger, local) })
		}
	}
	defer wg.Wait()
	var due <-chan time.Time
	var last time.Time
	tick := time.NewTicker(silence) // some things change by waiting
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case u := <-updates:
			for _, g := range u.groups {
				if g != nil {
					states[u.provider].group(g, time.Now())
				}
			}
		case pods := <-local:
			for _, s := range states {
				s.local(pods, time.Now())
			}
		case <-tick.C:
		case <-due:
			due, last = nil, time.Now()
			changed(all(states, time.Now()))
			continue
		}
		if due == nil {
			// A pod that lives for moments must be known at once; one of many may wait.
			due = time.After(max(Interval-time.Since(last), Interval/10))
		}
	}
}

// Interval is how long changes are gathered before they are told.
const Interval = 100 * time.Millisecond

func all(states []state, now time.Time) []Target {
	var out []Target
	for _, s := range states {
		out = append(out, s.targets(now)...)
	}
	slices.SortStableFunc(out, func(a, b Target) int {
		if c := strings.Compare(a.Source, b.Source); c != 0 {
			return c
		}
		return labels.Compare(a.Labels, b.Labels)
	})
	return out
}

// runProvider runs a discoverer; one that cannot be built yet, because a token or a file is
// not there, is tried again.
func (j *Job) runProvider(ctx context.Context, i int, p provider, to chan<- update) {
	ch := make(chan []*targetgroup.Group)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		wait := time.Second
		for ctx.Err() == nil {
			d, err := j.discoverer(p)
			if err == nil {
				d.Run(ctx, ch)
				return
			}
			j.opts.Logger.Error("discovery cannot start; it will be tried again", "discovery", p.name, "err", err, "in", wait)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, time.Minute)
		}
	})
	for {
		select {
		case <-ctx.Done():
			return // discoverers give up sending when the context ends
		case groups := <-ch:
			j.metrics.updates.WithLabelValues(p.cfg.Name()).Inc()
			select {
			case to <- update{i, groups}:
			case <-ctx.Done():
			}
		}
	}
}

func (j *Job) discoverer(p provider) (discovery.Discoverer, error) {
	m := p.cfg.NewDiscovererMetrics(prometheus.NewRegistry(), j.metrics.refresh)
	d, err := p.cfg.NewDiscoverer(discovery.DiscovererOptions{Logger: j.opts.Logger, Metrics: m, SetName: p.name})
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, fmt.Errorf("%w: run in a pod with a service account, or set api_server or kubeconfig_file", err)
	}
	return d, err
}

// state is what one provider has told.
type state interface {
	group(g *targetgroup.Group, now time.Time)
	local(pods map[string]localPod, now time.Time)
	targets(now time.Time) []Target
}

func newState(p provider, opts Options) state {
	if p.pods != nil {
		return newPods(p.pods, opts)
	}
	return &groups{name: p.name, all: map[string]*targetgroup.Group{}}
}

// groups is the state of a provider whose groups are taken as they are.
type groups struct {
	name string
	all  map[string]*targetgroup.Group
}

func (s *groups) group(g *targetgroup.Group, _ time.Time) {
	if len(g.Targets) == 0 {
		delete(s.all, g.Source)
		return
	}
	s.all[g.Source] = g
}

func (s *groups) local(map[string]localPod, time.Time) {}

func (s *groups) targets(time.Time) []Target {
	var out []Target
	for _, g := range s.all {
		for _, t := range g.Targets {
			out = append(out, Target{Labels: merge(g.Labels, t), Source: g.Source})
		}
	}
	return out
}

func merge(sets ...model.LabelSet) labels.Labels {
	m := map[string]string{}
	for _, s := range sets {
		for k, v := range s {
			if v != "" {
				m[string(k)] = string(v)
			}
		}
	}
	return labels.FromMap(m)
}
