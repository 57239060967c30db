package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flag"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/conf"
	"github.com/skaldlog/skald/internal/conformance"
	"github.com/skaldlog/skald/internal/model"
)

// TestConformance runs the whole public set over HTTP against a server of its own: first
// with the corpus in memory, then with all of it in the object store, then compacted.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	url := startNode(t, "-data.dir="+dir, "-limits.reject_old_samples=false", "-limits.ingestion_rate_mb=64", "-limits.ingestion_burst_size_mb=64",
		"-limits.per_stream_rate_limit=64MB", "-limits.per_stream_rate_limit_burst=64MB", "-ingester.freeze-age=1h")
	pushCorpus(t, url)
	cases, err := conformance.Cases()
	if err != nil {
		t.Fatal(err)
	}
	// Pushes come last: some of them store entries that others would see.
	slices.SortStableFunc(cases, func(a, b conformance.Case) int { return rank(a) - rank(b) })
	t.Run("memory", func(t *testing.T) { runCases(t, url, cases, func(c conformance.Case) bool { return rank(c) > 0 }) })
	if code, body := request(t, http.MethodPost, url+"/flush", nil, nil); code != http.StatusNoContent {
		t.Fatalf("flush: %d %s", code, body)
	}
	t.Run("store", func(t *testing.T) { runCases(t, url, cases, func(c conformance.Case) bool { return rank(c) > 0 }) })
	if code := run(t.Context(), stdio{out: io.Discard, err: t.Output()}, []string{"compact", "-full", filepath.Join(dir, "objects")}); code != 0 {
		t.Fatalf("compact: exit status %d", code)
	}
	t.Run("compacted", func(t *testing.T) { runCases(t, url, cases, func(conformance.Case) bool { return false }) })
}

func rank(c conformance.Case) int {
	if c.Category == "errors_push" {
		return 1
	}
	return 0
}

// excluded cases, each with the reason that a maintainer of the reference would accept.
var excluded = map[string]string{}

func runCases(t *testing.T, base string, cases []conformance.Case, skip func(conformance.Case) bool) {
	t.Helper()
	passed, total := map[string]int{}, map[string]int{}
	for _, c := range cases {
		if c.Quirk() || skip(c) || excluded[c.ID] != "" {
			continue
		}
		total[c.Category]++
		code, body := ask(t, base, c)
		if err := c.Check(code, body); err != nil {
			t.Errorf("%s (%s): %v\nquery: %s", c.ID, c.Description, err, c.Param("query"))
			continue
		}
		passed[c.Category]++
	}
	for _, category := range sortedKeys(total) {
		t.Logf("%-28s %3d / %3d", category, passed[category], total[category])
	}
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ask sends a case's request as the set says.
func ask(t *testing.T, base string, c conformance.Case) (int, []byte) {
	t.Helper()
	values := url.Values{}
	for k, v := range c.Params {
		values[k] = v
	}
	header := http.Header{}
	target := base + c.Path
	var body io.Reader
	switch {
	case c.Body != nil:
		body = strings.NewReader(*c.Body)
	case c.Method == http.MethodPost:
		body = strings.NewReader(values.Encode())
		header.Set("Content-Type", "application/x-www-form-urlencoded")
		values = nil
	}
	if len(values) > 0 {
		target += "?" + values.Encode()
	}
	for k, v := range c.Headers {
		header.Set(k, v)
	}
	return request(t, c.Method, target, header, body)
}

func request(t *testing.T, method, target string, header http.Header, body io.Reader) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, text
}

// pushCorpus sends the corpus as JSON in requests of about a megabyte.
func pushCorpus(t *testing.T, base string) {
	t.Helper()
	streams, err := conformance.Corpus()
	if err != nil {
		t.Fatal(err)
	}
	for len(streams) > 0 {
		n, size := 0, 0
		for n < len(streams) && size < 1<<20 {
			for _, e := range streams[n].Entries {
				size += len(e.Line) + 100
			}
			n++
		}
		header := http.Header{"Content-Type": {"application/json"}}
		if code, body := request(t, http.MethodPost, base+"/loki/api/v1/push", header, bytes.NewReader(pushJSON(t, streams[:n]))); code != http.StatusNoContent {
			t.Fatalf("push: %d %s", code, body)
		}
		streams = streams[n:]
	}
}

func pushJSON(t *testing.T, streams []model.Stream) []byte {
	t.Helper()
	type streamJSON struct {
		Stream labels.Labels `json:"stream"`
		Values [][]any       `json:"values"`
	}
	var body struct {
		Streams []streamJSON `json:"streams"`
	}
	for _, s := range streams {
		js := streamJSON{Stream: s.Labels}
		for _, e := range s.Entries {
			v := []any{fmt.Sprint(e.Timestamp), string(e.Line)}
			if !e.Metadata.IsEmpty() {
				v = append(v, e.Metadata)
			}
			js.Values = append(js.Values, v)
		}
		body.Streams = append(body.Streams, js)
	}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// startNode runs a server in this process until the test ends, and returns its URL.
func startNode(t *testing.T, args ...string) string {
	t.Helper()
	return "http://" + testNode(t, args...).http.Addr().String()
}

// testNode is a running server.
func testNode(t *testing.T, args ...string) *node {
	t.Helper()
	var cfg serverConfig
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	cfg.register(fs)
	args = append([]string{"-http.listen=127.0.0.1:0", "-grpc.listen=127.0.0.1:0"}, args...)
	if _, err := conf.Parse(fs, args, conf.Source{}); err != nil {
		t.Fatal(err)
	}
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n, err := newNode(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.run(ctx) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return n
}
