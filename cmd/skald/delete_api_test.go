package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestDeleteAPI holds the statuses and texts of Loki's delete API.
func TestDeleteAPI(t *testing.T) {
	base := startNode(t, "-data.dir="+t.TempDir(), "-auth.enabled")
	ask := func(method, tenant string, params ...string) (int, string) {
		t.Helper()
		values := url.Values{}
		for i := 0; i < len(params); i += 2 {
			values.Add(params[i], params[i+1])
		}
		code, body := request(t, method, base+"/loki/api/v1/delete?"+values.Encode(), http.Header{"X-Scope-Orgid": {tenant}}, nil)
		return code, strings.TrimSpace(string(body))
	}
	create := func(query, start, end, interval, want string) {
		t.Helper()
		code, got := ask(http.MethodPost, "t", "query", query, "start", start, "end", end, "max_interval", interval)
		if code != http.StatusNoContent && code != http.StatusBadRequest || (code == http.StatusNoContent) != (want == "") || got != want {
			t.Errorf("%s %s %s %s: %d %q, want %q", query, start, end, interval, code, got, want)
		}
	}
	const x, from, to = `{a="b"}`, "1600000000", "1600003600"
	const invalidStart, invalidEnd = "invalid start time: require unix seconds or RFC3339 format", "invalid end time: require unix seconds or RFC3339 format"
	const unit = "invalid max_interval: valid time units are 's', 'm', 'h'"
	create("", from, to, "", "query not set")
	create("{", from, to, "", "invalid query expression")
	create(`rate({a="b"}[1m])`, from, to, "", "invalid query expression")
	create(x, "", to, "", "start time not set")
	create(x, "160000000", to, "", invalidStart)
	create(x, "2020-09-13", to, "", invalidStart)
	create(x, from, "16000036000", "", invalidEnd)
	create(x, "2020-09-13T12:26:40Z", "1600000.e3", "", "start time can't be greater than or equal to end time")
	create(x, "16000000.5", "160000000.", "", "")
	create(x, to, from, "", "start time can't be greater than or equal to end time")
	create(x, from, "5000000000", "", "deletes in the future are not allowed")
	for _, selector := range []string{`{}`, `{a=~".*"}`, `{a=""}`, `{a!="b"}`} {
		create(selector, from, to, "", "")
	}
	// Whole streams have no use for an interval.
	create(x, from, to, "1d", "")
	create(x+` | json`, from, to, "25h", "")
	create(x+` |= ""`, from, to, "-1h", "")
	create(x+` |= "y"`, from, to, "1d", unit)
	create(x+` | y="z"`, from, to, "500ms", unit)
	create(x+` !~ ""`, from, to, "25h", "max_interval can't be greater than 24h0m0s")
	create(x+` |= "y"`, from, to, "2h", "max_interval can't be greater than the interval to be deleted (1h0m0s)")
	create(x+` |= "y"`, from, to, "1h", "")
	create(x+` |= "y"`, to, from, "1d", "start time can't be greater than or equal to end time")

	for _, q := range []struct{ query, start, end string }{{`{n="1"}`, "1600000000", "1600003600"}, {`{n="2"}`, "1600007200", "1600010800"}} {
		if code, text := ask(http.MethodPut, "listed", "query", q.query, "start", q.start, "end", q.end); code != http.StatusNoContent {
			t.Fatal(code, text)
		}
	}
	list := func(start, end, want string) {
		t.Helper()
		code, text := ask(http.MethodGet, "listed", "start", start, "end", end)
		if code != http.StatusOK {
			if text != want {
				t.Errorf("list from %q to %q: %d %s", start, end, code, text)
			}
			return
		}
		var requests []struct{ Query string }
		if err := json.Unmarshal([]byte(text), &requests); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, r := range requests {
			got += r.Query
		}
		if got != want {
			t.Errorf("list from %q to %q: %s, want %s", start, end, got, want)
		}
	}
	list("", "", `{n="1"}{n="2"}`)
	list("1600003600", "", `{n="1"}{n="2"}`)
	list("1600003600", "1600003700", `{n="1"}`)
	list("1600003600", "2020-09-13T14:26:40Z", `{n="1"}{n="2"}`)
	list("1600003601", "1600007199", ``)
	list("1700000000", "1500000000", ``)
	list("x", "1600007199", invalidStart)
	list("1600003601", "y", invalidEnd)

	for tenant, want := range map[string]string{"": "401 no org id", "a|b": "400 multiple org IDs present", "..": "400 tenant ID is '.' or '..'", "t": `200 ""`} {
		code, body := request(t, http.MethodGet, base+"/loki/api/v1/cache/generation_numbers", http.Header{"X-Scope-Orgid": {tenant}}, nil)
		if got := fmt.Sprintf("%d %s", code, bytes.TrimSpace(body)); got != want {
			t.Errorf("generation numbers of %q: %s, want %s", tenant, got, want)
		}
	}
}
