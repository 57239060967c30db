package querier

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

func TestSortRuns(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var list []string
		for range rng.IntN(9) {
			run := make([]string, rng.IntN(20))
			for i := range run {
				run[i] = fmt.Sprint(rng.IntN(60))
			}
			slices.Sort(run)
			list = append(list, run...)
		}
		want := slices.Compact(slices.Sorted(slices.Values(list)))
		if got := sortRuns(slices.Clone(list)); !slices.Equal(got, want) {
			t.Fatalf("%q: got %q, want %q", list, got, want)
		}
	}
}

// BenchmarkLabels asks about the labels of 10 000 streams.
func BenchmarkLabels(b *testing.B) {
	r := newTailRig(b)
	now := time.Now().UnixNano()
	for i := range 10_000 {
		ls := labels.FromStrings("app", fmt.Sprint("app", i%50), "env", "prod", "namespace", fmt.Sprint("ns", i%7), "pod", fmt.Sprint("pod-", i))
		r.push(model.Stream{Labels: ls, Entries: []model.Entry{{Timestamp: now, Line: []byte("x")}}})
	}
	mux := http.NewServeMux()
	r.querier.Register(muxRouter{mux})
	for _, path := range []string{"labels", "label/app/values", "label/pod/values", "series", "labels?query=%7Bapp%3D%22app1%22%7D"} {
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/loki/api/v1/"+path, nil))
				if w.Code != http.StatusOK || w.Body.Len() < 20 {
					b.Fatal(w.Code, w.Body)
				}
			}
			b.ReportMetric(float64((cpuTime()-before).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
		})
	}
}

func TestMatcherGroups(t *testing.T) {
	for _, c := range []struct {
		selectors []string
		groups    int
		want      string
	}{
		{nil, 1, ""},
		{[]string{"{}"}, 1, ""},
		{[]string{"{}", "{}"}, 1, ""},
		{[]string{`{a="b"}`, `{a="b"}`, `{c="d"}`}, 2, ""},
		{[]string{`{a="b"}`, "{ }"}, 0, "0 matchers in group: { }"},
		{[]string{"{z}", "{=}"}, 0, "parse error at line 1, col 2: syntax error: unexpected =, expecting IDENTIFIER or }"},
	} {
		groups, err := matcherGroups(slices.Clone(c.selectors))
		if err != nil && err.Error() != c.want || err == nil && c.want != "" || len(groups) != c.groups {
			t.Errorf("%q: %d groups, %v", c.selectors, len(groups), err)
		}
	}
}
