package discover

import (
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

// A pod that the API has forgotten keeps its target while its directory is there, and for a
// minute when its directory has never been seen: the file may be found yet.
func TestPodsGo(t *testing.T) {
	for _, seen := range []bool{true, false} {
		s := newPods(&kubernetes.SDConfig{}, Options{})
		now := time.Now()
		expect := func(when string, want int) {
			t.Helper()
			if got := s.targets(now); len(got) != want {
				t.Errorf("directory seen %v, %s: %d targets, want %d", seen, when, len(got), want)
			}
		}
		s.group(&targetgroup.Group{
			Source: "pod/batch/job", Labels: model.LabelSet{PodUID: "uid", PodName: "job", Namespace: "batch"},
			Targets: []model.LabelSet{{ContainerName: "main"}},
		}, now)
		expect("the API knows it", 1)
		if seen {
			s.local(map[string]localPod{"batch_job_uid": {namespace: "batch", name: "job", uid: "uid", containers: []string{"main"}}}, now)
			expect("its directory is there", 1)
		}
		s.group(&targetgroup.Group{Source: "pod/batch/job"}, now)
		if seen {
			expect("the API has forgotten it", 1)
			s.local(nil, now)
			expect("both have forgotten it", 0)
			continue
		}
		expect("the API has forgotten it", 1)
		now = now.Add(forgetPod + time.Second)
		expect("a minute later", 0)
	}
}
