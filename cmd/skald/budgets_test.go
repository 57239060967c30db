package main

import (
	"flag"
	"log/slog"
	"testing"
)

// TestFitMemory looks at what a process may hold in all parts at once.
func TestFitMemory(t *testing.T) {
	for _, limit := range []int64{0, 64 << 20, 345 << 20, 64 << 30} {
		var c, untouched serverConfig
		c.register(flag.NewFlagSet("", flag.ContinueOnError))
		untouched.register(flag.NewFlagSet("", flag.ContinueOnError))
		c.fitMemory(limit, slog.New(slog.DiscardHandler))
		single := c.distributor.MaxInflightBytes + c.ingester.MemtableBytes + c.querier.MaxMemory + c.querier.DedupeBytes + c.cacheMemory + int64(c.distributor.LabelCacheBytes)
		switch roomy := limit == 0 || limit > 4<<30; {
		case roomy && (c.distributor.MaxInflightBytes != untouched.distributor.MaxInflightBytes || c.ingester.MemtableBytes != untouched.ingester.MemtableBytes):
			t.Errorf("with a limit of %d bounds were lowered", limit)
		case !roomy && single > limit:
			t.Errorf("with a limit of %d one process may hold %d", limit, single)
		}
		if c.ingester.MemtableBytes < 2*c.ingester.FreezeBytes {
			t.Errorf("with a limit of %d two memtables of %d do not fit %d", limit, c.ingester.FreezeBytes, c.ingester.MemtableBytes)
		}
	}
}
