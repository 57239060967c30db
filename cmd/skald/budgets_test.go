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
		single := c.distributor.MaxInflightBytes + c.ingester.MemtableBytes + c.querier.MaxMemory + c.querier.DedupeBytes + c.cacheMemory + int64(c.distributor.LabelCacheBytes) + c.grpc.MaxReceiving
		switch roomy := limit == 0 || limit > 4<<30; {
		case roomy && (c.distributor.MaxInflightBytes != untouched.distributor.MaxInflightBytes || c.ingester.MemtableBytes != untouched.ingester.MemtableBytes):
			t.Errorf("with a limit of %d bounds were lowered", limit)
		case !roomy && single > limit:
			t.Errorf("with a limit of %d one process may hold %d", limit, single)
		}
		if err := c.grpc.Validate(); err != nil {
			t.Errorf("with a limit of %d: %v", limit, err)
		}
		if connections := int64(c.http.MaxConnections)*httpConnection + int64(c.grpc.MaxConnections)*grpcConnection; limit > 0 && connections > limit/4 {
			t.Errorf("with a limit of %d connections may hold %d", limit, connections)
		}
		if c.ingester.MemtableBytes < 2*c.ingester.FreezeBytes {
			t.Errorf("with a limit of %d two memtables of %d do not fit %d", limit, c.ingester.FreezeBytes, c.ingester.MemtableBytes)
		}
	}
}

func TestFitFiles(t *testing.T) {
	var c serverConfig
	c.register(flag.NewFlagSet("", flag.ContinueOnError))
	c.fitFiles(1024, slog.New(slog.DiscardHandler))
	if c.http.MaxConnections+c.grpc.MaxConnections > 700 {
		t.Errorf("%d and %d connections leave too few of 1024 descriptors", c.http.MaxConnections, c.grpc.MaxConnections)
	}
	c.http.MaxConnections = 0
	c.fitFiles(1024, slog.New(slog.DiscardHandler))
	if c.http.MaxConnections != 0 {
		t.Error("a bound that was turned off is on")
	}
}
