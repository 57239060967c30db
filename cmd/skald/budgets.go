package main

import "log/slog"

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
		{"querier.max-memory", &c.querier.MaxMemory, 4},
		{"querier.total-memory", &c.querier.TotalMemory, 4},
		{"querier.dedupe-bytes", &c.querier.DedupeBytes, 12},
		{"cache.memory-bytes", &c.cacheMemory, 8},
	} {
		fitBound(b.flag, b.value, limit/b.part, logger)
	}
	labels := int64(c.distributor.LabelCacheBytes)
	fitBound("distributor.label-cache-bytes", &labels, limit/8, logger)
	c.distributor.LabelCacheBytes = int(labels)
}

func fitBound(flag string, value *int64, most int64, logger *slog.Logger) {
	if *value > most {
		logger.Info("a bound is lowered to fit the memory limit", "flag", "-"+flag, "was", *value, "now", most)
		*value = most
	}
}
