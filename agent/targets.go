package agent

import (
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/skaldlog/skald/agent/stage"
)

// target is a pattern of files with its labels, after relabelling.
type target struct {
	job           string
	labels        labels.Labels
	path, exclude string
	program       *stage.Program
}

// expandTargets relabels a job's static targets. Targets that end with equal labels are one.
func (a *Agent) expandTargets(job *ScrapeConfig, program *stage.Program, host string) []*target {
	var out []*target
	seen := map[string]bool{}
	dropped := 0
	for _, group := range job.Static {
		addresses := group.Targets
		if len(addresses) == 0 {
			addresses = []string{"localhost"}
		}
		for _, addr := range addresses {
			b := labels.NewBuilder(labels.FromMap(group.Labels))
			b.Set("__address__", addr)
			if !relabel.ProcessBuilder(b, job.Relabel...) {
				dropped++
				continue
			}
			t := &target{job: job.JobName, path: b.Get("__path__"), exclude: b.Get("__path_exclude__"), program: program}
			if h := b.Get("__host__"); h != "" && h != host {
				a.log.Info("target is for another host", "job", job.JobName, "host", h, "this", host)
				continue
			}
			if t.path == "" {
				a.log.Warn("a target has no __path__ label; nothing is read for it", "job", job.JobName, "labels", b.Labels().String())
				continue
			}
			b.Range(func(l labels.Label) {
				if strings.HasPrefix(l.Name, "__") {
					b.Del(l.Name)
				}
			})
			t.labels = b.Labels()
			if id := t.path + "\xff" + t.exclude + "\xff" + t.labels.String(); !seen[id] {
				seen[id] = true
				out = append(out, t)
			}
		}
	}
	if dropped > 0 {
		a.log.Info("relabelling dropped targets", "job", job.JobName, "dropped", dropped, "kept", len(out))
	}
	return out
}
