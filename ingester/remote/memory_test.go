package remote

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// What open reads hold of their requests is bounded, and given back however they end.
func TestReadMemory(t *testing.T) {
	h := &readServer{Reader: newIngester(t)}
	c := readableBy(t, h, "none")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all, err := labels.NewMatcher(labels.MatchRegexp, "job", ".+")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().UnixNano()
	if err := h.Reader.(*ingester.Ingester).Push(ctx, testTenant, []model.Stream{{
		Labels: labels.FromStrings("job", "a"), Entries: []model.Entry{{Timestamp: at, Line: []byte("line")}},
	}}); err != nil {
		t.Fatal(err)
	}
	req := &model.Request{Range: model.TimeRange{From: at, Through: at + 1}, Matchers: []*labels.Matcher{all}}
	settled := func() {
		t.Helper()
		for h.memory.used.Load() != 0 {
			if ctx.Err() != nil {
				t.Fatalf("%d bytes are held after the last read", h.memory.used.Load())
			}
			time.Sleep(time.Millisecond)
		}
	}
	h.memory.most = 2*selectMemory + 10_000
	var open []*model.Selection
	for range 2 {
		sel, err := c.Select(ctx, testTenant, req)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, sel)
		if _, err := sel.Parts[0].Blocks[0].Times(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Select(ctx, testTenant, req); fault.Of(err) != fault.Unavailable {
		t.Errorf("one more than there is room for: %v", err)
	}
	large := *req
	large.Columns.Metadata = []string{strings.Repeat("x", 10_000)}
	if _, err := c.Series(ctx, testTenant, &large); fault.Of(err) != fault.Unavailable {
		t.Errorf("a request that is too large: %v", err)
	}
	fetch := &fetch{columns: wantTimes, metadata: large.Columns.Metadata}
	remote := open[0].Parts[0].Blocks[0].(*block)
	if _, err := remote.sel.fetch(ctx, remote, fetch); fault.Of(err) != fault.Unavailable {
		t.Errorf("a fetch that is too large: %v", err)
	}
	for _, sel := range open {
		sel.Release()
	}
	settled()
	if _, err := c.Select(ctx, "", req); err == nil {
		t.Error("a request without a tenant")
	}
	settled()
}
