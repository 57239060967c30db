// Package wal is the ingester's write-ahead log: batches of entries, as they were
// received, in files that live about a minute.
//
// It promises that a batch whose Append returned nil is read back after any crash, and
// that damage is told apart: a torn tail, which held nothing acknowledged, is cut;
// anything else is reported with file, offset and what to do. It is called by the
// ingester only, which owns the names of the files and decides when one is no longer
// needed.
//
// # Format
//
// All fixed-width integers are little endian; "uvarint" and "varint" are those of
// encoding/binary (varint is zigzag). A file is a header and frames. A frame is one
// group commit: everything in it was written by one write and made durable by one sync,
// so a torn frame never held an acknowledged batch, and nothing follows it.
//
//	file header, 24 bytes
//	+--------------------+-------------+----------------+------------+
//	| "SKALDWAL" 8 bytes | version u32 | mark 8 bytes   | crc u32    |
//	+--------------------+-------------+----------------+------------+
//	crc: CRC-32C of the 20 bytes before it. mark: random, of this file alone.
//
//	frame, 16 bytes and the body
//	+----------------+------------+---------+----------------------+
//	| mark 8 bytes   | length u32 | crc u32 | body, length bytes   |
//	+----------------+------------+---------+----------------------+
//	crc: CRC-32C of the body. A frame can be found again behind damage by its mark,
//	and because the mark is random no log line can hold a frame of its own.
//
//	body: records end to end
//	+-------------+----------------+------------------------+
//	| encoding u8 | length uvarint | payload, length bytes  |
//	+-------------+----------------+------------------------+
//	encoding 0: the payload as is; 1: the payload is an S2 block; 2: the payload is a push
//	as it arrived, and what became of it.
//
//	payload
//	tenant   uvarint length, bytes
//	streams  uvarint count (padded to 5 bytes), then for each
//	  labels   uvarint count, then for each: name, value (each uvarint length, bytes)
//	  entries  uvarint count, then for each
//	    time      varint, nanoseconds since the entry before it in this stream (first: since 1970)
//	    line      uvarint length, bytes
//	    metadata  uvarint count, then for each: name, value
//
// A worked example, the body of a frame with tenant "a", the stream {x="y"} and the
// entry (5 ns, "hi") without metadata:
//
//	00 12                 encoding 0, 18 bytes
//	01 61                 tenant "a"
//	81 80 80 80 00        one stream
//	01 01 78 01 79        one label: "x", "y"
//	01                    one entry
//	0a                    5 ns (zigzag)
//	02 68 69              "hi"
//	00                    no metadata
//
// A push of more than 4 MiB is cut into several records of one frame.
//
// Encoding 2 keeps a push as it arrived, so that nothing has to be packed again:
//
//	push     uvarint length, a snappy block of at most 4 MiB unpacked; its lines are in it
//	tenant   uvarint length, bytes
//	streams  uvarint count, then for each
//	  labels   uvarint count, then for each: name, value
//	  entries  uvarint count, then for each
//	    time      varint, as above
//	    from      varint, bytes from the end of the line before (first: the beginning of the
//	              unpacked push) to the line
//	    length    uvarint, of the line
//	    metadata  uvarint: 0 none; 1 a new set follows, count and pairs as above; 2 and more: the
//	              set that came first, second, … of the record's first 8 new ones
//
// Version 1 is the first version; a reader refuses any other and says so.
package wal

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/skaldlog/skald/internal/fault"
)

const (
	magic       = "SKALDWAL"
	version     = 1
	markSize    = 8
	headerSize  = 24
	frameHeader = 16

	encodingRaw     = 0
	encodingS2      = 1
	encodingArrived = 2

	// recordTarget is the payload size at which a push is cut into another record. It
	// bounds what encoding and replaying need at once.
	recordTarget = 4 << 20
	// MaxEntry is the largest entry (line, metadata and the labels of its stream, in bytes)
	// that a record can hold.
	MaxEntry = 64 << 20
	// maxRecord bounds what a reader allocates for one record, whatever the file claims.
	maxRecord = recordTarget + MaxEntry + 1<<20
	// maxGroup is the size at which a leader stops gathering batches for its commit, so
	// that a frame's length fits its field with room to spare.
	maxGroup = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrBroken means that a log can take no more records, because a failed sync or a failed
// repair left its tail in doubt. What it acknowledged before is safe; go on in a new file.
var ErrBroken = errors.New("write-ahead log file is out of use after a failure")

// CorruptError reports damage that cannot be a torn tail. Its kind is fault.Corrupt.
type CorruptError struct {
	Path   string
	Offset int64  // of the damaged frame or header
	What   string // what was found, and what was expected
	Hint   string // what the operator can do
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("write-ahead log %s is damaged at offset %d: %s; %s", e.Path, e.Offset, e.What, e.Hint)
}

func corrupt(path string, off int64, hint, format string, args ...any) error {
	return fault.Wrap(fault.Corrupt, &CorruptError{Path: path, Offset: off, What: fmt.Sprintf(format, args...), Hint: hint})
}
