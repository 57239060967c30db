package scan

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// naive computes a range aggregation from the samples of one window in order of time,
// by the definitions of the language.
func naive(op operation, in []sample) (float64, bool) {
	if len(in) == 0 {
		return 0, false
	}
	n := float64(len(in))
	values := make([]float64, len(in))
	sum, mean := 0.0, 0.0
	for i, s := range in {
		values[i] = s.value
		sum += s.value
		mean += s.value / n
	}
	switch op.name {
	case "count_over_time", "rate":
		return n / op.seconds, true
	case "sum_over_time", "bytes_over_time", "bytes_rate":
		return sum / op.seconds, true
	case "avg_over_time":
		return mean, true
	case "stdvar_over_time", "stddev_over_time":
		dev := 0.0
		for _, v := range values {
			dev += (v - mean) * (v - mean) / n
		}
		if op.name == "stddev_over_time" {
			dev = math.Sqrt(dev)
		}
		return dev, true
	case "min_over_time":
		return slices.Min(values), true
	case "max_over_time":
		return slices.Max(values), true
	case "first_over_time":
		return values[0], true
	case "last_over_time":
		return values[len(values)-1], true
	case "quantile_over_time":
		if op.param < 0 {
			return math.Inf(-1), true
		}
		if op.param > 1 {
			return math.Inf(1), true
		}
		slices.Sort(values)
		rank := op.param * (n - 1)
		lo := int(rank)
		hi := min(lo+1, len(values)-1)
		return values[lo] + (values[hi]-values[lo])*(rank-float64(lo)), true
	case "rate_counter":
		return naiveCounter(in, op.seconds), true
	}
	panic(op.name)
}

func naiveCounter(in []sample, seconds float64) float64 {
	n := len(in)
	if n < 2 {
		return 0
	}
	increase := in[n-1].value - in[0].value
	for i := 1; i < n; i++ {
		if in[i].value < in[i-1].value {
			increase += in[i-1].value
		}
	}
	sampled := float64(in[n-1].ts-in[0].ts) / 1000
	avg := sampled / float64(n-1)
	toStart := seconds
	if increase > 0 && in[0].value >= 0 {
		toStart = math.Min(toStart, sampled*in[0].value/increase)
	}
	if toStart >= 1.1*avg {
		toStart = avg / 2
	}
	return increase * (sampled + toStart) / sampled / seconds
}

var allOperations = []operation{
	{"count_over_time", 0, 1}, {"rate", 0, 60}, {"bytes_over_time", 0, 1}, {"bytes_rate", 0, 60},
	{"sum_over_time", 0, 1}, {"avg_over_time", 0, 1}, {"min_over_time", 0, 1}, {"max_over_time", 0, 1},
	{"stdvar_over_time", 0, 1}, {"stddev_over_time", 0, 1}, {"first_over_time", 0, 1}, {"last_over_time", 0, 1},
	{"quantile_over_time", 0.5, 1}, {"quantile_over_time", 0.99, 1}, {"quantile_over_time", 0, 1},
	{"quantile_over_time", 1, 1}, {"quantile_over_time", 1.5, 1}, {"quantile_over_time", -1, 1},
	{"rate_counter", 0, 60},
}

// TestAccumulatorsAgreeWithDefinitions deals random samples to several accumulators,
// merges them, and compares every window with the definition.
func TestAccumulatorsAgreeWithDefinitions(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 400 {
		step := 1 + rnd.Int64N(8)
		g := Grid{100, 100 + step*rnd.Int64N(10), step}
		rng := 1 + rnd.Int64N(40)
		w := newWindows(g, rng, 0)
		series := make([][]sample, 3)
		for i := range series {
			for seq := range rnd.IntN(60) {
				series[i] = append(series[i], sample{
					value: math.Round(rnd.NormFloat64()*1000) / 8, ts: 60 + rnd.Int64N(130), seq: uint64(seq),
				})
			}
		}
		for _, op := range allOperations {
			got := accumulated(t, op, &w, series, rnd)
			for i, samples := range series {
				slices.SortFunc(samples, func(a, b sample) int { return cmp.Or(cmp.Compare(a.ts, b.ts), cmp.Compare(a.seq, b.seq)) })
				for p := range g.Points() {
					var in []sample
					for _, s := range samples {
						if at := g.Time(p); at-rng < s.ts && s.ts <= at {
							in = append(in, s)
						}
					}
					want, some := naive(op, in)
					if some != got[i].present.Has(p) {
						t.Fatalf("%v: series %d point %d: present %t, want %t", op, i, p, !some, some)
					}
					if some && !near(got[i].values[p], want) {
						t.Fatalf("%v: series %d point %d of %+v [%d]: got %v, want %v of %v", op, i, p, g, rng, got[i].values[p], want, in)
					}
				}
			}
		}
	}
}

// accumulated runs the samples through three accumulators with different numberings.
func accumulated(t *testing.T, op operation, w *windows, series [][]sample, rnd *rand.Rand) []column {
	t.Helper()
	parts := make([]accumulator, 3)
	for i := range parts {
		acc, err := newAccumulator(op, true, w.buckets)
		if err != nil {
			t.Fatal(err)
		}
		if op.name == "rate" {
			acc = &counts{cells: cells[int64]{buckets: w.buckets}, per: op.seconds}
		}
		parts[i] = acc
	}
	for i, samples := range series {
		for _, s := range samples {
			part := rnd.IntN(len(parts))
			if b := w.bucket(s.ts); b >= 0 {
				parts[part].add((i+part)%len(series), b, s)
			}
		}
	}
	for part, acc := range parts[1:] {
		to := make([]int, len(series))
		for i := range series {
			to[(i+part+1)%len(series)] = i
		}
		parts[0].merge(acc, to)
	}
	out := make([]column, len(series))
	for i := range series {
		out[i] = parts[0].result(t.Context(), i, w)
	}
	return out
}

func near(a, b float64) bool {
	return a == b || math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) <= 1e-9*math.Max(1, math.Max(math.Abs(a), math.Abs(b)))
}

// TestAccumulatorsWithOddValues pins down NaN and infinities, in every position.
func TestAccumulatorsWithOddValues(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	f := func(op string, want float64, values ...float64) {
		t.Helper()
		w := newWindows(Grid{10, 10, 0}, 10, 0)
		acc, err := newAccumulator(operation{op, 0.5, 1}, true, w.buckets)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			acc.add(0, 0, sample{value: v, ts: int64(i + 1)})
		}
		if got := acc.result(t.Context(), 0, &w).values[0]; !near(got, want) {
			t.Errorf("%s of %v: got %v, want %v", op, values, got, want)
		}
	}
	f("min_over_time", 1, nan, 2, 1, nan)
	f("max_over_time", 2, nan, 2, nan, 1)
	f("max_over_time", nan, nan, nan)
	f("min_over_time", -inf, 5, -inf)
	f("avg_over_time", inf, 1, inf, 2)
	f("avg_over_time", nan, 1, inf, -inf)
	f("avg_over_time", nan, 1, nan, 2)
	f("avg_over_time", 1e308, 1e308, 1e308)
	f("stddev_over_time", nan, inf)
	f("stddev_over_time", 0, 7)
	f("sum_over_time", nan, inf, -inf)
	f("quantile_over_time", 1, nan, 1, 2)
	f("rate_counter", 0, 5)
}

// TestInfinityLeavesWithItsBucket: a window is not spoilt by what has left it.
func TestInfinityLeavesWithItsBucket(t *testing.T) {
	w := newWindows(Grid{10, 40, 10}, 20, 0)
	for _, op := range []string{"sum_over_time", "avg_over_time"} {
		acc, _ := newAccumulator(operation{op, 0, 1}, true, w.buckets)
		for i, v := range []float64{1e300, math.Inf(1), 3, 3} {
			acc.add(0, w.bucket(int64(i*10+5)), sample{value: v, ts: int64(i*10 + 5)})
		}
		want := map[string]float64{"sum_over_time": 6, "avg_over_time": 3}[op]
		if got := acc.result(t.Context(), 0, &w).values[3]; got != want {
			t.Errorf("%s: got %v, want %v", op, got, want)
		}
	}
}

func TestQuantilesJoinEqualValues(t *testing.T) {
	w := newWindows(Grid{10, 10, 0}, 10, 0)
	q := &quantiles{cells: cells[[]weighted]{buckets: w.buckets}, q: 0.5}
	for i := range 100_000 {
		q.add(0, 0, sample{value: float64(i % 50)})
	}
	if q.size() > 1<<14 {
		t.Errorf("100000 samples of 50 values take %d bytes", q.size())
	}
	if got := q.result(t.Context(), 0, &w).values[0]; got != 24.5 {
		t.Errorf("median = %v, want 24.5", got)
	}
}
