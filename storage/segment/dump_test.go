package segment

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// The golden dumps show the format byte by byte, and fail when it changes.
func TestDumpGolden(t *testing.T) {
	api, db := labels.FromStrings("app", "api", "env", "prod"), labels.FromStrings("app", "db")
	level := func(s string) labels.Labels { return labels.FromStrings("detected_level", s) }
	entries := []entry{
		{api, 1700000000000000000, "GET /users/1 200 in 12ms", level("info")},
		{api, 1700000000250000000, "GET /users/2 200 in 7ms", level("info")},
		{api, 1700000000250000000, "GET /users/3 500 in 1203ms", labels.FromStrings("detected_level", "error", "trace_id", "4bf92f3577b34da6")},
		{db, 1700000000111000000, "checkpoint complete", labels.EmptyLabels()},
		{db, 1700000003111000000, "2023-11-14 22:13:23.111 UTC checkpoint 4bf92f35-77b3-4da6-a3ce-929d0e0e4736 complete", labels.EmptyLabels()},
	}
	for name, opts := range map[string]WriterOptions{
		"small.txt":      {ID: "01HF000000000000000000000A", Tenant: "fake", BlockRows: 3},
		"small-hash.txt": {ID: "01HF000000000000000000000B", Tenant: "fake", Level: 1, MergedFrom: []string{"01HF000000000000000000000A"}, RowHash: true, NoNeedles: true, Codec: CodecSnappy},
		"empty.txt":      {ID: "01HF000000000000000000000C", Tenant: "fake"},
	} {
		t.Run(name, func(t *testing.T) {
			rows := entries
			if name == "empty.txt" {
				rows = nil
			}
			var got bytes.Buffer
			if err := Dump(t.Context(), &got, &memory{data: write(t, opts, rows)}, DumpOptions{Blocks: true, Streams: true, Rows: true, Hex: true}); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("dump (-want +got), rewrite with -update when the format was meant to change:\n%s", diff)
			}
		})
	}
}
