package compact

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/segments"
	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// row is a stored row; n makes its stream, line and metadata.
type row struct {
	ts int64
	n  int
}

func (r row) stream() labels.Labels {
	return labels.FromStrings("app", fmt.Sprintf("app-%d", r.n%3), "env", "prod")
}

func (r row) line() string { return fmt.Sprintf("row %d says hello", r.n) }

func (r row) metadata() labels.Labels {
	if r.n%2 == 0 {
		return labels.EmptyLabels()
	}
	return labels.FromStrings("user", fmt.Sprint("u", r.n%5))
}

func (r row) String() string {
	return fmt.Sprintf("%s %d %s %s", r.stream(), r.ts, r.line(), r.metadata())
}

func texts(rows []row, wanted func(row) bool) []string {
	var out []string
	for _, r := range rows {
		if wanted == nil || wanted(r) {
			out = append(out, r.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// world is an object store, a clock, and what a compactor needs besides.
type world struct {
	t      testing.TB
	store  *object.Faulty
	below  *counting
	remote bool // the compactor's store pretends to be far away
	offset time.Duration
	limits limits.Limits
	cfg    Config
}

func newWorld(t testing.TB) *world {
	below := &counting{Store: object.NewMem()}
	store, err := object.NewFaulty(t.Context(), below)
	must(t, err)
	w := &world{t: t, store: store, below: below, limits: limits.Defaults(), cfg: Config{Dir: t.TempDir(), Retention: true, Verify: true}}
	w.cfg.setDefaults()
	return w
}

// counting counts the puts and deletes that happen.
type counting struct {
	object.Store
	changes int
}

func (c *counting) Put(ctx context.Context, key object.Key, body io.ReadSeeker, size int64) error {
	c.changes++
	return c.Store.Put(ctx, key, body, size)
}

func (c *counting) Delete(ctx context.Context, key object.Key) error {
	c.changes++
	return c.Store.Delete(ctx, key)
}

type remote struct{ object.Store }

func (remote) Remote() bool { return true }

func (w *world) now() time.Time { return time.Now().Add(w.offset) }

// today is the day in which tests' rows lie; it ended two days ago.
func (w *world) today() model.TimeRange {
	r, err := catalog.DayRange(catalog.DayOf(time.Now().Add(-72 * time.Hour).UnixNano()))
	must(w.t, err)
	return r
}

func (w *world) For(model.Tenant) *limits.Limits { return &w.limits }

// compactor returns a new one, as after a crash: all it knows is in the store.
func (w *world) compactor() *Compactor {
	var store object.Store = w.store
	if w.remote {
		store = remote{store}
	}
	c := New(w.cfg, store, nil, w, w.deletes(), compileTest, nil, nil)
	c.now, c.deletes.now = w.now, w.now
	return c
}

func (w *world) deletes() *Deletes {
	d := NewDeletes(w.cfg, w.store, w, nil)
	d.now = w.now
	return d
}

// compileTest understands app-N (a stream), line:TEXT and user:NAME (metadata).
func compileTest(query string) (*Filters, error) {
	what, arg, filtered := strings.Cut(query, ":")
	filter := func(stream labels.Labels) (bool, func(int64, []byte, labels.Labels) bool) {
		switch {
		case !filtered:
			return stream.Get("app") == query, nil
		case what == "line":
			return false, func(_ int64, line []byte, _ labels.Labels) bool { return bytes.Contains(line, []byte(arg)) }
		}
		return false, func(_ int64, _ []byte, md labels.Labels) bool { return md.Get("user") == arg }
	}
	return &Filters{func() RowFilter { return filter }, int64(len(query))}, nil
}

func (w *world) newID() string {
	return ulid.MustNew(ulid.Timestamp(w.now()), rand.Reader).String()
}

// put uploads a segment of rows of one day.
func (w *world) put(tenant model.Tenant, level int, rows []row, mergedFrom ...catalog.Ref) catalog.Ref {
	w.t.Helper()
	list := make([]segments.Row, len(rows))
	for i, r := range rows {
		list[i] = segments.Row{Stream: r.stream(), Time: r.ts, Line: []byte(r.line()), Metadata: r.metadata()}
	}
	return segments.Put(w.t, w.store, tenant, level, w.newID(), list, mergedFrom...)
}

// rows makes n rows spread over a range, in order of time.
func rows(n int, span model.TimeRange) []row {
	out := make([]row, n)
	step := (span.Through - span.From) / int64(n)
	for i := range out {
		out[i] = row{span.From + int64(i)*step + int64(i*7919%1000), i}
	}
	return out
}

func (w *world) reader() *storage.Reader {
	return storage.NewReader(w.store, catalog.New(w.store, catalog.Config{}, nil, nil), storage.Config{}, nil, nil)
}

var everything = model.TimeRange{From: -1 << 62, Through: 1 << 62}

// read returns all rows that a query sees, sorted; one that is seen twice stands there twice.
func (w *world) read(tenant model.Tenant, span model.TimeRange) ([]string, error) {
	ctx := w.t.Context()
	req := &model.Request{Range: span, Columns: model.Columns{Lines: true, AllMetadata: true}}
	sel, err := w.reader().Select(ctx, tenant, req)
	if err != nil {
		return nil, err
	}
	defer sel.Release()
	return textsOf(ctx, sel, span)
}

func textsOf(ctx context.Context, sel *model.Selection, span model.TimeRange) ([]string, error) {
	var out []string
	for _, part := range sel.Parts {
		for _, b := range part.Blocks {
			r, err := readRows(ctx, b)
			if err != nil {
				return nil, err
			}
			for _, run := range b.Runs() {
				for i := run.Start; i < run.End; i++ {
					if span.Contains(r.times[i]) && !b.Dead().Has(i) {
						out = append(out, fmt.Sprintf("%s %d %s %s", run.Labels, r.times[i], r.line(i), r.metadata(i)))
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// expect reads everything and compares.
func (w *world) expect(what string, want []string) {
	w.t.Helper()
	got, err := w.read("t", everything)
	must(w.t, err)
	equal(w.t, what, got, want)
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		if len(d) > 2000 {
			d = d[:2000] + "…"
		}
		t.Fatalf("%s: got %d rows, want %d (-want +got):\n%s", what, len(got), len(want), d)
	}
}

// segments lists the tenant's segments.
func (w *world) segments() (refs []catalog.Ref) {
	for info, err := range w.below.List(w.t.Context(), "t/") {
		must(w.t, err)
		if ref, err := catalog.ParseKey(info.Key); err == nil {
			ref.Size = info.Size
			refs = append(refs, ref)
		}
	}
	return refs
}

// once makes a round with a new compactor.
func (w *world) once(filter Filter) Summary {
	w.t.Helper()
	sum, err := w.compactor().Once(w.t.Context(), filter, nil)
	must(w.t, err)
	return sum
}
