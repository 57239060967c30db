package querier

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestDetectedFieldsOfTheQuery: a label that the query sets counts as found by the parser
// that suits the line, and sizes are printed in one form whatever their unit looks like.
func TestDetectedFieldsOfTheQuery(t *testing.T) {
	r := newTailRig(t)
	r.push(lines("a", time.Now().UnixNano()-1e9, `{"n":1}`, `n=2 size=10K`))
	_, body := r.get("/loki/api/v1/detected_fields", "query", `{app="a"} | label_format z="x"`)
	var got struct {
		Fields []struct {
			Label, Type string
			Parsers     []string
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err, body)
	}
	if text := fmt.Sprint(got.Fields); text != "[{n int [logfmt json]} {size bytes [logfmt]} {z string [logfmt json]}]" {
		t.Error(text)
	}
	if _, body = r.get("/loki/api/v1/detected_field/size/values", "query", `{app="a"}`); !strings.Contains(body, `"10kB"`) {
		t.Error(body)
	}
}

// TestDetectedPathOfTheFirstKey: of keys that give the same name, the first in the line counts.
func TestDetectedPathOfTheFirstKey(t *testing.T) {
	for line, want := range map[string]string{
		`{"a_b_c":4,"a_b":{"c":3},"a":{"b":{"c":2},"b_c":1}}`: "map[a_b_c:[a_b_c]]",
		`{"a":{"b_c":1,"b":{"c":2}},"a_b":{"c":3}}`:           "map[a_b_c:[a b_c]]",
		`{"a-b":1,"a b":2,"a_b":3}`:                           "map[a_b:[a-b]]",
		`{"l":[1,{"x":[2]},[]],"k":{"l":null},"e":{}}`:        "map[k_l:[k l] l:[l]]",
		`{"a":1,"b":`:                   "map[]",
		strings.Repeat(`{"a":`, 50_000): "map[]",
		`[1]`:                           "map[]",
	} {
		for range 20 {
			if got := fmt.Sprint(jsonPaths([]byte(line))); got != want {
				t.Fatalf("%s: %s, want %s", line, got, want)
			}
		}
	}
}
