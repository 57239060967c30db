package discover

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

// Labels of pods, as Prometheus' discovery names them.
const (
	Namespace     = "__meta_kubernetes_namespace"
	PodName       = "__meta_kubernetes_pod_name"
	PodUID        = "__meta_kubernetes_pod_uid"
	ContainerName = "__meta_kubernetes_pod_container_name"
	NodeName      = "__meta_kubernetes_pod_node_name"

	// A static pod's directory has the hash of its manifest in place of the uid.
	configHash        = "__meta_kubernetes_pod_annotation_kubernetes_io_config_hash"
	configHashPresent = "__meta_kubernetes_pod_annotationpresent_kubernetes_io_config_hash"
)

// FromPath reports whether a label of a pod can be told from the path of its logs.
func FromPath(label string) bool {
	switch label {
	case Namespace, PodName, PodUID, ContainerName, NodeName, configHash, configHashPresent:
		return true
	}
	return !strings.HasPrefix(label, "__meta_kubernetes_")
}

// localPod is a pod as the directory of its logs shows it.
type localPod struct {
	namespace, name, uid string
	containers           []string
}

// parsePodDir reads the name of a directory: namespace, pod and uid, with _ between them.
func parsePodDir(name string) (p localPod, ok bool) {
	parts := strings.Split(name, "_")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return localPod{}, false
	}
	return localPod{namespace: parts[0], name: parts[1], uid: parts[2]}, true
}

// pods joins what the API and the directories say about the pods of this node.
//
// A pod that the API has told about keeps its labels as long as its directory exists, also
// when the API has forgotten it: its last lines belong to the same streams as the others.
type pods struct {
	cfg   *kubernetes.SDConfig
	opts  Options
	bySrc map[string]string    // uid by the source of the API's group
	api   map[string]*podGroup // by uid, or by hash for static pods
	dirs  map[string]localPod  // by directory
	first map[string]time.Time // when a directory was first seen

	answered time.Time // first answer of the API
	began    time.Time
	warned   bool
}

type podGroup struct {
	*targetgroup.Group
	gone time.Time // since when the API does not know it, zero when it does
	seen bool      // its directory has been there
}

// forgetPod is how long the labels of a pod are kept that is in neither place.
const forgetPod = time.Minute

func newPods(cfg *kubernetes.SDConfig, opts Options) *pods {
	return &pods{
		cfg: cfg, opts: opts, bySrc: map[string]string{}, api: map[string]*podGroup{}, first: map[string]time.Time{}, began: time.Now(),
	}
}

func (s *pods) group(g *targetgroup.Group, now time.Time) {
	if s.answered.IsZero() {
		s.answered = now
	}
	old := s.api[s.bySrc[g.Source]]
	if len(g.Targets) == 0 {
		if old != nil && old.gone.IsZero() {
			old.gone = now
		}
		return
	}
	uid := string(g.Labels[PodUID])
	if h := string(g.Labels[configHash]); h != "" {
		uid = h
	}
	if old != nil && s.bySrc[g.Source] != uid && old.gone.IsZero() {
		old.gone = now // a new pod of the same name
	}
	s.bySrc[g.Source] = uid
	before := s.api[uid]
	s.api[uid] = &podGroup{Group: g, seen: before != nil && before.seen}
}

func (s *pods) local(dirs map[string]localPod, now time.Time) {
	s.dirs = dirs
	for d := range dirs {
		if _, ok := s.first[d]; !ok {
			s.first[d] = now
		}
	}
	for d := range s.first {
		if _, ok := dirs[d]; !ok {
			delete(s.first, d)
		}
	}
}

func (s *pods) targets(now time.Time) []Target {
	var out []Target
	here := map[string]bool{}
	for _, dir := range slices.Sorted(maps.Keys(s.dirs)) {
		p := s.dirs[dir]
		here[p.uid] = true
		known := s.api[p.uid]
		if known == nil {
			if s.selects(p) {
				out = append(out, s.guess(dir, p)...)
			}
			continue
		}
		known.seen = true
		// Ephemeral containers have logs, and no targets of their own.
		has := map[string]bool{}
		for _, t := range known.Targets {
			has[string(t[ContainerName])] = true
		}
		for _, c := range p.containers {
			if !has[c] {
				out = append(out, Target{Labels: merge(known.Labels, model.LabelSet{ContainerName: model.LabelValue(c)}), Source: known.Source})
			}
		}
	}
	for uid, g := range s.api {
		if !g.gone.IsZero() && !here[uid] && now.Sub(g.gone) > forgetPod {
			delete(s.api, uid)
			if s.bySrc[g.Source] == uid {
				delete(s.bySrc, g.Source)
			}
			continue
		}
		if !g.gone.IsZero() && !here[uid] && g.seen {
			continue // its files are gone, or in hand; where pods come and go, a minute of them is many
		}
		for _, t := range g.Targets {
			out = append(out, Target{Labels: merge(g.Labels, t), Source: g.Source})
		}
	}
	s.explain(now, len(out))
	return out
}

// selects reports whether a pod known by its directory belongs to this configuration. What
// selectors of labels would say about it, the path does not tell.
func (s *pods) selects(p localPod) bool {
	for _, sel := range s.cfg.Selectors {
		if sel.Label != "" || strings.Contains(sel.Field, ",") {
			return false
		}
	}
	names := s.cfg.NamespaceDiscovery.Names
	return !s.cfg.NamespaceDiscovery.IncludeOwnNamespace && (len(names) == 0 || slices.Contains(names, p.namespace))
}

func (s *pods) guess(dir string, p localPod) []Target {
	g := &Guess{Since: s.first[dir], Answered: !s.answered.IsZero()}
	if s.answered.After(g.Since) {
		g.Since = s.answered
	}
	var out []Target
	for _, c := range p.containers {
		set := model.LabelSet{
			Namespace: model.LabelValue(p.namespace), PodName: model.LabelValue(p.name), PodUID: model.LabelValue(p.uid),
			ContainerName: model.LabelValue(c), NodeName: model.LabelValue(s.opts.Host),
		}
		if !strings.Contains(p.uid, "-") {
			set[configHash], set[configHashPresent] = model.LabelValue(p.uid), "true"
		}
		out = append(out, Target{Labels: merge(set), Source: "directory " + dir, Guess: g})
	}
	return out
}

// silence is how long the API may say nothing before somebody is told.
const silence = 30 * time.Second

func (s *pods) explain(now time.Time, targets int) {
	if s.warned || !s.answered.IsZero() || targets == 0 || now.Sub(s.began) < silence {
		return
	}
	s.warned = true
	s.opts.Logger.Warn("the Kubernetes API has told nothing about the pods of this node; labels come from the names of log directories. "+
		"Is the API reachable, may the service account list and watch pods, and is HOSTNAME the node's name (spec.nodeName)?",
		"node", s.opts.Host, "directory", s.opts.PodLogs)
}

// watchPodLogs tells about the pods and containers that have a directory under root, now and
// whenever that changes. It looks periodically as well: inotify may be missing, or overrun.
func watchPodLogs(ctx context.Context, root string, logger *slog.Logger, to chan<- map[string]localPod) {
	w, err := fsnotify.NewBufferedWatcher(1024)
	if err != nil {
		logger.Warn("inotify is not available; the directories of pods are looked at every second", "err", err)
	} else {
		defer w.Close()
	}
	watched := map[string]bool{}
	var last map[string]localPod
	for first := true; ; first = false {
		if w != nil && !watched[root] && w.Add(root) == nil {
			watched[root] = true
		}
		now := podDirs(root)
		fresh := w != nil && watchPods(w, root, now, watched)
		if fresh {
			now = podDirs(root) // what came between listing and watching
		}
		if first || !samePods(last, now) {
			last = now
			select {
			case to <- now:
			case <-ctx.Done():
				return
			}
		}
		period := 10 * time.Second
		if w == nil || !watched[root] || len(watched) <= len(now) {
			period = time.Second
		}
		if !sleepOrEvent(ctx, w, period, watched) {
			return
		}
	}
}

// watchPods watches every pod's directory for containers; true when there is a new one.
func watchPods(w *fsnotify.Watcher, root string, now map[string]localPod, watched map[string]bool) (fresh bool) {
	for name := range now {
		if dir := filepath.Join(root, name); !watched[dir] && w.Add(dir) == nil {
			watched[dir] = true
			fresh = true
		}
	}
	for dir := range watched {
		if _, ok := now[filepath.Base(dir)]; !ok && dir != root {
			_ = w.Remove(dir) // inotify has dropped it already
			delete(watched, dir)
		}
	}
	return fresh
}

// gather is how long events are gathered before the directories are listed again, so that
// what happens together is looked at together.
const gather = 20 * time.Millisecond

// sleepOrEvent returns when something happened or the period is over; false when ctx ended.
func sleepOrEvent(ctx context.Context, w *fsnotify.Watcher, period time.Duration, watched map[string]bool) bool {
	var events chan fsnotify.Event
	var errs chan error
	if w != nil {
		events, errs = w.Events, w.Errors
	}
	timer := time.NewTimer(period)
	defer timer.Stop()
	gathering := false
	soon := func() {
		if !gathering {
			gathering = true
			timer.Reset(gather)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-errs:
			soon() // overrun: list everything
		case e := <-events:
			if e.Op&(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) != 0 {
				delete(watched, e.Name) // a directory that comes back under its name is another one
				soon()
			}
		}
	}
}

func podDirs(root string) map[string]localPod {
	out := map[string]localPod{}
	list, _ := os.ReadDir(root) // a root that is not there has no pods
	for _, e := range list {
		p, ok := parsePodDir(e.Name())
		if !ok {
			continue
		}
		containers, _ := os.ReadDir(filepath.Join(root, e.Name())) // gone meanwhile
		for _, c := range containers {
			if c.IsDir() {
				p.containers = append(p.containers, c.Name())
			}
		}
		out[e.Name()] = p
	}
	return out
}

func samePods(a, b map[string]localPod) bool {
	return maps.EqualFunc(a, b, func(x, y localPod) bool { return slices.Equal(x.containers, y.containers) })
}
