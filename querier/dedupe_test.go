package querier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/blocks"
)

// TestEachRowIsLiveOnce spreads random rows over parts, some of them over several, and
// expects every distinct row to be live in exactly one place.
func TestEachRowIsLiveOnce(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		parts := make([]map[string]*model.Stream, 1+r.IntN(4))
		for i := range parts {
			parts[i] = map[string]*model.Stream{}
		}
		want := map[string]bool{}
		for range 1 + r.IntN(300) {
			ls := labels.FromStrings("app", fmt.Sprint(r.IntN(4)))
			e := model.Entry{Timestamp: int64(r.IntN(40)), Line: fmt.Appendf(nil, "line %d", r.IntN(3))}
			if r.IntN(3) == 0 {
				e.Metadata = labels.FromStrings("k", fmt.Sprint(r.IntN(2)))
			}
			want[rowKey(ls, e)] = true
			for _, p := range parts {
				if r.IntN(2) == 0 || len(parts) == 1 {
					addRow(p, ls, e)
				}
			}
			addRow(parts[r.IntN(len(parts))], ls, e)
		}
		sel := make([]model.Part, len(parts))
		for i, p := range parts {
			src := blocks.New(list(p), blocks.Options{RowsPerBlock: 1 + r.IntN(20), Lenient: true})
			selection, err := src.Select(context.Background(), &model.Request{Range: model.TimeRange{From: -1, Through: 1 << 60}})
			if err != nil {
				t.Fatal(err)
			}
			sel[i] = selection.Parts[0]
		}
		stats := &model.Stats{}
		budget := newDedupeBudget(Config{DedupeBytes: 1, MaxMemory: 1 << 20})
		if err := markDuplicates(context.Background(), sel, stats, budget, func(_ context.Context, work func() error) error { return work() }); err != nil {
			t.Fatal(err)
		}
		if !budget.free.TryAcquire(budget.limit) {
			t.Fatalf("seed %d: not all of the budget came back", seed)
		}
		got := liveRows(t, sel)
		for k, n := range got {
			if n != 1 {
				t.Errorf("seed %d: row %s is live %d times", seed, k, n)
			}
		}
		if len(got) != len(want) {
			t.Errorf("seed %d: %d rows are live, want %d", seed, len(got), len(want))
		}
		if t.Failed() {
			return
		}
	}
}

func addRow(p map[string]*model.Stream, ls labels.Labels, e model.Entry) {
	s := p[ls.String()]
	if s == nil {
		s = &model.Stream{Labels: ls}
		p[ls.String()] = s
	}
	s.Entries = append(s.Entries, e)
}

func list(p map[string]*model.Stream) []model.Stream {
	var out []model.Stream
	for _, s := range p {
		out = append(out, *s)
	}
	return out
}

func rowKey(ls labels.Labels, e model.Entry) string {
	return fmt.Sprint(ls, e.Timestamp, string(e.Line), e.Metadata)
}

func liveRows(t *testing.T, parts []model.Part) map[string]int {
	t.Helper()
	ctx := context.Background()
	got := map[string]int{}
	for _, p := range parts {
		for _, b := range p.Blocks {
			times, err := b.Times(ctx)
			if err != nil {
				t.Fatal(err)
			}
			hashes, err := b.Hashes(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, run := range b.Runs() {
				for row := run.Start; row < run.End; row++ {
					if !b.Dead().Has(row) {
						got[fmt.Sprint(run.Labels, times[row], hashes[row])]++
					}
				}
			}
		}
	}
	return got
}

// unreadable is a block whose times cannot be read.
type unreadable struct{ model.Block }

func (unreadable) Times(context.Context) ([]int64, error) { return nil, errors.New("a bad disk") }

// The budget bounds what queries hold together; however one ends, it gives all back.
func TestDedupeBudget(t *testing.T) {
	parts := func() []model.Part {
		p := make([]model.Part, 2)
		for i := range p {
			rows := map[string]*model.Stream{}
			for n := range 100 {
				addRow(rows, labels.FromStrings("app", "a"), model.Entry{Timestamp: int64(n), Line: []byte("x")})
			}
			sel, err := blocks.New(list(rows), blocks.Options{Lenient: true}).Select(context.Background(), &model.Request{Range: model.TimeRange{Through: 1 << 60}})
			if err != nil {
				t.Fatal(err)
			}
			p[i] = sel.Parts[0]
		}
		return p
	}
	const need = 200 * rowBytes
	anyTurn := func(_ context.Context, work func() error) error { return work() }
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		cfg    Config
		ctx    context.Context
		before int64 // held by others
		broken bool
		want   string
	}{
		"fits":       {cfg: Config{DedupeBytes: need}},
		"alone":      {cfg: Config{DedupeBytes: need / 2, MaxMemory: need}},
		"unbounded":  {},
		"too large":  {cfg: Config{DedupeBytes: need - 1}, want: "-querier.dedupe-bytes"},
		"gives up":   {cfg: Config{DedupeBytes: need}, ctx: cancelled, before: 1, want: "canceled"},
		"unreadable": {cfg: Config{DedupeBytes: need}, broken: true, want: "a bad disk"},
	} {
		budget := newDedupeBudget(c.cfg)
		if !budget.free.TryAcquire(c.before) {
			t.Fatal("a new budget is not free")
		}
		p := parts()
		if c.broken {
			p[1].Blocks[0] = unreadable{p[1].Blocks[0]}
		}
		ctx := c.ctx
		if ctx == nil {
			ctx = context.Background()
		}
		err := markDuplicates(ctx, p, nil, budget, anyTurn)
		if text := fmt.Sprint(err); err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(text, c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if !budget.free.TryAcquire(budget.limit - c.before) {
			t.Errorf("%s: not all of the budget came back", name)
		}
	}
}
