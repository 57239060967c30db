package querier

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

func someResult(entries, points int) *engine.Result {
	a, b := labels.FromStrings("app", "a"), labels.FromStrings("level", "warn", "x", "")
	r := &engine.Result{Type: "matrix", Warnings: []string{"w", ""}, Stats: &model.Stats{}}
	r.Stats.RowsScanned.Store(7)
	for i := range 3 {
		s := scan.Stream{Labels: labels.FromStrings("n", fmt.Sprint(i)), StreamLabels: a}
		for n := range entries {
			e := scan.Entry{Timestamp: int64(n) - 5, Line: fmt.Appendf(nil, "line %d of %d", n, i)}
			if n%3 == 0 {
				e.Metadata, e.Parsed = b, a
			}
			s.Entries = append(s.Entries, e)
		}
		r.Streams = append(r.Streams, s)
		m := engine.Series{Labels: labels.FromStrings("n", fmt.Sprint(i))}
		for n := range points {
			m.Points = append(m.Points, engine.Point{T: int64(n) * 1000, V: []float64{1, math.Inf(-1), math.Copysign(0, -1), math.NaN(), 0.1}[n%5]})
		}
		r.Series = append(r.Series, m)
	}
	return r
}

var sameResult = []cmp.Option{
	cmp.Comparer(labels.Equal), cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }),
	cmp.Comparer(func(a, b *model.Stats) bool { return a.RowsScanned.Load() == b.RowsScanned.Load() }),
}

func TestResultsCrossTheWireExactly(t *testing.T) {
	f := func(want *engine.Result) {
		t.Helper()
		r := newResultReader()
		var first, again [][]byte
		if err := sendResult(want, func(frame []byte) error { first = append(first, frame); return r.frame(frame) }); err != nil {
			t.Fatal(err)
		}
		if len(first) == 1 {
			if diff := cmp.Diff(want, &r.result, sameResult...); diff != "" || !r.whole {
				t.Errorf("whole: %t, %s", r.whole, diff)
			}
		}
		_ = sendResult(&r.result, func(frame []byte) error { again = append(again, frame); return nil })
		if !slices.EqualFunc(first, again, bytes.Equal) {
			t.Errorf("what came out of %d frames goes into %d others", len(first), len(again))
		}
	}
	f(someResult(0, 0))
	f(someResult(3, 5))
	f(someResult(30_000, 40_000)) // several frames for each stream and series
	f(&engine.Result{Type: "scalar", Scalar: engine.Point{T: -1, V: math.NaN()}, Stats: &model.Stats{}})
	f(&engine.Result{Type: "streams", Stats: &model.Stats{}})
}

func TestTasksCrossTheWireExactly(t *testing.T) {
	want := task{tenants: []model.Tenant{"a", "b"}, maxSeries: -1, params: engine.Params{
		Query: `{a="b"}`, Start: -5, End: 1 << 60, Step: time.Second, Interval: 3, Limit: 9, Forward: true, PartialSeries: true, Instant: true,
	}}
	got, err := readTask(want.append(nil))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(task{})); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := readTask(nil); err == nil {
		t.Error("a task without tenants was accepted")
	}
}

func FuzzSliceMessages(f *testing.F) {
	_ = sendResult(someResult(3, 3), func(frame []byte) error { f.Add(frame); return nil })
	f.Add((&task{tenants: []model.Tenant{"a"}, params: engine.Params{Query: "{}", Step: 1}}).append(nil))
	f.Fuzz(func(_ *testing.T, msg []byte) {
		_, _ = readTask(msg)
		_ = newResultReader().frame(msg)
	})
}

type everyone []Peer

func (e everyone) Queriers(string) []Peer { return e }

// TestSlicesCoverTheQuery checks that slices join without gap or overlap, and stand at
// borders that do not depend on the query.
func TestSlicesCoverTheQuery(t *testing.T) {
	lim := limits.Defaults()
	q := &Querier{peers: everyone{{ID: "a"}, {ID: "b"}, {ID: "c"}}}
	day := int64(24 * time.Hour)
	cut := func(query string, start, end int64, step time.Duration) []slice {
		expr, err := syntax.Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		s := sharing{q: q, tenants: []model.Tenant{"t"}, lim: &lim, expr: expr, p: engine.Params{Query: query, Start: start, End: end, Step: step, Limit: 10, Forward: true}}
		s.plan()
		return s.slices
	}
	base := 20_000 * day
	for n := range int64(500) {
		start := base + n*7_777_777_777_777
		end := start + n*n*90e9
		list := cut(`{a="b"}`, start, end, 0)
		at := start
		for _, s := range list {
			if s.params.Start != at || s.params.End <= at {
				t.Fatalf("slice [%d, %d) follows %d", s.params.Start, s.params.End, at)
			}
			at = s.params.End
		}
		if len(list) > 0 && at != end || len(list) > maxSlices+1 {
			t.Fatalf("%d slices end at %d, want %d", len(list), at, end)
		}
		step := time.Duration(1+n%97) * 11 * time.Second
		list = cut(`sum(rate({a="b"}[5m]))`, start, end, step)
		at = floorTo(start, int64(step))
		for _, s := range list {
			if s.params.Start != at || s.params.End < at || (s.params.End-at)%int64(step) != 0 {
				t.Fatalf("step slice [%d, %d] follows %d", s.params.Start, s.params.End, at)
			}
			at = s.params.End + int64(step)
		}
		if last := -floorTo(-end, int64(step)); len(list) > 0 && at != last+int64(step) {
			t.Fatalf("steps end before %d, want after %d", at, last)
		}
	}
	if n := len(cut(`sum(rate({a="b"}[7d]))`, base, base+day, time.Minute)); n > 1 {
		t.Errorf("a range longer than the query makes %d slices", n)
	}
	a, b := cut(`{a="b"}`, base+5, base+day, 0), cut(`{a="c"} |= "x"`, base+7, base+day-9, 0)
	for i := range a {
		if a[i].key != b[i].key {
			t.Errorf("slices of one time have places %q and %q", a[i].key, b[i].key)
		}
	}
}

// TestCutsBetweenEntriesOfOneTime cuts answers at every limit. Which entries of one time
// come first is known to whoever scans only, so the merge has to ask.
func TestCutsBetweenEntriesOfOneTime(t *testing.T) {
	times := []int64{1, 1, 1, 2, 3, 3, 3, 3, 4}
	for _, forward := range []bool{true, false} {
		for limit := 1; limit <= len(times); limit++ {
			streams := make([]scan.Stream, 3)
			var order []string // as a scan orders them: by time, then the last stream first
			for i := range streams {
				streams[i] = scan.Stream{Labels: labels.FromStrings("n", fmt.Sprint(i))}
			}
			all := map[int64][]scan.Stream{}
			for n, ts := range times {
				e := scan.Entry{Timestamp: ts, Line: fmt.Append(nil, n)}
				all[ts] = append(all[ts], scan.Stream{Labels: streams[n%3].Labels, Entries: []scan.Entry{e}})
				if forward {
					streams[n%3].Entries = append(streams[n%3].Entries, e)
				} else {
					streams[n%3].Entries = append([]scan.Entry{e}, streams[n%3].Entries...)
				}
			}
			for ts := int64(1); ts <= 4; ts++ {
				at := ts
				if !forward {
					at = 5 - ts
				}
				for i := len(all[at]) - 1; i >= 0; i-- {
					order = append(order, string(all[at][i].Entries[0].Line))
				}
			}
			m := logMerge{forward: forward, left: limit, index: map[[2]string]int{}}
			err := m.take(streams, func(ts int64, limit int) ([]scan.Stream, error) {
				same := all[ts]
				var first []scan.Stream
				for i := len(same) - 1; i >= len(same)-limit; i-- {
					first = append(first, same[i])
				}
				return first, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for _, s := range m.sorted() {
				for _, e := range s.Entries {
					got[string(e.Line)] = true
				}
			}
			want := map[string]bool{}
			for _, line := range order[:limit] {
				want[line] = true
			}
			if diff := cmp.Diff(want, got); diff != "" || m.left != 0 {
				t.Errorf("forward %t, limit %d, %d left: %s", forward, limit, m.left, diff)
			}
		}
	}
}

// cannedPeer is a querier that answers every slice with the same frames.
type cannedPeer struct {
	grpc.ClientConnInterface
	frames [][]byte
	asked  atomic.Int64
}

func (p *cannedPeer) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	p.asked.Add(1)
	return &cannedStream{frames: p.frames}, nil
}

type cannedStream struct {
	grpc.ClientStream
	frames [][]byte
}

func (*cannedStream) SendMsg(any) error { return nil }
func (*cannedStream) CloseSend() error  { return nil }
func (s *cannedStream) RecvMsg(m any) error {
	if len(s.frames) == 0 {
		return io.EOF
	}
	*m.(*rpc.RawMessage) = s.frames[0]
	s.frames = s.frames[1:]
	return nil
}

// TestSharedResultsAreBounded checks that a shared query is ended as soon as what its slices
// have brought is too much, for itself or for all queries together, and gives it back.
func TestSharedResultsAreBounded(t *testing.T) {
	const points = 1000
	result := someResult(0, points)
	one := weightOf(result)
	peer := &cannedPeer{}
	_ = sendResult(result, func(frame []byte) error { peer.frames = append(peer.frames, frame); return nil })
	hour := int64(time.Hour)
	ask := func(own, all int64) error {
		peer.asked.Store(0)
		q := New(Config{MaxConcurrent: 1, MaxOutstanding: 1, MaxMemory: own, TotalMemory: all}, nil, nil, nil, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
		q.UsePeers(everyone{{ID: "a"}, {ID: "b"}, {ID: "c"}}, func(string) (grpc.ClientConnInterface, error) { return peer, nil })
		lim := limits.Defaults()
		lim.MaxQueryParallelism = 1
		expr, err := syntax.Parse(`rate({a="b"}[5m])`)
		if err != nil {
			t.Fatal(err)
		}
		_, err = q.execute(context.Background(), []model.Tenant{"t"}, &lim, engine.Params{Start: 0, End: 12 * hour, Step: time.Minute}, expr)
		return err
	}
	if err := ask(100*one, 100*one); err != nil || peer.asked.Load() < 10 {
		t.Fatalf("with room for all %d slices: %v", peer.asked.Load(), err)
	}
	if err := ask(3*one, 100*one); err == nil || !strings.Contains(err.Error(), "more memory than its budget") || peer.asked.Load() > 5 {
		t.Errorf("with room for three of a query, after %d: %v", peer.asked.Load(), err)
	}
	if err := ask(100*one, 3*one); fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "querier.total-memory") || peer.asked.Load() > 5 {
		t.Errorf("with room for three of all queries, after %d: %v", peer.asked.Load(), err)
	}
}
