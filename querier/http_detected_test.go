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

// TestDetectedFieldsInLokisOrder: what is told of a field is of the oldest line of the last stream that has
// it, by the text of the stream's own labels; sizes of different text are different values; and a name that
// only the query gave has no path unless the line has a key of that name.
func TestDetectedFieldsInLokisOrder(t *testing.T) {
	r := newTailRig(t)
	now := time.Now().UnixNano() - 1e9
	r.push(lines("b", now, `level=info n=1 size=1001KB`, `level=error n=x size=1MB`, `level=debug n=2.5 size=1.0MB`))
	r.push(lines("a", now+10, `n=true k=5s`, `k=7`))
	r.push(lines("j", now+20, `{"p":{"q":1},"_entry":"n=1"}`, `{"_entry":"{\"n\":2}","z":"1"}`))
	for query, want := range map[string]string{
		`{app=~"a|b"}`: "[{k duration 2 []} {level string 3 []} {n int 4 []} {size bytes 3 []}]",
		// Parsed labels make streams of an answer, but not of these.
		`{app=~"a|b"} | logfmt`:     "[{k duration 2 []} {level string 3 []} {n int 4 []} {size bytes 3 []}]",
		`{app="j"}`:                 "[{_entry string 2 [_entry]} {p_q int 1 [p q]} {z int 1 [z]}]",
		`{app="j"} | json | unpack`: "[{_entry string 2 []} {n int 2 [n]} {p_q int 1 []} {z int 1 []}]",
	} {
		_, body := r.get("/loki/api/v1/detected_fields", "query", query)
		var got struct {
			Fields []struct {
				Label, Type string
				Cardinality int
				JSONPath    []string
			}
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err, body)
		}
		if text := fmt.Sprint(got.Fields); text != want {
			t.Errorf("%s:\n got %s\nwant %s", query, text, want)
		}
	}
}
