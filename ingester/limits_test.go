package ingester

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
)

func limited(change func(*limits.Limits)) func(*rig) {
	return func(r *rig) {
		l := limits.Defaults()
		change(&l)
		r.lim = limits.Static(l)
	}
}

func (r *rig) refused(kind fault.Kind, text string, err error) {
	r.t.Helper()
	if fault.Of(err) != kind || err == nil || !strings.Contains(err.Error(), text) {
		r.t.Errorf("got %v (kind %d)\nwant kind %d with %q", err, fault.Of(err), kind, text)
	}
}

func TestStreamLimit(t *testing.T) {
	r := newRig(t, limited(func(l *limits.Limits) { l.MaxGlobalStreamsPerUser = 2 }))
	ctx := context.Background()
	r.push("t", logs("a", entry(day0, "1")), logs("b", entry(day0, "1")))
	err := r.Push(ctx, "t", []model.Stream{logs("c", entry(day0, "2")), logs("a", entry(day0, "2"))})
	want := `maximum active stream limit exceeded when trying to create stream {app="c"}, reduce the number of active streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit can be increased, user: 't'`
	if fault.Of(err) != fault.RateLimited || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	r.push("u", logs("c", entry(day0, "another tenant")))
	if diff := cmp.Diff([]string{`{app="a"} ` + fmt.Sprint(day0) + ` "1"`, `{app="a"} ` + fmt.Sprint(day0) + ` "2"`, `{app="b"} ` + fmt.Sprint(day0) + ` "1"`}, r.rows("t")); diff != "" {
		t.Errorf("the rest of the push is stored; rows differ (-want +got):\n%s", diff)
	}
	// The limit counts across a restart, and forgets streams that have gone.
	r.crash()
	r.start()
	r.refused(fault.RateLimited, "maximum active stream", r.Push(ctx, "t", []model.Stream{logs("c", entry(day0, "3"))}))
	r.expireStreams(time.Now().Add(r.cfg.StreamIdle + time.Second))
	r.push("t", logs("c", entry(day0, "4")))
}

func TestStreamLimitCountsBySharesOfTheCluster(t *testing.T) {
	share := 0.5
	r := newRig(t, limited(func(l *limits.Limits) { l.MaxGlobalStreamsPerUser = 3 }), func(r *rig) {
		r.cfg.Share = func(model.Tenant) float64 { return share }
	})
	r.push("t", logs("a", entry(day0, "1")), logs("b", entry(day0, "1")))
	c := []model.Stream{logs("c", entry(day0, "1"))}
	r.refused(fault.RateLimited, "maximum active stream", r.Push(context.Background(), "t", c))
	share = 1 // others have gone
	r.push("t", c...)
}

func TestPerStreamRateLimit(t *testing.T) {
	r := newRig(t, limited(func(l *limits.Limits) { l.PerStreamRateLimit, l.PerStreamRateLimitBurst = 3<<20, 12 }))
	err := r.Push(context.Background(), "t", []model.Stream{
		logs("x", entry(1700000000_000000000, "123456"), entry(1700000000_000000001, "1234", "k", "vv")),
		logs("y", entry(day0, "fits")),
	})
	reason := func(size string) string {
		return `Per stream rate limit exceeded (limit: 3MB/sec) while attempting to ingest for stream '{app="x"}' totaling ` + size + `, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased`
	}
	want := "entry with timestamp 2023-11-14 22:13:20 +0000 UTC ignored, reason: '" + reason("6B") + "',\n" +
		"entry with timestamp 2023-11-14 22:13:20.000000001 +0000 UTC ignored, reason: '" + reason("7B") + "',\n" +
		`user 't', total ignored: 2 out of 2 for stream: {app="x"}`
	if fault.Of(err) != fault.RateLimited || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if got := r.rows("t"); len(got) != 1 {
		t.Errorf("got %q, want the stream that fits alone", got)
	}
}

func TestWhatCannotBeStoredIsRefused(t *testing.T) {
	r := newRig(t)
	push := func(s model.Stream) error { return r.Push(context.Background(), "t", []model.Stream{s}) }
	r.refused(fault.Invalid, "line of", push(logs("a", entry(day0, string(make([]byte, maxEntryColumn+1))))))
	var many []string
	for i := range maxPairs + 1 {
		many = append(many, fmt.Sprintf("k%05d", i), "v")
	}
	r.refused(fault.Invalid, "structured metadata", push(logs("a", entry(day0, "x", many...))))
	r.refused(fault.Invalid, "labels", push(model.Stream{Labels: labels.FromStrings(many...), Entries: []model.Entry{entry(day0, "x")}}))
	big := logs("a")
	for range 5 {
		big.Entries = append(big.Entries, entry(day0, string(make([]byte, maxEntryColumn))))
	}
	r.refused(fault.TooLarge, "smaller batches", push(big))
	// The largest that is accepted also gets through to the object store.
	r.push("t", logs("a", entry(day0, string(make([]byte, maxEntryColumn)), many[:2*maxPairs]...)))
	r.must(r.Flush(context.Background()))
	if got := r.stored("t"); len(got) != 1 {
		t.Errorf("%d rows stored, want 1", len(got))
	}
}

// When nothing can be written out, memory fills to its limit and not beyond, pushes are
// refused as worth a retry, and all is well when the disk is.
func TestMemoryIsBounded(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.FreezeBytes, r.cfg.MemtableBytes = 256<<10, 4<<20 })
	r.disk.set(func(op, path string) error {
		if strings.HasSuffix(path, extTemp) {
			return syscall.ENOSPC
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	run := make(chan error, 1)
	go func() { run <- r.Run(ctx) }()
	var acked []model.Stream
	push := func(n int) error {
		s := logs(fmt.Sprint(n%50), entry(day0+int64(n), fmt.Sprint(n, strings.Repeat(" some words", 300))))
		err := r.Push(ctx, "t", []model.Stream{s})
		if err == nil {
			acked = append(acked, s)
		}
		return err
	}
	n := 0
	var err error
	for ; n < 10_000 && err == nil; n++ {
		err = push(n)
		if used := r.memory.used.Load(); used > r.cfg.MemtableBytes+lastSlabBytes*2 {
			t.Fatalf("memtables take %d bytes, limit %d", used, r.cfg.MemtableBytes)
		}
	}
	r.refused(fault.Unavailable, "out of memory for entries", err)
	r.disk.set(nil)
	r.wakeFlush()
	for deadline := time.Now().Add(30 * time.Second); push(n) != nil; n++ {
		if time.Now().After(deadline) {
			t.Fatal("pushes are still refused with a good disk")
		}
	}
	if diff := cmp.Diff(rendered(acked...), r.rows("t")); diff != "" {
		t.Errorf("rows differ (-acknowledged +got):\n%s", diff)
	}
	cancel()
	r.must(<-run)
	r.start()
	if diff := cmp.Diff(rendered(acked...), r.rows("t")); diff != "" {
		t.Errorf("after a restart: rows differ (-acknowledged +got):\n%s", diff)
	}
}

// A full disk refuses pushes before they are acknowledged, and loses nothing.
func TestDiskFull(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	full := func(op, path string) error {
		if op == "write" || op == "create" {
			return syscall.ENOSPC
		}
		return nil
	}
	first, second := logs("a", entry(day0, "before")), logs("a", entry(day0, "after"))
	r.push("t", first)
	r.disk.set(full)
	err := r.Push(ctx, "t", []model.Stream{second})
	r.refused(fault.Unavailable, "no space left", err)
	if err := r.freeze(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("freeze: got %v, want no space", err)
	}
	if diff := cmp.Diff(rendered(first), r.rows("t")); diff != "" {
		t.Errorf("full: rows differ (-want +got):\n%s", diff)
	}
	r.disk.set(nil)
	r.push("t", second)
	r.must(r.Flush(ctx))
	if diff := cmp.Diff(rendered(first, second), r.stored("t")); diff != "" {
		t.Errorf("with room again: rows differ (-want +got):\n%s", diff)
	}
}

// After a sync has failed nobody knows what the file holds, so a new one is begun.
func TestFailedSyncBeginsANewLog(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	first, lost, second := logs("a", entry(day0, "before")), logs("a", entry(day0, "refused")), logs("a", entry(day0, "after"))
	r.push("t", first)
	r.disk.set(func(op, path string) error {
		if op == "sync" && strings.HasSuffix(path, "1"+extActive) {
			return syscall.EIO
		}
		return nil
	})
	r.refused(fault.Unavailable, "out of use", r.Push(ctx, "t", []model.Stream{lost}))
	if r.Ready() == nil {
		t.Error("ready with a broken log")
	}
	if !r.freezeDue(true, time.Now()) {
		t.Error("a broken log is no reason to freeze")
	}
	r.must(r.freeze())
	r.must(r.Ready())
	r.push("t", second)
	r.crash()
	r.disk.set(nil)
	r.start()
	if diff := cmp.Diff(rendered(first, second), r.rows("t")); diff != "" {
		t.Errorf("rows differ (-want +got):\n%s", diff)
	}
}

// No room for a merge: segments are uploaded one by one, which makes room.
func TestDiskFullDuringMerge(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	var all []model.Stream
	for n := range 3 {
		s := logs("a", entry(day0+int64(n), fmt.Sprint(n)))
		all = append(all, s)
		r.push("t", s)
		r.must(r.freeze())
		r.must(r.flushFrozen(ctx))
	}
	r.disk.set(func(op, path string) error {
		if op == "write" && strings.HasSuffix(path, extMerging) {
			return syscall.ENOSPC
		}
		return nil
	})
	r.must(r.send(ctx, true))
	if diff := cmp.Diff(rendered(all...), r.stored("t")); diff != "" {
		t.Errorf("rows differ (-want +got):\n%s", diff)
	}
	if got := len(r.objects("t")); got != 3 {
		t.Errorf("got %d objects, want 3", got)
	}
}

// An upload that failed after the object was stored is repeated under the same key.
func TestRepeatedUploadReplaces(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	s := logs("a", entry(day0, "x"))
	r.push("t", s)
	r.Ingester.store = &faultyStore{Store: r.store, stores: true, fail: func(op string) error { return syscall.ECONNRESET }}
	if err := r.Flush(ctx); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want the store's error", err)
	}
	r.crash()
	r.start()
	r.must(r.send(ctx, false))
	if diff := cmp.Diff(rendered(s), r.stored("t")); diff != "" {
		t.Errorf("rows differ (-want +got):\n%s", diff)
	}
}
