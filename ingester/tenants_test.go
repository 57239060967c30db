package ingester

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/internal/model"
)

// A file for each of many small tenants takes no descriptor for each, and every tenant keeps
// what is its own.
func TestManySmallTenants(t *testing.T) {
	const tenants = 300
	r := newRig(t)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc to count descriptors in")
		}
		return len(entries)
	}
	before := open()
	stream := func(n int) model.Stream { return logs("a", entry(day0, fmt.Sprint("of tenant ", n))) }
	for n := range tenants {
		r.push(model.Tenant(fmt.Sprint("tenant-", n)), stream(n))
	}
	r.must(r.freeze())
	r.must(r.flushFrozen(context.Background()))
	if more := open() - before; more > tenants/10 {
		t.Errorf("%d segments take %d descriptors", tenants, more)
	}
	if held := r.small.Load(); held == 0 || held > tenants*2000 {
		t.Errorf("%d bytes of small segments are in memory", held)
	}
	for n := range tenants {
		if diff := cmp.Diff(rendered(stream(n)), r.rows(model.Tenant(fmt.Sprint("tenant-", n)))); diff != "" {
			t.Fatalf("tenant %d: rows differ (-want +got):\n%s", n, diff)
		}
	}
	r.Ingester.cfg.KeepAfterUpload = 0
	r.must(r.Flush(context.Background()))
	r.must(r.send(context.Background(), true))
	if held := r.small.Load(); held != 0 {
		t.Errorf("%d bytes of small segments are still in memory", held)
	}
}
