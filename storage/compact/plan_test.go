package compact

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/segment"
)

// made makes segments of "level:megabytes@first-last".
func made(t *testing.T, text string) (segs []*seg) {
	for i, field := range strings.Fields(text) {
		var ref catalog.Ref
		if _, err := fmt.Sscanf(field, "%d:%d@%d-%d", &ref.Level, &ref.Size, &ref.Min, &ref.Max); err != nil {
			t.Fatalf("%s: %v", field, err)
		}
		ref.Size <<= 20
		ref.ID = string(rune('a' + i))
		segs = append(segs, &seg{ref: ref, info: segment.Info{ID: ref.ID, Rows: 1}})
	}
	return segs
}

func TestPlan(t *testing.T) {
	f := func(segments string, closed bool, want string) {
		t.Helper()
		p := planner{target: 256 << 20, maxInputs: 16, closed: closed}
		got := "nothing"
		if j := p.plan(made(t, segments)); j != nil {
			got = j.reason + " "
			for _, s := range j.inputs {
				got += s.ref.ID
			}
		}
		if got != want {
			t.Errorf("%s, closed %t: got %s, want %s", segments, closed, got, want)
		}
	}
	const open, over = false, true
	f("", open, "nothing")
	f("1:1@0-1", open, "nothing")
	f("1:1@0-1", over, "repack a")
	f("2:1@0-1", over, "nothing")
	f("1:1@0-1 1:1@2-3 1:1@4-5", open, "nothing")
	f("1:1@0-1 1:1@2-3 1:1@4-5", over, "size abc")
	f("1:1@0-1 1:1@2-3 1:1@4-5 1:1@6-7", open, "size abcd")
	f("2:100@0-1 1:1@2-3 1:1@4-5 1:1@6-7", open, "nothing")               // one dwarfs the others
	f("2:100@0-1 1:1@2-3 1:1@4-5 1:1@6-7 1:1@8-9", open, "size bcde")     // small ones first
	f("1:60@0-1 1:60@2-3 1:60@4-5 1:60@6-7 1:60@8-9", open, "size abcd")  // up to the target
	f("1:60@0-5 1:60@0-5 1:60@0-5 1:60@0-5 1:60@0-5", open, "size abcde") // replicas become fewer
	f("2:200@0-1 2:200@2-3", over, "nothing")
	f("1:200@0-1 2:200@2-3", over, "repack a")
	f("2:90@0-1 2:90@2-3", open, "size ab") // enough for a full one
	f("2:120@0-1 2:5@2-3", over, "size ab")
}

func TestPlanMergesWhatTwoCompactorsMade(t *testing.T) {
	segs := made(t, "2:250@0-9 3:200@0-9 2:250@0-9")
	segs[0].info.MergedFrom = []string{"x", "y"}
	segs[1].info.MergedFrom = []string{"v", "w"}
	segs[2].info.MergedFrom = []string{"y", "z"}
	p := planner{target: 256 << 20, maxInputs: 16}
	if j := p.plan(segs); j == nil || j.reason != "duplicate" || len(j.inputs) != 2 || j.inputs[0] != segs[0] || j.inputs[1] != segs[2] {
		t.Errorf("got %v", j)
	}
}

// Whatever is uploaded, a closed day comes to rest, no merge has too much input, no row is
// rewritten very often, and what is left cannot be merged in twos.
func TestPlanComesToRest(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(5, seed))
		p := planner{target: 256 << 20, maxInputs: 16}
		var live []*seg
		at, uploadedBytes, rewritten := int64(0), int64(0), int64(0)
		steps := func() {
			for n := 0; ; n++ {
				j := p.plan(live)
				if j == nil {
					return
				}
				out := &seg{ref: catalog.Ref{Level: levelOf(j.inputs), Min: j.inputs[0].ref.Min}, info: segment.Info{Rows: 1}}
				for _, s := range j.inputs {
					out.ref.Size += s.ref.Size
					out.ref.Max = max(out.ref.Max, s.ref.Max)
				}
				rewritten += out.ref.Size
				if out.ref.Size > maxOverlap*p.target || len(j.inputs) > p.maxInputs || n > 1000 {
					t.Fatalf("seed %d: merge %d of %d segments with %d bytes", seed, n, len(j.inputs), out.ref.Size)
				}
				var left []*seg
				for _, s := range live {
					switch {
					case s == j.inputs[0]:
						left = append(left, out)
					case !contains(j.inputs, s):
						left = append(left, s)
					}
				}
				live = left
			}
		}
		for range 96 {
			size := 1 + rnd.Int64N(1<<(10+rnd.IntN(17)))
			uploadedBytes += size
			live = append(live, &seg{ref: catalog.Ref{Level: 1, Min: at, Max: at + 9, Size: size}, info: segment.Info{Rows: 1}})
			at += 10
			steps()
		}
		p.closed = true
		steps()
		for i := 1; i < len(live); i++ {
			if live[i-1].ref.Size < p.full() && live[i].ref.Size < p.full() && live[i-1].ref.Size+live[i].ref.Size <= p.target {
				t.Fatalf("seed %d: two neighbors with %d and %d bytes are left", seed, live[i-1].ref.Size, live[i].ref.Size)
			}
		}
		if rewritten > 8*uploadedBytes {
			t.Errorf("seed %d: %d bytes were uploaded and %d rewritten", seed, uploadedBytes, rewritten)
		}
	}
}

func contains(segs []*seg, s *seg) bool {
	for _, o := range segs {
		if o == s {
			return true
		}
	}
	return false
}

func TestOldDaysAreVisitedRarely(t *testing.T) {
	now := time.Now()
	f := func(ended, visited time.Duration, rules string, want bool) {
		t.Helper()
		v := visit{at: now.Add(-visited), rules: "x"}
		if got := v.needless(rules, now.Add(-ended), now); got != want {
			t.Errorf("ended %s ago, visited %s ago, rules %s: needless is %v", ended, visited, rules, got)
		}
	}
	const day = 24 * time.Hour
	f(-day, time.Second, "x", false) // today
	f(day, time.Second, "x", false)
	f(4*day, time.Hour, "x", true)
	f(4*day, time.Hour, "y", false)
	f(4*day, 4*time.Hour, "x", false)
	f(365*day, 10*day, "x", true)
	f(365*day, 12*day, "x", false)
}
