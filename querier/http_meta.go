package querier

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/syntax"
)

// series lists the streams that match, over all sources and tenants, each once and sorted.
// Counts are sums over sources, so replicas count more than once; weigh counts exactly.
func (q *Querier) series(ctx context.Context, tenants []model.Tenant, req *model.Request) ([]model.Series, error) {
	lists, err := q.seriesLists(ctx, tenants, req)
	if err != nil {
		return nil, err
	}
	return model.MergeSeries(lists), nil
}

// seriesLists lists the streams that match, by tenant and source, each list sorted by labels.
func (q *Querier) seriesLists(ctx context.Context, tenants []model.Tenant, req *model.Request) ([][]model.Series, error) {
	wanted, inner := tenants, req
	if len(tenants) > 1 {
		wanted, inner = splitTenantMatchers(tenants, req)
	}
	lists := make([][]model.Series, len(wanted)*len(q.sources))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxTenantsAtOnce)
	for i, tenant := range wanted {
		for j, src := range q.sources {
			g.Go(func() error {
				list, err := src.Series(ctx, tenant, inner)
				if len(tenants) > 1 {
					for k := range list {
						list[k].Labels = withTenant(list[k].Labels, tenant)
					}
					slices.SortFunc(list, func(a, b model.Series) int { return labels.Compare(a.Labels, b.Labels) })
				}
				lists[i*len(q.sources)+j] = list
				return err
			})
		}
	}
	return lists, g.Wait()
}

// labelSets returns the label sets that a request for names or values sees; a set may
// stand there more than once. Like Loki's
// index it answers coarsely in time: when the range touches the span of the tenant's data
// on its days, all streams of those days count. Grafana's log context relies on it: it
// asks with start = end and must see the labels of that moment.
func (q *Querier) labelSets(w http.ResponseWriter, r *http.Request, warned *warnings) ([]labels.Labels, error) {
	p, err := readParams(w, r)
	if err != nil {
		return nil, err
	}
	start, end, err := p.bounds()
	if err != nil {
		return nil, err
	}
	tenants, err := server.TenantsOf(r)
	if err != nil {
		return nil, err
	}
	if start, err = listedRange(q.limitsFor(tenants), p.now, start, end); err != nil {
		return nil, err
	}
	return q.labelSetsIn(r, tenants, start, end, warned)
}

// labelSetsIn is labelSets for a range that has been checked.
func (q *Querier) labelSetsIn(r *http.Request, tenants []model.Tenant, start, end int64, warned *warnings) ([]labels.Labels, error) {
	var matchers []*labels.Matcher
	var err error
	if text := r.Form.Get("query"); text != "" {
		if matchers, err = syntax.ParseMatchers(text); err != nil {
			return nil, err
		}
	}
	lists, err := q.seriesLists(r.Context(), tenants, &model.Request{Range: wholeDays(start, end), Stats: &model.Stats{}, Warn: warned.add})
	if err != nil || !spans(lists, start, end) {
		return nil, err
	}
	n := 0
	for _, list := range lists {
		n += len(list)
	}
	sets := make([]labels.Labels, 0, n)
	for _, list := range lists {
		for i := range list {
			if matchAll(matchers, list[i].Labels) {
				sets = append(sets, list[i].Labels)
			}
		}
	}
	return sets, nil
}

// spans reports whether the range touches the time from the first entry to the last. Its
// end, in milliseconds as in Loki's index, does not belong to it, unless it is one moment.
func spans(lists [][]model.Series, start, end int64) bool {
	if end > start {
		end = floorTo(end, int64(time.Millisecond)) - 1
	}
	before, after := false, false
	for _, list := range lists {
		for i := range list {
			before = before || list[i].First <= end
			after = after || list[i].Last >= start
		}
	}
	return before && after
}

func matchAll(matchers []*labels.Matcher, ls labels.Labels) bool {
	for _, m := range matchers {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// wholeDays widens a range to UTC days.
func wholeDays(start, end int64) model.TimeRange {
	const day = int64(24 * time.Hour)
	floor := func(t int64) int64 { return t - ((t%day)+day)%day }
	return model.TimeRange{From: floor(start), Through: floor(end) + day}
}

// labelNames returns the sorted names of a request's labels.
func (q *Querier) labelNames(w http.ResponseWriter, r *http.Request, warned *warnings) ([]string, error) {
	sets, err := q.labelSets(w, r, warned)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	var last []string // the names of the set before, which mostly are those of the next
	for _, ls := range sets {
		i := 0
		ls.Range(func(l labels.Label) {
			if i == len(last) {
				last = append(last, "")
			}
			if last[i] != l.Name {
				last[i], names[l.Name] = l.Name, true
			}
			i++
		})
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// labelValues returns the sorted values of the label that the path names.
func (q *Querier) labelValues(w http.ResponseWriter, r *http.Request, warned *warnings) ([]string, error) {
	sets, err := q.labelSets(w, r, warned)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	// Many streams share few values, or each has its own. Of the few most are recognised; what
	// comes again nevertheless goes when they are sorted.
	var values []string
	var recent [1 << 10]string
	seed := maphash.MakeSeed()
	for _, ls := range sets {
		v := ls.Get(name)
		if v == "" || len(values) > 0 && values[len(values)-1] == v {
			continue
		}
		if slot := &recent[maphash.String(seed, v)%uint64(len(recent))]; *slot != v {
			*slot = v
			values = append(values, v)
		}
	}
	return sortRuns(values), nil
}

// sortRuns returns the texts sorted, each once. Streams are sorted, so the values of one label
// are made of a few ascending runs, which are merged, two at a time. The list is not to be used
// afterwards.
func sortRuns(list []string) []string {
	var ends []int // of the runs
	for i := range list {
		if i+1 == len(list) || list[i+1] < list[i] {
			ends = append(ends, i+1)
		}
	}
	room := make([]string, len(list))
	for len(ends) > 1 {
		out, merged, start := room[:0], ends[:0], 0
		for i := 0; i < len(ends); i += 2 {
			middle, end := ends[i], ends[min(i+1, len(ends)-1)]
			a, b := list[start:middle], list[middle:end]
			for len(a) > 0 && len(b) > 0 {
				switch {
				case a[0] < b[0]:
					out, a = append(out, a[0]), a[1:]
				case b[0] < a[0]:
					out, b = append(out, b[0]), b[1:]
				default:
					a = a[1:]
				}
			}
			out = append(append(out, a...), b...)
			merged, start = append(merged, len(out)), end
		}
		list, room, ends = out, list[:cap(list)], merged
	}
	return slices.Compact(list)
}

func (q *Querier) serveLabels(w http.ResponseWriter, r *http.Request) error {
	var warned warnings
	names, err := q.labelNames(w, r, &warned)
	if err != nil {
		return err
	}
	return q.writeStrings(w, r, names, &warned)
}

func (q *Querier) serveValues(w http.ResponseWriter, r *http.Request) error {
	var warned warnings
	values, err := q.labelValues(w, r, &warned)
	if err != nil {
		return err
	}
	return q.writeStrings(w, r, values, &warned)
}

// writeStrings writes a list; an empty one is left out of the answer.
func (q *Querier) writeStrings(w http.ResponseWriter, r *http.Request, list []string, warned *warnings) error {
	b := warned.append([]byte("{"))
	b = append(b, `"status":"success"`...)
	if len(list) > 0 {
		b = append(b, `,"data":`...)
		b = appendStringList(b, list)
	}
	return q.writeJSON(w, r, append(b, "}\n"...))
}

func (q *Querier) serveSeries(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(w, r)
	if err != nil {
		return err
	}
	start, end, err := p.bounds()
	if err != nil {
		return err
	}
	groups, err := matcherGroups(slices.Concat(r.Form["match"], r.Form["match[]"]))
	if err != nil {
		return err
	}
	tenants, err := server.TenantsOf(r)
	if err != nil {
		return err
	}
	if start, err = listedRange(q.limitsFor(tenants), p.now, start, end); err != nil {
		return err
	}
	// The index knows milliseconds of a stream's end, and an end of the range does not belong
	// to it; a moment is inside of a stream nevertheless.
	in := model.TimeRange{From: floorTo(start, int64(time.Millisecond)), Through: max(end, start+1)}
	var lists [][]model.Series
	var warned warnings
	for _, matchers := range groups {
		list, err := q.series(r.Context(), tenants, &model.Request{
			Matchers: matchers, Range: in, Stats: &model.Stats{}, Warn: warned.add,
		})
		if err != nil {
			return err
		}
		lists = append(lists, list)
	}
	b := append(warned.append([]byte("{")), `"status":"success","data":[`...)
	for i, s := range model.MergeSeries(lists) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLabels(b, s.Labels)
	}
	return q.writeJSON(w, r, append(b, "]}\n"...))
}

// matcherGroups parses the selectors of a series request, each once and in order of their
// text, so that of several mistakes the same one is told. None, or {} alone, is all series.
func matcherGroups(selectors []string) ([][]*labels.Matcher, error) {
	slices.Sort(selectors)
	selectors = slices.Compact(selectors)
	if len(selectors) == 0 || len(selectors) == 1 && strings.ReplaceAll(selectors[0], " ", "") == "{}" {
		return [][]*labels.Matcher{nil}, nil
	}
	groups := make([][]*labels.Matcher, len(selectors))
	for i, text := range selectors {
		var err error
		if groups[i], err = syntax.ParseSeries(text); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

func (q *Querier) serveStats(w http.ResponseWriter, r *http.Request) error {
	s, err := q.readSelector(w, r)
	if err != nil {
		return err
	}
	list, warned, err := q.weigh(r.Context(), s.tenants, s.matchers, s.in)
	if err != nil {
		return err
	}
	var blocks, bytes, entries int64
	for _, s := range list {
		blocks += s.Blocks
		bytes += s.Bytes
		entries += s.Entries
	}
	return q.writeJSON(w, r, fmt.Appendf(warned.append([]byte("{")), `"streams":%d,"chunks":%d,"bytes":%d,"entries":%d}`+"\n", len(list), blocks, bytes, entries))
}

// serveFormat pretty-prints a query. Its errors are JSON, unlike those of all other endpoints.
func (q *Querier) serveFormat(w http.ResponseWriter, r *http.Request) error {
	p, _ := readParams(w, r) // of a malformed form, what could be read
	answer := struct {
		Status string `json:"status"`
		Data   string `json:"data,omitempty"`
		Error  string `json:"error,omitempty"`
	}{Status: "success"}
	expr, err := syntax.ParseText(p.get("query"))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err != nil {
		answer.Status, answer.Error = "invalid-query", err.Error()
		w.WriteHeader(http.StatusBadRequest)
	} else {
		answer.Data = expr.Pretty(0)
	}
	_ = json.NewEncoder(w).Encode(answer) // the client may have gone
	return nil
}

// Build describes the running program to clients that ask.
var Build = struct{ Version, Revision, Branch, User, Date string }{Version: "dev"}

// serveBuildInfo names the version of Loki whose behaviour is served, because clients
// switch features on by it; Skald's own version is beside it.
func serveBuildInfo(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(setJSON(w)).Encode(struct { // the client may have gone
		Version      string `json:"version"`
		Revision     string `json:"revision"`
		Branch       string `json:"branch"`
		BuildUser    string `json:"buildUser"`
		BuildDate    string `json:"buildDate"`
		GoVersion    string `json:"goVersion"`
		SkaldVersion string `json:"skaldVersion"`
	}{"3.7.6", Build.Revision, Build.Branch, Build.User, Build.Date, runtime.Version(), Build.Version})
}

func setJSON(w http.ResponseWriter) http.ResponseWriter {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	return w
}
