package remote

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
)

const testTenant model.Tenant = "t"

// newIngester is a real one, without limits.
func newIngester(t *testing.T) *ingester.Ingester {
	t.Helper()
	lim := limits.Defaults()
	lim.PerStreamRateLimit, lim.MaxGlobalStreamsPerUser = 0, 0
	ing, err := ingester.New(ingester.DefaultConfig(t.TempDir()), object.NewMem(), limits.Static(lim), prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ing.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return ing
}

// readable serves the reading verbs of r and returns a client for them.
func readable(t *testing.T, r Reader, c string) *Client {
	t.Helper()
	return readableBy(t, &readServer{Reader: r}, c)
}

func readableBy(t *testing.T, h *readServer, c string) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(serverOptions()...)
	s.RegisterService(&grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil), Streams: h.streams()}, nil)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	pool, err := NewPool(Config{Compression: c, MaxMessageBytes: 4 << 20}, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pool.Close(); s.Stop(); <-served })
	return pool.Client(l.Addr().String())
}

// textRow is a row as a reader sees it.
type textRow struct {
	Part, Stream, Line, Metadata string
	Time                         int64
	Hash                         uint64
}

// readAll lists the rows of a selection inside the range, and gives its blocks back.
func readAll(t *testing.T, sel *model.Selection, req *model.Request) (rows []textRow) {
	t.Helper()
	defer sel.Release()
	ctx := t.Context()
	for _, p := range sel.Parts {
		part := p.Segment + strings.Join(p.MergedFrom, ",")
		for _, b := range p.Blocks {
			times, err := b.Times(ctx)
			must := func(err error) {
				if err != nil {
					t.Fatal(err)
				}
			}
			must(err)
			var lines []byte
			var offsets []uint32
			if req.Columns.Lengths || req.Columns.Lines {
				offsets, err = b.Offsets(ctx)
				must(err)
			}
			if req.Columns.Lines {
				lines, err = b.Lines(ctx)
				must(err)
			}
			hashes, err := b.Hashes(ctx)
			must(err)
			for _, run := range b.Runs() {
				if run.Hash != run.Labels.Hash() {
					t.Fatal("a run's hash is not its labels'")
				}
				for i := run.Start; i < run.End; i++ {
					if !req.Range.Contains(times[i]) {
						continue
					}
					r := textRow{Part: part, Stream: run.Labels.String(), Time: times[i], Hash: hashes[i]}
					if first, last := b.Bounds(); times[i] < first || times[i] > last {
						t.Fatalf("time %d outside of the bounds [%d, %d]", times[i], first, last)
					}
					if offsets != nil {
						r.Line = fmt.Sprint(offsets[i+1] - offsets[i])
					}
					if lines != nil {
						r.Line = string(lines[offsets[i]:offsets[i+1]])
					}
					for _, name := range b.MetadataNames() {
						if !req.Columns.AllMetadata && !slices.Contains(req.Columns.Metadata, name) {
							continue
						}
						c, err := b.Metadata(ctx, name)
						must(err)
						if v := c.Value(i); v != "" {
							r.Metadata += name + "=" + v + " "
						}
					}
					if lines != nil && !wantedLine(r, req.Needles, b, i) {
						r.Line = "(not wanted)"
					}
					rows = append(rows, r)
				}
			}
		}
	}
	return rows
}

// wantedLine is what needles mean, written once more.
func wantedLine(r textRow, needles []model.Needles, b model.Block, row int) bool {
	for _, group := range needles {
		found := false
		for _, n := range group {
			text, line := n.Text, r.Line
			if n.Name != "" {
				c, _ := b.Metadata(context.Background(), n.Name)
				found = found || c.Value(row) == text
				continue
			}
			if n.Fold {
				line = strings.ToLower(line)
			}
			found = found || strings.Contains(line, text)
		}
		if !found {
			return false
		}
	}
	return true
}

// randomLogs makes streams whose times and lines collide now and then.
func randomLogs(rng *rand.Rand) []model.Stream {
	words := []string{"GET", "error", "Error", "trace-7", "ok", "\x00\x00", "done", "ärger"}
	var out []model.Stream
	for range 1 + rng.IntN(8) {
		s := model.Stream{Labels: labels.FromStrings("app", fmt.Sprint(rng.IntN(6)), "env", []string{"dev", "prod"}[rng.IntN(2)])}
		for range 1 + rng.IntN(300) {
			e := model.Entry{Timestamp: rng.Int64N(2000) * 1e9, Line: []byte(words[rng.IntN(len(words))])}
			for range rng.IntN(12) {
				e.Line = append(append(e.Line, ' '), words[rng.IntN(len(words))]...)
			}
			if rng.IntN(3) == 0 {
				e.Metadata = labels.FromStrings("level", words[rng.IntN(3)], "trace", fmt.Sprint(rng.IntN(50)))
			}
			s.Entries = append(s.Entries, e)
		}
		out = append(out, s)
	}
	return out
}

func randomRequest(rng *rand.Rand) *model.Request {
	req := &model.Request{Range: model.TimeRange{From: math.MinInt64, Through: math.MaxInt64}, Stats: &model.Stats{}}
	if rng.IntN(3) > 0 {
		req.Range.From = rng.Int64N(2000) * 1e9
		req.Range.Through = req.Range.From + rng.Int64N(1000)*1e9
	}
	if rng.IntN(2) == 0 {
		req.Matchers = append(req.Matchers, labels.MustNewMatcher(labels.MatchRegexp, "app", fmt.Sprintf("[%d-5]", rng.IntN(5))))
	}
	if rng.IntN(3) == 0 {
		req.Matchers = append(req.Matchers, labels.MustNewMatcher(labels.MatchNotEqual, "env", "dev"))
	}
	req.Columns.Lines, req.Columns.Lengths, req.Columns.AllMetadata = rng.IntN(2) == 0, rng.IntN(2) == 0, rng.IntN(2) == 0
	if !req.Columns.AllMetadata && rng.IntN(2) == 0 {
		req.Columns.Metadata = []string{"level", "nothing"}
	}
	for range rng.IntN(3) {
		var group model.Needles
		for range 1 + rng.IntN(2) {
			group = append(group, []model.Needle{{Text: "trace-7"}, {Text: "error", Fold: true}, {Name: "trace", Text: "7"}, {Text: "\x00"}, {Text: "Error"}}[rng.IntN(5)])
		}
		req.Needles = append(req.Needles, group)
	}
	return req
}

// TestRemoteAnswersAreLocalAnswers asks one ingester directly and through the wire.
func TestRemoteAnswersAreLocalAnswers(t *testing.T) {
	ing := newIngester(t)
	clients := []*Client{readable(t, ing, "none"), readable(t, ing, "snappy"), readable(t, ing, "zstd")}
	rng := rand.New(rand.NewPCG(3, 4))
	seen, rounds := 0, 20
	if testing.Short() {
		rounds = 7
	}
	for round := range rounds {
		if err := ing.Push(t.Context(), testTenant, randomLogs(rng)); err != nil {
			t.Fatal(err)
		}
		if round%6 == 5 {
			if err := ing.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range clients {
			req := randomRequest(rng)
			local, err := ing.Select(t.Context(), testTenant, req)
			if err != nil {
				t.Fatal(err)
			}
			far, err := c.Select(t.Context(), testTenant, req)
			if err != nil {
				t.Fatal(err)
			}
			want, got := readAll(t, local, req), readAll(t, far, req)
			if !slices.Equal(want, got) {
				t.Fatalf("round %d, %+v (-local +remote):\n%s", round, req, cmp.Diff(want, got))
			}
			seen += len(got)
			near, err := ing.Series(t.Context(), testTenant, req)
			if err != nil {
				t.Fatal(err)
			}
			series, err := c.Series(t.Context(), testTenant, req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(near, series, sameLabels...); diff != "" {
				t.Fatalf("round %d: series (-local +remote):\n%s", round, diff)
			}
		}
	}
	if seen < 200*rounds {
		t.Errorf("only %d rows were compared", seen)
	}
}

// counting counts what a server's blocks are asked for.
type counting struct {
	Reader
	lineReads, open atomic.Int64
	stuck           chan struct{}
}

func (c *counting) Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error) {
	sel, err := c.Reader.Select(ctx, tenant, req)
	if err != nil {
		return nil, err
	}
	for i := range sel.Parts {
		for j, b := range sel.Parts[i].Blocks {
			c.open.Add(1)
			sel.Parts[i].Blocks[j] = &countedBlock{Block: b, c: c}
		}
	}
	return sel, nil
}

type countedBlock struct {
	model.Block
	c *counting
}

func (b *countedBlock) Lines(ctx context.Context) ([]byte, error) {
	b.c.lineReads.Add(1)
	if b.c.stuck != nil {
		close(b.c.stuck)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return b.Block.Lines(ctx)
}

func (b *countedBlock) Release() { b.c.open.Add(-1); b.Block.Release() }

func TestRowsTravelOnlyWhenTheyAreRead(t *testing.T) {
	ing := newIngester(t)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		if err := ing.Push(t.Context(), testTenant, randomLogs(rng)); err != nil {
			t.Fatal(err)
		}
	}
	server := &counting{Reader: ing}
	c := readable(t, server, "snappy")
	req := &model.Request{Range: model.TimeRange{From: 0, Through: math.MaxInt64}, Columns: model.Columns{Lines: true, AllMetadata: true}}
	sel, err := c.Select(t.Context(), testTenant, req)
	if err != nil {
		t.Fatal(err)
	}
	b := sel.Parts[0].Blocks[0]
	if _, err := b.Times(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := server.lineReads.Load(); n != 0 {
		t.Errorf("lines of %d blocks were read before anybody asked", n)
	}
	// Dead rows' lines are left out.
	dead := model.NewBitmap(b.Rows())
	for i := range b.Rows() {
		dead.Set(i)
	}
	dead[0] &^= 2
	b.(interface{ Skip(model.Bitmap) }).Skip(dead)
	lines, err := b.Lines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	offsets, err := b.Offsets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if live := string(lines[offsets[1]:offsets[2]]); strings.Trim(live, "\x00") == "" {
		t.Errorf("the row that is alive reads %q", live)
	}
	if rest := string(lines[:offsets[1]]) + string(lines[offsets[2]:]); strings.Trim(rest, "\x00") != "" {
		t.Error("lines of dead rows came along")
	}
	sel.Release()
	waitFor(t, func() bool { return server.open.Load() == 0 }, "blocks are still open on the server")
}

func TestCancelCrossesTheWire(t *testing.T) {
	ing := newIngester(t)
	if err := ing.Push(t.Context(), testTenant, randomLogs(rand.New(rand.NewPCG(7, 8)))); err != nil {
		t.Fatal(err)
	}
	server := &counting{Reader: ing, stuck: make(chan struct{})}
	c := readable(t, server, "snappy")
	ctx, cancel := context.WithCancel(t.Context())
	sel, err := c.Select(ctx, testTenant, &model.Request{Range: model.TimeRange{From: 0, Through: math.MaxInt64}, Columns: model.Columns{Lines: true}})
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-server.stuck; cancel() }()
	if _, err := sel.Parts[0].Blocks[0].Lines(ctx); fault.Of(err) != fault.Canceled {
		t.Errorf("got %v, want a cancelled call", err)
	}
	// The server works until its context ends; here it has ended although the blocks are
	// still held.
	waitFor(t, func() bool { return server.open.Load() == 0 }, "the server goes on")
	sel.Release()
}

func TestFailuresHaveAKindAndAName(t *testing.T) {
	c := readable(t, broken{}, "none")
	_, err := c.Select(t.Context(), testTenant, &model.Request{})
	if fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), c.addr) || !strings.Contains(err.Error(), "flipped") {
		t.Errorf("got %v of kind %d", err, fault.Of(err))
	}
	if _, err = c.Series(t.Context(), "not/a/tenant", &model.Request{}); fault.Of(err) != fault.Invalid {
		t.Errorf("a bad tenant: got %v", err)
	}
	pool, err := NewPool(Config{Compression: "none", MaxMessageBytes: 1 << 20}, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, err = pool.Client("127.0.0.1:1").Select(t.Context(), testTenant, &model.Request{})
	var lost *Lost
	if fault.Of(err) != fault.Unavailable || !asLost(err, &lost) || lost.Addr != "127.0.0.1:1" {
		t.Errorf("nobody there: got %v", err)
	}
}

type broken struct{ Reader }

func (broken) Select(context.Context, model.Tenant, *model.Request) (*model.Selection, error) {
	return nil, fault.New(fault.Corrupt, "a bit has flipped")
}

// What was fetched ahead is there: who reads it in a turn does not wait for the ingester.
func TestFetchedBlocksAreAtHand(t *testing.T) {
	ing := newIngester(t)
	if err := ing.Push(t.Context(), testTenant, []model.Stream{{
		Labels: labels.FromStrings("app", "1"), Entries: []model.Entry{{Timestamp: 5, Line: []byte("five")}},
	}}); err != nil {
		t.Fatal(err)
	}
	sel, err := readable(t, ing, "none").Select(t.Context(), testTenant, &model.Request{
		Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "app", "1")},
		Range:    model.TimeRange{Through: 10}, Columns: model.Columns{Lengths: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sel.Release()
	b := sel.Parts[0].Blocks[0]
	if err := b.Fetch()(t.Context()); err != nil {
		t.Fatal(err)
	}
	nobody, cancel := context.WithCancel(t.Context())
	cancel()
	if times, err := b.Times(nobody); err != nil || len(times) != 1 {
		t.Errorf("times: %v, %v", times, err)
	}
	if offsets, err := b.Offsets(nobody); err != nil || len(offsets) != 2 {
		t.Errorf("offsets: %v, %v", offsets, err)
	}
}

func TestTailCrossesTheWire(t *testing.T) {
	ing := newIngester(t)
	c := readable(t, ing, "none")
	m := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "app", "1")}
	tail, err := c.Tail(t.Context(), testTenant, m)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	want := []model.Stream{{Labels: labels.FromStrings("app", "1"), Entries: []model.Entry{
		{Timestamp: 5, Line: []byte("five"), Metadata: labels.FromStrings("a", "b")}, {Timestamp: 3, Line: []byte{}},
	}}}
	other := model.Stream{Labels: labels.FromStrings("app", "2"), Entries: want[0].Entries}
	if err := ing.Push(t.Context(), testTenant, []model.Stream{other, want[0]}); err != nil {
		t.Fatal(err)
	}
	got, err := tail.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(model.TailBatch{Streams: want}, got, sameLabels...); diff != "" {
		t.Error(diff)
	}
	// A subscriber that does not read is told what was dropped.
	big := model.Stream{Labels: want[0].Labels}
	total := 0
	for i := range 400 {
		big.Entries = append(big.Entries, model.Entry{Timestamp: int64(i), Line: make([]byte, 1000)})
	}
	for round := range 60 {
		for i := range big.Entries {
			big.Entries[i].Timestamp += int64(1000 * round)
		}
		if err := ing.Push(t.Context(), testTenant, []model.Stream{big}); err != nil {
			t.Fatal(err)
		}
		total += len(big.Entries)
	}
	for counted, dropped := 0, 0; counted < total; {
		b, err := tail.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range b.Streams {
			counted += len(s.Entries)
		}
		dropped += len(b.Dropped) + b.DroppedMore
		if counted += len(b.Dropped) + b.DroppedMore; counted >= total && (counted > total || dropped == 0) {
			t.Errorf("%d entries delivered or dropped, %d dropped, of %d", counted, dropped, total)
		}
	}
}
