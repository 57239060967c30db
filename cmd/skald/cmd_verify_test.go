package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/testkit/segments"
	"github.com/skaldlog/skald/storage/object"
)

// A key that says something else than its segment would hide rows; in a bucket it is damage.
func TestVerifyComparesKeys(t *testing.T) {
	dir := t.TempDir()
	store, err := object.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	row := segments.Row{Stream: labels.FromStrings("app", "shop"), Time: time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC).UnixNano(), Line: []byte("line one")}
	ref := segments.Put(t, store, "fake", 1, "01JDF5X4Q0000000000000000A", []segments.Row{row})
	verify := func() (string, error) {
		var out bytes.Buffer
		err := runVerify(t.Context(), stdio{out: &out, err: &out}, []string{"file://" + dir})
		return out.String(), err
	}
	if out, err := verify(); err != nil || !strings.Contains(out, "1 segments, 1 rows") {
		t.Fatalf("%s: %v", out, err)
	}
	path := filepath.Join(dir, filepath.FromSlash(string(ref.Key)))
	at := strings.LastIndexByte(path, '-')
	if err := os.Rename(path, path[:at]+".seg"); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err == nil || !strings.Contains(out, "DAMAGED segment fake/2026-01-15/") || !strings.Contains(out, "its ids lie in 1 pages") {
		t.Errorf("%s: %v", out, err)
	}
}
