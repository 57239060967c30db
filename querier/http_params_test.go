package querier

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/limits"
)

// TestSeriesOfAMoment: the end of a range does not belong to it.
func TestSeriesOfAMoment(t *testing.T) {
	r := newTailRig(t)
	now := time.Now().UnixNano()
	r.push(lines("a", now, "x"))
	for _, c := range []struct {
		start, end int64
		want       bool
	}{{now - 10, now, false}, {now - 10, now + 1, true}, {now, now + 1, true}, {now + 1e6, now + 2e6, false}} {
		_, body := r.get("/loki/api/v1/series", "start", fmt.Sprint(c.start), "end", fmt.Sprint(c.end))
		if found := strings.Contains(body, `"app":"a"`); found != c.want {
			t.Errorf("[%d, %d) around %d: %s", c.start, c.end, now, body)
		}
	}
}

// TestLabelsBeforeTheFirstEntry: the millisecond in which a range ends does not belong to
// it, but a moment has labels.
func TestLabelsBeforeTheFirstEntry(t *testing.T) {
	r := newTailRig(t)
	first := floorTo(time.Now().UnixNano(), int64(time.Millisecond))
	r.push(lines("a", first, "x"))
	for _, c := range []struct {
		start, end int64
		want       bool
	}{{first - 1e9, first, false}, {first - 1e9, first + 999_999, false}, {first - 1e9, first + 1e6, true}, {first, first, true}} {
		for _, path := range []string{"labels", "label/app/values"} {
			_, body := r.get("/loki/api/v1/"+path, "start", fmt.Sprint(c.start), "end", fmt.Sprint(c.end))
			if found := strings.Contains(body, `"a`); found != c.want {
				t.Errorf("%s in [%d, %d), first at %d: %s", path, c.start, c.end, first, body)
			}
		}
	}
}

// TestVolumeOfTargets: a stream counts when it has all labels that are asked for, by
// whatever the volumes are added up.
func TestVolumeOfTargets(t *testing.T) {
	r := newTailRig(t)
	r.push(lines("a", time.Now().UnixNano(), "x"))
	for targets, want := range map[string]bool{"app": true, "app,region": false, "region": false} {
		for _, by := range []string{"series", "labels"} {
			_, body := r.get("/loki/api/v1/index/volume", "query", `{app="a"}`, "targetLabels", targets, "aggregateBy", by)
			if found := strings.Contains(body, `"app":`); found != want {
				t.Errorf("%s by %s: %s", targets, by, body)
			}
		}
	}
}

func TestNotUpgrading(t *testing.T) {
	for _, c := range []struct {
		connection, upgrade string
		want                int
	}{
		{"", "", http.StatusBadRequest},
		{"close", "websocket", http.StatusBadRequest},
		{"keep-alive, Upgrade", "h2c", http.StatusUpgradeRequired},
		{"keep-alive, Upgrade", "WebSocket", 0},
	} {
		if got := notUpgrading(http.Header{"Connection": {c.connection}, "Upgrade": {c.upgrade}}); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestRangesOfMetadata: requests about streams obey the limit on length, and each has its
// own words for a range that lies the wrong way round.
func TestRangesOfMetadata(t *testing.T) {
	r := newTailRig(t, func(l *limits.Limits) { l.MaxQueryLength = limits.Duration(time.Hour) })
	const (
		tooLong  = "the query time range exceeds the limit (query length: 1h0m0.001s, limit: 1h)"
		inside   = "this data is no longer available, it is past now - max_query_lookback (0s)"
		backward = "end timestamp must not be before or equal to start time"
	)
	for path, c := range map[string]struct{ long, backward string }{
		"labels":                  {tooLong, inside},
		"label/app/values":        {tooLong, inside},
		"series":                  {tooLong, inside},
		"index/stats":             {tooLong, backward},
		"index/shards":            {tooLong, backward},
		"index/volume":            {strings.Replace(tooLong, "0.001s", "1s", 1), backward},
		"detected_labels":         {tooLong, backward},
		"detected_fields":         {tooLong, backward},
		"detected_field/a/values": {tooLong, backward},
	} {
		ask := func(start, end string, status int, want string) {
			t.Helper()
			code, body := r.get("/loki/api/v1/"+path, "query", `{app="a"}`, "match[]", `{app="a"}`, "targetBytesPerShard", "1KB", "start", start, "end", end)
			if code != status || want != "" && body != want {
				t.Errorf("%s: %d %s, want %s", path, code, body, want)
			}
		}
		ask("9999.999", "13600", http.StatusBadRequest, c.long)
		ask("10000.000", "13600", http.StatusOK, "")
		ask("10000", "9999", http.StatusBadRequest, c.backward)
	}
}

func TestOddParameters(t *testing.T) {
	r := newTailRig(t)
	const notPositive = "zero or negative query resolution step widths are not accepted. Try a positive integer"
	for _, c := range []struct{ path, name, value, want string }{
		{"query_range", "step", "NaN", notPositive},
		{"query_range", "interval", "nan", "interval must be >= 0"},
		{"index/stats", "limit", "0", "limit must be a positive value"},
		{"index/stats", "direction", "up", "invalid direction 'up'"},
		{"index/stats", "step", "-1", notPositive},
		{"tail", "limit", "5", "Bad Request\n"}, // no websocket
		{"tail", "delay_for", "-1", "delay_for can't be greater than 5"},
		{"tail", "delay_for", "9223372037", "delay_for can't be greater than 5"},
		{"tail", "delay_for", "6", "delay_for can't be greater than 5"},
		{"index/volume", "query", `{app=~".*"}`, "parse error : queries require at least one regexp"},
	} {
		params := []string{c.name, c.value, "start", "1", "end", "2"}
		if c.name != "query" {
			params = append(params, "query", `{app="a"}`)
		}
		if code, body := r.get("/loki/api/v1/"+c.path, params...); code != http.StatusBadRequest || !strings.HasPrefix(body, c.want) {
			t.Errorf("%s %s=%s: %d %s, want %s", c.path, c.name, c.value, code, body, c.want)
		}
	}
}

// TestMalformedForm: what can be read of a form is formatted, and is no query to run.
func TestMalformedForm(t *testing.T) {
	r := newTailRig(t)
	mux := http.NewServeMux()
	r.querier.Register(muxRouter{mux})
	for path, want := range map[string]string{
		"format_query?query=1&a=%zz":   `{"status":"success","data":"1"}` + "\n",
		"format_query?query=1&a;b":     `{"status":"success","data":"1"}` + "\n",
		"format_query?query=%zz":       `{"status":"invalid-query","error":"parse error : syntax error: unexpected $end"}` + "\n",
		"format_query?query=sum(1)":    `{"status":"success","data":"sum(1)"}` + "\n",
		"labels?query=%zz":             `invalid URL escape "%zz"`,
		"query?query=sum(1)":           "parse error : queries require at least one regexp or equality matcher that does not have an empty-compatible value. For instance, app=~\".*\" does not meet this requirement, but app=~\".+\" will",
		"labels?query=sum(1)":          "only label matchers are supported",
		"detected_fields?query=sum(1)": "only log selector is supported",
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/loki/api/v1/"+path, nil))
		if w.Body.String() != want {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
}

// TestFarTimes: times that nanoseconds do not reach are far away, not on the other side.
func TestFarTimes(t *testing.T) {
	for text, want := range map[string]int64{
		"9999999999": farthest, "-999999999": -999999999e9, "9223372036854775807": farthest, "-9223372036854775808": -farthest,
		"1.0e18": farthest, "-1.0e300": -farthest, "9999-12-31T23:59:59Z": farthest, "0001-01-01T00:00:00Z": -farthest,
		"2115-11-27T00:00:00Z": farthest, "2115-11-26T23:59:59Z": farthest - 1e9, "1768474800.5": 17684748005e8, "-1.5": -15e8,
	} {
		if got, err := parseTime(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	r := newTailRig(t, func(l *limits.Limits) { l.MaxQueryLength = limits.Duration(time.Hour) })
	for _, c := range [][2]string{{"1768471200", "9999999999"}, {"-9223372036854775808", "1768471200"}, {"1677-01-01T00:00:00Z", "9223372036854775807"}, {"", "-9223372036854775808"}} {
		for _, path := range []string{"query_range", "labels", "series", "index/stats", "index/volume", "index/volume_range", "detected_fields"} {
			_, body := r.get("/loki/api/v1/"+path, "query", `{app="a"}`, "start", c[0], "end", c[1], "since", "292y", "step", "290y")
			if !strings.Contains(body, "exceeds the limit") {
				t.Errorf("%s from %q to %q: %s", path, c[0], c[1], body)
			}
		}
	}
}
