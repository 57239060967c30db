package corpus

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

func small() Config {
	return Config{Seed: 7, Bytes: 4 << 20, Streams: 50, Start: time.Unix(1_700_000_000, 0), Span: time.Hour}
}

// each calls do for all entries of a corpus and returns the number of line bytes.
func each(cfg Config, do func(lbs labels.Labels, e *model.Entry)) (total int64) {
	var b Batch
	for c := New(cfg); c.Next(&b, 64<<10); {
		total += b.Bytes
		for _, s := range b.Streams {
			for i := range s.Entries {
				do(s.Labels, &s.Entries[i])
			}
		}
	}
	return total
}

func TestSameConfigGivesSameBytes(t *testing.T) {
	sum := func() (uint64, int) {
		h, n := fnv.New64a(), 0
		each(small(), func(lbs labels.Labels, e *model.Entry) {
			_, _ = h.Write([]byte(lbs.String()))
			_, _ = h.Write(e.Line)
			_, _ = h.Write([]byte(e.Metadata.String()))
			n++
		})
		return h.Sum64(), n
	}
	a, n := sum()
	b, _ := sum()
	if a != b {
		t.Error("two runs with one seed differ")
	}
	if n < 10_000 {
		t.Errorf("only %d lines", n)
	}
}

func TestNeedlesAreAsPlantedAndSizeIsAsAsked(t *testing.T) {
	cfg := small()
	counts := make([]int, len(Needles))
	last := map[string]int64{}
	total := each(cfg, func(lbs labels.Labels, e *model.Entry) {
		if pod := lbs.Get("pod"); e.Timestamp < last[pod] {
			t.Fatalf("stream %s goes back in time", lbs)
		} else {
			last[pod] = e.Timestamp
		}
		if bytes.Contains(e.Line, []byte(Absent)) || e.Metadata.Get("trace_id") == Absent {
			t.Errorf("the absent id is in %q", e.Line)
		}
		for i, n := range Needles {
			held := bytes.Contains(e.Line, []byte(n.Text))
			if n.Metadata {
				held = e.Metadata.Get("trace_id") == n.Text
			}
			if held {
				counts[i]++
				if n.App != "" && lbs.Get("app") != n.App {
					t.Errorf("needle %s in %s", n.Name, lbs)
				}
			}
		}
	})
	for i, n := range Needles {
		if counts[i] != n.Entries {
			t.Errorf("needle %s: %d entries, want %d", n.Name, counts[i], n.Entries)
		}
	}
	if ratio := float64(total) / float64(cfg.Bytes); ratio < 0.9 || ratio > 1.1 {
		t.Errorf("got %.2f of the wanted bytes", ratio)
	}
}

// Planted texts must not break the formats that queries parse.
func TestJSONLinesAreJSON(t *testing.T) {
	seen := 0
	each(small(), func(lbs labels.Labels, e *model.Entry) {
		switch lbs.Get("app") {
		case "checkout", "search", "payments", "auth":
			seen++
			if !json.Valid(e.Line) {
				t.Errorf("%s: %s", lbs.Get("app"), e.Line)
			}
		}
	})
	if seen == 0 {
		t.Error("no JSON line")
	}
}

// The corpus must stay as compressible as real logs: stores are compared by size.
func TestLinesCompressLikeLogs(t *testing.T) {
	cfg := small()
	cfg.Bytes, cfg.Streams = 16<<20, 36
	streams := map[string][]byte{}
	apps := map[string]string{}
	total := each(cfg, func(lbs labels.Labels, e *model.Entry) {
		pod := lbs.Get("pod")
		apps[pod] = lbs.Get("app")
		streams[pod] = append(append(streams[pod], e.Line...), '\n')
	})
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	packed := 0
	raw, small := map[string]int{}, map[string]int{}
	for pod, lines := range streams {
		n := len(enc.EncodeAll(lines, nil))
		packed += n
		raw[apps[pod]] += len(lines)
		small[apps[pod]] += n
	}
	for app := range raw {
		t.Logf("%-10s raw/%.2f", app, float64(raw[app])/float64(small[app]))
	}
	if ratio := float64(total) / float64(packed); ratio < 5.5 || ratio > 7.5 {
		t.Errorf("raw/%.2f, want about raw/6.4", ratio)
	}
}

func BenchmarkNext(b *testing.B) {
	cfg := small()
	cfg.Bytes = 1 << 34
	c := New(cfg)
	var total int64
	var batch Batch
	for b.Loop() {
		_ = c.Next(&batch, 1<<20)
		total += batch.Bytes
	}
	b.SetBytes(total / int64(b.N))
}
