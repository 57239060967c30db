package tail

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/text/encoding"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
)

// Target says which files to follow.
type Target struct {
	// Job is the name of the scrape config; positions are kept by job and path.
	Job string
	// Labels are the target's, without filename.
	Labels labels.Labels
	// Path and Exclude are patterns; see Pattern.
	Path, Exclude string
	// Encoding is what the files are written in; nil passes bytes on as they are.
	Encoding encoding.Encoding
	// Decompress, when set, says that the files are compressed.
	Decompress *Decompression
	// Passing says that the files belong to something that ends, such as a pod: that none are
	// left is no news.
	Passing bool
	// Consumer makes the consumer of a new log. path is the log's.
	Consumer func(path string) Consumer
}

// target is a Target with its patterns compiled.
type target struct {
	Target
	id      string // distinguishes targets that may exist beside each other
	group   string // Job, made unique among targets that may name the same file
	pattern *Pattern
	exclude *Pattern
	adopted bool         // its logs of earlier runs have been started; for scans only
	retired atomic.Int64 // since when nobody wants it, 0 while somebody does
	matches atomic.Int64 // found by the last scan
	problem atomic.Pointer[string]
}

func compileTarget(tg Target) (*target, error) {
	p, err := Compile(tg.Path)
	if err != nil {
		return nil, err
	}
	c := &target{Target: tg, pattern: p, id: tg.Job + "\xff" + tg.Path + "\xff" + tg.Exclude + "\xff" + tg.Labels.String()}
	if tg.Exclude != "" {
		if c.exclude, err = Compile(tg.Exclude); err != nil {
			return nil, err
		}
	}
	if tg.Decompress != nil {
		if err := CheckDecompression(tg.Decompress.Format); err != nil {
			return nil, fmt.Errorf("files %s: %w", tg.Path, err)
		}
	}
	return c, nil
}

func (tg *target) wants(path string) bool {
	return tg.pattern.Match(path) && (tg.exclude == nil || !tg.exclude.Match(path))
}

// place is what a target keeps when its labels change.
func (tg *target) place() [2]string { return [2]string{tg.Job, tg.Path} }

// SetTargets replaces the targets, at any time. A target that is there already stays as it
// is. Logs of one whose labels have changed go on where they are, with a new consumer. Logs
// of one that is gone are read to the end of what is on the disk; their positions stay. An
// invalid pattern is an error, and changes nothing.
func (t *Tailer) SetTargets(targets []Target) error {
	fresh := make([]*target, 0, len(targets))
	for _, tg := range targets {
		c, err := compileTarget(tg)
		if err != nil {
			return err
		}
		fresh = append(fresh, c)
	}
	// An order of their own, so that groups have the same names in every run.
	slices.SortStableFunc(fresh, func(a, b *target) int { return cmp.Compare(a.id, b.id) })
	t.mu.Lock()
	t.replaceTargets(fresh)
	t.mu.Unlock()
	t.askScan()
	return nil
}

// replaceTargets makes fresh the targets, but for those that exist; mu is held.
func (t *Tailer) replaceTargets(fresh []*target) {
	old := map[string]*target{}
	for _, tg := range t.mu.targets {
		old[tg.id] = tg
	}
	next := make([]*target, 0, len(fresh))
	for i, tg := range fresh {
		if i > 0 && tg.id == fresh[i-1].id {
			continue
		}
		if have := old[tg.id]; have != nil {
			tg = have
			delete(old, tg.id)
		}
		next = append(next, tg)
	}
	heirs := t.inherit(next, old)
	nameGroups(next)
	now := clock.Now()
	for _, tg := range old {
		tg.retired.Store(now)
	}
	for _, l := range t.mu.logs {
		if l.heir == nil && old[l.target.id] == l.target || l.heir != nil && old[l.heir.id] == l.heir {
			from := l.target
			if l.heir != nil {
				from = l.heir
			}
			if heir := heirs[from]; heir != nil {
				l.heir = heir
			}
			t.wakeLocked(l, true)
		}
	}
	t.mu.targets = next
}

// inherit finds for targets that are new one that goes, of the same place, whose group and
// positions they take over. It returns the heir of each that has one; the lock is held.
func (t *Tailer) inherit(next []*target, going map[string]*target) map[*target]*target {
	left := map[[2]string][]*target{} // by place
	for _, tg := range t.mu.targets {
		if going[tg.id] == tg {
			left[tg.place()] = append(left[tg.place()], tg)
		}
	}
	heirs := map[*target]*target{}
	for _, tg := range next {
		if list := left[tg.place()]; tg.group == "" && len(list) > 0 {
			tg.group, tg.adopted = list[0].group, list[0].adopted
			heirs[list[0]] = tg
			left[tg.place()] = list[1:]
		}
	}
	return heirs
}

// nameGroups gives a group to targets without. Targets of a job share one, so that a file
// matched by two patterns is read once, unless they have the same pattern and different
// labels: then it is wanted twice.
func nameGroups(list []*target) {
	taken := map[[2]string]map[string]bool{} // by place
	for _, tg := range list {
		if taken[tg.place()] == nil {
			taken[tg.place()] = map[string]bool{}
		}
		if tg.group != "" {
			taken[tg.place()][tg.group] = true
		}
	}
	for _, tg := range list {
		for i := 0; tg.group == ""; i++ {
			if g := groupName(tg.Job, i); !taken[tg.place()][g] {
				tg.group = g
				taken[tg.place()][g] = true
			}
		}
	}
}

// allTargets returns the targets of this moment.
func (t *Tailer) allTargets() []*target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.targets
}

func groupName(job string, i int) string {
	if i == 0 {
		return job
	}
	return fmt.Sprintf("%s#%d", job, i)
}

// adopt starts the logs of an earlier run: their path may name nothing now, while what it
// named lies beside it.
func (t *Tailer) adopt(targets []*target) {
	fresh := map[string][]*target{}
	for _, tg := range targets {
		if !tg.adopted {
			tg.adopted = true
			fresh[tg.group] = append(fresh[tg.group], tg)
		}
	}
	if len(fresh) == 0 {
		return
	}
	started := map[positions.Key]bool{}
	for _, rec := range t.store.Records(t.cfg.Client) {
		if started[rec.Key] || rec.Finished && !isDir(parent(rec.Path)) {
			continue
		}
		for _, tg := range fresh[rec.Job] {
			if tg.wants(rec.Path) {
				started[rec.Key] = true
				t.start(tg, rec.Key)
				break
			}
		}
	}
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}
