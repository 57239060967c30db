package segment

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// gate is a Source whose reads wait until so many are under way.
type gate struct {
	memory
	want    int64
	waiting atomic.Int64
	opened  chan struct{}
}

func (g *gate) ReadAt(ctx context.Context, p []byte, off int64) error {
	if g.waiting.Add(1) == g.want {
		close(g.opened)
	}
	select {
	case <-g.opened:
		return g.memory.ReadAt(ctx, p, off)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The pages that a needle needs, of all groups, are asked for in one go.
func TestNeedlePagesAreFetchedAtOnce(t *testing.T) {
	var entries []entry
	for i := range 20000 {
		entries = append(entries, entry{stream: labels.FromStrings("app", "a"), ts: int64(i), line: fmt.Sprintf("request=%032x", uint64(i)*0x9e3779b97f4a7c15)})
	}
	g := &gate{memory: memory{data: write(t, WriterOptions{BlockBytes: 8 << 10}, entries)}, opened: make(chan struct{})}
	close(g.opened)
	r, err := Open(t.Context(), g, ReaderOptions{MaxGap: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req := &model.Request{Range: allTime, Needles: []model.Needles{{{Text: strings.Repeat("no such id", 2) + "4bf92f3577b34da6a3ce929d0e0e4736"}}}, Stats: new(model.Stats)}
	if _, err := r.Select(ctx, req); err != nil {
		t.Fatal(err)
	}
	g.want = req.Stats.FetchRequests.Load()
	if g.want < 8 || g.want > maxLookupKeys {
		t.Fatalf("%d requests", g.want)
	}
	g.waiting.Store(0)
	g.opened = make(chan struct{})
	if _, err := r.Select(ctx, req); err != nil {
		t.Errorf("%d of %d requests were under way at once: %v", g.waiting.Load(), g.want, err)
	}
}

// A segment whose index is larger than usual takes two reads to open.
func TestOpenTakesFewReads(t *testing.T) {
	var entries []entry
	for i := range 30000 {
		entries = append(entries, entry{stream: labels.FromStrings("app", fmt.Sprint(i%50)), ts: int64(i) * int64(i%1009), line: fmt.Sprintf("line %d", i*i)})
	}
	src := &memory{data: write(t, WriterOptions{BlockBytes: 64}, entries)}
	r, err := Open(t.Context(), src, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.footer.indexLen < minTail {
		t.Fatalf("an index of %d bytes: the test tests nothing", r.footer.indexLen)
	}
	if _, err := r.Select(t.Context(), &model.Request{Range: allTime, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "app", "7")}}); err != nil {
		t.Fatal(err)
	}
	if n := src.reads.Load(); n != 2 {
		t.Errorf("%d reads", n)
	}
}
