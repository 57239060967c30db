package corpus

import (
	"bytes"
	"hash/fnv"
	"testing"
	"time"
)

func small() Config {
	return Config{Seed: 7, Bytes: 4 << 20, Streams: 50, Start: time.Unix(1_700_000_000, 0), Span: time.Hour}
}

func TestSameConfigGivesSameBytes(t *testing.T) {
	sum := func() (uint64, int) {
		h, n := fnv.New64a(), 0
		c := New(small())
		for batch, ok := c.Next(64 << 10); ok; batch, ok = c.Next(64 << 10) {
			for _, s := range batch {
				for _, e := range s.Entries {
					_, _ = h.Write(e.Line)
					n++
				}
			}
		}
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
	c := New(cfg)
	counts := make([]int, len(Needles))
	var total int64
	for batch, ok := c.Next(64 << 10); ok; batch, ok = c.Next(64 << 10) {
		for _, s := range batch {
			for i, e := range s.Entries {
				total += int64(len(e.Line))
				if i > 0 && e.Timestamp < s.Entries[i-1].Timestamp {
					t.Fatalf("stream %s goes back in time", s.Labels)
				}
				for i, n := range Needles {
					if bytes.Contains(e.Line, []byte(n.Text)) {
						counts[i]++
					}
				}
			}
		}
	}
	for i, n := range Needles {
		if counts[i] != n.Lines {
			t.Errorf("needle %s: %d lines, want %d", n.Name, counts[i], n.Lines)
		}
	}
	if ratio := float64(total) / float64(cfg.Bytes); ratio < 0.8 || ratio > 1.25 {
		t.Errorf("got %.2f of the wanted bytes", ratio)
	}
}

func BenchmarkNext(b *testing.B) {
	cfg := small()
	cfg.Bytes = 1 << 34
	c := New(cfg)
	var total int64
	for b.Loop() {
		_, _ = c.Next(1 << 20)
		total += int64(len(c.arena))
	}
	b.SetBytes(total / int64(b.N))
}
