package main

import (
	"strings"
	"testing"
	"time"

	"github.com/skaldlog/skald/bench/corpus"
)

// A checker that lets a wrong answer pass is worse than none: each way to be wrong must be
// noticed, and the right answer must not.
func TestCheckNoticesWrongAnswers(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	tr := &truth{cfg: corpus.Config{Start: start, Span: time.Hour}}
	log := question{name: "log", limit: 2}
	entries := answer{entries: []logEntry{{30, "a", "x"}, {20, "b", "y"}, {20, "b", "z"}}}
	count := question{name: "count", metric: &metric{step: time.Minute, label: "app"}}
	groups := answer{groups: map[string]map[int]*window{"web": {1: {count: 3, sum: 3}}}}

	logReply := func(result string) string { return `{"status":"success","data":{"result":` + result + `}}` }
	for _, c := range []struct {
		name string
		q    *question
		a    *answer
		body string
		want string // part of the error; "" if the answer is right
	}{
		{"right", &log, &entries, logReply(`[{"stream":{"pod":"a"},"values":[["30","x"]]},{"stream":{"pod":"b"},"values":[["20","z"]]}]`), ""},
		{"either of equal time", &log, &entries, logReply(`[{"stream":{"pod":"a"},"values":[["30","x"]]},{"stream":{"pod":"b"},"values":[["20","y"]]}]`), ""},
		{"newest missing", &log, &entries, logReply(`[{"stream":{"pod":"b"},"values":[["20","y"],["20","z"]]}]`), "missing entry"},
		{"too few", &log, &entries, logReply(`[{"stream":{"pod":"a"},"values":[["30","x"]]}]`), "1 entries, want 2"},
		{"twice", &log, &entries, logReply(`[{"stream":{"pod":"a"},"values":[["30","x"],["30","x"]]}]`), "none of the newest"},
		{"other line", &log, &entries, logReply(`[{"stream":{"pod":"a"},"values":[["30","X"]]}]`), "none of the newest"},
		{"other stream", &log, &entries, logReply(`[{"stream":{"pod":"b"},"values":[["30","x"]]}]`), "none of the newest"},
		{"right count", &count, &groups, logReply(`[{"metric":{"app":"web"},"values":[[1700000060,"3"]]}]`), ""},
		{"wrong count", &count, &groups, logReply(`[{"metric":{"app":"web"},"values":[[1700000060,"2"]]}]`), "got 2, want 3"},
		{"wrong step", &count, &groups, logReply(`[{"metric":{"app":"web"},"values":[[1700000120,"3"]]}]`), "no row"},
		{"wrong group", &count, &groups, logReply(`[{"metric":{"app":"db"},"values":[[1700000060,"3"]]}]`), "want 0"},
		{"extra label", &count, &groups, logReply(`[{"metric":{"app":"web","pod":"a"},"values":[[1700000060,"3"]]}]`), "want only"},
		{"no series", &count, &groups, logReply(`[]`), "0 series, want 1"},
		{"failed", &count, &groups, `{"status":"error"}`, "status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tr.check(c.q, c.a, []byte(c.body))
			if c.want == "" && err != nil {
				t.Errorf("the right answer is refused: %v", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
