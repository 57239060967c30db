package segment

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
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
	// With one digit more it would be an id.
	req := &model.Request{Range: allTime, Needles: []model.Needles{{{Text: strings.Repeat("no such text", 2) + "4bf92f3577b34da6a3ce929d0e0e473"}}}, Stats: new(model.Stats)}
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

// entriesWithIDs are lines with an id each, and id tells which. Each also has a part of its id as metadata, and
// a pair that five thousand lines have.
func entriesWithIDs() (entries []entry, id func(i int) string) {
	id = func(i int) string {
		return fmt.Sprintf("%016x%016x", uint64(i+1)*0xd6e8feb86659fd93, uint64(i)*0x9e3779b97f4a7c15)
	}
	for i := range 20000 {
		entries = append(entries, entry{stream: labels.FromStrings("app", "a"), ts: int64(i), line: "a request came in, request=" + id(i),
			metadata: labels.FromStrings("span_id", id(i)[5:21], "tier", fmt.Sprint(i/5000))})
	}
	return entries, id
}

// An id takes one request of some four kilobytes, whether it is there or not, and whatever else is
// asked for; so does a metadata pair.
func TestAnIDTakesOneRequest(t *testing.T) {
	entries, id := entriesWithIDs()
	src := &memory{data: write(t, WriterOptions{BlockBytes: 8 << 10}, entries)}
	r, err := Open(t.Context(), src, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Select(t.Context(), &model.Request{Range: allTime}); err != nil { // stream table
		t.Fatal(err)
	}
	text := func(s string) model.Needles { return model.Needles{{Text: s}} }
	in, twice, listed := 0, 0, 0
	for i := range 100 {
		for name, needles := range map[string][]model.Needles{
			"line":           {text(id(100 * i))},
			"upper case":     {{{Text: strings.ToUpper(id(100 * i)), Fold: true}}},
			"line and words": {text("a request came in"), text("request=" + id(100*i))},
			"metadata":       {{{Name: "span_id", Text: id(100 * i)[5:21]}}},
			"either":         {{{Text: "00" + id(100*i)}, {Name: "span_id", Text: id(100 * i)[5:21]}}},
			"absent":         {text(id(30000 + i))},
			"pair, absent":   {{{Name: "span_id", Text: id(30000 + i)}}},
		} {
			stats := new(model.Stats)
			part, err := r.Select(t.Context(), &model.Request{Range: allTime, Needles: needles, Stats: stats})
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, b := range part.Blocks {
				for _, run := range b.Runs() {
					if first := b.(*block).meta.row; first+int64(run.Start) <= int64(100*i) && int64(100*i) < first+int64(run.End) {
						found++
					}
				}
				b.Release()
			}
			if absent := strings.Contains(name, "absent"); !absent && found != 1 {
				t.Errorf("%s: the row is not in the %d blocks", name, len(part.Blocks))
			} else if absent {
				in += len(part.Blocks)
			} else {
				in += len(part.Blocks) - 1
			}
			requests, size := stats.FetchRequests.Load(), stats.BytesFetched.Load()
			if requests > 1 {
				twice++ // the other alternative's page
			}
			if most := map[bool]int64{true: 2, false: 1}[name == "either"]; requests > most || size > 10<<10 {
				if listed++; requests > most+1 || size > 16<<10 {
					t.Errorf("%s: %d requests for %d bytes", name, requests, size)
				}
			}
		}
	}
	if in > 40 || twice == 0 || listed > 14 {
		t.Errorf("700 lookups found %d blocks in vain, %d took two requests, and %d one for a list", in, twice, listed)
	}
}

// A probe excludes what the index excludes, and nothing else, with one read for an id.
func TestProbe(t *testing.T) {
	entries, id := entriesWithIDs()
	src := &memory{data: write(t, WriterOptions{ID: "x", BlockBytes: 8 << 10}, entries)}
	r := open(t, src.data)
	at := r.Info().IDs
	text := func(s string) model.Needles { return model.Needles{{Text: s}} }
	excluded, unknown := 0, 0
	for i := range 200 {
		i *= 200
		for name, c := range map[string]struct {
			needles []model.Needles
			reads   int64
		}{
			"id":            {[]model.Needles{text(id(i))}, 1},
			"id and words":  {[]model.Needles{text("a request came in"), text(id(i))}, 1},
			"two of a line": {[]model.Needles{{{Text: id(i) + "-" + id(i)}}}, 1},
			"either":        {[]model.Needles{{{Text: id(i + 1)}, {Name: "span_id", Text: id(i)[5:21]}}}, 2},
			"in many":       {[]model.Needles{{{Name: "tier", Text: fmt.Sprint(i / 5000)}}}, 1},
			"words":         {[]model.Needles{text("a request came in")}, 0},
			"id or words":   {[]model.Needles{{{Text: id(i)}, {Text: "a request came in"}}}, 0},
			"too many":      {[]model.Needles{{{Text: id(i)}, {Text: id(i + 1)}, {Text: id(i + 2)}, {Text: id(i + 3)}, {Text: id(i + 4)}}}, 0},
		} {
			probe := NewProbe(c.needles)
			if (probe == nil) != (c.reads == 0) {
				t.Fatalf("%s: a probe: %v", name, probe != nil)
			}
			if probe == nil {
				continue
			}
			before := src.reads.Load()
			got, err := probe.Excludes(t.Context(), src, "x", at)
			if err != nil {
				t.Fatal(err)
			}
			if n := src.reads.Load() - before; n != c.reads {
				t.Errorf("%s: %d reads, want %d", name, n, c.reads)
			}
			part, err := r.Select(t.Context(), &model.Request{Range: allTime, Needles: c.needles})
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range part.Blocks {
				b.Release()
			}
			switch none := len(part.Blocks) == 0; {
			case got && !none:
				t.Errorf("%s of row %d is excluded, but it has %d blocks", name, i, len(part.Blocks))
			case got:
				excluded++
			case none && name != "id and words":
				unknown++ // a list would tell
			}
		}
		if got, err := NewProbe([]model.Needles{text(id(i))}).Excludes(t.Context(), src, "y", at); fault.Of(err) != fault.Corrupt || got {
			t.Errorf("another segment's id: excluded: %v, %v", got, err)
		}
	}
	if excluded < 300 || unknown > 10 {
		t.Errorf("%d were excluded, %d were not", excluded, unknown)
	}
}

// Who looks for an id that is not there does without the entries of the blocks, and may do so while
// others need them.
func TestAnAbsentIDNeedsNoBlocks(t *testing.T) {
	var entries []entry
	id := func(i int) string {
		return fmt.Sprintf("%016x%016x", uint64(i+1)*0xd6e8feb86659fd93, uint64(i)*0x9e3779b97f4a7c15)
	}
	for i := range maxGroupBlocks + 100 {
		entries = append(entries, entry{stream: labels.FromStrings("app", "a"), ts: int64(i), line: "a request came in, request=" + id(i)})
	}
	for name, data := range map[string][]byte{
		"one group": write(t, WriterOptions{BlockBytes: 8 << 10}, entries),
		// Where the first group's table lies only the blocks tell.
		"two groups": write(t, WriterOptions{BlockRows: 1}, entries),
		"no needles": write(t, WriterOptions{BlockBytes: 8 << 10, NoNeedles: true}, entries),
	} {
		r, err := Open(t.Context(), &memory{data: data}, ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(i int) int {
			part, err := r.Select(t.Context(), &model.Request{Range: allTime, Needles: []model.Needles{{{Text: id(i)}}}})
			if err != nil {
				t.Error(err)
			}
			for _, b := range part.Blocks {
				b.Release()
			}
			return len(part.Blocks)
		}
		passed := 0
		for i := range 4 {
			if passed = ask(30000 + i); passed == 0 {
				break
			}
		}
		if groups, known := len(r.index.groups), r.index.blocks != nil; known != (groups == 0) || (groups > 1) != (name == "two groups") {
			t.Errorf("%s: %d groups, %d blocks passed, their entries are decoded: %v", name, groups, passed, known)
		}
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if n := ask(800 * i); n == 0 {
					t.Errorf("%s: %s is not found", name, id(800*i))
				}
			})
		}
		all.Wait()
	}
}

// UUIDs of version 1 have a machine and hours of its time in common. Where their table names many
// blocks, the matrix is asked too.
func TestIDsWithMuchInCommon(t *testing.T) {
	var entries []entry
	id := func(i int) string { return fmt.Sprintf("%08x-0bad-11ee-be56-0242ac120002", uint32(i+1)*0x9e3779b9) }
	for i := range 20000 {
		entries = append(entries, entry{stream: labels.FromStrings("app", "a"), ts: int64(i), line: "a request came in, request=" + id(i)})
	}
	r := open(t, write(t, WriterOptions{BlockBytes: 8 << 10}, entries))
	blocks := 0
	for i := range 100 {
		part, err := r.Select(t.Context(), &model.Request{Range: allTime, Needles: []model.Needles{{{Text: id(100 * i)}}}})
		if err != nil {
			t.Fatal(err)
		}
		if blocks += len(part.Blocks); len(part.Blocks) == 0 {
			t.Errorf("%s is not found", id(100*i))
		}
	}
	if blocks > 100*len(r.index.blocks)/4 {
		t.Errorf("100 lookups found %d blocks of %d", blocks, len(r.index.blocks))
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

// distant is a Source that is far away.
type distant struct{ memory }

func (*distant) Far() bool { return true }

// Times bring what is small, not the lines; these come in one request later, ahead of who reads
// them, and nothing is asked for twice.
func TestTimesComeWithoutLines(t *testing.T) {
	var entries []entry
	for i := range 2000 {
		entries = append(entries, entry{stream: labels.FromStrings("app", "a"), ts: int64(i), line: fmt.Sprintf("line %x", uint64(i)*0x9e3779b97f4a7c15)})
	}
	src := &distant{memory{data: write(t, WriterOptions{}, entries)}}
	r, err := Open(t.Context(), src, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stats := new(model.Stats)
	part, err := r.Select(t.Context(), &model.Request{Range: allTime, Columns: model.Columns{Lines: true}, Stats: stats})
	if err != nil || len(part.Blocks) != 1 {
		t.Fatal(part, err)
	}
	b := part.Blocks[0].(*block)
	meta := b.meta
	read := func(what string, requests, size int, f func() error) {
		t.Helper()
		before, bytes := stats.FetchRequests.Load(), stats.BytesFetched.Load()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if r, n := stats.FetchRequests.Load()-before, stats.BytesFetched.Load()-bytes; r != int64(requests) || n != int64(size) {
			t.Errorf("%s: %d requests for %d bytes, want %d for %d", what, r, n, requests, size)
		}
	}
	times := func() error { _, err := b.Times(t.Context()); return err }
	lines := func() error { _, err := b.Lines(t.Context()); return err }
	hashes := func() error { _, err := b.Hashes(t.Context()); return err }
	fetch := func() error { return b.Fetch()(t.Context()) }
	read("times", 1, meta.times+meta.lengths, times)
	model.Forget(b)
	read("the rest, ahead", 1, meta.lines, fetch)
	read("times that are there", 0, 0, times)
	read("lines that are there", 0, 0, lines)
	read("hashes of lines that are there", 0, 0, hashes)
	if b.lines == nil {
		t.Error("the hashes took the lines from who read them")
	}
	b.Release()
	read("all, ahead", 1, meta.times+meta.lengths+meta.lines, fetch)
	b.Release()
	read("times", 1, meta.times+meta.lengths, times)
	read("hashes", 1, meta.lines, hashes)
	if b.lines != nil || b.packed != nil || b.frames != nil || b.times == nil {
		t.Error("lines are kept beside the hashes that were made of them")
	}
}
