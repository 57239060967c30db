package ingester

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/internal/model"
)

// One batch is followed through every place that it can be in, and across restarts.
func TestSameRowsEverywhere(t *testing.T) {
	r := newRig(t)
	batch := []model.Stream{
		logs("b", entry(day0+9, "late"), entry(day0+3, "early", "detected_level", "info"), entry(day0+3, "early", "detected_level", "warn")),
		logs("a", entry(day0-1, "yesterday"), entry(day0+3, "early"), entry(day0+9, "late"), entry(day0+9, "late")),
	}
	want := rendered(batch...)
	check := func(where string) {
		t.Helper()
		if diff := cmp.Diff(want, r.rows("t")); diff != "" {
			t.Fatalf("%s: rows differ (-want +got):\n%s", where, diff)
		}
		if got := r.rows("other"); len(got) != 0 {
			t.Fatalf("%s: another tenant sees %q", where, got)
		}
	}
	r.push("t", batch...)
	check("memtable")
	r.crash()
	r.start()
	check("replayed")
	r.must(r.freeze())
	check("frozen")
	r.must(r.flushFrozen(context.Background()))
	check("local segments")
	r.crash()
	r.start()
	check("local segments after a crash")
	r.must(r.Flush(context.Background()))
	check("uploaded, still local")
	if diff := cmp.Diff(want, r.stored("t")); diff != "" {
		t.Fatalf("object store: rows differ (-want +got):\n%s", diff)
	}
	r.must(r.Close())
	r.start()
	check("uploaded, after a restart")
}
