package querier

import (
	"strconv"
	"time"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/engine"
)

// appendStats appends the statistics of a query: Loki's members, with what of them exists
// here, and under "skald" where the work was spent.
func appendStats(b []byte, res *engine.Result, took time.Duration) []byte {
	s := res.Stats
	if s == nil {
		s = &model.Stats{}
	}
	returned := 0
	for i := range res.Streams {
		returned += len(res.Streams[i].Entries)
	}
	rows, bytes := s.RowsScanned.Load(), s.BytesScanned.Load()
	perSecond := func(n int64) int64 {
		if took <= 0 {
			return 0
		}
		return int64(float64(n) / took.Seconds())
	}
	o := object{b: b}
	o.open("")
	o.open("summary")
	o.int("bytesProcessedPerSecond", perSecond(bytes))
	o.int("linesProcessedPerSecond", perSecond(rows))
	o.int("totalBytesProcessed", bytes)
	o.int("totalLinesProcessed", rows)
	o.float("execTime", took.Seconds())
	o.float("queueTime", time.Duration(s.QueueNanoseconds.Load()).Seconds())
	o.int("subqueries", 0)
	o.int("totalEntriesReturned", int64(returned))
	o.int("splits", max(1, s.Slices.Load()))
	o.int("shards", 1)
	o.int("totalPostFilterLines", s.RowsMatched.Load())
	o.int("totalStructuredMetadataBytesProcessed", s.DecompressedMetadata.Load())
	o.close()
	o.open("querier")
	o.store(s)
	o.float("querierExecTime", took.Seconds())
	o.close()
	o.open("ingester")
	o.int("totalReached", 1)
	o.int("totalChunksMatched", 0)
	o.int("totalBatches", 0)
	o.int("totalLinesSent", s.MemtableRows.Load())
	o.store(&model.Stats{})
	o.close()
	o.cache(s)
	o.open("index")
	o.int("totalChunks", s.BlocksConsidered.Load())
	o.int("postFilterChunks", s.BlocksConsidered.Load()-s.BlocksPrunedTime.Load()-s.BlocksPrunedLabels.Load()-s.BlocksPrunedNeedle.Load())
	o.int("shardsDuration", 0)
	o.bool("usedBloomFilters", s.BlocksPrunedNeedle.Load()+s.SegmentsPrunedNeedle.Load() > 0)
	o.int("totalStreams", 0)
	o.close()
	o.skald(s)
	o.close()
	return o.b
}

// skald are the counters of internal/model.Stats by their names.
func (o *object) skald(s *model.Stats) {
	o.open("skald")
	o.int("segmentsConsidered", s.SegmentsConsidered.Load())
	o.int("segmentsPrunedTime", s.SegmentsPrunedTime.Load())
	o.int("segmentsPrunedLabels", s.SegmentsPrunedLabels.Load())
	o.int("segmentsPrunedNeedle", s.SegmentsPrunedNeedle.Load())
	o.int("blocksConsidered", s.BlocksConsidered.Load())
	o.int("blocksPrunedTime", s.BlocksPrunedTime.Load())
	o.int("blocksPrunedLabels", s.BlocksPrunedLabels.Load())
	o.int("blocksPrunedNeedle", s.BlocksPrunedNeedle.Load())
	o.int("lineBlocks", s.LineBlocks.Load())
	o.int("bytesFetched", s.BytesFetched.Load())
	o.int("fetchRequests", s.FetchRequests.Load())
	o.int("cacheHits", s.CacheHits.Load())
	o.int("cacheMisses", s.CacheMisses.Load())
	o.open("decompressed")
	o.int("stream", s.DecompressedStream.Load())
	o.int("timestamp", s.DecompressedTimestamp.Load())
	o.int("length", s.DecompressedLength.Load())
	o.int("line", s.DecompressedLine.Load())
	o.int("metadata", s.DecompressedMetadata.Load())
	o.int("hash", s.DecompressedHash.Load())
	o.close()
	o.int("rowsScanned", s.RowsScanned.Load())
	o.int("rowsMatched", s.RowsMatched.Load())
	o.int("rowsDuplicate", s.RowsDuplicate.Load())
	o.int("memtableRows", s.MemtableRows.Load())
	o.close()
}

func (o *object) store(s *model.Stats) {
	o.open("store")
	o.int("totalChunksRef", s.BlocksConsidered.Load())
	o.int("totalChunksDownloaded", s.LineBlocks.Load())
	o.int("chunksDownloadTime", 0)
	o.bool("queryReferencedStructuredMetadata", s.DecompressedMetadata.Load() > 0)
	o.open("chunk")
	o.int("headChunkBytes", 0)
	o.int("headChunkLines", s.MemtableRows.Load())
	o.int("decompressedBytes", s.DecompressedLine.Load())
	o.int("decompressedLines", s.RowsScanned.Load())
	o.int("compressedBytes", s.BytesFetched.Load())
	o.int("totalDuplicates", s.RowsDuplicate.Load())
	o.int("postFilterLines", s.RowsMatched.Load())
	o.int("headChunkStructuredMetadataBytes", 0)
	o.int("decompressedStructuredMetadataBytes", s.DecompressedMetadata.Load())
	o.close()
	o.int("chunkRefsFetchTime", 0)
	o.int("congestionControlLatency", 0)
	o.int("pipelineWrapperFilteredLines", 0)
	o.close()
}

func (o *object) cache(s *model.Stats) {
	o.open("cache")
	for _, name := range []string{"chunk", "index", "result", "statsResult", "volumeResult", "seriesResult", "labelResult", "instantMetricResult"} {
		var hits, asked int64
		if name == "chunk" {
			hits = s.CacheHits.Load()
			asked = hits + s.CacheMisses.Load()
		}
		o.open(name)
		o.int("entriesFound", hits)
		o.int("entriesRequested", asked)
		for _, zero := range []string{"entriesStored", "bytesReceived", "bytesSent", "requests", "downloadTime", "queryLengthServed"} {
			o.int(zero, 0)
		}
		o.close()
	}
	o.close()
}

// object appends nested JSON objects.
type object struct {
	b    []byte
	more bool // the current object has a member
}

func (o *object) key(name string) {
	if o.more {
		o.b = append(o.b, ',')
	}
	o.more = true
	if name != "" {
		o.b = append(appendString(o.b, name), ':')
	}
}

func (o *object) open(name string) {
	if name != "" {
		o.key(name)
	}
	o.b = append(o.b, '{')
	o.more = false
}

func (o *object) close() {
	o.b = append(o.b, '}')
	o.more = true
}

func (o *object) int(name string, v int64) {
	o.key(name)
	o.b = strconv.AppendInt(o.b, v, 10)
}

func (o *object) float(name string, v float64) {
	o.key(name)
	o.b = strconv.AppendFloat(o.b, v, 'f', 6, 64)
}

func (o *object) bool(name string, v bool) {
	o.key(name)
	o.b = strconv.AppendBool(o.b, v)
}
