package storage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/segments"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var midnight = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC).UnixNano()

// row is a stored row; n makes its line and its stream.
type row struct {
	ts int64
	n  int
}

func (r row) stream() labels.Labels {
	return labels.FromStrings("app", fmt.Sprintf("app-%d", r.n%3), "env", "prod")
}

func (r row) line() string { return fmt.Sprintf("row %d says hello, %s", r.n, r.id()) }

func (r row) id() string {
	return fmt.Sprintf("%016x%016x", uint64(r.n+1)*0xd6e8feb86659fd93, uint64(r.n+1)*0x9e3779b97f4a7c15)
}

func (r row) String() string { return fmt.Sprintf("%s %d %s", r.stream(), r.ts, r.line()) }

// world is an object store with segments, and what is known about them.
type world struct {
	t     testing.TB
	store *object.Faulty
	made  uint64 // segments, for ids that sort by age
}

func newWorld(t testing.TB) *world {
	store, err := object.NewFaulty(t.Context(), object.NewMem())
	must(t, err)
	return &world{t: t, store: store}
}

func (w *world) newID() string {
	w.made++
	var id ulid.ULID
	must(w.t, id.SetTime(1_795_500_000_000+w.made))
	return id.String()
}

// put writes a segment of rows of one day and returns its key.
func (w *world) put(tenant model.Tenant, level int, rows []row, mergedFrom ...catalog.Ref) catalog.Ref {
	w.t.Helper()
	list := make([]segments.Row, len(rows))
	for i, r := range rows {
		list[i] = segments.Row{Stream: r.stream(), Time: r.ts, Line: []byte(r.line())}
	}
	return segments.Put(w.t, w.store, tenant, level, w.newID(), list, mergedFrom...)
}

func (w *world) delete(refs ...catalog.Ref) {
	w.t.Helper()
	for _, ref := range refs {
		must(w.t, w.store.Delete(context.Background(), ref.Key))
	}
}

func (w *world) reader(cfg Config, ttl time.Duration) *Reader {
	cat := catalog.New(w.store, catalog.Config{TTL: ttl, MaxRefs: 1000}, nil, nil)
	return NewReader(w.store, cat, cfg, nil, nil)
}

func someRows(n int, from, through int64) []row {
	rows := make([]row, n)
	for i := range rows {
		rows[i] = row{from + rand.Int64N(through-from), i}
	}
	return rows
}

var day1 = model.TimeRange{From: midnight, Through: midnight + int64(24*time.Hour)}

// read returns all rows that a query sees in the range, as text and sorted; a row that is
// seen twice stands there twice.
func read(ctx context.Context, r *Reader, tenant model.Tenant, req *model.Request) ([]string, error) {
	selection, err := r.Select(ctx, tenant, req)
	if err != nil {
		return nil, err
	}
	defer selection.Release()
	var rows []string
	for _, part := range selection.Parts {
		for _, b := range part.Blocks {
			times, err := b.Times(ctx)
			if err != nil {
				return nil, err
			}
			offsets, err := b.Offsets(ctx)
			if err != nil {
				return nil, err
			}
			lines, err := b.Lines(ctx)
			if err != nil {
				return nil, err
			}
			for _, run := range b.Runs() {
				for i := run.Start; i < run.End; i++ {
					if req.Range.Contains(times[i]) {
						rows = append(rows, fmt.Sprintf("%s %d %s", run.Labels, times[i], lines[offsets[i]:offsets[i+1]]))
					}
				}
			}
		}
	}
	slices.Sort(rows)
	return rows, nil
}

func request(span model.TimeRange) *model.Request {
	return &model.Request{Range: span, Columns: model.Columns{Lines: true}, Stats: new(model.Stats)}
}

// want is what read should return.
func want(rows []row, span model.TimeRange) []string {
	var out []string
	for _, r := range rows {
		if span.Contains(r.ts) {
			out = append(out, r.String())
		}
	}
	slices.Sort(out)
	return out
}

// equal compares two readings without printing thousands of rows.
func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	first := 0
	for first < min(len(got), len(want)) && got[first] == want[first] {
		first++
	}
	at := func(rows []string) string { return strings.Join(rows[first:min(first+2, len(rows))], "; ") }
	t.Errorf("%s: got %d rows, want %d; the first difference: got %q, want %q", what, len(got), len(want), at(got), at(want))
}
