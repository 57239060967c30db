package integration

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
)

// TestBadInput sends what no client should: each gets its status and a text that helps, the
// good entries of the same push are stored, and the process lives on within its memory.
func TestBadInput(t *testing.T) {
	s := startServer(t, "-auth.enabled", "-distributor.max-decompressed-bytes=33554432",
		// Roomy in rates alone: the other limits are what this test is about.
		"-limits.ingestion_rate_mb=4096", "-limits.ingestion_burst_size_mb=4096")
	t.Run("requests", func(t *testing.T) { badRequests(t, s) })
	t.Run("queries", func(t *testing.T) { badQueries(t, s) })
	t.Run("entries", func(t *testing.T) { badEntries(t, s) })
	t.Run("all at once", func(t *testing.T) { badCrowd(t, s) })
	if !s.alive() {
		t.Fatal("the server died")
	}
	// The default memtable and push budgets allow about 400 MB; a server that believed any
	// of the sizes above would need gigabytes.
	bound := int64(1 << 30)
	if raceDetector {
		bound *= 4 // the detector keeps shadows of all memory
	}
	now, peak, _ := s.memory()
	t.Logf("resident: %d MB, at most %d MB", now>>20, peak>>20)
	if peak > bound {
		t.Errorf("the server needed %d MB, want at most %d", peak>>20, bound>>20)
	}
	s.stop()
}

// bad is a request that must fail.
type bad struct {
	name, method, path string
	header             http.Header
	body               []byte
	status             int
	text               string // in the answer
}

func (b bad) send(s *server) error {
	header := http.Header{"X-Scope-Orgid": {"alpha"}}
	for k, v := range b.header {
		header[http.CanonicalHeaderKey(k)] = v
	}
	status, answer, err := s.do(b.method, b.path, header, b.body)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", b.name, err)
	case status != b.status || !strings.Contains(string(answer), b.text):
		return fmt.Errorf("%s: got %d %.300q, want %d and a text with %q", b.name, status, answer, b.status, b.text)
	}
	return nil
}

const pushPath = "/loki/api/v1/push"

var protobufHeader = http.Header{"Content-Type": {"application/x-protobuf"}}

func requests(t testing.TB) []bad {
	post := func(name string, header http.Header, body string, status int, text string) bad {
		return bad{name, http.MethodPost, pushPath, header, []byte(body), status, text}
	}
	giant := binary.AppendUvarint(nil, 1<<32-1)
	gzipped := http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}
	tenant := func(ids ...string) http.Header {
		return http.Header{"X-Scope-Orgid": ids, "Content-Type": {"application/json"}}
	}
	good := fmt.Sprintf(`{"streams":[{"stream":{"app":"x"},"values":[["%d","x"]]}]}`, time.Now().UnixNano())
	return []bad{
		post("no JSON", jsonHeader, "hello", 400, ""),
		post("half a JSON", jsonHeader, `{"streams":[{"stream":{"app":"x"},"values":[["1`, 400, ""),
		post("deep JSON", jsonHeader, `{"streams":`+strings.Repeat("[", 1<<20), 400, ""),
		post("empty body", jsonHeader, "", 400, "EOF"),
		post("no streams", jsonHeader, `{"streams":[]}`, 422, "at least one valid stream"),
		post("timestamp without quotes", jsonHeader, `{"streams":[{"stream":{"app":"x"},"values":[[1,"x"]]}]}`, 400, ""),
		post("no snappy", protobufHeader, "\x05hello world", 400, "snappy"),
		post("no protobuf", protobufHeader, string(snappy.Encode(nil, []byte("\xff\xff\xff\xffhello"))), 400, ""),
		post("protobuf that promises 2 GB", protobufHeader, string(snappy.Encode(nil, []byte("\x0a\xff\xff\xff\xff\x07x"))), 400, ""),
		post("snappy that promises 4 GB", protobufHeader, string(giant)+"xxxx", 400, "too large"),
		post("no gzip", gzipped, "hello", 400, ""),
		post("gzip bomb", gzipped, string(bomb(t, 128<<20)), 400, "too large"),
		post("unknown encoding", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"br"}}, "hello", 400, "br"),
		post("no tenant", tenant(), good, 401, "no org id"),
		post("empty tenant", tenant(""), good, 401, "no org id"),
		post("tenant with a path", tenant("../../etc"), good, 400, ""),
		post("tenant is a dot", tenant(".."), good, 400, ""),
		post("long tenant", tenant(strings.Repeat("x", 151)), good, 400, ""),
		post("two tenants", tenant("a|b"), good, 400, "multiple org IDs"),
		{"unknown path", http.MethodGet, "/loki/api/v1/nothing", nil, nil, 404, ""},
		{"GET of push", http.MethodGet, pushPath, nil, nil, 405, ""},
		{"DELETE of query", http.MethodDelete, "/loki/api/v1/query_range", nil, nil, 405, ""},
		{"PUT of push", http.MethodPut, pushPath, nil, []byte("x"), 405, ""},
	}
}

// bomb is a small body that unpacks to so many bytes.
func bomb(t testing.TB, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	spaces := bytes.Repeat([]byte(" "), 1<<20)
	for range size / len(spaces) {
		if _, err := w.Write(spaces); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func badRequests(t *testing.T, s *server) {
	for _, b := range requests(t) {
		if err := b.send(s); err != nil {
			t.Error(err)
		}
	}
}

func queries() []bad {
	get := func(name, path string, status int, text string, params ...string) bad {
		v := url.Values{}
		for _, p := range params {
			name, value, _ := strings.Cut(p, "=")
			v.Add(name, value)
		}
		return bad{name, http.MethodGet, path + "?" + v.Encode(), nil, nil, status, text}
	}
	query := func(name, query, text string, params ...string) bad {
		return get(name, "/loki/api/v1/query_range", 400, text, append(params, "query="+query)...)
	}
	return []bad{
		query("no query", "", "parse error"),
		query("garbage", "\xff\x00{}{}|||", "parse error"),
		query("half a selector", `{app="x"`, "parse error"),
		query("half a pipeline", `{app="x"} |`, "parse error"),
		query("no matcher", `{}`, "matcher"),
		query("matcher that matches all", `{app=~".*"}`, "matcher"),
		query("bad regexp", `{app="x"} |~ "("`, "missing closing"),
		query("unknown function", `wrong_over_time({app="x"}[5m])`, "parse error"),
		query("very deep", strings.Repeat("(", 3000)+`sum(rate({app="x"}[1m]))`+strings.Repeat(")", 3000), ""),
		query("very long", `{app="x"} |= "`+strings.Repeat("x", 200<<10)+`"`, ""),
		query("huge limit", `{app="x"}`, "max entries limit", "limit=100000000"),
		query("limit is no number", `{app="x"}`, "invalid syntax", "limit=many"),
		query("bad direction", `{app="x"}`, "direction", "direction=sideways"),
		query("bad time", `{app="x"}`, "", "start=yesterday"),
		query("end before start", `{app="x"}`, "end timestamp must not be before", "start=2000", "end=1000"),
		query("eleven thousand points", `count_over_time({app="x"}[1m])`, "exceeded maximum resolution", "start=1000000000", "end=1000100000", "step=1"),
		query("negative step", `count_over_time({app="x"}[1m])`, "", "step=-1"),
		get("bad matcher in series", "/loki/api/v1/series", 400, "parse error", "match[]={app="),
		get("stats without query", "/loki/api/v1/index/stats", 400, ""),
		get("tail without websocket", "/loki/api/v1/tail", 400, "parse error", "query={app="),
	}
}

func badQueries(t *testing.T, s *server) {
	for _, b := range queries() {
		if err := b.send(s); err != nil {
			t.Error(err)
		}
	}
}

// badEntries pushes bad entries, each between two good ones.
func badEntries(t *testing.T, s *server) {
	now := time.Now()
	labels := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("l%02d", i)] = "x"
		}
		return m
	}
	at := func(d time.Duration, line string) []pushEntry {
		return []pushEntry{{ts: now.Add(d).UnixNano(), line: line}}
	}
	metadata := func(pairs, size int) []pushEntry {
		e := at(0, "x")[0]
		e.meta = map[string]string{}
		for i := range pairs {
			e.meta[fmt.Sprintf("m%03d", i)] = strings.Repeat("x", size)
		}
		return []pushEntry{e}
	}
	one := map[string]string{"app": "refused"}
	for _, c := range []struct {
		name   string
		stream pushStream
		text   string
	}{
		{"line of 300 KB", pushStream{one, at(0, strings.Repeat("x", 300<<10))}, "max entry size"},
		{"in an hour", pushStream{one, at(time.Hour, "x")}, "timestamp too new"},
		{"a month ago", pushStream{one, at(-30*24*time.Hour, "x")}, "timestamp too old"},
		{"16 labels", pushStream{labels(16), at(0, "x")}, "16 label names"},
		{"long label name", pushStream{map[string]string{strings.Repeat("x", 2000): "x"}, at(0, "x")}, "label name too long"},
		{"long label value", pushStream{map[string]string{"app": strings.Repeat("x", 3000)}, at(0, "x")}, "label value too long"},
		{"200 pairs of metadata", pushStream{one, metadata(200, 1)}, "structured metadata"},
		{"100 KB of metadata", pushStream{one, metadata(2, 50<<10)}, "structured metadata"},
	} {
		before := pushStream{map[string]string{"app": "good", "case": c.name, "n": "1"}, at(-time.Second, "before")}
		after := pushStream{map[string]string{"app": "good", "case": c.name, "n": "2"}, at(-time.Second, "after")}
		body := bad{name: c.name, method: http.MethodPost, path: pushPath, header: jsonHeader, status: 400, text: c.text,
			body: encode(t, before, c.stream, after)}
		if err := body.send(s); err != nil {
			t.Error(err)
		}
		if n := goodOnes(t, s, c.name); n != 2 {
			t.Errorf("%s: %d of the 2 good entries of the same push are stored", c.name, n)
		}
	}
	// Labels that cannot be read fail the whole push, as in Loki.
	garbage := pushStream{map[string]string{"bad-name": "x"}, at(0, "x")}
	b := bad{"bad label name", http.MethodPost, pushPath, jsonHeader, encode(t, pushStream{one, at(0, "x")}, garbage), 400, "couldn't parse labels"}
	if err := b.send(s); err != nil {
		t.Error(err)
	}
	if n := entries(t, s, `{app="refused"}`); n > 0 {
		t.Errorf("%d entries that were refused are stored", n)
	}
}

func encode(t testing.TB, streams ...pushStream) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{"streams": streams})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func goodOnes(t testing.TB, s *server, name string) int {
	return entries(t, s, fmt.Sprintf("{app=\"good\", case=%q}", name))
}

// entries counts a selector's entries of the last hours as tenant alpha.
func entries(t testing.TB, s *server, selector string) int {
	t.Helper()
	params := url.Values{"query": {"sum(count_over_time(" + selector + "[2h]))"}, "time": {strconv.FormatInt(time.Now().Add(time.Minute).UnixNano(), 10)}}
	status, answer, err := s.do(http.MethodGet, "/loki/api/v1/query?"+params.Encode(), http.Header{"X-Scope-Orgid": {"alpha"}}, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d %s %v", selector, status, answer, err)
	}
	var body struct{ Data struct{ Result []sample } }
	if err := json.Unmarshal(answer, &body); err != nil {
		t.Fatal(err)
	}
	if len(body.Data.Result) == 0 {
		return 0
	}
	n, err := body.Data.Result[0].int()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// badCrowd sends all of it from several clients at once.
func badCrowd(t *testing.T, s *server) {
	all := append(requests(t), queries()...)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, b := range all {
				// What does not fit the memory for pushes now is told to come again.
				if err := b.send(s); err != nil && !strings.Contains(err.Error(), "got 503") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
