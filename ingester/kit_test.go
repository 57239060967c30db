package ingester

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/ingester/wal"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// day0 is midnight, UTC, of 2026-01-15.
const day0 = int64(1768435200_000000000)

func noLimits() limits.Source {
	l := limits.Defaults()
	l.MaxGlobalStreamsPerUser, l.PerStreamRateLimit = 0, 0
	return limits.Static(l)
}

// testConfig never does anything by itself: no size or age is ever reached.
func testConfig(dir string) Config {
	c := DefaultConfig(dir)
	c.FreezeAge, c.UploadAge, c.KeepAfterUpload = time.Hour, time.Hour, time.Hour
	c.PushWait = 10 * time.Millisecond
	return c
}

type rig struct {
	*Ingester
	t     testing.TB
	store object.Store
	disk  *faultyDisk
	cfg   Config
	lim   limits.Source
}

func newRig(t testing.TB, change ...func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, store: object.NewMem(), disk: &faultyDisk{}, cfg: testConfig(t.TempDir()), lim: noLimits()}
	for _, c := range change {
		c(r)
	}
	r.start()
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	if r.Ingester, err = newOn(r.disk, r.cfg, r.store, r.lim, prometheus.NewRegistry(), quiet); err != nil {
		r.t.Fatal(err)
	}
}

// crash ends the ingester as kill -9 would: the files stay as they are.
func (r *rig) crash() {
	r.stopping.Store(true)
	r.mu.Lock()
	r.mu.current.log.Close()
	r.mu.Unlock()
	r.closeFiles()
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) push(name model.Tenant, streams ...model.Stream) {
	r.t.Helper()
	r.must(r.Push(context.Background(), name, streams))
}

func logs(app string, entries ...model.Entry) model.Stream {
	return model.Stream{Labels: labels.FromStrings("app", app), Entries: entries}
}

func entry(ts int64, line string, metadata ...string) model.Entry {
	return model.Entry{Timestamp: ts, Line: []byte(line), Metadata: labels.FromStrings(metadata...)}
}

// render is the text of a row, by which tests compare.
func render(ls labels.Labels, ts int64, line string, metadata map[string]string) string {
	var md strings.Builder
	for _, k := range slices.Sorted(maps.Keys(metadata)) {
		if metadata[k] != "" {
			fmt.Fprintf(&md, " %s=%q", k, metadata[k])
		}
	}
	return fmt.Sprintf("%s %d %q%s", ls, ts, line, md.String())
}

func renderEntry(ls labels.Labels, e model.Entry) string {
	return render(ls, e.Timestamp, string(e.Line), e.Metadata.Map())
}

// rendered returns the distinct rows of streams, sorted.
func rendered(streams ...model.Stream) []string {
	var rows []string
	for _, s := range streams {
		for _, e := range s.Entries {
			rows = append(rows, renderEntry(s.Labels, e))
		}
	}
	slices.Sort(rows)
	return slices.Compact(rows)
}

// read returns all rows of a selection, in the order of the parts, and checks what
// blocks promise.
func read(t testing.TB, sel *model.Selection, r model.TimeRange) (parts [][]string) {
	t.Helper()
	defer sel.Release()
	ctx := context.Background()
	for _, p := range sel.Parts {
		var rows []string
		for _, b := range p.Blocks {
			rows = append(rows, readBlock(ctx, t, b, r)...)
		}
		if n := len(slices.Compact(slices.Sorted(slices.Values(rows)))); n != len(rows) {
			t.Errorf("part %q has %d rows, %d of them distinct", p.Segment, len(rows), n)
		}
		parts = append(parts, rows)
	}
	return parts
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func readBlock(ctx context.Context, t testing.TB, b model.Block, r model.TimeRange) (rows []string) {
	t.Helper()
	times, offsets := must[[]int64](t)(b.Times(ctx)), must[[]uint32](t)(b.Offsets(ctx))
	lines, hashes := must[[]byte](t)(b.Lines(ctx)), must[[]uint64](t)(b.Hashes(ctx))
	if len(times) != b.Rows() || len(offsets) != b.Rows()+1 || len(hashes) != b.Rows() || int64(len(lines)) != b.RawBytes() {
		t.Errorf("block of %d rows has %d times, %d offsets, %d hashes, %d of %d bytes", b.Rows(), len(times), len(offsets), len(hashes), len(lines), b.RawBytes())
	}
	columns := make(map[string]model.Column)
	for _, name := range b.MetadataNames() {
		columns[name] = must[model.Column](t)(b.Metadata(ctx, name))
	}
	first, last := b.Bounds()
	for _, run := range b.Runs() {
		for i := run.Start; i < run.End; i++ {
			if i > run.Start && times[i] < times[i-1] || times[i] < first || times[i] > last {
				t.Errorf("row %d of %s has time %d after %d, in a block of %d…%d", i, run.Labels, times[i], times[max(i-1, 0)], first, last)
			}
			if !r.Contains(times[i]) && r != allTime {
				continue
			}
			metadata := make(map[string]string)
			for name, c := range columns {
				if v := c.Value(i); v != "" {
					metadata[name] = v
				}
			}
			line := lines[offsets[i]:offsets[i+1]]
			if want := model.RowHash(line, labels.FromMap(metadata)); hashes[i] != want || run.Hash != run.Labels.Hash() {
				t.Errorf("row %d of %s has hash %x, want %x", i, run.Labels, hashes[i], want)
			}
			rows = append(rows, render(run.Labels, times[i], string(line), metadata))
		}
	}
	return rows
}

// rows returns the tenant's rows over all parts, sorted, with their repetitions.
func (r *rig) rows(name model.Tenant, matchers ...*labels.Matcher) []string {
	r.t.Helper()
	sel, err := r.Select(context.Background(), name, everything(matchers...))
	r.must(err)
	rows := slices.Concat(read(r.t, sel, allTime)...)
	slices.Sort(rows)
	return rows
}

func everything(matchers ...*labels.Matcher) *model.Request {
	return &model.Request{Matchers: matchers, Range: allTime, Columns: model.Columns{Lines: true, Lengths: true, AllMetadata: true}}
}

// stored returns the tenant's rows in the object store, with their repetitions.
func (r *rig) stored(name model.Tenant) (rows []string) {
	r.t.Helper()
	for _, part := range r.objects(name) {
		rows = append(rows, part.rows...)
	}
	slices.Sort(rows)
	return rows
}

// objectPart is a segment in the object store.
type objectPart struct {
	info segment.Info
	rows []string
}

func (r *rig) objects(name model.Tenant) (parts []objectPart) {
	r.t.Helper()
	ctx := context.Background()
	for info, err := range r.store.List(ctx, string(name)+"/") {
		r.must(err)
		body, _, err := r.store.Get(ctx, info.Key)
		r.must(err)
		data, err := io.ReadAll(body)
		r.must(err)
		path := filepath.Join(r.t.TempDir(), "x.seg")
		r.must(os.WriteFile(path, data, 0o600))
		sr, err := segment.OpenFile(ctx, path, segment.ReaderOptions{})
		r.must(err)
		part, err := sr.Select(ctx, everything())
		r.must(err)
		parts = append(parts, objectPart{sr.Info(), read(r.t, &model.Selection{Parts: []model.Part{part}}, allTime)[0]})
		r.must(sr.Close())
	}
	return parts
}

// everywhere returns the rows that a querier sees: those of the store, and of the parts of
// the ingester that the store does not have.
func (r *rig) everywhere(name model.Tenant) (rows []string) {
	r.t.Helper()
	covered := make(map[string]bool)
	for _, part := range r.objects(name) {
		covered[part.info.ID] = true
		for _, id := range part.info.MergedFrom {
			covered[id] = true
		}
		rows = append(rows, part.rows...)
	}
	sel, err := r.Select(context.Background(), name, everything())
	r.must(err)
	sel.Parts = slices.DeleteFunc(sel.Parts, func(p model.Part) bool {
		if covered[p.Segment] {
			for _, b := range p.Blocks {
				b.Release()
			}
		}
		return covered[p.Segment]
	})
	rows = append(rows, slices.Concat(read(r.t, sel, allTime)...)...)
	slices.Sort(rows)
	return rows
}

// files lists the data directory, without the variable parts of names.
func (r *rig) files() (names []string) {
	r.t.Helper()
	r.must(filepath.WalkDir(r.cfg.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "LOCK" {
			rel, _ := filepath.Rel(r.cfg.Dir, filepath.Dir(path))
			name := d.Name()
			if at := strings.IndexByte(name, '-'); at >= 0 {
				name = name[:at] + "-…" + name[strings.IndexByte(name, '.'):]
			}
			names = append(names, filepath.Join(rel, name))
		}
		return err
	}))
	return names
}

// faultyDisk fails where a test says so. It does not really sync, for these tests are about
// crashes of the process; TestKill runs on the real disk.
type faultyDisk struct {
	osDisk
	mu   sync.Mutex
	fail func(op, path string) error // nil: nothing fails
}

func (d *faultyDisk) set(fail func(op, path string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

func (d *faultyDisk) check(op, path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		return nil
	}
	if err := d.fail(op, path); err != nil {
		return fmt.Errorf("%s %s: %w", op, path, err)
	}
	return nil
}

func (d *faultyDisk) Create(path string) (wal.File, error) {
	if err := d.check("create", path); err != nil {
		return nil, err
	}
	f, err := d.osDisk.Create(path)
	return &faultyFile{f, d, path}, err
}

func (d *faultyDisk) Rename(from, to string) error {
	if err := d.check("rename", to); err != nil {
		return err
	}
	return d.osDisk.Rename(from, to)
}

func (d *faultyDisk) Remove(path string) error {
	if err := d.check("remove", path); err != nil {
		return err
	}
	return d.osDisk.Remove(path)
}

func (d *faultyDisk) MkdirAll(path string) error {
	if err := d.check("mkdir", path); err != nil {
		return err
	}
	return d.osDisk.MkdirAll(path)
}

func (d *faultyDisk) SyncDir(path string) error {
	if err := d.check("syncdir", path); err != nil {
		return err
	}
	return nil
}

type faultyFile struct {
	wal.File
	disk *faultyDisk
	path string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.disk.check("write", f.path); err != nil {
		n, _ := f.File.Write(p[:len(p)/2]) // as a full disk does
		return n, err
	}
	return f.File.Write(p)
}

func (f *faultyFile) Sync() error {
	if err := f.disk.check("sync", f.path); err != nil {
		return err
	}
	return nil
}
