package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/testkit/s3"
)

// restless makes everything that moves rows happen all the time.
var restless = []string{
	"-ingester.freeze-age=100ms", "-ingester.upload-age=250ms", "-ingester.keep-after-upload=300ms", "-catalog.ttl=100ms",
	"-compact.interval=150ms", "-compact.delete-delay=2s", "-limits.query_timeout=1800ms",
	"-limits.reject_old_samples=false", "-limits.retention_period=15d", `-limits.retention_stream=[{selector: '{job="old"}', period: 24h, priority: 1}]`,
}

// stages are the metrics that say that each of it happens.
var stages = map[string]string{
	"flush":      "skald_ingester_flush_seconds_count",
	"upload":     "skald_ingester_uploaded_bytes_total",
	"compaction": "skald_compactor_merges_total",
	"replaced":   "skald_compactor_segments_deleted_total|replaced",
	"retention":  "skald_compactor_rows_total|expired",
	"expired":    "skald_compactor_segments_deleted_total|expired",
}

// TestKillsWhileStoring: kill -9 while memtables are written out, segments uploaded, objects
// merged, and rows that retention has ended removed, all at once, on a folder and on S3. After each
// kill every stored segment is sound, and every line that was acknowledged counts once.
func TestKillsWhileStoring(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		objects := tempDir(t, "objects")
		killsWhileStoring(t, objects, "file://"+objects)
	})
	t.Run("s3", func(t *testing.T) {
		store := s3.Start(t)
		bucket := store.Bucket(t, "logs", "skald")
		killsWhileStoring(t, filepath.Join(store.Dir, "logs"), bucket)
	})
}

func killsWhileStoring(t *testing.T, objects, url string) {
	rng := newRand(t)
	s := startServer(t, slices.Concat([]string{"-storage.url=" + url}, restless, roomy)...)
	w := newSinker(s, rng)
	happened := map[string]float64{}
	kills := 0
	// round is the life of a process, which live ends by returning. The client goes on while
	// the server dies: what it got no answer to it sends again.
	round := func(live func()) {
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			w.pushUntil(stop)
		}()
		live()
		s.kill()
		close(stop)
		<-done
		kills++
		w.verifyStored(t, s.dir, url)
		s.start()
		w.settle()
		w.verifyCounts(fmt.Sprintf("after kill %d", kills))
		if t.Failed() {
			t.FailNow()
		}
	}
	note := func(stage string) bool {
		name, labels, _ := strings.Cut(stages[stage], "|")
		happened[stage] += s.metric(name, labels)
		return happened[stage] > 0
	}
	for range size(6, 15, 150) {
		life := time.Duration(rng.IntN(1200)) * time.Millisecond
		round(func() {
			time.Sleep(life * 3 / 4)
			for stage := range stages {
				note(stage)
			}
			time.Sleep(life / 4)
		})
	}
	// A busy machine may have been too slow for some of it: that gets the time it takes.
	for stage := range stages {
		if happened[stage] == 0 {
			round(func() { eventually(t, stage+" happens", func() bool { return note(stage) }) })
		}
	}
	t.Logf("%d lines kept, %d to expire; seen before kills: %v", w.kept, w.old, happened)

	// Left alone, everything comes to rest: one copy of each kept line, none of the others.
	// A new process looks at every day; one that has found an old day at rest comes back late.
	s.flush()
	s.stop()
	s.start()
	eventually(t, "no row is left that retention has ended", func() bool {
		n, err := s.count(`sum(count_over_time({job=~"old|ancient"}[480h]))`, w.end)
		return err == nil && n == 0
	})
	for day, start := range w.days {
		s.verifyNumbers(map[string]int{day: w.acked[day]}, start, start.Add(20*time.Hour))
	}
	eventually(t, "few objects are left", func() bool { return segments(t, s, objects).objects <= 3*len(w.days) })
	w.verifyStored(t, s.dir, url)
	w.verifyCounts("in the end")
	s.stop()
}

// sinker pushes lines of some days: most are kept, those of job "old" expire beside them,
// and those of job "ancient" expire with their whole day.
type sinker struct {
	s         *server
	rng       *rand.Rand
	end       time.Time
	days      map[string]time.Time
	acked     map[string]int // lines by day
	pending   map[string]int // sent, and not acknowledged
	kept, old int
}

func newSinker(s *server, rng *rand.Rand) *sinker {
	now := time.Now().UTC().Truncate(24 * time.Hour)
	w := &sinker{s: s, rng: rng, end: time.Now().Add(time.Minute), acked: map[string]int{}, pending: map[string]int{}, days: map[string]time.Time{}}
	for _, ago := range []int{3, 4} {
		day := now.AddDate(0, 0, -ago)
		w.days[day.Format(time.DateOnly)] = day.Add(2 * time.Hour)
	}
	return w
}

// batch is the next push of a day: the same again until it is acknowledged.
func (w *sinker) batch(day string) []pushStream {
	start := w.days[day]
	from, to := w.acked[day], w.acked[day]+w.pending[day]
	other := func(job string, at time.Time) pushStream {
		p := numbered(job+day, at.UnixNano(), from, to)
		p.Stream = map[string]string{"job": job, "day": day}
		return p
	}
	return []pushStream{numbered(day, start.UnixNano(), from, to), other("old", start), other("ancient", start.AddDate(0, 0, -16))}
}

func (w *sinker) push(day string) error {
	status, answer, err := w.s.push(w.batch(day)...)
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("status %d: %s", status, answer)
	}
	if err != nil {
		return err
	}
	n := w.pending[day]
	w.acked[day], w.pending[day] = w.acked[day]+n, 0
	w.kept, w.old = w.kept+n, w.old+2*n
	return nil
}

func (w *sinker) pushUntil(stop <-chan struct{}) {
	days := slices.Sorted(maps.Keys(w.days))
	for {
		select {
		case <-stop:
			return
		default:
		}
		day := days[w.rng.IntN(len(days))]
		w.pending[day] = 1 + w.rng.IntN(300)
		if w.push(day) != nil {
			return // killed
		}
		time.Sleep(time.Duration(w.rng.IntN(10)) * time.Millisecond)
	}
}

// settle sends again what has got no answer.
func (w *sinker) settle() {
	w.s.t.Helper()
	for day, n := range w.pending {
		if n == 0 {
			continue
		}
		if err := w.push(day); err != nil {
			w.s.t.Fatalf("pushing again what got no answer: %v", err)
		}
	}
}

func (w *sinker) verifyCounts(when string) {
	w.s.t.Helper()
	for day, want := range w.acked {
		query := fmt.Sprintf(`sum(count_over_time({job="numbers", writer="%s"}[480h]))`, day)
		got, err := w.s.count(query, w.end)
		for again := 0; err != nil && strings.Contains(err.Error(), "request timed out") && again < 100; again++ {
			got, err = w.s.count(query, w.end) // a busy machine; no answer is no wrong one
		}
		if err != nil || got != want {
			w.s.t.Errorf("%s: %d lines of %s, error %v; want the %d that were acknowledged", when, got, day, err, want)
		}
	}
}

// verifyStored reads every segment, of the local disk and of the store.
func (w *sinker) verifyStored(t *testing.T, places ...string) {
	t.Helper()
	for _, place := range places {
		if stdout, stderr, status := run(t, "verify", "-q", place); status != 0 {
			t.Errorf("skald verify %s: status %d\n%s%s", place, status, stdout, stderr)
		}
	}
}

// TestKilledCompactResumes: an operator's `skald compact` over a bucket is killed again and
// again, then two of them run at once, while nothing else happens. Each row stays visible
// once, every object is sound, and in the end there is one.
func TestKilledCompactResumes(t *testing.T) {
	rng := newRand(t)
	store := s3.Start(t)
	bucket := store.Bucket(t, "logs", "skald")
	s := startServer(t, append([]string{"-storage.url=" + bucket, "-compact.interval=24h", "-ingester.keep-after-upload=1s", "-catalog.ttl=100ms",
		"-limits.query_timeout=500ms", "-compact.delete-delay=1s", "-limits.reject_old_samples=false"}, roomy...)...)
	w := newSinker(s, rng)
	day := slices.Sorted(maps.Keys(w.days))[0]
	pieces := size(12, 20, 60)
	for range pieces {
		w.pending[day] = 500 + rng.IntN(1000)
		w.settle()
		s.flush()
	}
	start := w.days[day]
	objects := func() int { return segments(t, s, filepath.Join(store.Dir, "logs", "skald", "fake", day)).objects }
	if n := objects(); n < pieces {
		t.Fatalf("%d objects to begin with, want %d", n, pieces)
	}
	args := []string{"compact", "-full", "-day=" + day, "-compact.max-inputs=3", "-compact.delete-delay=1s", bucket}
	log := filepath.Join(tempDir(t, "compact"), "log")
	watchLog(t, "skald compact", log)
	fewer, life := 0, 400*time.Millisecond
	for range size(8, 15, 60) {
		before := objects()
		p := startProcess(t, "compact", log, args...)
		select {
		case <-p.exited:
		case <-time.After(life/8 + time.Duration(rng.Int64N(int64(life)))):
			p.kill()
		}
		if objects() != before {
			fewer++
		} else if fewer == 0 {
			life += life / 2 // a busy machine takes longer to get anywhere
		}
		w.verifyStored(t, bucket)
		w.verifyCounts("after a kill of skald compact")
		if t.Failed() {
			return
		}
	}
	if fewer == 0 {
		t.Error("every compaction was killed before it had done anything, which proves nothing")
	}
	for range 2 {
		a, b := startProcess(t, "compact", log, args...), startProcess(t, "compact", log, args...)
		<-a.exited
		<-b.exited
		w.verifyStored(t, bucket)
		w.verifyCounts("after two compactions at once")
	}
	eventually(t, "one object is left", func() bool {
		if _, stderr, status := run(t, args...); status != 0 {
			t.Fatalf("skald compact: status %d: %s", status, stderr)
		}
		return objects() == 1
	})
	w.verifyStored(t, bucket)
	s.verifyNumbers(map[string]int{day: w.acked[day]}, start, start.Add(20*time.Hour))
	s.stop()
}
