package querier

import (
	"context"
	"net/http"
	"sort"
	"sync"
	"time"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/engine"
)

// serveVolumeRange sums by buckets of a step. A bucket is named by its end; interior ends
// are a millisecond earlier, so that they do not belong to two buckets.
func (q *Querier) serveVolumeRange(w http.ResponseWriter, r *http.Request) error {
	v, err := q.readVolume(w, r, true)
	if err != nil {
		return err
	}
	sums, warned, err := q.volumeSteps(r.Context(), v)
	if err != nil {
		return err
	}
	total := make(map[string]*volume, len(sums))
	for name, s := range sums {
		total[name] = &s.volume
	}
	res := &engine.Result{Type: "vector", Warnings: warned.list()}
	steps := v.steps()
	for _, s := range largest(total, v.limit) {
		points := make([]engine.Point, 0, len(sums[s.name].perStep))
		for i := range steps.count() {
			if n, ok := sums[s.name].perStep[i]; ok {
				points = append(points, engine.Point{T: steps.name(i), V: float64(n)})
			}
		}
		if len(points) > 1 {
			res.Type = "matrix"
		}
		res.Series = append(res.Series, engine.Series{Labels: s.labels, Points: points})
	}
	return q.writeJSON(w, r, appendResult(nil, res, encoding{}))
}

// steps are the buckets of a volume request: [start, end) cut at the multiples of the step.
type steps struct{ start, end, step int64 }

func (v volumeRequest) steps() steps { return steps{v.start, v.end, int64(v.step)} }

func (s steps) at(ts int64) int { return int(ts/s.step - s.start/s.step) }

func (s steps) count() int {
	if s.end <= s.start {
		return 0
	}
	return s.at(s.end-1) + 1
}

// after is the end of bucket i.
func (s steps) after(i int) int64 { return min(s.end, (s.start/s.step+int64(i)+1)*s.step) }

// name is the time of bucket i in answers, in milliseconds.
func (s steps) name(i int) int64 {
	t := s.after(i) / int64(time.Millisecond)
	if s.after(i) < s.end {
		t--
	}
	return t
}

// volumeSeries is the volume of one group, in all and by bucket.
type volumeSeries struct {
	volume
	perStep map[int]int64
}

// volumeSteps sums bytes by group and bucket in one pass over the data.
func (q *Querier) volumeSteps(ctx context.Context, v volumeRequest) (found map[string]*volumeSeries, warned *warnings, err error) {
	leave, err := q.admit(ctx, v.tenants, nil)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	err = q.retry(ctx, func() error {
		var sums volumeSums
		sums.mu.groups = map[string]*volumeSeries{}
		found, warned = sums.mu.groups, &warnings{}
		in := model.TimeRange{From: v.start, Through: v.end}
		return q.eachWeighed(ctx, v.tenants, v.selecting(), in, warned, func(ctx context.Context, b model.Block) error {
			return sums.addBlock(ctx, b, v)
		})
	})
	return found, warned, err
}

// volumeSums adds up what parallel workers find.
type volumeSums struct {
	mu struct {
		sync.Mutex
		groups map[string]*volumeSeries
	}
}

func (s *volumeSums) addBlock(ctx context.Context, b model.Block, v volumeRequest) error {
	w, err := openWeights(ctx, b, true)
	if err != nil {
		return err
	}
	steps := v.steps()
	var found []stepBytes
	for _, run := range b.Runs() {
		found = found[:0]
		times := w.times[run.Start:run.End]
		row := run.Start + sort.Search(len(times), func(i int) bool { return times[i] >= v.start })
		for row < run.End && w.times[row] < v.end {
			step := stepBytes{at: steps.at(w.times[row])}
			for after := steps.after(step.at); row < run.End && w.times[row] < after; row++ {
				if !w.dead.Has(row) {
					step.rows++
					step.bytes += w.of(row)
				}
			}
			if step.rows > 0 {
				found = append(found, step)
			}
		}
		if len(found) > 0 {
			if err := s.add(v, run, found); err != nil {
				return err
			}
		}
	}
	return nil
}

// stepBytes is what a run has in one bucket.
type stepBytes struct {
	at          int
	rows, bytes int64
}

func (s *volumeSums) add(v volumeRequest, run model.Run, found []stepBytes) error {
	sets := v.group(run.Labels)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ls := range sets {
		name := ls.String()
		sum := s.mu.groups[name]
		if sum == nil {
			if err := v.checkSeries(len(s.mu.groups) + 1); err != nil {
				return err
			}
			sum = &volumeSeries{volume: volume{name: name, labels: ls}, perStep: map[int]int64{}}
			s.mu.groups[name] = sum
		}
		for _, f := range found {
			sum.perStep[f.at] += f.bytes
			sum.bytes += f.bytes
		}
	}
	return nil
}
