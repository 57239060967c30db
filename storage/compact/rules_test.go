package compact

import (
	"context"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

const aDay = 24 * time.Hour

func app(name string) []*labels.Matcher {
	return []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "app", name)}
}

// The rows' day ended two days ago. Streams expire one after the other as time goes on.
func TestRetention(t *testing.T) {
	w := newWorld(t)
	w.limits.RetentionPeriod = limits.Duration(10 * aDay)
	w.limits.RetentionStream = []limits.StreamRetention{
		{Selector: `{env="prod"}`, Priority: 1, Period: limits.Duration(30 * aDay), Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "env", "prod")}},
		{Selector: `{app="app-0"}`, Priority: 5, Period: limits.Duration(5 * aDay), Matchers: app("app-0")},
		{Selector: `{app="app-1"}`, Priority: 3, Period: limits.Duration(7 * aDay), Matchers: app("app-1")},
	}
	all := rows(200, w.today())
	w.uploads(all, 4)
	w.put("t", 3, all[:50]) // one that is left alone for its size or not, expires as well
	at := func(days int) Summary {
		t.Helper()
		// The second round is at this time of day, so that no midnight lies between them.
		w.offset = time.Duration(days-2)*aDay - w.cfg.DeleteDelay
		w.once(Filter{})
		w.offset += w.cfg.DeleteDelay
		return w.once(Filter{})
	}
	at(4)
	w.expect("day 4", texts(all, nil))
	at(6)
	w.expect("day 6", texts(all, func(r row) bool { return r.n%3 != 0 }))
	before := w.segments()
	at(7 - 1)
	if !slices.Equal(w.segments(), before) {
		t.Error("a round in which nothing expired rewrote segments")
	}
	at(12)
	w.expect("day 12", texts(all, func(r row) bool { return r.n%3 == 2 }))
	w.store.SetFaults(object.Fault{Op: "read"}, object.Fault{Op: "get"})
	w.offset = 40 * aDay
	w.once(Filter{})
	w.store.SetFaults()
	if left := w.segments(); len(left) != 0 {
		t.Errorf("after the longest period these are left: %v", left)
	}
}

// A segment in which everything has expired is replaced by one without rows until its
// sources are gone, and for a while after.
func TestEverythingExpiresByRules(t *testing.T) {
	w := newWorld(t)
	w.limits.RetentionStream = []limits.StreamRetention{{Selector: `{env="prod"}`, Period: limits.Duration(3 * aDay),
		Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "env", "prod")}}}
	all := rows(50, w.today())
	source := w.put("t", 2, all)
	w.offset = 3 * aDay
	w.once(Filter{})
	w.expect("with the source", nil)
	early := model.TimeRange{From: source.Min, Through: source.Min + 1}
	got, err := w.read("t", early)
	must(t, err)
	equal(t, "a short time", got, nil)
	w.offset += w.cfg.DeleteDelay
	w.once(Filter{})
	if left := w.segments(); len(left) != 1 || w.info(left[0]).Rows != 0 {
		t.Fatalf("left %v, want one without rows", left)
	}
	w.offset += keepEmpty
	w.once(Filter{})
	if left := w.segments(); len(left) != 0 {
		t.Fatalf("left %v, want none", left)
	}
}

func TestDeleteRequests(t *testing.T) {
	w := newWorld(t)
	all := rows(300, w.today())
	w.uploads(all, 6)
	ctx, deletes := t.Context(), w.deletes()
	mid := all[150].ts
	create := func(query string, start, end int64) Request {
		t.Helper()
		q, err := deletes.Create(ctx, "t", query, time.Unix(0, start), time.Unix(0, end))
		must(t, err)
		return q
	}
	first := create("app-0", all[0].ts, mid)
	create("line:row 77 ", all[0].ts, all[299].ts)
	create("user:u1", mid, all[299].ts)
	canceled := create("app-2", all[0].ts, all[299].ts)
	must(t, deletes.Cancel(ctx, "t", canceled.ID, false))
	keep := func(r row) bool {
		return !(r.n%3 == 0 && r.ts <= mid) && r.n != 77 && !(r.metadata().Get("user") == "u1" && r.ts >= mid)
	}
	if len(texts(all, keep)) > 260 {
		t.Fatal("the requests select too little")
	}
	hidden := func() []string {
		t.Helper()
		sel, err := w.reader().Select(ctx, "t", &model.Request{Range: everything, Columns: model.Columns{Lines: true, AllMetadata: true}})
		must(t, err)
		defer sel.Release()
		must(t, deletes.Hide(ctx, "t", everything, sel, compileTest))
		got, err := textsOf(ctx, sel, everything)
		must(t, err)
		return slices.Compact(got)
	}
	statuses := func() string {
		t.Helper()
		list, err := deletes.List(ctx, "t")
		must(t, err)
		var out []string
		for _, q := range list {
			out = append(out, q.Status())
		}
		return strings.Join(out, ", ")
	}

	equal(t, "hidden at once", hidden(), texts(all, keep))
	w.offset = 12 * time.Hour
	w.once(Filter{})
	w.expect("objects keep the rows while the requests can be canceled", texts(all, nil))
	equal(t, "hidden after a merge", hidden(), texts(all, keep))
	if got := statuses(); got != "received, received, received" {
		t.Errorf("statuses %s", got)
	}

	w.offset = 25 * time.Hour
	sum := w.once(Filter{})
	w.expect("gone from the objects", texts(all, keep))
	if got := statuses(); got != "processed, processed, processed" || sum.RowsDeleted != int64(len(all)-len(texts(all, keep))) {
		t.Errorf("statuses %s; %s", got, sum)
	}
	w.offset += w.cfg.DeleteDelay
	if sum = w.once(Filter{}); sum.Merges != 0 || sum.SegmentsDeleted == 0 {
		t.Errorf("later: %s", sum)
	}
	w.expect("gone", texts(all, keep))
	// Processed requests do not concern rows that come later.
	w.put("t", 1, []row{all[0], all[77]})
	w.offset += 3 * w.cfg.DeleteDelay
	w.once(Filter{})
	equal(t, "pushed again", hidden(), texts(all, func(r row) bool { return keep(r) || r == all[0] || r == all[77] }))

	if err := deletes.Cancel(ctx, "t", first.ID, true); fault.Of(err) != fault.Invalid || err.Error() != "deletion of request which is in process or already processed is not allowed" {
		t.Errorf("cancel of a processed request: %v", err)
	}
	w.offset += keepProcessed
	w.once(Filter{})
	if got := statuses(); got != "" {
		t.Errorf("old requests are still listed: %s", got)
	}
}

func TestDeleteRequestsAreChecked(t *testing.T) {
	w := newWorld(t)
	ctx, d, now := t.Context(), w.deletes(), w.now()
	bad := func(query string, start, end time.Time, want string) {
		t.Helper()
		if _, err := d.Create(ctx, "t", query, start, end); err == nil || fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	hour := time.Hour
	bad("", now.Add(-hour), now, "query not set")
	bad("app-1", now.Add(-hour), now.Add(hour), "deletes in the future are not allowed")
	bad("app-1", now, now, "start time can't be greater than or equal to end time")
	bad(strings.Repeat("x", maxQuery+1), now.Add(-hour), now, "at most 65536")
	for _, id := range []string{"", "..", "nonsense"} {
		if err := d.Cancel(ctx, "t", id, true); fault.Of(err) != fault.NotFound || err.Error() != "could not find delete request with given id" {
			t.Errorf("cancel %q: %v", id, err)
		}
	}
	q, err := d.Create(ctx, "t", "app-1", now.Add(-hour), now)
	must(t, err)
	w.offset = 25 * hour
	if err := d.Cancel(ctx, "t", q.ID, false); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "past the deadline of 24h0m0s") {
		t.Errorf("late cancel: %v", err)
	}
	must(t, d.Cancel(ctx, "t", q.ID, true))
	w.limits.DeletionMode = "disabled"
	if err := d.Allowed("t"); fault.Of(err) != fault.Forbidden {
		t.Errorf("got %v", err)
	}
}

// A request is applied day by day; a crash between the days loses nothing, and the days
// that are done are not looked at again.
func TestDeleteRequestOverDays(t *testing.T) {
	w := newWorld(t)
	day := w.today()
	before := model.TimeRange{From: day.From - int64(aDay), Through: day.From}
	all := append(rows(60, before), rows(60, day)...)
	w.put("t", 2, all[:60])
	w.put("t", 2, all[60:])
	d := w.deletes()
	_, err := d.Create(t.Context(), "t", "app-1", time.Unix(0, before.From), time.Unix(0, day.Through-1))
	must(t, err)
	w.offset = 25 * time.Hour
	c := w.compactor()
	w.store.SetFaults(object.Fault{Op: "put", Key: "*.seg", Call: 2})
	if _, err := c.Once(t.Context(), Filter{}, nil); err == nil {
		t.Fatal("the second day should have failed")
	}
	w.store.SetFaults()
	list, err := d.List(t.Context(), "t")
	must(t, err)
	if got := list[0].Status(); got != "50% Complete" {
		t.Errorf("status %s", got)
	}
	if err := d.Cancel(t.Context(), "t", list[0].ID, false); err == nil || !strings.HasPrefix(err.Error(), "Cancellation of partially completed") {
		t.Errorf("cancel: %v", err)
	}
	if sum := w.once(Filter{}); sum.Merges != 1 {
		t.Errorf("second attempt: %s", sum)
	}
	w.expect("gone", texts(all, func(r row) bool { return r.n%3 != 1 }))
	list, err = d.List(t.Context(), "t")
	must(t, err)
	if got := list[0].Status(); got != "processed" {
		t.Errorf("status %s", got)
	}
}

// Compactors that share the days of a tenant share a request's days too; it is processed
// when all are done, and only then.
func TestOwnersShareTheDays(t *testing.T) {
	w := newWorld(t)
	day := w.today()
	before := model.TimeRange{From: day.From - int64(aDay), Through: day.From}
	all := append(rows(60, before), rows(60, day)...)
	w.put("t", 2, all[:60])
	w.put("t", 2, all[60:])
	d := w.deletes()
	_, err := d.Create(t.Context(), "t", "app-1", time.Unix(0, before.From), time.Unix(0, day.Through-1))
	must(t, err)
	w.offset = 25 * time.Hour
	today := catalog.DayOf(day.From)
	w.cfg.Owner = func(_ model.Tenant, day string) bool { return day == today }
	one := w.compactor()
	w.cfg.Owner = func(_ model.Tenant, day string) bool { return day != today } // "" too
	other := w.compactor()
	for i, step := range []struct {
		compactor *Compactor
		merges    int
		status    string
	}{{one, 1, "50% Complete"}, {one, 0, "50% Complete"}, {other, 1, "processed"}, {one, 0, "processed"}} {
		sum, err := step.compactor.round(t.Context(), Filter{}, true, nil)
		must(t, err)
		list, err := d.load(t.Context(), "t")
		must(t, err)
		if got := list[0].Status(); sum.Merges != step.merges || got != step.status {
			t.Errorf("step %d: status %s after %d merges, want %s after %d", i, got, sum.Merges, step.status, step.merges)
		}
	}
	w.expect("gone", texts(all, func(r row) bool { return r.n%3 != 1 }))
}

// far is a store to which each request takes a second.
type far struct{ object.Store }

func (f far) Get(ctx context.Context, key object.Key) (io.ReadCloser, int64, error) {
	time.Sleep(time.Second)
	return f.Store.Get(ctx, key)
}

func (f far) List(ctx context.Context, prefix string) iter.Seq2[object.Info, error] {
	time.Sleep(time.Second)
	return f.Store.List(ctx, prefix)
}

// What Prepare has read costs Hide nothing, and requests are read together.
func TestRequestsAreReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		now := w.now()
		for range getsAtOnce {
			_, err := w.deletes().Create(t.Context(), "t", "app-1", now.Add(-time.Hour), now)
			must(t, err)
		}
		d := NewDeletes(w.cfg, far{w.store}, w, nil)
		began := time.Now()
		d.Prepare(t.Context(), "t")
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("%v for a listing and %d requests", took, getsAtOnce)
		}
		d.Prepare(t.Context(), "t")
		requests, err := d.hiding(t.Context(), "t", model.TimeRange{From: now.Add(-time.Hour).UnixNano(), Through: now.UnixNano()})
		must(t, err)
		if took := time.Since(began); took != 2*time.Second || len(requests) != getsAtOnce {
			t.Errorf("%v with Hide, %d requests", took, len(requests))
		}
	})
}

// A text is understood once, whoever asks and however often, until so many others were that it is
// forgotten.
func TestRequestsAreCompiledOnce(t *testing.T) {
	w := newWorld(t)
	all := rows(60, w.today())
	w.uploads(all, 6)
	deletes := w.deletes()
	for _, query := range []string{"app-0", "line:row 7 ", "app-0"} {
		_, err := deletes.Create(t.Context(), "t", query, time.Unix(0, all[0].ts), time.Unix(0, all[59].ts))
		must(t, err)
	}
	compiled := 0 // by the goroutine of a query, not by its workers
	compile := func(query string) (*Filters, error) {
		compiled++
		return compileTest(query)
	}
	hide := func() int {
		t.Helper()
		sel, err := w.reader().Select(t.Context(), "t", &model.Request{Range: everything, Columns: model.Columns{Lines: true, AllMetadata: true}})
		must(t, err)
		defer sel.Release()
		must(t, deletes.Hide(t.Context(), "t", everything, sel, compile))
		got, err := textsOf(t.Context(), sel, everything)
		must(t, err)
		return len(slices.Compact(got))
	}
	for range 2 {
		for range 2 {
			if n := hide(); n != 39 {
				t.Errorf("%d rows are left, expected 39", n)
			}
		}
		deletes.invalidate("t") // another list of the same requests follows
	}
	if compiled != 2 {
		t.Errorf("two texts were compiled %d times", compiled)
	}

	long := strings.Repeat("x", maxQuery-4)
	for i := range 2 * maxCompiled / maxQuery {
		_, err := deletes.compiled([]Request{{Query: strconv.Itoa(1000+i) + long}}, compile)
		must(t, err)
	}
	if cost := deletes.mu.filters.Cost(); cost > maxCompiled || cost < maxCompiled/2 {
		t.Errorf("compiled queries of %d bytes are kept, of at most %d", cost, maxCompiled)
	}
}
