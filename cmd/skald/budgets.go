package main

import (
	"log/slog"
	"math"

	"golang.org/x/sys/unix"
)

// fitMemory lowers the bounds on memory that would not fit a limit together; 0 is no limit.
// Each bound holds for its own part, and the defaults are for a process with a gigabyte: in
// a small container all could be kept, and the kernel would still end the process.
func (c *serverConfig) fitMemory(limit int64, logger *slog.Logger) {
	if limit <= 0 {
		return
	}
	for _, b := range []struct {
		flag  string
		value *int64
		part  int64 // of the limit, 1/part
	}{
		{"distributor.max-inflight-bytes", &c.distributor.MaxInflightBytes, 6},
		{"distributor.replica-memory-bytes", &c.replicator.MemoryBytes, 6},
		{"distributor.replica-queue-bytes", &c.replicator.QueueBytes, 12},
		{"ingester.max-inflight-bytes", &c.remoteServer.MaxInflightBytes, 6},
		{"ingester.memtable-bytes", &c.ingester.MemtableBytes, 4},
		{"ingester.freeze-bytes", &c.ingester.FreezeBytes, 16},
		{"querier.max-memory", &c.querier.MaxMemory, 5},
		{"querier.total-memory", &c.querier.TotalMemory, 5},
		{"querier.dedupe-bytes", &c.querier.DedupeBytes, 12},
		{"cache.memory-bytes", &c.cacheMemory, 12},
		{"grpc.max-receiving-bytes", &c.grpc.MaxReceiving, 12},
	} {
		fitBound(b.flag, b.value, limit/b.part, logger)
	}
	fitBound("distributor.label-cache-bytes", &c.distributor.LabelCacheBytes, int(limit/8), logger)
	// A push is in memory twice while it is decoded.
	fitBound("grpc.max-message-bytes", &c.grpc.MaxMessage, int(limit/12), logger)
	fitBound("http.max-connections", &c.http.MaxConnections, int(limit/8/httpConnection), logger)
	fitBound("grpc.max-connections", &c.grpc.MaxConnections, int(limit/16/grpcConnection), logger)
}

// What an open connection takes of memory.
const (
	httpConnection = 24 << 10
	grpcConnection = 96 << 10
)

// openFiles is how many descriptors the process may have; 0 when the system does not say.
func openFiles() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(limit.Cur, math.MaxInt32))
}

// fitFiles lowers the bounds on connections so that descriptors are left for files.
func (c *serverConfig) fitFiles(limit int, logger *slog.Logger) {
	if limit <= 0 {
		return
	}
	fitBound("http.max-connections", &c.http.MaxConnections, limit/2, logger)
	fitBound("grpc.max-connections", &c.grpc.MaxConnections, limit/8, logger)
}

func fitBound[T int | int64](flag string, value *T, most T, logger *slog.Logger) {
	if *value > most {
		logger.Info("a bound is lowered to fit what the process may use", "flag", "-"+flag, "was", *value, "now", most)
		*value = most
	}
}
