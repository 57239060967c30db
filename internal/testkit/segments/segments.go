// Package segments puts segments of given rows into a store, for tests of what reads and
// merges them.
package segments

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// Row is one row of one stream.
type Row struct {
	Stream   labels.Labels
	Time     int64
	Line     []byte
	Metadata labels.Labels
}

// Put uploads a segment of rows of one day, which come in any order. Its blocks are small, so
// that a few rows make several.
func Put(t testing.TB, store object.Store, tenant model.Tenant, level int, id string, rows []Row, mergedFrom ...catalog.Ref) catalog.Ref {
	t.Helper()
	opts := segment.WriterOptions{ID: id, Tenant: tenant, Level: level, BlockBytes: 200, RowHash: true}
	for _, ref := range mergedFrom {
		opts.MergedFrom = append(opts.MergedFrom, ref.ID)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(labels.Compare(a.Stream, b.Stream), cmp.Compare(a.Time, b.Time))
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	w := segment.NewWriter(&buf, opts)
	for _, r := range rows {
		must(w.Append(r.Stream, r.Stream.Hash(), r.Time, r.Line, r.Metadata))
	}
	info, err := w.Close()
	must(err)
	key := catalog.KeyFor(tenant, catalog.DayOf(info.MinTime), level, info.MinTime, info.MaxTime, id, info.IDs)
	must(store.Put(context.Background(), key, bytes.NewReader(buf.Bytes()), int64(buf.Len())))
	ref, err := catalog.ParseKey(key)
	must(err)
	ref.Size = info.Size
	return ref
}
