package querier

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/syntax"
)

// volumeRequest asks for bytes by label set, or by label name.
type volumeRequest struct {
	tenants    []model.Tenant
	matchers   []*labels.Matcher
	start, end int64
	step       time.Duration
	limit      int
	maxSeries  int
	targets    []string
	byName     bool
}

func (q *Querier) readVolume(w http.ResponseWriter, r *http.Request, ranged bool) (v volumeRequest, err error) {
	p, err := readParams(w, r)
	if err != nil {
		return v, err
	}
	if v.tenants, err = server.TenantsOf(r); err != nil {
		return v, err
	}
	lim := q.limitsFor(v.tenants)
	if !lim.VolumeEnabled {
		return v, fault.New(fault.NotFound, "not found")
	}
	v.maxSeries = lim.VolumeMaxSeries
	if v.start, v.end, err = p.orderedBounds(); err != nil {
		return v, err
	}
	if v.limit, err = p.volumeLimit(); err != nil {
		return v, err
	}
	if ranged {
		if v.step, err = p.step(v.start, v.end); err != nil {
			return v, err
		}
	}
	e := engine.Params{Start: v.start, End: v.end}
	if clampLookback(&e, lim, p.now) {
		e.Start = e.End
	}
	v.start = e.Start
	if err := v.checkLength(lim.MaxQueryLength.Duration()); err != nil {
		return v, err
	}
	if text := p.get("targetLabels"); text != "" {
		v.targets = strings.Split(text, ",")
	}
	switch p.get("aggregateBy") {
	case "", "series":
	case "labels":
		v.byName = true
	default:
		return v, fault.New(fault.Invalid, "invalid aggregation option")
	}
	v.matchers, err = syntax.ParseMatchersOrAll(p.get("query"))
	return v, err
}

// checkLength is the limit on the length of a query, which counts in seconds here, and for
// each bucket by itself.
func (v volumeRequest) checkLength(most time.Duration) error {
	const second = int64(time.Second)
	start, end := floorTo(v.start, second), floorTo(v.end, second)
	if first := int64(v.step) - second; v.step > 0 && first < end-start {
		end = start + first
	}
	return engine.CheckLength(start, end, most)
}

// volumeLimit is limit, where 0 means the default.
func (p params) volumeLimit() (int, error) {
	if n, err := strconv.Atoi(p.get("limit")); err == nil && n == 0 {
		return defaultLimit, nil
	}
	return p.limit("limit", defaultLimit)
}

// selecting are the request's matchers; every target that they do not name must be there,
// too, whatever the volumes are added up by.
func (v volumeRequest) selecting() []*labels.Matcher {
	matchers := v.matchers
	for _, t := range v.targets {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return m.Name == t }) {
			matchers = append(slices.Clip(matchers), labels.MustNewMatcher(labels.MatchRegexp, t, ".+"))
		}
	}
	return matchers
}

// checkSeries refuses more series than the tenant's limit.
func (v volumeRequest) checkSeries(n int) error {
	if v.maxSeries > 0 && n > v.maxSeries {
		return fault.New(fault.Invalid, "the query hit the max number of series limit (limit: %d series)", v.maxSeries)
	}
	return nil
}

// volumes sums bytes by what the request groups by.
func (q *Querier) volumes(ctx context.Context, v volumeRequest) (map[string]*volume, *warnings, error) {
	series, warned, err := q.weigh(ctx, v.tenants, v.selecting(), model.TimeRange{From: v.start, Through: v.end})
	if err != nil {
		return nil, nil, err
	}
	sums := map[string]*volume{}
	for _, s := range series {
		for _, ls := range v.group(s.Labels) {
			key := ls.String()
			if sums[key] == nil {
				sums[key] = &volume{name: key, labels: ls}
			}
			sums[key].bytes += s.Bytes
		}
	}
	return sums, warned, v.checkSeries(len(sums))
}

type volume struct {
	name   string
	labels labels.Labels
	bytes  int64
}

// group returns the label sets under which a stream is counted.
func (v volumeRequest) group(ls labels.Labels) []labels.Labels {
	wanted := v.targets
	if v.byName {
		var sets []labels.Labels
		ls.Range(func(l labels.Label) {
			if len(wanted) == 0 || slices.Contains(wanted, l.Name) {
				sets = append(sets, labels.FromStrings(l.Name, ""))
			}
		})
		return sets
	}
	if len(wanted) == 0 {
		for _, m := range v.matchers {
			wanted = append(wanted, m.Name)
		}
	}
	if len(wanted) == 0 {
		return []labels.Labels{ls}
	}
	return []labels.Labels{labels.NewBuilder(ls).Keep(wanted...).Labels()}
}

// largest returns the largest volumes, up to limit.
func largest(sums map[string]*volume, limit int) []*volume {
	list := make([]*volume, 0, len(sums))
	for _, v := range sums {
		list = append(list, v)
	}
	sort.Slice(list, func(i, j int) bool {
		return list[i].bytes > list[j].bytes || list[i].bytes == list[j].bytes && list[i].name < list[j].name
	})
	return list[:min(len(list), limit)]
}

func (q *Querier) serveVolume(w http.ResponseWriter, r *http.Request) error {
	v, err := q.readVolume(w, r, false)
	if err != nil {
		return err
	}
	sums, warned, err := q.volumes(r.Context(), v)
	if err != nil {
		return err
	}
	res := &engine.Result{Type: "vector", Warnings: warned.list()}
	for _, s := range largest(sums, v.limit) {
		res.Series = append(res.Series, engine.Series{Labels: s.labels, Points: []engine.Point{{T: v.end / int64(time.Millisecond), V: float64(s.bytes)}}})
	}
	return q.writeJSON(w, r, appendResult(nil, res, encoding{}))
}

// serveDrilldownLimits tells Logs Drilldown what it may ask for. It always wants a tenant.
func (q *Querier) serveDrilldownLimits(w http.ResponseWriter, r *http.Request) error {
	tenant, err := server.NamedTenant(r)
	if err != nil {
		return err
	}
	text, err := json.Marshal(q.limits.For(tenant).Drilldown())
	if err != nil {
		return err
	}
	return q.writeJSON(w, r, fmt.Appendf(nil, `{"limits":%s,"pattern_ingester_enabled":true,"version":"3.7.6"}`+"\n", text))
}
