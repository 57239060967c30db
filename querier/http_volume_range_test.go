package querier

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// TestVolumeStepsAddUp compares the one pass over all buckets with a question per bucket.
func TestVolumeStepsAddUp(t *testing.T) {
	rig := newTailRig(t)
	r := rand.New(rand.NewPCG(1, 2))
	begin := time.Now().Add(-time.Hour).UnixNano()
	for range 5 {
		var batch []model.Stream
		for s := range 4 {
			stream := model.Stream{Labels: labels.FromStrings("app", fmt.Sprint(s%2), "pod", fmt.Sprint(s))}
			for range 50 {
				stream.Entries = append(stream.Entries, model.Entry{
					Timestamp: begin + r.Int64N(int64(10*time.Minute)), Line: make([]byte, r.IntN(40)), Metadata: labels.FromStrings("k", "v"),
				})
			}
			batch = append(batch, stream)
		}
		if err := rig.ing.Push(t.Context(), model.DefaultTenant, batch); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		v := volumeRequest{
			tenants:  []model.Tenant{model.DefaultTenant},
			matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "app", ".+")},
			start:    begin + r.Int64N(int64(5*time.Minute)), step: time.Duration(1 + r.Int64N(int64(3*time.Minute))), byName: r.IntN(2) == 0,
		}
		v.end = v.start + r.Int64N(int64(6*time.Minute))
		if int64(v.step) < (v.end-v.start)/500 {
			continue
		}
		got, _, err := rig.querier.volumeSteps(context.Background(), v)
		if err != nil {
			t.Fatal(err)
		}
		have, want := map[string]int64{}, map[string]int64{}
		for name, s := range got {
			for i, n := range s.perStep {
				have[fmt.Sprint(name, i)] = n
			}
		}
		steps, from := v.steps(), v.start
		for i := range steps.count() {
			one := v
			one.start, one.end = from, steps.after(i)
			from = one.end
			sums, _, err := rig.querier.volumes(context.Background(), one)
			if err != nil {
				t.Fatal(err)
			}
			for name, s := range sums {
				want[fmt.Sprint(name, i)] = s.bytes
			}
		}
		if from != v.end {
			t.Fatalf("buckets end at %d, the range at %d", from, v.end)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestVolumesOfStreamsWithAllTargets: a stream counts when it has every target label, whether
// volumes are summed by series or by the names of labels.
func TestVolumesOfStreamsWithAllTargets(t *testing.T) {
	r := newTailRig(t)
	now := time.Now().UnixNano()
	r.push(
		model.Stream{Labels: labels.FromStrings("app", "a", "env", "prod"), Entries: []model.Entry{{Timestamp: now, Line: []byte("12345")}}},
		model.Stream{Labels: labels.FromStrings("env", "prod"), Entries: []model.Entry{{Timestamp: now, Line: []byte("123")}}},
	)
	for _, c := range []struct{ targets, by, want string }{
		{"env,app", "series", `app="a",env="prod" 5`},
		{"env,app", "labels", `app="" 5,env="" 5`},
		{"env", "labels", `env="" 8`},
		{"env,pod", "labels", ""},
		{"env,", "labels", ""},
	} {
		_, body := r.get("/loki/api/v1/index/volume", "query", `{env="prod"}`, "start", fmt.Sprint(now), "end", fmt.Sprint(now+1),
			"targetLabels", c.targets, "aggregateBy", c.by)
		var answer struct {
			Data struct {
				Result []struct {
					Metric labels.Labels
					Value  [2]any
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		var got []string
		for _, s := range answer.Data.Result {
			got = append(got, fmt.Sprint(strings.ReplaceAll(strings.Trim(s.Metric.String(), "{}"), " ", ""), " ", s.Value[1]))
		}
		if text := strings.Join(got, ","); text != c.want {
			t.Errorf("volumes of %s by %s: %s, want %s", c.targets, c.by, text, c.want)
		}
	}
}
