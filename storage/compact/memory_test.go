package compact

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// mergeMemory is what a compaction may hold, however large its inputs are.
const mergeMemory = 64 << 20

// A merge of sixteen uploads stays below the bound, whether they are small or large, and also
// when they all have a hundred thousand streams.
func TestMergeMemory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // so that what is live is seen often
	sizes := []int64{8 << 20, 32 << 20}
	streams := 20_000
	switch {
	case os.Getenv("SKALD_FULL") == "1":
		sizes, streams = append(sizes, 128<<20, 512<<20), 100_000
	case testing.Short():
		sizes = sizes[:1]
	}
	for _, raw := range sizes {
		t.Run(fmt.Sprintf("%d MiB", raw>>20), func(t *testing.T) {
			store, err := object.NewFS(t.TempDir())
			must(t, err)
			benchUploads(t, store, raw)
			compactWithin(t, store)
		})
	}
	t.Run(fmt.Sprintf("%d streams", streams), func(t *testing.T) {
		store, err := object.NewFS(t.TempDir())
		must(t, err)
		streamUploads(t, store, streams)
		compactWithin(t, store)
	})
}

func compactWithin(t *testing.T, store object.Store) {
	t.Helper()
	c := New(Config{Dir: t.TempDir()}, store, nil, limits.Static(limits.Defaults()), nil, nil, nil, nil)
	stop := watchMemory()
	sum, err := c.Once(t.Context(), Filter{Full: true}, nil)
	must(t, err)
	_, live := stop()
	t.Logf("%s: %.1f MiB live", sum, float64(live)/(1<<20))
	if sum.SegmentsIn < 16 || live > mergeMemory {
		t.Errorf("%d segments merged with %d bytes live, want 16 and at most %d", sum.SegmentsIn, live, mergeMemory)
	}
}

// streamUploads writes sixteen segments of neighboring times with a row of every stream.
func streamUploads(t testing.TB, store object.Store, streams int) {
	day := time.Date(2025, 11, 3, 0, 0, 0, 0, time.UTC)
	for n := range 16 {
		var buf bytes.Buffer
		w := segment.NewWriter(&buf, segment.WriterOptions{Tenant: "t", Level: 1})
		ts := day.Add(time.Duration(n) * time.Hour).UnixNano()
		for i := range streams {
			ls := labels.FromStrings("app", "checkout", "cluster", "eu-west-1", "env", "prod", "namespace", "shop", "pod", fmt.Sprintf("checkout-%06d-%05x", i, uint32(i)*2654435761>>12))
			must(t, w.Append(ls, ls.Hash(), ts+int64(i), fmt.Appendf(nil, "request served n=%d status=200", i), labels.EmptyLabels()))
		}
		info, err := w.Close()
		must(t, err)
		key := catalog.KeyFor("t", catalog.DayOf(info.MinTime), 1, info.MinTime, info.MaxTime, info.ID, info.IDs)
		must(t, store.Put(t.Context(), key, bytes.NewReader(buf.Bytes()), info.Size))
	}
}
