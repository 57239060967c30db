package distributor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
)

// replica is a simulated ingester. behave decides what becomes of a call before anything is
// stored; it may wait. lose says that the answer is lost after everything was stored.
type replica struct {
	id string

	mu          sync.Mutex
	behave      func(ctx context.Context) (err error, lose bool)
	refuse      map[string]bool // streams, by labels
	rows        map[string]int  // how often each row came
	calls       int
	bytes, most int64 // in work
}

func rowKey(ls labels.Labels, e model.Entry) string {
	return fmt.Sprintf("%s %d %x", ls, e.Timestamp, model.RowHash(e.Line, e.Metadata))
}

type partialRefusal struct {
	error
	streams []int
}

func (p partialRefusal) RefusedStreams() []int { return p.streams }
func (p partialRefusal) Unwrap() error         { return p.error }

func (f *replica) PushParts(ctx context.Context, _ model.Tenant, parts []*remote.Part) error {
	var streams []model.Stream
	size := int64(0)
	for _, p := range parts {
		more, err := p.Streams()
		if err != nil {
			return err
		}
		streams = append(streams, more...)
		size += int64(p.WireSize())
	}
	f.mu.Lock()
	f.calls++
	f.bytes += size
	f.most = max(f.most, f.bytes)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.bytes -= size
		f.mu.Unlock()
	}()
	return f.store(ctx, streams)
}

// Push is for the replica of this process.
func (f *replica) Push(ctx context.Context, _ model.Tenant, streams []model.Stream) error {
	return f.store(ctx, streams)
}

func (f *replica) store(ctx context.Context, streams []model.Stream) error {
	f.mu.Lock()
	behave := f.behave
	f.mu.Unlock()
	lose := false
	if behave != nil {
		var err error
		if err, lose = behave(ctx); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var refused []int
	for i, s := range streams {
		if f.refuse[s.Labels.String()] {
			refused = append(refused, i)
			continue
		}
		for _, e := range s.Entries {
			f.rows[rowKey(s.Labels, e)]++
		}
	}
	switch {
	case lose:
		return callError(fault.Unavailable, "connection reset")
	case refused != nil:
		return partialRefusal{fault.New(fault.RateLimited, "%s refuses", f.id), refused}
	}
	return nil
}

// is gives it a behaviour and the streams that it refuses.
func (f *replica) is(behave func(context.Context) (error, bool), refuse map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behave, f.refuse = behave, refuse
}

// seen returns how often it was called, and the most bytes it had in work at once.
func (f *replica) seen() (calls int, most int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls, f.most
}

// empties forgets all rows and reports whether there were any.
func (f *replica) empties() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	some := len(f.rows) > 0
	clear(f.rows)
	return some
}

func (f *replica) has(row string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rows[row] > 0
}

// The behaviours.
func dead(context.Context) (error, bool) {
	return callError(fault.Unavailable, "connection refused"), false
}
func hangs(ctx context.Context) (error, bool) {
	<-ctx.Done()
	return callError(fault.Of(ctx.Err()), "no answer"), false
}
func overloaded(context.Context) (error, bool) {
	return fault.New(fault.Unavailable, "ingester is out of memory"), false
}
func takes(d time.Duration) func(context.Context) (error, bool) {
	return func(ctx context.Context) (error, bool) {
		select {
		case <-time.After(d):
			return nil, false
		case <-ctx.Done():
			return callError(fault.Of(ctx.Err()), "no answer in time"), false
		}
	}
}

// world is a ring of simulated replicas, whose addresses are their ids.
type world struct {
	*Replicator
	replicas map[string]*replica
	reg      *prometheus.Registry
	limits   limits.Limits

	mu        sync.Mutex
	instances []ring.Instance
	view      *ring.View
	stop      context.CancelFunc
	done      chan error
}

func newWorld(t *testing.T, n, rf int, change ...func(*ReplicatorConfig, *Cluster)) *world {
	t.Helper()
	w := &world{replicas: map[string]*replica{}, limits: limits.Defaults(), reg: prometheus.NewRegistry(), done: make(chan error, 1)}
	for i := range n {
		id := fmt.Sprintf("ing-%d", i)
		w.replicas[id] = &replica{id: id, rows: map[string]int{}}
		w.instances = append(w.instances, ring.Instance{ID: id, Addr: id, Roles: ring.All, State: ring.Active, Tokens: ring.Tokens(uint64(i), 64)})
	}
	w.seen()
	cfg := ReplicatorConfig{Factor: rf, Timeout: 4 * time.Second, QueueBytes: 1 << 20, QueuePushes: 50, MemoryBytes: 64 << 20, Compression: remote.Snappy}
	cluster := Cluster{
		View: func() *ring.View {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.view
		},
		Remote: func(addr string) RemotePusher { return w.replicas[addr] },
	}
	for _, c := range change {
		c(&cfg, &cluster)
	}
	r, err := NewReplicator(cfg, cluster, limitsFunc(func() *limits.Limits { return &w.limits }), w.reg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.Replicator = r
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	go func() { w.done <- r.Run(ctx) }()
	return w
}

type limitsFunc func() *limits.Limits

func (f limitsFunc) For(model.Tenant) *limits.Limits { return f() }

// seen makes the replicators see the instances as they are.
func (w *world) seen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = ring.NewView(w.instances)
}

// end stops the replicator and checks that nothing is left of it.
func (w *world) end(t *testing.T) {
	t.Helper()
	w.stop()
	if err := <-w.done; err != nil {
		t.Error(err)
	}
	if n := w.memory.Load(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
	for id, p := range w.Replicator.mu.peers {
		if p.mu.pushes != 0 || p.mu.bytes != 0 {
			t.Errorf("%s still has %d pushes, %d bytes", id, p.mu.pushes, p.mu.bytes)
		}
	}
	if err := w.Push(context.Background(), "t", someStreams(1, 0)); fault.Of(err) != fault.Unavailable {
		t.Errorf("a push after the end: %v", err)
	}
}

func callError(kind fault.Kind, text string) error {
	return remote.NewCallError("somewhere", fault.New(kind, "%s", text))
}

func someStreams(n, start int) []model.Stream {
	out := make([]model.Stream, n)
	for i := range out {
		out[i].Labels = labels.FromStrings("app", fmt.Sprint(i))
		for j := range 3 {
			ts := int64(start*10 + j)
			out[i].Entries = append(out[i].Entries, model.Entry{Timestamp: ts, Line: fmt.Appendf(nil, "line %d", ts), Metadata: labels.FromStrings("detected_level", "info")})
		}
	}
	return out
}

// copies returns on how many replicas the row is.
func (w *world) copies(row string) (n int) {
	for _, r := range w.replicas {
		if r.has(row) {
			n++
		}
	}
	return n
}

// least returns the number of replicas that the rarest entry is on.
func (w *world) least(streams []model.Stream) int {
	n := len(w.replicas)
	for _, s := range streams {
		for _, e := range s.Entries {
			n = min(n, w.copies(rowKey(s.Labels, e)))
		}
	}
	return n
}

// TestAcknowledgedIsOnAQuorum pushes through rings whose replicas misbehave in every way,
// and change their ways, and compares every answer with what is stored at that moment.
func TestAcknowledgedIsOnAQuorum(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			n, rf := 1+rng.IntN(6), []int{1, 2, 3, 3, 3, 5}[rng.IntN(6)]
			w := newWorld(t, n, rf, func(_ *ReplicatorConfig, c *Cluster) {
				if seed%2 == 0 {
					c.Self = "ing-0"
				}
			})
			if seed%2 == 0 {
				w.cluster.Local = w.replicas["ing-0"]
			}
			quorum := rf/2 + 1
			acked, failed, refusals := 0, 0, 0
			for round := range 40 {
				if round%8 == 0 {
					for id := range w.replicas {
						w.misbehave(rng, id)
					}
					if rng.IntN(3) == 0 { // the ring notices some of it
						in := &w.instances[rng.IntN(n)]
						in.Stale = !in.Stale
						w.seen()
					}
				}
				streams := someStreams(1+rng.IntN(6), round)
				err := w.Push(context.Background(), "t", streams)
				switch kind := fault.Of(err); {
				case err == nil:
					acked++
					if got := w.least(streams); got < quorum {
						t.Fatalf("seed %d, round %d: acknowledged, and on %d of %d ingesters", seed, round, got, n)
					}
				case kind == fault.Unavailable:
					failed++
					if text := err.Error(); !strings.Contains(text, "ing-") && !strings.Contains(text, "can be written to") {
						t.Fatalf("seed %d, round %d: no reason in %q", seed, round, text)
					}
				case kind == fault.RateLimited:
					refusals++
					for _, s := range streams {
						no := 0
						for _, r := range w.replicas {
							r.mu.Lock()
							if r.refuse[s.Labels.String()] {
								no++
							}
							r.mu.Unlock()
						}
						if no == 0 && w.least([]model.Stream{s}) < quorum {
							t.Fatalf("seed %d, round %d: a stream that nobody refuses is not stored: %v", seed, round, err)
						}
					}
				default:
					t.Fatalf("seed %d, round %d: kind %d, %v", seed, round, kind, err)
				}
				time.Sleep(time.Duration(rng.IntN(800)) * time.Millisecond)
			}
			for id, r := range w.replicas {
				if _, most := r.seen(); most > w.cfg.QueueBytes {
					t.Errorf("seed %d: %s had %d bytes in work", seed, id, most)
				}
			}
			w.end(t)
			if testing.Verbose() {
				t.Logf("seed %d: %d ingesters, rf %d: %d acknowledged, %d failed, %d refused", seed, n, rf, acked, failed, refusals)
			}
		})
	}
}

// misbehave gives a replica another behaviour; most are well.
func (w *world) misbehave(rng *rand.Rand, id string) {
	r := w.replicas[id]
	flap := rand.New(rand.NewPCG(rng.Uint64(), 1))
	var flapping sync.Mutex
	behaviours := []func(context.Context) (error, bool){
		nil, nil, nil, takes(20 * time.Millisecond), takes(2 * time.Second), takes(9 * time.Second), dead, hangs, overloaded,
		func(ctx context.Context) (error, bool) {
			flapping.Lock()
			n := flap.IntN(3)
			flapping.Unlock()
			return []func(context.Context) (error, bool){dead, takes(time.Millisecond), func(context.Context) (error, bool) { return nil, true }}[n](ctx)
		},
	}
	var refuse map[string]bool
	if rng.IntN(6) == 0 {
		refuse = map[string]bool{fmt.Sprintf(`{app="%d"}`, rng.IntN(3)): true}
	}
	r.is(behaviours[rng.IntN(len(behaviours))], refuse)
}

func TestSlowReplicaDoesNotSlowTheQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		w.replicas["ing-1"].is(hangs, nil)
		start := time.Now()
		for round := range 100 {
			if err := w.Push(context.Background(), "t", someStreams(5, round)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 0 { // the clock moves only when everybody waits
			t.Errorf("100 pushes waited %s", took)
		}
		if calls, _ := w.replicas["ing-1"].seen(); calls > w.cfg.QueuePushes {
			t.Errorf("%d calls wait for the one that hangs, at most %d are allowed", calls, w.cfg.QueuePushes)
		}
		w.end(t)
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		w.replicas["ing-1"].is(hangs, nil)
		for round := range 35 { // 3.5 s, less than the timeout
			if err := w.Push(context.Background(), "t", someStreams(5, round)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if calls, _ := w.replicas["ing-1"].seen(); calls > 22 {
			t.Errorf("%d calls for one that is silent, and should be left out after two seconds", calls)
		}
		w.end(t)
	})
}

func TestDeadReplicaCostsNothingOnceDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 3)
		w.replicas["ing-1"].is(dead, nil)
		for round := range 200 {
			streams := someStreams(10, round)
			if err := w.Push(context.Background(), "t", streams); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := w.least(streams); n != 3 {
				t.Fatalf("round %d: %d copies, want 3: another ingester takes its place", round, n)
			}
		}
		if calls, _ := w.replicas["ing-1"].seen(); calls != breakerFailures {
			t.Errorf("the dead one was called %d times, want %d", calls, breakerFailures)
		}
		// It is found out when it is back.
		w.replicas["ing-1"].is(nil, nil)
		time.Sleep(breakerMost)
		before, _ := w.replicas["ing-1"].seen()
		for round := range 10 {
			if err := w.Push(context.Background(), "t", someStreams(10, 1000+round)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if calls, _ := w.replicas["ing-1"].seen(); calls-before != 10 {
			t.Errorf("after its return it was called %d times of 10", calls-before)
		}
		w.end(t)
	})
}

func TestTwoOfThreeDownIsRefusedWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		w.replicas["ing-0"].is(dead, nil)
		w.replicas["ing-2"].is(dead, nil)
		err := w.Push(context.Background(), "t", someStreams(1, 0))
		if fault.Of(err) != fault.Unavailable {
			t.Fatal(err)
		}
		for _, want := range []string{`1 of 1 streams are not on 2 of 3 ingesters`, `{app="0"}`, "ing-0: ", "ing-2: ", "connection refused"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing in: %v", want, err)
			}
		}
		// Once the ring knows, nobody is asked.
		w.instances[0].Stale, w.instances[2].State = true, ring.Leaving
		w.seen()
		calls, _ := w.replicas["ing-1"].seen()
		err = w.Push(context.Background(), "t", someStreams(1, 0))
		for _, want := range []string{"only 1 of the 2 ingesters needed", "ing-0 at ing-0 is UNHEALTHY", "ing-2 at ing-2 is LEAVING"} {
			if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing in: %v", want, err)
			}
		}
		if now, _ := w.replicas["ing-1"].seen(); now != calls {
			t.Error("what cannot be acknowledged was sent")
		}
		w.end(t)
	})
}

func TestRefusalsPassThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		no := map[string]bool{`{app="1"}`: true}
		w.replicas["ing-0"].is(nil, no)
		streams := someStreams(3, 0)
		if err := w.Push(context.Background(), "t", streams); err != nil {
			t.Errorf("one of three refuses: %v", err)
		}
		w.replicas["ing-1"].is(nil, no)
		streams = someStreams(3, 1)
		err := w.Push(context.Background(), "t", streams)
		if fault.Of(err) != fault.RateLimited || !strings.Contains(err.Error(), "refuses") {
			t.Errorf("two of three refuse: %v", err)
		}
		if n := w.least([]model.Stream{streams[0], streams[2]}); n < 2 {
			t.Errorf("the others are on %d ingesters", n)
		}
		// A refusal of everything is one, too; and what the whole push cannot be is no failure of an instance.
		for _, r := range w.replicas {
			r.is(func(context.Context) (error, bool) { return fault.New(fault.Invalid, "line too long"), false }, nil)
		}
		if err := w.Push(context.Background(), "t", streams); fault.Of(err) != fault.Invalid || err.Error() != "line too long" {
			t.Errorf("all refuse: %v", err)
		}
		w.end(t)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3, func(c *ReplicatorConfig, _ *Cluster) {
			c.Compression, c.QueueBytes, c.MemoryBytes = remote.None, 1<<20, 2<<20
		})
		for _, r := range w.replicas {
			r.is(takes(3*time.Second), nil)
		}
		big := func(i int) []model.Stream {
			return []model.Stream{{Labels: labels.FromStrings("app", fmt.Sprint(i)), Entries: []model.Entry{{Timestamp: int64(i), Line: make([]byte, 100<<10)}}}}
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		kinds := map[fault.Kind]int{}
		for i := range 200 {
			wg.Go(func() {
				err := w.Push(context.Background(), "t", big(i))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					kinds[255]++
				} else {
					kinds[fault.Of(err)]++
				}
			})
		}
		synctest.Wait()
		if got := w.memory.Load(); got > w.cfg.MemoryBytes {
			t.Errorf("%d bytes on their way, at most %d are allowed", got, w.cfg.MemoryBytes)
		}
		wg.Wait()
		for id, r := range w.replicas {
			if _, most := r.seen(); most > w.cfg.QueueBytes {
				t.Errorf("%s had %d bytes in work, at most %d are allowed", id, most, w.cfg.QueueBytes)
			}
		}
		if kinds[255] == 0 || kinds[fault.Unavailable] == 0 || kinds[255]+kinds[fault.Unavailable] != 200 {
			t.Errorf("outcomes by kind: %v", kinds)
		}
		w.end(t)
	})
}

func TestLargePushGoesInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 3, func(c *ReplicatorConfig, _ *Cluster) { c.Compression, c.QueueBytes = remote.None, 64<<20 })
		w.limits.ShardStreams.Enabled = false
		var streams []model.Stream
		for i := range 5 {
			s := model.Stream{Labels: labels.FromStrings("app", fmt.Sprint(i))}
			for j := range 60 {
				s.Entries = append(s.Entries, model.Entry{Timestamp: int64(j), Line: make([]byte, 100<<10)})
			}
			streams = append(streams, s)
		}
		if err := w.Push(context.Background(), "t", streams); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := w.least(streams); n != 3 {
			t.Errorf("%d copies, want 3", n)
		}
		for id, r := range w.replicas {
			if _, most := r.seen(); most > chunkBytes+sliceBytes+1<<20 {
				t.Errorf("%s had %d bytes at once", id, most)
			}
		}
		w.end(t)
	})
}

func TestHotStreamsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, 3)
		w.limits.ShardStreams = limits.ShardStreams{Enabled: true, DesiredRate: 100 << 10}
		on := func() (n int) {
			for _, r := range w.replicas {
				if r.empties() {
					n++
				}
			}
			return n
		}
		push := func(bytes int, at int64) {
			t.Helper()
			s := model.Stream{Labels: labels.FromStrings("app", "hot")}
			for i := range int64(10) {
				s.Entries = append(s.Entries, model.Entry{Timestamp: at*1000 + i, Line: make([]byte, bytes/10)})
			}
			if err := w.Push(context.Background(), "t", []model.Stream{s}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for second := range int64(30) { // all distributors together: ten times this
			push(5<<10, second)
			time.Sleep(time.Second)
		}
		if n := on(); n != 3 {
			t.Errorf("a cold stream is on %d ingesters", n)
		}
		for second := range int64(60) {
			push(50<<10, 100+second)
			time.Sleep(time.Second)
		}
		if n := on(); n < 7 {
			t.Errorf("a stream of five times the rate is on %d ingesters", n)
		}
		time.Sleep(time.Minute)
		for second := range int64(30) {
			push(5<<10, 1000+second)
			time.Sleep(time.Second)
		}
		if n := on(); n != 3 {
			t.Errorf("a stream that has cooled down is on %d ingesters", n)
		}
		w.end(t)
	})
}

func TestTenantsAreConfined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20, 3)
		for size, want := range map[int]int{1: 3, 4: 4, 8: 8} { // never fewer than there are replicas
			w.limits.IngestionTenantShardSize = size
			for round := range 20 {
				if err := w.Push(context.Background(), "t", someStreams(50, round)); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			n := 0
			for _, r := range w.replicas {
				if r.empties() {
					n++
				}
			}
			if n != want {
				t.Errorf("size %d: the tenant is on %d ingesters, want %d", size, n, want)
			}
		}
		w.end(t)
	})
}

func TestRetriedPushGoesToTheSamePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, 3)
		streams := someStreams(40, 0)
		for range 3 {
			if err := w.Push(context.Background(), "t", streams); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		for _, s := range streams {
			for _, e := range s.Entries {
				if n := w.copies(rowKey(s.Labels, e)); n != 3 {
					t.Fatalf("%s is on %d ingesters, want 3", rowKey(s.Labels, e), n)
				}
			}
		}
		w.end(t)
	})
}

func TestClientThatLeavesIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		for _, r := range w.replicas {
			r.is(takes(time.Second), nil)
		}
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error)
		streams := someStreams(2, 0)
		go func() { result <- w.Push(ctx, "t", streams) }()
		synctest.Wait()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		for i := range streams { // the request's memory is somebody else's now
			for j := range streams[i].Entries {
				copy(streams[i].Entries[j].Line, "XXXXXXXX")
			}
		}
		time.Sleep(2 * time.Second)
		if n := w.least(someStreams(2, 0)); n != 3 {
			t.Errorf("what was sent is on %d ingesters, want 3", n)
		}
		w.end(t)
	})
}

func TestMetricsOfInstancesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		if err := w.Push(context.Background(), "t", someStreams(2, 0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		count := func() int {
			n, err := testutil.GatherAndCount(w.reg, "skald_distributor_replica_inflight_bytes")
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := count(); n != 3 {
			t.Errorf("%d instances have metrics, want 3", n)
		}
		w.instances = slices.Delete(w.instances, 0, 1)
		w.seen()
		time.Sleep(2 * peersKept)
		if n := count(); n != 2 {
			t.Errorf("%d instances have metrics after one left, want 2", n)
		}
		w.end(t)
	})
}
