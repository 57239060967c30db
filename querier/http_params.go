package querier

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	common "github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/syntax"
)

const (
	maxFormBytes    = 10 << 20
	defaultLimit    = 100
	defaultSince    = time.Hour
	maxResolution   = 11_000
	defaultSteps    = 250
	secondsMaxChars = 10 // a longer integer is nanoseconds
)

// farthest is as far from 1970 as a time can be: what lies between two such times is a duration.
const farthest = int64(146 * 365 * 24 * time.Hour)

// params are a request's parameters, from the query string and a POSTed form. The texts of
// errors, and the order in which parameters are checked, are Loki's.
type params struct {
	r   *http.Request
	now time.Time
}

// readParams returns what could be read even when the form is malformed.
func readParams(w http.ResponseWriter, r *http.Request) (params, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	p := params{r: r, now: time.Now()}
	if err := r.ParseForm(); err != nil {
		return p, fault.Wrap(fault.Invalid, err)
	}
	return p, nil
}

func (p params) get(name string) string { return p.r.Form.Get(name) }

// bounds returns start and end in nanoseconds: by default the hour until now.
func (p params) bounds() (start, end int64, err error) {
	end, err = p.time("end", p.now.UnixNano())
	if err != nil {
		return 0, 0, fault.New(fault.Invalid, "could not parse 'end' parameter: %w", err)
	}
	since := defaultSince
	if text := p.get("since"); text != "" {
		d, err := common.ParseDuration(text)
		if err != nil {
			return 0, 0, fault.New(fault.Invalid, "could not parse 'since' parameter: %w", err)
		}
		since = min(time.Duration(d), time.Duration(farthest))
	}
	start, err = p.time("start", min(end, p.now.UnixNano())-int64(since))
	if err != nil {
		return 0, 0, fault.New(fault.Invalid, "could not parse 'start' parameter: %w", err)
	}
	return start, end, nil
}

// orderedBounds is bounds for endpoints that refuse an end before the start.
func (p params) orderedBounds() (start, end int64, err error) {
	start, end, err = p.bounds()
	if err == nil && end < start {
		err = fault.New(fault.Invalid, "end timestamp must not be before or equal to start time")
	}
	return start, end, err
}

// streamQuery asks about streams: a time range, and a selector.
type streamQuery struct {
	params
	tenants  []model.Tenant
	in       model.TimeRange
	matchers []*labels.Matcher
}

// readSelector reads what the index endpoints ask for. They check all parameters of a range
// query, though they use two of them.
func (q *Querier) readSelector(w http.ResponseWriter, r *http.Request) (s streamQuery, err error) {
	if s.params, err = readParams(w, r); err != nil {
		return s, err
	}
	e, err := rangeParams(s.params)
	if err != nil {
		return s, err
	}
	if s.tenants, err = server.TenantsOf(r); err != nil {
		return s, err
	}
	lim := q.limitsFor(s.tenants)
	empty := clampLookback(&e, lim, s.now)
	if err = engine.CheckLength(e.Start, e.End, lim.MaxQueryLength.Duration()); err != nil {
		return s, err
	}
	s.in = model.TimeRange{From: e.Start, Through: e.End + 1}
	if empty {
		s.in.Through = s.in.From
	}
	s.matchers, err = syntax.ParseMatchers(s.get("query"))
	return s, err
}

// listedRange applies the tenants' limits to the range of a request for label names, values
// or series, and returns its start.
func listedRange(lim *limits.Limits, now time.Time, start, end int64) (int64, error) {
	lookback := lim.MaxQueryLookback.Duration()
	if lookback > 0 {
		start = max(start, now.Add(-lookback).UnixNano())
	}
	if err := engine.CheckLength(start, end, lim.MaxQueryLength.Duration()); err != nil {
		return 0, err
	}
	if end < start {
		return 0, fault.New(fault.Invalid, "this data is no longer available, it is past now - max_query_lookback (%s)", lookback)
	}
	return start, nil
}

func (p params) time(name string, fallback int64) (int64, error) {
	text := p.get(name)
	if text == "" {
		return fallback, nil
	}
	return parseTime(text)
}

// parseTime reads a float of seconds, an integer of seconds (up to ten characters) or of
// nanoseconds, or RFC 3339.
func parseTime(text string) (int64, error) {
	if strings.Contains(text, ".") {
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			seconds, fraction := math.Modf(max(-float64(farthest), min(f, float64(farthest))))
			return nanoseconds(time.Unix(int64(seconds), int64(math.Round(fraction*1000))*int64(time.Millisecond))), nil
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		if t, e := time.Parse(time.RFC3339Nano, text); e == nil {
			return nanoseconds(t), nil
		}
		return 0, err
	}
	if len(text) <= secondsMaxChars {
		return nanoseconds(time.Unix(n, 0)), nil
	}
	return nanoseconds(time.Unix(0, n)), nil
}

func nanoseconds(t time.Time) int64 {
	switch seconds := t.Unix(); {
	case seconds >= farthest/int64(time.Second):
		return farthest
	case seconds < -farthest/int64(time.Second):
		return -farthest
	}
	return t.UnixNano()
}

func (p params) limit(name string, fallback int) (int, error) {
	text := p.get(name)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fault.Wrap(fault.Invalid, err)
	}
	if n <= 0 {
		return 0, fault.New(fault.Invalid, "limit must be a positive value")
	}
	return n, nil
}

func (p params) forward() (bool, error) {
	text := p.get("direction")
	switch strings.ToLower(text) {
	case "", "backward":
		return false, nil
	case "forward":
		return true, nil
	}
	return false, fault.New(fault.Invalid, "invalid direction '%s'", text)
}

// step returns the step of a range query, by default one that gives about 250 points.
func (p params) step(start, end int64) (time.Duration, error) {
	fallback := time.Duration(max(1, (end-start)/int64(time.Second)/defaultSteps)) * time.Second
	step, err := p.duration("step", fallback)
	if err != nil {
		return 0, err
	}
	if step <= 0 {
		return 0, fault.New(fault.Invalid, "zero or negative query resolution step widths are not accepted. Try a positive integer")
	}
	if (end-start)/int64(step) > maxResolution {
		return 0, fault.New(fault.Invalid, "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter")
	}
	return step, nil
}

func (p params) interval() (time.Duration, error) {
	interval, err := p.duration("interval", 0)
	if err == nil && interval < 0 {
		err = fault.New(fault.Invalid, "interval must be >= 0")
	}
	return interval, err
}

// duration reads seconds as a float, or a Prometheus duration.
func (p params) duration(name string, fallback time.Duration) (time.Duration, error) {
	text := p.get(name)
	if text == "" {
		return fallback, nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		ns := f * float64(time.Second)
		if math.IsNaN(ns) {
			return math.MinInt64, nil // not positive
		}
		if ns > math.MaxInt64 || ns < math.MinInt64 {
			return 0, fault.New(fault.Invalid, "cannot parse %q to a valid duration. It overflows int64", text)
		}
		return time.Duration(ns), nil
	}
	if d, err := common.ParseDuration(text); err == nil {
		return time.Duration(d), nil
	}
	return 0, fault.New(fault.Invalid, "cannot parse %q to a valid duration", text)
}

// encodingFlags reads X-Loki-Response-Encoding-Flags.
func encodingFlags(r *http.Request) (flags []string, categorize bool) {
	for _, f := range strings.Split(r.Header.Get("X-Loki-Response-Encoding-Flags"), ",") {
		if f = strings.TrimSpace(f); f != "" && !slices.Contains(flags, f) {
			flags = append(flags, f)
			categorize = categorize || f == "categorize-labels"
		}
	}
	return flags, categorize
}
