package model

import "sync/atomic"

// Stats counts what a query cost. All counters may be added to from many goroutines;
// read them with Load when the query is over.
type Stats struct {
	SegmentsConsidered    atomic.Int64 // listed for the tenant and the days of the range
	SegmentsPrunedTime    atomic.Int64
	SegmentsPrunedLabels  atomic.Int64 // no stream matches
	SegmentsPrunedNeedle  atomic.Int64 // asked for an id before they were opened; their blocks count nowhere
	BlocksConsidered      atomic.Int64 // blocks of the segments that were left
	BlocksPrunedTime      atomic.Int64
	BlocksPrunedLabels    atomic.Int64
	BlocksPrunedNeedle    atomic.Int64
	BytesFetched          atomic.Int64 // read from disk or the object store
	FetchRequests         atomic.Int64
	CacheHits             atomic.Int64
	CacheMisses           atomic.Int64
	DecompressedStream    atomic.Int64 // decoded bytes of each column kind
	DecompressedTimestamp atomic.Int64
	DecompressedLength    atomic.Int64
	DecompressedLine      atomic.Int64
	DecompressedMetadata  atomic.Int64
	DecompressedHash      atomic.Int64
	LineBlocks            atomic.Int64 // blocks whose lines were decompressed
	RowsScanned           atomic.Int64
	BytesScanned          atomic.Int64 // line bytes looked at, or that would have been
	RowsMatched           atomic.Int64 // rows that passed the pipeline
	RowsDuplicate         atomic.Int64 // rows dropped because another part holds them
	MemtableRows          atomic.Int64
	QueueNanoseconds      atomic.Int64 // time that queries and their slices waited for their turn
	Slices                atomic.Int64 // parts of the query that were evaluated by themselves, here or elsewhere
}

// Counters lists the counters in the order of their numbers on the wire. New ones go to
// the end.
func (s *Stats) Counters() []*atomic.Int64 {
	return []*atomic.Int64{
		&s.SegmentsConsidered, &s.SegmentsPrunedTime, &s.SegmentsPrunedLabels, &s.BlocksConsidered, &s.BlocksPrunedTime,
		&s.BlocksPrunedLabels, &s.BlocksPrunedNeedle, &s.BytesFetched, &s.FetchRequests, &s.CacheHits, &s.CacheMisses,
		&s.DecompressedStream, &s.DecompressedTimestamp, &s.DecompressedLength, &s.DecompressedLine, &s.DecompressedMetadata,
		&s.DecompressedHash, &s.LineBlocks, &s.RowsScanned, &s.BytesScanned, &s.RowsMatched, &s.RowsDuplicate, &s.MemtableRows,
		&s.QueueNanoseconds, &s.Slices, &s.SegmentsPrunedNeedle,
	}
}

// Add adds the counters of other.
func (s *Stats) Add(other *Stats) {
	list := s.Counters()
	for i, c := range other.Counters() {
		list[i].Add(c.Load())
	}
}
