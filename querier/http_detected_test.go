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
