package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/internal/testkit/s3"
)

// question is a request whose answer must not depend on where rows are.
type question struct {
	path   string
	params url.Values
}

func (q question) String() string {
	return q.path + " " + q.params.Get("query") + q.params.Get("match[]")
}

// questions about the corpus. Each has an answer that is not empty.
func (c *corpus) questions() []question {
	var qs []question
	add := func(path string, params ...string) {
		v := url.Values{"start": {strconv.FormatInt(c.start.UnixNano(), 10)}, "end": {strconv.FormatInt(c.end.UnixNano(), 10)}}
		for _, p := range params {
			name, value, _ := strings.Cut(p, "=")
			v.Set(name, value)
		}
		qs = append(qs, question{path, v})
	}
	logs := func(query string, params ...string) {
		add("/loki/api/v1/query_range", append([]string{"query=" + query}, params...)...)
	}
	metric := func(query string) {
		logs(query, "step=300")
		add("/loki/api/v1/query", "query="+query, "time="+strconv.FormatInt(c.end.UnixNano(), 10))
	}

	logs(`{app=~".+"}`, "limit=5000", "direction=forward")
	logs(`{app=~".+"}`, "limit=5000", "direction=backward")
	logs(`{app="shop"}`, "limit=7", "direction=forward")
	logs(`{app="shop"}`, "limit=7", "direction=backward")
	logs(`{env="prod"}`, "limit=1000", "direction=forward", "start="+strconv.FormatInt(c.start.Add(10*time.Minute).UnixNano()+1, 10))
	logs(`{env="prod"}`, "limit=100", "interval=60")
	logs(`{app="bank"} |= "level=error" != "status=500"`, "limit=500")
	logs(`{app=~"mail|bank"} |~ "user1[0-9]@|transfer 10[0-9]{2} "`, "limit=500", "direction=forward")
	logs(`{app="mail"} |= "connect from unknown"`, "limit=1000")
	logs(`{app="shop"} | json | status >= 400 | user_id < 10`, "limit=300")
	logs(`{app="shop"} | json | took > 900ms | line_format "{{.user_name}} {{.path}}"`, "limit=300")
	logs(`{app="bank"} | logfmt | bytes > 50KB | label_format size=bytes`, "limit=300", "direction=forward")
	logs(`{env="dev"} | trace_id="` + fmt.Sprintf("%032x", 100*100+4) + `"`)
	logs(`{app="mail"} | regexp "postfix\\[(?P<pid>\\d+)\\]" | pid="42"`)
	logs(`{app="mail"} | pattern "<_> host<host> <_>: <lvl>: to=<to>," | lvl="warn" | keep host, to`, "limit=50")
	logs(`{app=~".+"} | detected_level="error"`, "limit=900")

	metric(`sum(count_over_time({app=~".+"}[5m]))`)
	metric(`sum by (app, env) (rate({app=~".+"}[5m]))`)
	metric(`bytes_over_time({app="bank"}[10m])`)
	metric(`sum by (detected_level) (bytes_rate({app=~".+"} |= "a" [10m]))`)
	metric(`topk(2, sum by (path) (count_over_time({app="shop"} | json [10m])))`)
	metric(`sum by (status) (count_over_time({app="bank"} | logfmt | level="error" [30m])) / 3 + 1`)
	metric(`avg_over_time({app="bank"} | logfmt | unwrap bytes [10m]) by (env)`)
	metric(`quantile_over_time(0.9, {app="shop"} | json | unwrap duration(took) [10m]) by (env)`)
	metric(`max_over_time({app="bank"} | logfmt | unwrap bytes(bytes) | __error__="" [30m]) by (path)`)
	metric(`first_over_time({app="bank"} | logfmt | unwrap bytes [10m]) by (env)`)
	metric(`sum by (env) (count_over_time({app="shop"}[10m])) - sum by (env) (count_over_time({app="shop"} |= "error" [10m]))`)
	metric(`count(sum by (shard) (count_over_time({app="mail"}[30m])) > 10)`)
	metric(`absent_over_time({app="nobody"}[10m])`)

	add("/loki/api/v1/labels")
	add("/loki/api/v1/label/app/values")
	add("/loki/api/v1/series", `match[]={env="prod"}`)
	add("/loki/api/v1/index/stats", `query={app=~".+"}`)
	add("/loki/api/v1/index/volume", `query={app=~".+"}`)
	add("/loki/api/v1/index/volume_range", `query={env="dev"}`, "step=600")
	add("/loki/api/v1/patterns", `query={env="dev"}`, "step=600")
	add("/loki/api/v1/patterns", `query={app=~".+"} | detected_level="error"`, "step=60")
	return qs
}

// ask returns the answers without what they cost, and demands that each says something.
func (c *corpus) ask(s *server) map[string]string {
	s.t.Helper()
	answers := map[string]string{}
	for _, q := range c.questions() {
		answer := s.get(q.path, q.params)
		text := plain(s.t, q, answer)
		if empty(text) {
			s.t.Errorf("%s: an empty answer proves nothing: %s", q, answer)
		}
		answers[q.String()+" "+q.params.Encode()] = text
	}
	return answers
}

// plain removes statistics, byte for byte leaving the rest as it came, one element a line
// so that differences can be read.
func plain(t testing.TB, q question, answer []byte) string {
	t.Helper()
	if strings.HasSuffix(q.path, "/stats") {
		// How many blocks rows are cut in does depend on where they are.
		var stats map[string]json.Number
		if err := json.Unmarshal(answer, &stats); err != nil {
			t.Fatalf("%s: %v in %s", q, err, answer)
		}
		return fmt.Sprintf("%s streams, %s entries, %s bytes", stats["streams"], stats["entries"], stats["bytes"])
	}
	var body struct {
		Status string
		Data   json.RawMessage
	}
	if err := json.Unmarshal(answer, &body); err != nil {
		t.Fatalf("%s: %v in %s", q, err, answer)
	}
	var data struct {
		ResultType    string
		EncodingFlags []string
		Result        json.RawMessage
	}
	text := body.Data
	if bytes.HasPrefix(text, []byte("{")) {
		if err := json.Unmarshal(text, &data); err != nil {
			t.Fatalf("%s: %v in %s", q, err, answer)
		}
		text = data.Result
	}
	return data.ResultType + strings.Join(data.EncodingFlags, ",") + strings.NewReplacer("],[", "],\n[", "},{", "},\n{").Replace(string(text))
}

func empty(text string) bool {
	return strings.HasSuffix(text, "[]") || strings.HasSuffix(text, "null") || text == "" || strings.HasPrefix(text, "0 streams") || strings.Contains(text, " 0 entries")
}

// place is where the rows are in one station of the test.
type place struct{ objects, local int }

// segments counts segment files in the object store's folder and in the data directory.
func segments(t testing.TB, s *server, objects string) place {
	t.Helper()
	count := func(dir string) int {
		n := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && filepath.Ext(path) == ".seg" {
				n++
			}
			return nil // files come and go
		})
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return n
	}
	return place{objects: count(objects), local: count(s.dir)}
}

// TestSameAnswersEverywhere takes one corpus from memory to local segments, to the object
// store, through restarts and the loss of the local disk, with a folder and with a real S3
// server as the store, and asks the same questions at every station.
func TestSameAnswersEverywhere(t *testing.T) {
	c := newCorpus()
	objects := tempDir(t, "objects")
	want := memoryAndSegments(t, c, objects)
	t.Run("file", func(t *testing.T) {
		stations(t, c, want, objects, "file://"+objects)
	})
	t.Run("s3", func(t *testing.T) {
		store := s3.Start(t)
		bucket := store.Bucket(t, "logs", "skald")
		stations(t, c, want, filepath.Join(store.Dir, "logs"), bucket)
	})
}

// calm keeps rows where they are until the test moves them.
var calm = []string{
	"-ingester.freeze-age=24h", "-ingester.upload-age=24h", "-ingester.upload-segments=1000",
	"-catalog.ttl=100ms", "-ingester.keep-after-upload=1s",
}

// memoryAndSegments asks with the rows in memory, then in local segments.
func memoryAndSegments(t *testing.T, c *corpus, objects string) map[string]string {
	t.Helper()
	s := startServer(t, append(append([]string{"-storage.url=file://" + objects}, calm...), roomy...)...)
	c.push(s)
	if n, err := s.count(`sum(count_over_time({app=~".+"}[2h]))`, c.end); err != nil || n != c.rows-c.repeated() {
		t.Fatalf("%d rows, %v, want %d", n, err, c.rows-c.repeated())
	}
	want := c.ask(s)
	if p := segments(t, s, objects); p.local+p.objects > 0 {
		t.Fatalf("rows were to be in memory alone, but there are segments: %+v", p)
	}
	s.kill()
	s.start()
	compare(t, "memory, replayed after kill -9", want, c.ask(s))
	s.stop()
	s.args = append(s.args, "-ingester.freeze-age=200ms") // the last one counts
	s.start()
	eventually(t, "rows in local segments", func() bool {
		return segments(t, s, objects).local > 0 && s.metric("skald_ingester_memtable_bytes", "") == 0
	})
	compare(t, "local segments", want, c.ask(s))
	if p := segments(t, s, objects); p.objects > 0 {
		t.Fatalf("rows were to be in local segments, but there are objects: %+v", p)
	}
	s.stop()
	return want
}

// stations asks with the rows in the object store, after restarts, with an empty disk, and
// with everything pushed once more.
func stations(t *testing.T, c *corpus, want map[string]string, objects, storageURL string) {
	s := startServer(t, append(append([]string{"-storage.url=" + storageURL}, calm...), roomy...)...)
	c.push(s)
	s.flush()
	compare(t, "after a flush", want, c.ask(s))
	if segments(t, s, objects).objects == 0 {
		t.Fatal("a flush made no object")
	}
	s.stop()
	s.start()
	compare(t, "after a restart", want, c.ask(s))
	s.kill()
	s.start()
	compare(t, "after kill -9", want, c.ask(s))
	s.stop()

	s.dir += "-new"
	s.start()
	if p := segments(t, s, objects); p.local > 0 {
		t.Fatalf("the new disk was to be empty: %+v", p)
	}
	compare(t, "with an empty disk", want, c.ask(s))

	// The same rows again, in memory and in the store: a stream is a set.
	c.push(s)
	compare(t, "after every row came twice", want, c.ask(s))
	s.flush()
	compare(t, "after a flush of the second copy", want, c.ask(s))
	s.stop()
}

func compare(t testing.TB, where string, want, got map[string]string) {
	t.Helper()
	for q, w := range want {
		if got[q] != w {
			diff := cmp.Diff(strings.Split(w, "\n"), strings.Split(got[q], "\n"))
			t.Errorf("%s: another answer than from memory to %s (-memory +now):\n%s", where, q, firstLines(diff, 40))
		}
	}
}

// repeated is how many rows the corpus holds twice; a stream is a set.
func (c *corpus) repeated() int {
	n := 0
	for _, s := range c.streams {
		seen := map[string]bool{}
		for _, e := range s.Values {
			key := fmt.Sprint(e.ts, e.line, e.meta)
			if seen[key] {
				n++
			}
			seen[key] = true
		}
	}
	return n
}
