package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	s3kit "github.com/skaldlog/skald/internal/testkit/s3"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

// The whole way over a real S3 server: a merge while the listing is cached, the cache on
// disk across a restart, and a segment that is not what it was.
func TestS3(t *testing.T) {
	server := s3kit.Start(t)
	bucket, err := object.Open(t.Context(), server.Bucket(t, "logs", "skald"), object.Options{})
	must(t, err)
	store, err := object.NewFaulty(t.Context(), bucket)
	must(t, err)
	w := &world{t: t, store: store}
	rows := someRows(300, day1.From, day1.Through)
	a, b := w.put("t", 0, rows[:150]), w.put("t", 0, rows[150:])

	cacheCfg := object.CacheConfig{MemoryBytes: 1 << 20, Dir: t.TempDir(), DiskBytes: 1 << 20}
	newReader := func() *Reader {
		cached, err := Cached(bucket, cacheCfg, nil, nil)
		must(t, err)
		if _, ok := cached.(*object.Cache); !ok {
			t.Fatal("S3 is not cached")
		}
		return NewReader(cached, catalog.New(cached, catalog.Config{TTL: time.Hour, MaxRefs: 100}, nil, nil), Config{}, nil, nil)
	}
	r := newReader()
	expect := func(what string, r *Reader, fetches bool) {
		t.Helper()
		req := request(day1)
		got, err := read(t.Context(), r, "t", req)
		must(t, err)
		equal(t, what, got, want(rows, day1))
		if n := req.Stats.FetchRequests.Load(); (n > 0) != fetches {
			t.Errorf("%s: %d requests", what, n)
		}
	}
	expect("cold", r, true)
	expect("warm", r, false)
	expect("after a restart", newReader(), false)

	merged := w.put("t", 1, rows, a, b)
	w.delete(a, b)
	expect("merged since, answered from the cache", r, false)
	r.catalog.Invalidate("t", a.Day)
	expect("merged since, listed anew", r, true)

	path := filepath.Join(server.Dir, "logs", "skald", filepath.FromSlash(string(merged.Key)))
	must(t, os.Truncate(path, merged.Size/2))
	if _, err := read(t.Context(), NewReader(bucket, catalog.New(bucket, catalog.Config{}, nil, nil), Config{}, nil, nil), "t", request(day1)); err == nil {
		t.Error("half an object answers a query")
	}
}
